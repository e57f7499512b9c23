"""Which of many boxes overlap which others, a block of pairs at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Pairs", "near_pairs", "paired_iou"]

_BLOCK = 1 << 19
"""Pairs worked on at once; bounds the memory."""


class Pairs(NamedTuple):
    """Overlapping boxes.

    Attributes:
        first: Index into the first boxes, ascending, int64 (P,).
        second: Index into the second boxes, int64 (P,).
        iou: Their overlap, float64 (P,).
    """

    first: np.ndarray
    second: np.ndarray
    iou: np.ndarray


def near_pairs(
    group: np.ndarray, boxes: np.ndarray, other_group: np.ndarray, other_boxes: np.ndarray, lowest: float
) -> Pairs:
    """Return all pairs of boxes of one group, such as an image, whose IoU is at least `lowest`.

    Args:
        group: Group of each of the first boxes, int (N,).
        boxes: Left, top, width and height, no negative sizes, float64 (N, 4).
        other_group: Group of each of the second boxes, int (M,).
        other_boxes: The second boxes, positive sizes, float64 (M, 4).
        lowest: The lowest IoU of interest, above 0.
    """
    order = np.argsort(other_group, kind="stable")
    ordered = other_group[order]
    start = np.searchsorted(ordered, group, side="left")
    count = np.searchsorted(ordered, group, side="right") - start
    near = np.flatnonzero(count)
    ends = np.cumsum(count[near])
    parts = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    begin = 0
    while begin < len(near):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + _BLOCK, side="right")))
        rows = near[begin:stop]
        each = count[rows]
        first = np.repeat(rows, each)
        within = np.arange(len(first)) - np.repeat(np.cumsum(each) - each, each)
        second = order[start[first] + within]
        iou = paired_iou(boxes[first], other_boxes[second])
        keep = iou >= lowest
        parts.append(Pairs(first[keep], second[keep], iou[keep]))
        begin = stop
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def paired_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of paired boxes (n, 4), in the matcher's order of operations, so that it decides the same way."""
    x, y, w, h = boxes.T
    gx, gy, gw, gh = others.T
    width = np.minimum(w + x, gw + gx) - np.maximum(x, gx)
    height = np.minimum(h + y, gh + gy) - np.maximum(y, gy)
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    result: np.ndarray = shared / (w * h + gw * gh - shared)
    return result
