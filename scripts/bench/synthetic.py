"""A synthetic set like COCO for the benchmarks, made from a seed: labels and the results of two detectors.

About 7 objects an image, 1 % of the images empty, 1.2 % crowd regions, frequent and rare classes. A detector finds most
objects a little off, many of them again and worse, calls a tenth by another class, and adds background with low scores.
Ids are not contiguous, and scores have 5 decimals, so there are ties.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

LABELS, RESULTS = "labels.json", ("before.json", "after.json")
NOISE = (0.07, 0.06)
"""Spread of well found boxes as a share of their size: the second detector is a little better."""


class Labels(NamedTuple):
    """Objects as columns, with the ids of images and classes."""

    image_ids: np.ndarray
    class_ids: np.ndarray
    share: np.ndarray
    counts: np.ndarray
    owner: np.ndarray
    label: np.ndarray
    boxes: np.ndarray


def write_set(folder: Path, images: int, classes: int, per_image: int, seed: int = 0) -> dict[str, int]:
    """Write the labels and the results of two detectors; return how many objects and detections of one there are."""
    # The parent of the benchmark needs the names above only, and its memory is the floor of its children's.
    import numpy as np

    rng = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, classes + 1)
    counts = rng.geometric(1 / 7.3, images) * (rng.random(images) > 0.01)
    counts[0] = max(counts[0], 1)
    size = 2.0 ** rng.uniform(3, 8, (counts.sum(), 2))
    labels = Labels(
        image_ids=np.sort(rng.choice(20 * images, images, replace=False)) + 1,
        class_ids=np.sort(rng.choice(2 * classes, classes, replace=False)) + 1,
        share=share / share.sum(),
        counts=counts,
        owner=np.repeat(np.arange(images), counts),
        label=rng.choice(classes, len(size), p=share / share.sum()),
        boxes=np.column_stack([rng.random(size.shape) * ([640, 480] - size), size]),
    )
    (folder / LABELS).write_text(json.dumps(_instances(labels, rng)))
    for name, noise in zip(RESULTS, NOISE, strict=True):
        (folder / name).write_text(json.dumps(_results(labels, per_image, noise, rng)))
    return {"objects": len(size), "detections": images * per_image}


def _instances(labels: Labels, rng: np.random.Generator) -> dict[str, Any]:
    count = len(labels.label)
    crowd, fill = rng.random(count) < 0.012, rng.uniform(0.4, 1.0, count)
    return {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in labels.image_ids.tolist()
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in labels.class_ids.tolist()],
        "annotations": [
            {
                "id": n + 1,
                "image_id": int(labels.image_ids[labels.owner[n]]),
                "category_id": int(labels.class_ids[labels.label[n]]),
                "bbox": [round(value, 2) for value in labels.boxes[n].tolist()],
                "area": round(float(labels.boxes[n, 2] * labels.boxes[n, 3] * fill[n]), 2),
                "iscrowd": int(crowd[n]),
            }
            for n in range(count)
        ],
    }


def _results(labels: Labels, per_image: int, noise: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    import numpy as np

    images = len(labels.counts)
    slot, at = np.tile(np.arange(per_image), images), np.repeat(np.arange(images), per_image)
    count, total = labels.counts[at], len(slot)
    # Kind 0: every object of the image, found well; 1: each again, worse; 2: background.
    kind = np.minimum(slot // np.maximum(count, 1), 2)
    kind[(rng.random(total) > 0.8) | (count == 0)] = 2
    first = (np.cumsum(labels.counts) - labels.counts)[at]
    source = np.minimum(first + slot % np.maximum(count, 1), len(labels.label) - 1)
    base = labels.boxes[source]
    shift = rng.normal(0, noise, (total, 4)) * np.where(kind == 0, 1.0, 2.5)[:, None]
    near = np.column_stack([base[:, :2] + shift[:, :2] * base[:, 2:], base[:, 2:] * np.exp(shift[:, 2:])])
    far = np.column_stack([rng.random((total, 2)) * [600, 440], 2.0 ** rng.uniform(3, 8, (total, 2))])
    boxes = np.where((kind < 2)[:, None], near, far)
    wrong = (kind == 2) | (rng.random(total) < 0.1)
    label = np.where(wrong, rng.choice(len(labels.share), total, p=labels.share), labels.label[source])
    scores = np.choose(kind, [rng.beta(4, 2, total), rng.beta(1.5, 6, total), rng.beta(1, 12, total)])
    columns = (labels.image_ids[at], labels.class_ids[label], boxes, scores)
    return [
        {"image_id": i, "category_id": k, "bbox": [round(value, 2) for value in b], "score": round(s, 5)}
        for i, k, b, s in zip(*(column.tolist() for column in columns), strict=True)
    ]
