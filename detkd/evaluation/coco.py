"""COCO evaluation of one detector: the only place where AP is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.engine import COCO_PARAMS, Arrays, Params, run
from detkd.evaluation.inputs import Detections, GroundTruth, OnBad
from detkd.evaluation.metrics import ClassMetrics, Metrics, plain
from detkd.evaluation.results import load_detections
from detkd.evaluation.suspicions import find_suspicions
from detkd.evaluation.truth import load_truth

__all__ = ["evaluate_detections", "metrics_from_arrays"]


def evaluate_detections(
    gt: Mapping[str, Any] | str | Path | GroundTruth,
    detections: Iterable[Mapping[str, Any]] | str | Path | Detections,
    *,
    engine: str = "auto",
    settings: Mapping[str, Any] | None = None,
    on_bad: OnBad = "error",
) -> Metrics:
    """Evaluate boxes exactly as COCO does.

    Args:
        gt: COCO instances: a dictionary, a JSON file or `load_truth`'s answer (saves checking it again).
        detections: COCO results: any iterable of records, a JSON file or `load_detections`' answer.
        engine: "auto" (hotcoco where installed, else pycocotools), "pycocotools", "hotcoco" or "faster".
        settings: How the detections were made (conf, iou, max_det, imgsz, nms, head, letterbox, ...): kept in the
            protocol and compared by `compare`.
        on_bad: "error" stops at the first unusable record, "skip" leaves it out with a warning.

    Returns:
        Metrics in points; numbers without objects are None.

    Raises:
        DataError: If an input can't be used; names file, record and fix.
        ConfigError: If the engine is unknown or not installed.

    Example:
        >>> gt = {"images": [{"id": 7}], "categories": [{"id": 3, "name": "car"}],
        ...       "annotations": [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 50, 40]}]}
        >>> found = [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 50, 40], "score": 0.9}]
        >>> round(evaluate_detections(gt, found).AP50, 6)
        100.0
    """
    truth = load_truth(gt, on_bad=on_bad)
    found = load_detections(detections, truth, on_bad=on_bad)
    arrays = run(truth, found, COCO_PARAMS, engine=engine)
    return metrics_from_arrays(arrays, truth, found, settings=settings)


def metrics_from_arrays(
    arrays: Arrays,
    truth: GroundTruth,
    detections: Detections,
    params: Params = COCO_PARAMS,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Metrics:
    """Compute the 12 numbers and those per class from an engine's arrays.

    Args:
        arrays: What `run` returned.
        truth: The ground truth it was given.
        detections: The detections it was given.
        params: The settings it was given: IoU 0.5 and 0.75, four area ranges, three limits ending in the one for AP.
        settings: How the detections were made, for the protocol.
    """
    areas = {name: index for index, (name, _, _) in enumerate(params.area_ranges)}
    at = {iou: int(np.argmin(np.abs(np.asarray(params.iou_thresholds) - iou))) for iou in (0.5, 0.75)}
    precision, recall = arrays.precision, arrays.recall
    objects = ~truth.crowd
    per_class = {}
    for k, name in enumerate(truth.names):
        mine = objects & (truth.label == k)
        per_class[name] = ClassMetrics(
            AP=_points(precision[:, :, k, 0, -1]),
            AP50=_points(precision[at[0.5], :, k, 0, -1]),
            AP75=_points(precision[at[0.75], :, k, 0, -1]),
            AR100=_points(recall[:, k, 0, -1]),
            objects=int(mine.sum()),
            images=len(np.unique(truth.image[mine])),
        )
    return Metrics(
        AP=_points(precision[..., 0, -1]),
        AP50=_points(precision[at[0.5], ..., 0, -1]),
        AP75=_points(precision[at[0.75], ..., 0, -1]),
        AP_small=_points(precision[..., areas["small"], -1]),
        AP_medium=_points(precision[..., areas["medium"], -1]),
        AP_large=_points(precision[..., areas["large"], -1]),
        AR1=_points(recall[..., 0, 0]),
        AR10=_points(recall[..., 0, 1]),
        AR100=_points(recall[..., 0, -1]),
        AR_small=_points(recall[..., areas["small"], -1]),
        AR_medium=_points(recall[..., areas["medium"], -1]),
        AR_large=_points(recall[..., areas["large"], -1]),
        per_class=per_class,
        images=len(truth.images),
        objects=int(objects.sum()),
        detections=len(detections),
        protocol=_protocol(arrays.engine, truth, detections, params, settings),
    )


def _points(values: np.ndarray) -> float | None:
    """Mean of the entries that exist, x 100; None where none does (-1 throughout)."""
    known = values[values > -1]
    return float(np.mean(known)) * 100.0 if known.size else None


def _protocol(
    engine: str, truth: GroundTruth, detections: Detections, params: Params, settings: Mapping[str, Any] | None
) -> dict[str, Any]:
    name, _, version = engine.rpartition(" ")
    without = [name for k, name in enumerate(truth.names) if not (~truth.crowd & (truth.label == k)).any()]
    return {
        "engine": name,
        "engine_version": version,
        "iou_thresholds": [round(value, 2) for value in params.iou_thresholds],
        "recall_thresholds": len(params.recall_thresholds),
        "area_ranges": {name: [low, high] for name, low, high in params.area_ranges},
        "max_detections": list(params.max_detections),
        "images": len(truth.images),
        "objects": int((~truth.crowd).sum()),
        "objects_by_area": {
            name: int((~truth.crowd & (truth.areas >= low) & (truth.areas <= high)).sum())
            for name, low, high in params.area_ranges
        },
        "crowd": int(truth.crowd.sum()),
        "classes_without_objects": without,
        "gt": truth.source,
        "gt_sha256": truth.sha256,
        "detections": detections.source,
        "detections_sha256": detections.sha256,
        "reading": dict(detections.reading),
        "settings": plain(settings or {}),
        "warnings": [*truth.warnings, *detections.warnings, *find_suspicions(truth, detections)],
    }
