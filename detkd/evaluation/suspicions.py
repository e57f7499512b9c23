"""Inputs that can be evaluated but probably aren't what their owner thinks they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from detkd.evaluation.inputs import Detections, GroundTruth
from detkd.evaluation.pairs import Pairs, near_pairs

__all__ = ["HIGH_FLOOR", "find_suspicions"]

PER_CLASS_LIMIT = 100
"""COCO ranks the best 100 detections of a class in an image; the rest is not evaluated."""

HIGH_FLOOR = 0.05
"""A lowest score above this means that the detector's confidence threshold cut the ranking."""

_SAMPLE = 10_000
"""Detections with the highest scores that are laid on the objects; enough to recognise a wrong reading."""

_IOU = 0.5
_FEWEST = 20
"""Overlaps that another reading must explain before it is believed."""

_NOT_IN_COCO = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Ids up to 90 that COCO gave to no class of its 80."""

_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "corners [x1, y1, x2, y2]": lambda b: np.column_stack([b[:, :2], b[:, 2:] - b[:, :2]]),
    "[centre x, centre y, width, height]": lambda b: np.column_stack([b[:, :2] - b[:, 2:] / 2, b[:, 2:]]),
    "[y, x, height, width]": lambda b: b[:, [1, 0, 3, 2]],
    "corners [y1, x1, y2, x2]": lambda b: np.column_stack([b[:, [1, 0]], b[:, [3, 2]] - b[:, [1, 0]]]),
}
"""Other ways to write a box, as a function that gives [x, y, width, height]."""


def find_suspicions(truth: GroundTruth, detections: Detections) -> tuple[str, ...]:
    """Return one sentence per suspicion, each naming the file and what to do."""
    if not len(detections):
        return (f"{detections.source}: no detections at all; AP is 0 where there are objects",)
    count = min(_SAMPLE, len(detections))
    best = np.argpartition(-detections.scores, count - 1)[:count]
    pairs = _on_objects(truth, detections.image[best], detections.boxes_xywh[best])
    found = (
        _normalised(truth, detections),
        _corners(truth, detections) or _layout(truth, detections, best, pairs),
        _classes(truth, detections, best, pairs),
        _scores(detections),
        _floor(detections),
        _crowded(truth, detections),
    )
    return tuple(f"{detections.source}: {text}" for text in found if text)


def _extent(truth: GroundTruth) -> np.ndarray:
    """Width and height of each image, (I, 2); 0 where the file does not say."""
    sizes = [(record.get("width") or 0, record.get("height") or 0) for record in truth.images]
    return np.asarray(sizes, dtype=np.float64).reshape(-1, 2)


def _normalised(truth: GroundTruth, detections: Detections) -> str | None:
    boxes = detections.boxes_xywh
    if boxes.max() > 1.5 or (len(truth) and truth.boxes_xywh.max() <= 1.5):
        return None
    return "no box coordinate is above 1.5; they look normalised to 0..1, multiply by the image's width and height"


def _corners(truth: GroundTruth, detections: Detections) -> str | None:
    x, y, w, h = detections.boxes_xywh.T
    size = _extent(truth)[detections.image]
    known = (size > 0).all(axis=1)
    # Read as widths, the corners of boxes in the right or lower half reach out of the image.
    outside = known & ((x + w > 1.05 * size[:, 0]) | (y + h > 1.05 * size[:, 1]))
    if known.any() and ((w > x) & (h > y)).all() and outside.sum() >= 0.2 * known.sum():
        share = outside.sum() / known.sum()
        return (
            f"{share:.0%} of the boxes reach out of their image; they look like corners [x1, y1, x2, y2], "
            "write [x, y, width, height]"
        )
    return None


def _on_objects(truth: GroundTruth, image: np.ndarray, boxes: np.ndarray) -> Pairs:
    objects = np.flatnonzero(~truth.crowd)
    pairs = near_pairs(image, boxes, truth.image[objects], truth.boxes_xywh[objects], _IOU)
    return pairs._replace(second=objects[pairs.second])


def _layout(truth: GroundTruth, detections: Detections, best: np.ndarray, pairs: Pairs) -> str | None:
    """Try other layouts of the boxes where few of them lie on objects as they are."""
    hits = len(np.unique(pairs.first))
    if hits > 0.1 * len(best):
        return None
    for name, read in _LAYOUTS.items():
        boxes = read(detections.boxes_xywh[best])
        usable = (boxes[:, 2:] > 0).all(axis=1)
        if usable.mean() < 0.95:
            continue
        fitting = len(np.unique(_on_objects(truth, detections.image[best][usable], boxes[usable]).first))
        if fitting >= _FEWEST and fitting > 0.2 * len(best) and fitting > 5 * hits:
            return (
                f"of the best {len(best)} boxes {hits} lie on an object, but {fitting} would if they were {name}; "
                "write [x, y, width, height] in pixels"
            )
    return None


def _classes(truth: GroundTruth, detections: Detections, best: np.ndarray, pairs: Pairs) -> str | None:
    """Try other readings of the category ids where boxes lie on objects of other classes."""
    if any("category ids fit the labels better" in text for text in detections.warnings):
        return None  # said when they were read
    order = np.lexsort((-pairs.iou, pairs.first))
    _, nearest = np.unique(pairs.first[order], return_index=True)
    nearest = order[nearest]
    found, true = detections.label[best[pairs.first[nearest]]], truth.label[pairs.second[nearest]]
    own = int(np.count_nonzero(found == true))
    for name, meant in _readings(truth).items():
        other = int(np.count_nonzero(meant[found] == true))
        if other >= _FEWEST and other > 3 * own and 2 * other > len(true):
            return (
                f"of {len(true)} boxes that lie on an object {own} have its class, but {other} would if category ids "
                f"were {name}; write the ground truth's category ids"
            )
    return None


def _readings(truth: GroundTruth) -> Mapping[str, np.ndarray]:
    """Return the class that each class would stand for if its id meant something else, -1 for none, int64 (K,)."""
    ids, count = truth.category_ids, len(truth.names)
    alphabetical = sorted(range(count), key=lambda k: truth.names[k])
    readings = {"numbers of the class names in alphabetical order": np.asarray(alphabetical)}
    if all(isinstance(key, int) for key in ids):
        numbers = np.asarray(ids, dtype=np.int64)
        for first in (0, 1):
            known = (numbers >= first) & (numbers < first + count)
            readings[f"class indices counted from {first}"] = np.where(known, numbers - first, -1)
        if count == 80:
            place = {key: k for k, key in enumerate(k for k in range(1, 91) if k not in _NOT_IN_COCO)}
            readings["COCO's own, 1 to 90"] = np.asarray([place.get(key, -1) for key in numbers.tolist()])
    return readings


def _scores(detections: Detections) -> str | None:
    low, high = float(detections.scores.min()), float(detections.scores.max())
    if low == high and len(detections) > 1:
        return f"all scores are {low:g}; AP ranks by score, so write the detector's confidence"
    if low < 0 or high > 1:
        return f"scores run from {low:g} to {high:g}; only their order counts, but they are no probabilities"
    return None


def _floor(detections: Detections) -> str | None:
    low = float(detections.scores.min())
    if len(detections) < 20 or low < HIGH_FLOOR or low == detections.scores.max():
        return None
    return f"the lowest score is {low:.3g}; AP counts low scores too, so detect with conf=0.001"


def _crowded(truth: GroundTruth, detections: Detections) -> str | None:
    # Below the floor there is only what every detector says of everything; leaving some of that out costs nothing.
    counted = detections.scores >= HIGH_FLOOR
    pairs = (detections.image * len(truth.names) + detections.label)[counted]
    counts = np.unique(pairs, return_counts=True)[1]
    over = int((counts > PER_CLASS_LIMIT).sum())
    if not over:
        return None
    return (
        f"in {over} cases more than {PER_CLASS_LIMIT} detections of one class in an image score {HIGH_FLOOR:g} or more "
        f"(most: {counts.max()}); COCO evaluates the best {PER_CLASS_LIMIT}"
    )
