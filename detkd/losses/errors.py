"""Where the teacher contradicts the labels, and how much its opinion counts there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detkd.losses.checks import check_number
from detkd.losses.regions import teacher_quality, where_labelled
from detkd.ops.boxes import iou
from detkd.types import Assignment, HeadOutput

__all__ = ["OVERLAP", "ErrorOptions", "error_weights", "without_object"]

OVERLAP = 0.5
"""IoU from which a predicted box counts as one of a labelled object."""


@torch.no_grad()
def without_object(boxes_xyxy: Tensor, assignment: Assignment, among: Tensor) -> Tensor:
    """Mark the anchors where the labels have no object.

    That is an anchor which is not responsible for a labelled object and whose predicted box overlaps every labelled
    object by an IoU below `OVERLAP`, whatever the classes. So the many answers around one object are not errors.

    Args:
        boxes_xyxy: Predicted corners in pixels, (B, A, 4).
        assignment: The labels' assignment; where it does not hold the labels themselves, responsibility alone decides.
        among: The anchors in question, (B, A) bool; no other is marked.

    Returns:
        (B, A) bool.
    """
    among = among & ~assignment.foreground
    labels = assignment.labels
    if labels is None or labels.present.shape[1] == 0:
        return among
    index = among.nonzero(as_tuple=True)  # (N,), (N,); few, so that N x M overlaps are cheap
    overlap = iou(boxes_xyxy[index][:, None], labels.boxes_xyxy[index[0]])  # (N, M)
    near = ((overlap >= OVERLAP) & labels.present[index[0]]).any(1)
    return among.index_put(index, ~near)


@torch.no_grad()
def error_weights(
    teacher: HeadOutput, assignment: Assignment | None, *, threshold: float, w_fp: float, w_fn: float
) -> Tensor:
    """Weigh the anchors where the teacher is wrong about there being an object.

    Args:
        teacher: The teacher's answers on A anchors. Its score is that of its best class.
        assignment: The labels' assignment for that head; None means that nobody can tell.
        threshold: Score above which the teacher says that there is an object.
        w_fp: Weight where it says so and the labels have none (see `without_object`); >= 0.
        w_fn: Weight where an anchor is responsible for a labelled object and it does not say so; >= 0.

    Returns:
        Constant, (B, A): `w_fp`, `w_fn`, or 1 where the two agree and in images that are not labelled.
    """
    quality = teacher_quality(teacher.logits)
    weights = torch.ones_like(quality)
    if assignment is None:
        return weights
    fires = quality > threshold
    if w_fp != 1:
        wrong = without_object(teacher.boxes_xyxy, assignment, fires)
        weights = weights.masked_fill(wrong, w_fp)
    weights = weights.masked_fill(assignment.foreground & ~fires, w_fn)
    return where_labelled(weights, torch.ones_like(weights), assignment)


class ErrorOptions(NamedTuple):
    """How much the teacher counts where it contradicts the labels; see `error_weights`.

    Attributes:
        w_fp: Weight of its false positives; >= 0, 0 ignores it there, 1 changes nothing.
        w_fn: Weight of its false negatives; likewise.
        threshold: Score above which it says that there is an object, in [0, 1].
    """

    w_fp: float = 1.0
    w_fn: float = 1.0
    threshold: float = 0.25

    def checked(self) -> ErrorOptions:
        """Return the same options, or raise `ConfigError` naming the one that can't be used."""
        hint = "0 ignores the teacher where it contradicts the labels, 1 changes nothing"
        return ErrorOptions(
            check_number("w_fp", self.w_fp, low=0.0, hint=hint),
            check_number("w_fn", self.w_fn, low=0.0, hint=hint),
            check_number("threshold", self.threshold, low=0.0, high=1.0, hint="0.25 is a score usual in deployment"),
        )

    def factors(self, teacher: HeadOutput, assignment: Assignment | None) -> Tensor | None:
        """Return the weights, (B, A), or None where all of them would be 1."""
        if assignment is None or self.w_fp == self.w_fn == 1:
            return None
        return error_weights(teacher, assignment, threshold=self.threshold, w_fp=self.w_fp, w_fn=self.w_fn)
