"""Which detection finds which object: COCO's greedy matching of a whole set at once, in numpy.

The engines match too, but give the result as one Python object per image and class, if at all. Statistics and diagnosis
need it as columns. The rules are those of pycocotools (`COCOeval.evaluateImg`, Lin et al., arXiv 1405.0312), and the
tests compare every flag with it.

Detections of different images or classes never compete for an object. So all (image, class) groups take their turn
side by side: in step s the s-th detection of every group that overlaps any object chooses its object, for all IoU
thresholds and area ranges together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from detkd.errors import ShapeError
from detkd.evaluation.engine import COCO_PARAMS, Params
from detkd.evaluation.inputs import Detections, GroundTruth

__all__ = ["Matches", "match", "union"]

_PAIRS = 1 << 19
"""Pairs of a detection and an object worked on at once; bounds the memory."""


@dataclass(frozen=True)
class Matches:
    """Every detection that counts, class by class in COCO's rank order, with what became of it.

    Attributes:
        params: Thresholds, area ranges and limits.
        images: Number of images I.
        names: K class names.
        offsets: Detections of class k are `[offsets[k], offsets[k + 1])` of the N, int64 (K + 1,).
        detection: Row in the `Detections`, int64 (N,).
        image: Index of the image, int32 (N,).
        rank: Rank within its class and image by score, from 0, int16 (N,).
        score: Confidence, float64 (N,), descending within a class; equal scores in the order of images.
        outcome: 1 hit, 0 false alarm, -1 does not count (found a crowd region or an object outside the size range, or
            found nothing and is outside the size range itself), int8 (A, T, N).
        target: Row in the `GroundTruth` taken at each IoU for the first area range (COCO's "all"), crowd regions
            included; -1 for none; int32 (T, N).
        object_row: Rows of the truth that are no crowd regions, int64 (G,).
        object_image: Their images, int32 (G,).
        object_label: Their classes, int32 (G,).
        object_counts: Whether they are inside each size range, bool (A, G).
    """

    params: Params
    images: int
    names: tuple[str, ...]
    offsets: np.ndarray
    detection: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    outcome: np.ndarray
    target: np.ndarray
    object_row: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    object_counts: np.ndarray

    def __len__(self) -> int:
        return len(self.detection)


class _Pairs(NamedTuple):
    """Detections with the objects they overlap, in the order in which they choose; see `_in_turns`."""

    detection: np.ndarray
    object: np.ndarray
    iou: np.ndarray
    step: np.ndarray


def match(truth: GroundTruth, detections: Detections, params: Params = COCO_PARAMS) -> Matches:
    """Match the detections of every class and image to its objects as pycocotools does.

    The best detections of a class in an image (`params.max_detections[-1]` of them) choose in the order of their
    scores, equal ones in file order. Each takes the free object it overlaps most, the later of equals, if that is at
    least the threshold; ordinary objects go before those that don't count (crowd regions and objects outside the size
    range). A crowd region can be taken again and again, and overlap with it is over the detection's area.

    Args:
        truth: Checked labels.
        detections: Checked detections on their images.
        params: COCO's settings unless said otherwise.
    """
    order, rank = _ranked(detections, len(truth.images), params.max_detections[-1])
    image, label, score = detections.image[order], detections.label[order], detections.scores[order]
    # `order` is by class, image, rank, so stable sorts by score and class leave equal scores in the order of images.
    final = np.argsort(-score, kind="stable")
    final = final[np.argsort(label[final], kind="stable")]
    place = np.empty_like(final)
    place[final] = np.arange(len(final))

    boxes = detections.boxes_xywh[order]
    low, high = (np.asarray([limits[side] for limits in params.area_ranges])[:, None] for side in (1, 2))
    own_area = boxes[:, 2] * boxes[:, 3]
    outside = ((own_area < low) | (own_area > high))[:, final]
    outcome = np.repeat(-outside.astype(np.int8)[:, None], len(params.iou_thresholds), axis=1)
    target = np.full((len(params.iou_thresholds), len(order)), -1, dtype=np.int32)
    ignored = truth.crowd | (truth.areas < low) | (truth.areas > high)

    # IoU 1 can't be asked for exactly: pycocotools lowers it by a hair.
    thresholds = np.minimum(np.asarray(params.iou_thresholds, dtype=np.float64), 1 - 1e-10)
    group = label * len(truth.images) + image
    for pairs in _in_turns(truth, group, boxes, float(thresholds.min())):
        found = _choose(pairs, truth.crowd, ignored, thresholds)
        for area, threshold, detection, row in found:
            outcome[area, threshold, place[detection]] = np.where(ignored[area, row], -1, 1)
            first = area == 0
            target[threshold[first], place[detection[first]]] = row[first]
    objects = np.flatnonzero(~truth.crowd)
    return Matches(
        params=params,
        images=len(truth.images),
        names=truth.names,
        offsets=np.searchsorted(label[final], np.arange(len(truth.names) + 1)).astype(np.int64),
        detection=order[final],
        image=image[final].astype(np.int32),
        rank=rank[final].astype(np.int16),
        score=score[final],
        outcome=outcome,
        target=target,
        object_row=objects,
        object_image=truth.image[objects].astype(np.int32),
        object_label=truth.label[objects].astype(np.int32),
        object_counts=~ignored[:, objects],
    )


def union(*matches: Matches) -> Matches:
    """Return the matches of D detectors as those of one on D copies of the images.

    Image i answered by detector d is image d * I + i; objects are there once for each detector. Equal scores are
    ranked by image and then by detector, so a set in which every image is answered by one detector is ranked exactly
    as an engine would rank it, and no detector has an advantage. `detection` stays the row in its own `Detections`.

    Raises:
        ShapeError: If the detectors were matched to different truths or with different settings.
    """
    first = matches[0]
    for other in matches[1:]:
        same = (first.params, first.images, first.names) == (other.params, other.images, other.names)
        if not same or any(
            not np.array_equal(getattr(first, name), getattr(other, name))
            for name in ("object_row", "object_image", "object_label", "object_counts")
        ):
            raise ShapeError("matches: detectors were matched to different labels; match all of them to one truth")
    owner = np.repeat(np.arange(len(matches)), [len(one) for one in matches])
    label = np.concatenate([np.repeat(np.arange(len(one.names)), np.diff(one.offsets)) for one in matches])
    image, score = (np.concatenate([getattr(one, name) for one in matches]) for name in ("image", "score"))
    order = np.lexsort((owner, image, -score, label))
    copies = np.arange(len(matches), dtype=np.int32) * first.images
    return replace(
        first,
        images=first.images * len(matches),
        offsets=np.sum([one.offsets for one in matches], axis=0),
        detection=np.concatenate([one.detection for one in matches])[order],
        image=(image + copies[owner])[order],
        rank=np.concatenate([one.rank for one in matches])[order],
        score=score[order],
        outcome=np.concatenate([one.outcome for one in matches], axis=2)[:, :, order],
        target=np.concatenate([one.target for one in matches], axis=1)[:, order],
        object_row=np.tile(first.object_row, len(matches)),
        object_image=(first.object_image + copies[:, None]).ravel(),
        object_label=np.tile(first.object_label, len(matches)),
        object_counts=np.tile(first.object_counts, len(matches)),
    )


def _ranked(detections: Detections, images: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows by class, image and descending score, the best `limit` of each group, and their ranks."""
    order = np.argsort(-detections.scores, kind="stable")
    group = detections.label[order] * images + detections.image[order]
    by_group = np.argsort(group, kind="stable")
    order, group = order[by_group], group[by_group]
    rank = _position(group)
    keep = rank < limit
    return order[keep], rank[keep]


