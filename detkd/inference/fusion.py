"""Several answers to one image made into one: weighted box fusion, and what it means for class vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detkd.caching.objects import SoftObjects, no_objects

__all__ = ["SAME_PLACE", "fuse", "merge_same_place", "overlaps"]

SAME_PLACE = 0.9
"""IoU from which two boxes of one answer are the same object seen as two classes."""


def merge_same_place(objects: SoftObjects, iou: float = SAME_PLACE) -> SoftObjects:
    """Make one object of boxes at nearly the same place, as one answer gives them for an object of unclear class.

    NMS keeps one box per class, an NMS-free head one row per class, a results file one record per class. The best box
    stays; each class gets its highest probability.

    Args:
        objects: One answer to one image.
        iou: Overlap with the best box from which a box belongs to it.

    Returns:
        The merged objects, best first.
    """
    objects = objects.take(np.argsort(-objects.quality, kind="stable"))
    if len(objects) < 2:
        return objects
    close = overlaps(objects.boxes_xyxy, objects.boxes_xyxy) >= iou
    owner = np.full(len(objects), -1)
    for index in range(len(objects)):
        if owner[index] < 0:
            owner[close[index] & (owner < 0)] = index
            owner[index] = index  # also a box without area, which overlaps nothing
    probs = objects.probs.copy()
    np.maximum.at(probs, owner, objects.probs)
    kept = np.flatnonzero(owner == np.arange(len(objects)))
    return SoftObjects(objects.boxes_xyxy[kept], probs[kept], objects.quality[kept])


def fuse(
    answers: Sequence[SoftObjects],
    *,
    size: tuple[int, int],
    iou: float,
    weights: Sequence[float] | None = None,
    knows: np.ndarray | None = None,
) -> SoftObjects:
    """Fuse several answers to one image by weighted box fusion (Solovyev et al., arXiv:1910.13302).

    Boxes of the same object are averaged with their scores as weights, and so are the class vectors. The quality of the
    fused object is its mean score times the share of the answers (by weight) that saw it, so an object that one of E
    answers saw has an E-th of its score. Answers that can't know the object's class don't count against it, and a class
    is averaged over those that know it.

    Boxes are grouped by their best class, as in the paper. One thing is added: where an answer has no box for an object
    of the others but one of another class at that place, that box counts for the object. Without it, an object that
    two answers name differently would become two.

    Args:
        answers: Objects of each answer. A single answer is returned as it is.
        size: Width and height of the image in pixels.
        iou: Overlap above which boxes are the same object, 0..1.
        weights: Weight of each answer, > 0; None: all alike.
        knows: Whether each answer can know each class, bool (answers, C); None: all know all.

    Returns:
        The fused objects, best first.
    """
    if len(answers) == 1:
        return answers[0]
    num_classes = answers[0].probs.shape[1]
    shares = np.ones(len(answers)) if weights is None else np.asarray(weights, dtype=np.float64)
    able = np.ones((len(answers), num_classes), dtype=bool) if knows is None else knows
    source = np.repeat(np.arange(len(answers)), [len(answer) for answer in answers])
    boxes, probs, scores = (
        np.concatenate([getattr(answer, name) for answer in answers]) for name in ("boxes_xyxy", "probs", "quality")
    )
    sides = np.array([*size, *size], dtype=np.float64)
    boxes = np.clip(boxes / sides, 0, 1)
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1) & (scores > 0)
    if not usable.any():
        return no_objects(num_classes)
    source, boxes, probs, scores = source[usable], boxes[usable], probs[usable], scores[usable]
    labels = _agree(source, boxes, probs.argmax(1), scores, iou)
    fused, quality, label = _library(source, boxes, scores, labels, shares, iou)
    members = _members(boxes, labels, fused, label)
    weight = members * (scores * shares[source])[None]  # (fused, boxes)
    known = able[source].astype(np.float64)
    vectors = (weight @ (probs * known)) / np.maximum(weight @ known, np.finfo(np.float32).tiny)
    # Only answers that can know the object's class have a say in how many of them saw it.
    voters = shares @ able[:, vectors.argmax(1)]
    quality = np.minimum(quality * shares.sum() / np.maximum(voters, shares.min()), 1)
    order = np.argsort(-quality, kind="stable")
    return SoftObjects(
        (fused * sides).astype(np.float32)[order], vectors.astype(np.float32)[order], quality.astype(np.float32)[order]
    )


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes (N, 4) and (M, 4), each x1, y1, x2, y2, as (N, M); 0 where neither has an area."""
    sides = [
        np.minimum(first[:, None, axis + 2], second[None, :, axis + 2])
        - np.maximum(first[:, None, axis], second[None, :, axis])
        for axis in (0, 1)
    ]
    shared = np.maximum(sides[0], 0) * np.maximum(sides[1], 0)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _agree(source: np.ndarray, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Return the label each box is grouped by: its own, or that of a better box of another answer at the same place.

    It takes the other label only if its own answer has no box of that label there: one that sees a rider and a
    motorcycle in one place means two objects.
    """
    close = overlaps(boxes, boxes) > iou
    result = labels.copy()
    order = np.argsort(-scores, kind="stable")
    for rank, index in enumerate(order):
        better = order[:rank]
        others = better[close[index, better] & (source[better] != source[index])]
        if not len(others) or (result[others] == labels[index]).any():
            continue
        leader = others[0]
        own = (source == source[index]) & close[leader]
        own[index] = False
        if not (result[own] == result[leader]).any():
            result[index] = result[leader]
    return result


def _library(
    source: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, shares: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (M, 4) in 0..1, scores (M,) and labels (M,) of the library's weighted box fusion."""
    from ensemble_boxes import weighted_boxes_fusion

    parts = [source == number for number in range(len(shares))]
    # This kind of score counts each answer once, even where it has several boxes on one object.
    fused, quality, label = weighted_boxes_fusion(
        *([values[part] for part in parts] for values in (boxes, scores, labels)),
        weights=shares.tolist(),
        iou_thr=iou,
        conf_type="box_and_model_avg",
    )
    return np.clip(fused, 0, 1), quality, label.astype(np.int64)


def _members(boxes: np.ndarray, labels: np.ndarray, fused: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return which boxes each fused box was made of, (fused, boxes) bool; the library does not tell.

    A box belongs to the fused box of its label that it overlaps most. Each fused box has at least its nearest box.
    """
    table = np.where(label[:, None] == labels[None], overlaps(fused, boxes), -1)
    members = np.zeros(table.shape, dtype=bool)
    members[table.argmax(0), np.arange(len(boxes))] = True
    alone = ~members.any(1)
    members[alone, table.argmax(1)[alone]] = True
    return members
