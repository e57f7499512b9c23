"""Precision against recall, false alarms at a given recall, and AP against the IoU asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from detkd.diagnosis.working_point import IOU, Sweep, sweep
from detkd.evaluation.engine import COCO_PARAMS, Arrays, Params
from detkd.evaluation.matching import Matches

__all__ = ["RECALLS", "by_iou", "curves", "false_per_image"]

RECALLS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the objects at which false alarms are counted."""

_LEVELS = np.arange(101) / 100


def by_iou(arrays: Arrays, params: Params = COCO_PARAMS) -> list[dict[str, float | None]]:
    """Return AP at each IoU threshold: a fall towards high IoU is bad placement, a low start is bad recognition.

    Args:
        arrays: What the engine accumulated.
        params: The settings it was run with.

    Returns:
        `iou` and `AP` in points, None without objects.
    """
    result: list[dict[str, float | None]] = []
    for index, iou in enumerate(params.iou_thresholds):
        values = arrays.precision[index, :, :, 0, -1]
        values = values[values > -1]
        result.append({"iou": round(iou, 4), "AP": 100.0 * float(values.mean()) if values.size else None})
    return result


def curves(matches: Matches) -> dict[str, Any]:
    """Return precision against recall for all classes together and for each.

    Args:
        matches: Matched detections.

    Returns:
        `iou`; `all` and, by name, `per_class`: points [recall, precision, threshold] from the highest score down, at
        most 101, shares and scores with four decimals. A point says what is found with that threshold, so precision
        goes up and down, unlike COCO's. Empty without any hit.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    return {
        "iou": IOU,
        "all": _points(sweep(matches)),
        "per_class": {name: _points(sweep(matches, label)) for label, name in enumerate(matches.names)},
    }


def false_per_image(matches: Matches) -> list[dict[str, float | None]]:
    """Return false alarms per image, all classes together, where the threshold is just low enough for a recall.

    Args:
        matches: Matched detections.

    Returns:
        For each of `RECALLS`: `recall`, `false_per_image` and `threshold`, None where the recall is never reached.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    curve = sweep(matches)
    result: list[dict[str, float | None]] = []
    for recall, index in zip(RECALLS, _reaching(curve, np.asarray(RECALLS)), strict=True):
        reached = index < len(curve.score)
        false = int(curve.false[index]) / matches.images if reached else None
        threshold = curve.threshold(int(index)) if reached else None
        result.append({"recall": recall, "false_per_image": false, "threshold": threshold})
    return result


def _reaching(curve: Sweep, recalls: np.ndarray) -> np.ndarray:
    """Return for each recall the first point with it and at least one hit; the sweep's length where none has it."""
    if not curve.objects:
        return np.full(len(recalls), len(curve.score))
    # In whole objects, because 0.7 x 10 is a hair more than 7 in floating point.
    needed = np.maximum(np.ceil(recalls * curve.objects - 1e-9), 1)
    return np.searchsorted(curve.hits, needed, side="left")


def _points(curve: Sweep) -> list[list[float]]:
    if not curve.objects or not len(curve.score) or not curve.hits[-1]:
        return []
    # The highest recall is a point of its own; below it nothing but false alarms follows.
    index = np.append(_reaching(curve, _LEVELS), np.searchsorted(curve.hits, curve.hits[-1], side="left"))
    index = np.unique(index[index < len(curve.score)])
    hits, false = curve.hits[index], curve.false[index]
    points = np.column_stack([hits / curve.objects, hits / (hits + false), curve.score[index]]).round(4)
    new = np.append(True, (points[1:, :2] != points[:-1, :2]).any(axis=1))
    kept: list[list[float]] = (points[new] + 0.0).tolist()
    return kept