def _position(group: np.ndarray) -> np.ndarray:
    """Return how many equal values stand before each of sorted `group`."""
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))


def _in_turns(truth: GroundTruth, group: np.ndarray, boxes: np.ndarray, lowest: float) -> Iterator[_Pairs]:
    """Yield the pairs with IoU >= `lowest` of many groups at a time.

    Pairs are by step, detection, IoU and row of the object; in a step every group has one detection at most.

    Args:
        truth: Labels.
        group: Class and image of each detection as one number, ascending; within a group by rank.
        boxes: Their boxes.
        lowest: The lowest IoU of interest.
    """
    object_group = truth.label * len(truth.images) + truth.image
    by_group = np.argsort(object_group, kind="stable")
    object_group = object_group[by_group]
    first = np.searchsorted(object_group, group, side="left")
    count = np.searchsorted(object_group, group, side="right") - first
    near = np.flatnonzero(count)  # detections with any object of their class in their image
    group, first, count = group[near], first[near], count[near]
    # Cut only between groups.
    ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(group))
    total = np.append(0, np.cumsum(count))
    start = 0
    while start < len(group):
        fitting = np.searchsorted(total[ends], total[start] + _PAIRS, side="right")
        stop = int(ends[max(int(fitting) - 1, int(np.searchsorted(ends, start, side="right")))])
        part = slice(start, stop)
        each = count[part]
        index = np.repeat(np.arange(start, stop), each)
        within = np.arange(len(index)) - np.repeat(np.cumsum(each) - each, each)
        row = by_group[first[index] + within]
        iou = _overlap(boxes[near[index]], truth.boxes_xywh[row], truth.crowd[row])
        hit = iou >= lowest
        index, row, iou = index[hit], row[hit], iou[hit]
        candidates, which = np.unique(index, return_inverse=True)
        step = _position(group[candidates])[which]
        turn = np.lexsort((row, iou, index, step))
        yield _Pairs(near[index[turn]], row[turn], iou[turn], step[turn])
        start = stop


