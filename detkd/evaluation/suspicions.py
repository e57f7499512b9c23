"""Inputs that can be evaluated but probably aren't what their owner thinks they are."""

from __future__ import annotations

import numpy as np

from detkd.evaluation.inputs import Detections, GroundTruth

__all__ = ["find_suspicions"]

PER_CLASS_LIMIT = 100
"""COCO ranks the best 100 detections of a class in an image; the rest is not evaluated."""

HIGH_FLOOR = 0.05
"""A lowest score above this means that the detector's confidence threshold cut the ranking."""


def find_suspicions(truth: GroundTruth, detections: Detections) -> tuple[str, ...]:
    """Return one sentence per suspicion, each naming the file and what to do."""
    if not len(detections):
        return (f"{detections.source}: no detections at all; AP is 0 where there are objects",)
    found = (
        _normalised(truth, detections),
        _corners(truth, detections),
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
    pairs = detections.image * len(truth.names) + detections.label
    counts = np.unique(pairs, return_counts=True)[1]
    over = int((counts > PER_CLASS_LIMIT).sum())
    if not over:
        return None
    return (
        f"{over} times more than {PER_CLASS_LIMIT} detections of one class in an image (most: {counts.max()}); "
        f"COCO evaluates the best {PER_CLASS_LIMIT}"
    )
