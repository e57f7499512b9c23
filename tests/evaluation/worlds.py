"""Random detection sets, and the reference's numbers for them."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np

from detkd.evaluation.metrics import METRIC_NAMES, Metrics

CATEGORY_IDS = (3, 18, 1, 90)
NAMES = ("car", "dog", "person", "toothbrush")


def make_gt(
    seed: int, images: int = 12, *, crowd: float = 0.05, empty: float = 0.2, absent: bool = False
) -> dict[str, Any]:
    """COCO instances with non-contiguous ids, crowd regions and images without objects; `absent`: no toothbrush."""
    rng = np.random.default_rng(seed)
    ids = sorted(int(i) for i in rng.choice(10_000, images, replace=False) + 1)
    rng.shuffle(ids)
    gt: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"cam/{i:08d}.jpg", "width": 640, "height": 480} for i in ids],
        "categories": [{"id": k, "name": n} for k, n in zip(CATEGORY_IDS, NAMES, strict=True)],
        "annotations": [],
    }
    for image in ids:
        if rng.random() < empty:
            continue
        for _ in range(int(rng.integers(1, 8))):
            w, h = (2.0 ** rng.uniform(3.0, 8.0, 2)).tolist()
            box = [float(rng.uniform(0, 640 - w)), float(rng.uniform(0, 480 - h)), w, h]
            gt["annotations"].append(
                {
                    "id": len(gt["annotations"]) + 1,
                    "image_id": image,
                    "category_id": int(CATEGORY_IDS[rng.integers(3 if absent else 4)]),
                    "bbox": box,
                    "area": w * h * float(rng.uniform(0.5, 1.0)),
                    "iscrowd": int(rng.random() < crowd),
                }
            )
    return gt


def make_detections(gt: dict[str, Any], seed: int, *, noise: float = 0.08, decimals: int = 2) -> list[dict[str, Any]]:
    """Jittered objects, duplicates, confusions and background; few decimals make ties."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for annotation in gt["annotations"]:
        for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
            x, y, w, h = annotation["bbox"]
            dx, dy, dw, dh = rng.normal(0, noise, 4).tolist()
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if rng.random() < 0.85 else 1,
                    "bbox": [x + dx * w, y + dy * h, w * float(np.exp(dw)), h * float(np.exp(dh))],
                    "score": round(float(rng.uniform(0.2, 1.0)), decimals),
                }
            )
    for image in gt["images"][::2]:
        for _ in range(3):
            box = [float(rng.uniform(0, 500)), float(rng.uniform(0, 400)), float(rng.uniform(5, 90)), 40.0]
            score = round(float(rng.uniform(0.0, 0.7)), decimals)
            found.append(
                {"image_id": image["id"], "category_id": int(rng.choice(CATEGORY_IDS)), "bbox": box, "score": score}
            )
    rng.shuffle(found)
    return found


def twelve(metrics: Metrics) -> np.ndarray:
    """The 12 numbers as pycocotools prints them: parts of 1, -1 for n/a."""
    values = [getattr(metrics, name) for name in METRIC_NAMES]
    return np.asarray([-1.0 if value is None else value / 100 for value in values])


def reference(gt: dict[str, Any], found: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' own 12 numbers and AP per category id in ascending order, untouched by our code; -1 for n/a."""
    run = evaluator(gt, found)
    with contextlib.redirect_stdout(io.StringIO()):
        run.summarize()
    per_class = []
    for k in range(len(run.params.catIds)):
        values = run.eval["precision"][:, :, k, 0, 2]
        values = values[values > -1]
        per_class.append(float(values.mean()) if values.size else -1.0)
    return np.asarray(run.stats), np.asarray(per_class)


def evaluator(gt: dict[str, Any], found: list[dict[str, Any]], **settings: Any) -> Any:
    """pycocotools' own evaluator after `evaluate` and `accumulate`, with `params` set as given."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(gt)
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), "bbox")
        for key, value in settings.items():
            setattr(run.params, key, value)
        run.evaluate()
        run.accumulate()
    return run
