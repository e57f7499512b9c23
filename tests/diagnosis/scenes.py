"""Small sets written by hand, and random ones, as matched runs."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from detkd.evaluation.side import Run, make_run
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import make_detections, make_gt

BOX = [10.0, 10.0, 100.0, 100.0]


def shifted(dx: float) -> list[float]:
    """BOX moved to the right; the IoU with BOX is (100 - dx) / (100 + dx)."""
    return [10.0 + dx, 10.0, 100.0, 100.0]


def scene(
    objects: Sequence[tuple[Any, ...]],
    found: Sequence[tuple[Any, ...]],
    *,
    names: Sequence[str] = ("cat", "dog"),
    images: int = 1,
) -> Run:
    """Objects are (image, class, box) or (image, class, box, True) for a crowd, detections (image, class, box, score)."""
    gt = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(images)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": o[0], "category_id": names.index(o[1]) + 1, "bbox": o[2], "iscrowd": int(len(o) > 3)}
            for n, o in enumerate(objects, start=1)
        ],
    }
    records = [
        {"image_id": image, "category_id": names.index(name) + 1, "bbox": box, "score": score}
        for image, name, box, score in found
    ]
    return make_run(load_truth(gt), records, engine="pycocotools")


def random_run(seed: int, *, images: int = 30, crowd: float = 0.0, decimals: int = 2, noise: float = 0.2) -> Run:
    """A random set; few decimals make many equal scores."""
    gt = make_gt(seed, images, crowd=crowd)
    found = make_detections(gt, seed, noise=noise, decimals=decimals)
    return make_run(load_truth(gt), found, engine="pycocotools")


def hotcoco_of(run: Run) -> Any:
    """The same run, evaluated by hotcoco, which has diagnosis functions of its own."""
    hotcoco = pytest.importorskip("hotcoco")
    truth, found = run.truth, run.detections
    gt = hotcoco.COCO.from_arrays(
        [{"id": i + 1} for i in range(len(truth.images))],
        [{"id": k + 1, "name": name} for k, name in enumerate(truth.names)],
        truth.image + 1,
        truth.label + 1,
        truth.boxes_xywh,
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
    )
    rows = np.column_stack([found.image + 1, found.boxes_xywh, found.scores, found.label + 1]).astype(np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = hotcoco.COCOeval(gt, gt.load_res(rows), "bbox")
        evaluator.evaluate()
    return evaluator


ODD = {
    "no detections": scene([(0, "cat", BOX)], []),
    "no objects": scene([], [(0, "cat", BOX, 0.9)]),
    "nothing at all": scene([], []),
    "one class": scene([(0, "cat", BOX)], [(0, "cat", BOX, 0.9)], names=("cat",)),
    "a class without objects": scene([(0, "cat", BOX)], [(0, "dog", BOX, 0.9), (0, "cat", BOX, 0.9)]),
    "only false alarms": scene([(0, "cat", BOX)], [(0, "cat", [300.0, 300.0, 20.0, 20.0], 0.5)]),
    "only crowds": scene([(0, "cat", BOX, True)], [(0, "cat", BOX, 0.9)]),
    "logits": scene([(0, "cat", BOX)], [(0, "cat", BOX, 3.5), (0, "dog", BOX, -2.0)]),
    "scores of 0": scene([(0, "cat", BOX)], [(0, "cat", BOX, 0.0), (0, "cat", shifted(1), 0.0)]),
    "tiny scores": scene([(0, "cat", BOX)], [(0, "cat", BOX, 1e-12), (0, "cat", shifted(1), 1e-13)]),
    "an empty image": scene([(0, "cat", BOX)], [(1, "cat", BOX, 0.9), (0, "cat", BOX, 0.8)], images=2),
}
"""Runs in which something is missing."""
