"""A teacher that is a list of objects per image: what one or several detectors found, with or without NMS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import detkd.environment

import torch
import torchvision
from torch import Tensor
from ultralytics.utils.tal import TaskAlignedAssigner

from detkd.errors import ShapeError
from detkd.models.head import object_assigner, pad_rows
from detkd.ops.anchors import boxes_to_distances, distances_to_boxes
from detkd.ops.boxes import has_area, xywh_to_xyxy
from detkd.types import HeadOutput, View

__all__ = ["ObjectTeacher", "SoftTargets", "found_objects", "spread_objects"]

_UNKNOWN = -20.0
"""Logit where the teacher has no answer: lower than any answer, so that regions that pick by score come to it last."""
_FLOOR = 1e-4
"""Probabilities end this far from 0 and 1. Its logit, -9.2, is about what an untrained head says of background."""


class SoftTargets(NamedTuple):
    """The objects of a batch, image by image, filled up to the most an image has.

    Attributes:
        boxes_xyxy: Corners in pixels of the student's input, (B, M, 4).
        probs: Probability of each class, (B, M, C).
        present: Where there is an object, (B, M) bool.
    """

    boxes_xyxy: Tensor
    probs: Tensor
    present: Tensor


@torch.no_grad()
def found_objects(head: HeadOutput, *, conf: float, iou: float, most: int = 300) -> SoftTargets:
    """Return what one head finds after non-maximum suppression per class, each object with its whole class vector.

    Args:
        head: The answers of a one2many head.
        conf: Least score of an object, in (0, 1).
        iou: Overlap above which the weaker of two boxes of the same class is dropped, in (0, 1).
        most: Objects kept per image, best first.
    """
    probs = head.logits.float().sigmoid()
    score, label = probs.max(-1)  # (B, A)
    kept = []
    for number in range(len(score)):
        sure = (score[number] >= conf).nonzero()[:, 0]
        boxes = head.boxes_xyxy[number, sure].float()
        order = torchvision.ops.batched_nms(boxes, score[number, sure], label[number, sure], iou)[:most]
        kept.append(sure[order])
    image = torch.cat([torch.full_like(rows, number) for number, rows in enumerate(kept)])
    found = torch.cat(kept)
    rows = torch.cat((head.boxes_xyxy[image, found].float(), probs[image, found]), dim=-1)
    padded, present = pad_rows(rows, image, len(score))
    boxes, vectors = padded.split((4, probs.shape[-1]), dim=-1)
    return SoftTargets(boxes, vectors, present & has_area(boxes))


@torch.no_grad()
def spread_objects(
    branch: str, student: View, objects: SoftTargets, assigner: TaskAlignedAssigner | None = None
) -> HeadOutput:
    """Answer for each anchor of one head what the object it is responsible for looks like.

    Ultralytics' assigner decides which anchors those are, from the student's own answers and with the class of the
    highest probability, just as it does for labels. With m the alignment of an anchor with its object j (score^0.5 *
    IoU^6) and P(j) the anchors of that object, class c gets

        `p = probs[j, c] * m / max over P(j) of m`

    which is the object's own vector at the anchor that fits best. For labels, the native loss also multiplies by the
    best IoU the student has reached, because a label says nothing of how hard it is to locate. The teacher's score does
    say that, so it is the target from the start.

    one2one keeps the best aligned anchor of each object only. The other candidates are known too, with a probability
    near 0: they are where duplicates would come from.

    Objects that no box of the student overlaps yet have no alignment; they are left out, as labels are.

    Args:
        branch: Name of the head.
        student: The student's answers.
        objects: What the teacher found.
        assigner: The head's assigner if it exists already.

    Returns:
        Logits, boxes and distances on the student's anchors; `known` at the anchors described above. Elsewhere logits
        are -20 and boxes have no area.
    """
    head = student.head(branch)  # type: ignore[arg-type]
    boxes, probs, present = objects
    logits = torch.full_like(head.logits, _UNKNOWN)
    distances = torch.zeros_like(head.distances)
    if not present.shape[1]:
        decoded = distances_to_boxes(distances, student.anchor_points, student.strides)
        return HeadOutput(logits, decoded, distances, known=torch.zeros_like(logits[..., 0], dtype=torch.bool))
    assigner = assigner or object_assigner(branch, head.logits.shape[-1], student.strides)
    _, _, scores, chosen, owner = assigner(
        head.logits.detach().sigmoid(),
        head.boxes_xyxy.detach(),
        student.anchor_points * student.strides,
        probs.argmax(-1, keepdim=True),
        boxes,
        present[..., None].to(boxes),
    )
    owner = owner.long()  # (B, A)
    alignment = scores.sum(-1) * chosen  # (B, A)
    best = alignment.new_zeros(present.shape).scatter_reduce(1, owner, alignment, "amax").gather(1, owner)
    known = chosen & (best > 0)
    relative = alignment / best.where(known, 1)
    if branch == "one2one":
        anchors = torch.arange(owner.shape[1], device=owner.device).expand_as(owner)
        ranked = anchors.where(known & (relative == 1), owner.shape[1])  # a tie must not teach a duplicate
        first = ranked.new_full(present.shape, owner.shape[1]).scatter_reduce(1, owner, ranked, "amin")
        relative = (first.gather(1, owner) == anchors).to(relative)
    image, anchor = known.nonzero(as_tuple=True)
    mine = owner[image, anchor]
    target = probs[image, mine] * relative[image, anchor, None]  # (K, C)
    logits[image, anchor] = target.clamp(_FLOOR, 1 - _FLOOR).logit().to(logits)
    points, strides = student.anchor_points[anchor], student.strides[anchor]
    distances[image, anchor] = boxes_to_distances(boxes[image, mine], points, strides).to(distances)
    decoded = distances_to_boxes(distances, student.anchor_points, student.strides)
    return HeadOutput(logits, decoded, distances, known=known)


class ObjectTeacher:
    """Teaches every head of the student the objects that came with the batch; see `spread_objects`.

    Unlike a live teacher with NMS, it can teach a one2one head: objects have no duplicates. What is not an object is
    not known, so between objects it says nothing.

    Of several merged answers, only some may have seen an object. `probs` are the mean of those that did, `soft_quality`
    counts the others too. The vector is therefore scaled down until its highest probability is the quality. An object
    that all saw keeps its vector. The losses weigh boxes by the highest probability, so the box counts less as well.

    Args:
        known: Which classes of the data somebody who was asked knows, (C,) bool; None for all.
    """

    def __init__(self, known: Tensor | None = None) -> None:
        self._known = known
        self._assigners: dict[str, TaskAlignedAssigner] = {}

    def to(self, device: torch.device) -> ObjectTeacher:
        """Return self; the objects come with each batch."""
        return self

    def answer(self, batch: Mapping[str, Any], student: View) -> View:
        """Return the objects of a batch on the student's anchors.

        Args:
            batch: `soft_boxes` (N, 4) as centre and size in 0..1 of the image, `soft_probs` (N, C), `soft_quality` (N,)
                in 0..1, and `soft_idx` (N,), the number of each object's image. Without them nothing is known.
            student: The student's answers.

        Raises:
            ShapeError: If the objects have other classes than the student.
        """
        objects = self._objects(batch, student)
        known = None if self._known is None else self._known.to(student.strides.device)
        heads = {}
        for branch, head in student.heads.items():
            if branch not in self._assigners:
                self._assigners[branch] = object_assigner(branch, head.logits.shape[-1], student.strides)
            answer = spread_objects(branch, student, objects, self._assigners[branch])
            heads[branch] = answer._replace(classes=known)
        return View(heads, student.anchor_points, student.strides, student.imgsz)

    @staticmethod
    def _objects(batch: Mapping[str, Any], student: View) -> SoftTargets:
        like = next(iter(student.heads.values())).logits
        images, classes = like.shape[0], like.shape[-1]
        if "soft_boxes" not in batch:
            none = like.new_zeros(images, 0)
            return SoftTargets(like.new_zeros(images, 0, 4), like.new_zeros(images, 0, classes), none > 0)
        probs = batch["soft_probs"].to(like)
        if probs.shape[-1] != classes:
            raise ShapeError(
                f"soft_probs: the teacher's objects have {probs.shape[-1]} classes, the student has {classes}; build "
                "the cache anew for the classes of this data"
            )
        best = probs.amax(-1, keepdim=True)
        share = batch["soft_quality"].to(like)[:, None] / best.clamp(min=_FLOOR)
        probs = probs * share.clamp(max=1)
        height, width = student.imgsz
        corners = xywh_to_xyxy(batch["soft_boxes"].to(like)) * like.new_tensor([width, height, width, height])
        rows, present = pad_rows(torch.cat((corners, probs), dim=-1), batch["soft_idx"].to(like.device), images)
        boxes, probs = rows.split((4, classes), dim=-1)
        return SoftTargets(boxes, probs, present & has_area(boxes))
