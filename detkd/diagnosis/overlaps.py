"""How much detections overlap the objects of their image, of their own class and of others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detkd.evaluation.inputs import Detections, GroundTruth
from detkd.evaluation.matching import Matches
from detkd.evaluation.pairs import paired_iou

__all__ = ["Overlaps", "labels_of", "overlaps"]

_PAIRS = 1 << 18
"""Pairs of a detection and an object worked on at once; bounds the memory and stays in the processor's cache."""


class Overlaps(NamedTuple):
    """The object each detection overlaps most.

    Attributes:
        same: Highest IoU with an object of its class, 0 for none, float64 (n,).
        same_object: That object, an index into `Matches.object_row`; the first of equals, -1 for none; int64 (n,).
        other: Highest IoU with an object of another class, float64 (n,).
        other_object: That object, int64 (n,).
    """

    same: np.ndarray
    same_object: np.ndarray
    other: np.ndarray
    other_object: np.ndarray


def labels_of(matches: Matches) -> np.ndarray:
    """Return the class of every matched detection, int64 (N,)."""
    return np.repeat(np.arange(len(matches.names)), np.diff(matches.offsets))


def overlaps(truth: GroundTruth, detections: Detections, matches: Matches, chosen: np.ndarray) -> Overlaps:
    """Return what each chosen detection overlaps most, with the IoU of two boxes.

    Crowd regions and objects outside COCO's size range "all" are no objects here.

    Args:
        truth: Labels.
        detections: Detections on their images.
        matches: The two matched.
        chosen: Which of the N matched detections, indices (n,).
    """
    label = labels_of(matches)[chosen]
    image = matches.image[chosen].astype(np.int64)
    boxes = detections.boxes_xywh[matches.detection[chosen]]
    objects = np.flatnonzero(matches.object_counts[0])
    objects = objects[np.argsort(matches.object_image[objects], kind="stable")]
    object_image = matches.object_image[objects]
    object_label = matches.object_label[objects]
    object_boxes = truth.boxes_xywh[matches.object_row[objects]]

    first = np.searchsorted(object_image, image, side="left")
    count = np.searchsorted(object_image, image, side="right") - first
    near = np.flatnonzero(count)
    size = len(chosen)
    result = Overlaps(np.zeros(size), np.full(size, -1), np.zeros(size), np.full(size, -1))
    ends = np.cumsum(count[near])
    start = 0
    while start < len(near):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        part = near[start:stop]
        each = count[part]
        begin = np.cumsum(each) - each
        found = np.repeat(part, each)
        place = np.arange(len(found)) - np.repeat(begin, each) + first[found]
        iou = paired_iou(boxes[found], object_boxes[place])
        same = label[found] == object_label[place]
        for value, best, which in (
            (np.where(same, iou, 0.0), result.same, result.same_object),
            (np.where(same, 0.0, iou), result.other, result.other_object),
        ):
            most = np.maximum.reduceat(value, begin)
            # The first object with the highest IoU; places without overlap are pushed behind all others.
            at = np.where((value > 0) & (value == np.repeat(most, each)), place, len(objects))
            nearest = np.minimum.reduceat(at, begin)
            best[part] = most
            which[part[most > 0]] = objects[nearest[most > 0]]
        start = stop
    return result
