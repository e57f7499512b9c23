"""One adapter over the COCO engines: checked columns in, arrays in pycocotools' layout out.

Every number detkd prints is computed from these arrays by `detkd.evaluation.coco`, so the engine can't change the text.
pycocotools is the reference and always installed; hotcoco gives the same arrays much faster and is taken when it can be
imported; faster-coco-eval is there because Ultralytics uses it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from detkd.errors import ConfigError
from detkd.evaluation.inputs import Detections, GroundTruth

__all__ = ["COCO_PARAMS", "ENGINES", "Arrays", "Params", "available_engines", "resolve_engine", "run"]


@dataclass(frozen=True)
class Params:
    """COCO's settings for boxes.

    Attributes:
        iou_thresholds: T thresholds.
        recall_thresholds: R points at which precision is read.
        area_ranges: A triples of name, lower and upper limit in square pixels, both inclusive.
        max_detections: M limits on the detections per class and image, ascending.
    """

    iou_thresholds: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
    recall_thresholds: tuple[float, ...] = tuple(np.linspace(0.0, 1.0, 101).tolist())
    area_ranges: tuple[tuple[str, float, float], ...] = (
        ("all", 0.0, 1e10),
        ("small", 0.0, 32.0**2),
        ("medium", 32.0**2, 96.0**2),
        ("large", 96.0**2, 1e10),
    )
    max_detections: tuple[int, ...] = (1, 10, 100)


COCO_PARAMS = Params()


class Arrays(NamedTuple):
    """What an engine accumulated; -1 where there are no objects.

    Attributes:
        engine: Name and version, such as "pycocotools 2.0.11".
        precision: Precision at each recall threshold, float64 (T, R, K, A, M), K in the order of the truth's names.
        recall: Highest recall, float64 (T, K, A, M).
        scores: Score at each point of `precision`, float64 (T, R, K, A, M).
    """

    engine: str
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


def run(truth: GroundTruth, detections: Detections, params: Params = COCO_PARAMS, *, engine: str = "auto") -> Arrays:
    """Match and accumulate with one engine.

    Args:
        truth: Checked ground truth.
        detections: Checked detections on its images.
        params: COCO's settings unless said otherwise.
        engine: "auto", "pycocotools", "hotcoco" or "faster".

    Raises:
        ConfigError: If the engine is unknown or not installed.
    """
    name = resolve_engine(engine)
    package, _, function = ENGINES[name]
    with _quiet():
        eval_dict = function(truth, detections, params)
    version = f"{package} {metadata.version(package)}"
    return Arrays(version, *(np.asarray(eval_dict[key], dtype=np.float64) for key in ("precision", "recall", "scores")))


def resolve_engine(engine: str) -> str:
    """Return the engine that `engine` stands for: "auto" is hotcoco where it can be imported, else pycocotools.

    Raises:
        ConfigError: If it is unknown (names the known ones) or not installed (names the pip command).
    """
    if engine == "auto":
        return "hotcoco" if _importable("hotcoco") else "pycocotools"
    if engine not in ENGINES:
        raise ConfigError(f"engine: unknown, got {engine!r}; choose auto, {', '.join(ENGINES)}")
    package, module, _ = ENGINES[engine]
    if not _importable(module):
        raise ConfigError(
            f'engine: {engine} is not installed; run `pip install "{package}"` or leave out engine={engine}'
        )
    return engine


def available_engines() -> tuple[str, ...]:
    """Return the engines that can be used here."""
    return tuple(name for name, (_, module, _) in ENGINES.items() if _importable(module))


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None and importlib.import_module(module) is not None
    except ImportError:  # a wheel for another platform
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what engines print and warn; inputs are checked before and reported in our own words."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _dataset(truth: GroundTruth) -> dict[str, Any]:
    """COCO instances with images, categories and annotations numbered from 1."""
    return {
        "images": [{"id": index + 1} for index in range(len(truth.images))],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(truth.names)],
        "annotations": [
            {"id": n, "image_id": image + 1, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for n, (image, label, box, area, crowd) in enumerate(
                zip(
                    *(c.tolist() for c in (truth.image, truth.label, truth.boxes_xywh, truth.areas, truth.crowd)),
                    strict=True,
                ),
                start=1,
            )
        ],
    }


def _results(detections: Detections) -> list[dict[str, Any]]:
    columns = (detections.image, detections.label, detections.boxes_xywh, detections.scores)
    return [
        {
            "id": n,
            "image_id": image + 1,
            "category_id": label + 1,
            "bbox": box,
            "score": score,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (image, label, box, score) in enumerate(zip(*(c.tolist() for c in columns), strict=True), start=1)
    ]


def _configure(evaluator: Any, truth: GroundTruth, params: Params) -> dict[str, Any]:
    settings = evaluator.params
    settings.imgIds = list(range(1, len(truth.images) + 1))
    settings.catIds = list(range(1, len(truth.names) + 1))
    settings.iouThrs = np.asarray(params.iou_thresholds)
    settings.recThrs = np.asarray(params.recall_thresholds)
    settings.maxDets = list(params.max_detections)
    settings.areaRng = [[low, high] for _, low, high in params.area_ranges]
    settings.areaRngLbl = [name for name, _, _ in params.area_ranges]
    evaluator.evaluate()
    evaluator.accumulate()
    result: dict[str, Any] = evaluator.eval
    return result


def _reference_style(
    coco_class: Any, eval_class: Any, truth: GroundTruth, detections: Detections, params: Params
) -> Any:
    # Filled by hand instead of with loadRes, which fails on an empty list and adds a polygon to every detection.
    sides = []
    for found in (None, _results(detections)):
        coco = coco_class()
        coco.dataset = _dataset(truth)
        if found is not None:
            coco.dataset["annotations"] = found
        coco.createIndex()
        sides.append(coco)
    return _configure(eval_class(*sides, "bbox"), truth, params)


def _run_pycocotools(truth: GroundTruth, detections: Detections, params: Params) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _reference_style(COCO, COCOeval, truth, detections, params)


def _run_faster(truth: GroundTruth, detections: Detections, params: Params) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    return _reference_style(COCO, COCOeval_faster, truth, detections, params)


def _run_hotcoco(truth: GroundTruth, detections: Detections, params: Params) -> Any:
    from hotcoco import COCO, COCOeval

    images = [{"id": index + 1} for index in range(len(truth.images))]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(truth.names)]
    gt = COCO.from_arrays(
        images,
        categories,
        truth.image + 1,
        truth.label + 1,
        truth.boxes_xywh,
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
    )
    rows = np.empty((len(detections), 7))
    rows[:, 0], rows[:, 1:5] = detections.image + 1, detections.boxes_xywh
    rows[:, 5], rows[:, 6] = detections.scores, detections.label + 1
    dt = gt.load_res(rows)
    del rows  # as large as all detections
    return _configure(COCOeval(gt, dt, "bbox"), truth, params)


Runner = Callable[[GroundTruth, Detections, Params], Any]
ENGINES: dict[str, tuple[str, str, Runner]] = {
    "pycocotools": ("pycocotools", "pycocotools", _run_pycocotools),
    "hotcoco": ("hotcoco", "hotcoco", _run_hotcoco),
    "faster": ("faster-coco-eval", "faster_coco_eval", _run_faster),
}
"""Name to (package to install, module to import, function)."""