def _overlap(found: np.ndarray, labelled: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the IoU of paired boxes, operation by operation as pycocotools' C code (`bbIou`) computes it."""
    x, y, w, h = found.T
    gx, gy, gw, gh = labelled.T
    width = np.minimum(w + x, gw + gx) - np.maximum(x, gx)
    height = np.minimum(h + y, gh + gy) - np.maximum(y, gy)
    inter = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    area = w * h
    result: np.ndarray = inter / np.where(crowd, area, area + gw * gh - inter)
    return result


def _choose(
    pairs: _Pairs, crowd: np.ndarray, ignored: np.ndarray, thresholds: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the matches of every step: indices of area range and threshold, detection, row of the object."""
    if not len(pairs.step):
        return
    rows, local = np.unique(pairs.object, return_inverse=True)
    taken = np.zeros((len(ignored), len(thresholds), len(rows)), dtype=bool)
    ends = np.searchsorted(pairs.step, np.arange(pairs.step[-1] + 1), side="right")
    for start, stop in zip(np.append(0, ends[:-1]), ends, strict=True):
        part = slice(start, stop)
        size, here, row = stop - start, local[part], pairs.object[part]
        allowed = (pairs.iou[part] >= thresholds[:, None]) & (~taken[:, :, here] | crowd[row])
        # Later pairs of a detection overlap more, so the best is the last one allowed, among ordinary objects first.
        key = np.arange(1, size + 1, dtype=np.int32) + np.where(ignored[:, row], 0, size).astype(np.int32)[:, None]
        detections, first = np.unique(pairs.detection[part], return_index=True)
        best = np.maximum.reduceat(np.where(allowed, key, 0), first, axis=2)
        area, threshold, which = np.nonzero(best)
        chosen = (best[area, threshold, which] - 1) % size
        taken[area, threshold, here[chosen]] = True
        yield area, threshold, detections[which], row[chosen]
