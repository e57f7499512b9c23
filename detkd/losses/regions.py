"""Where to distil: a weight per anchor, from the teacher's scores and the labels' assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from detkd.losses.base import Region
from detkd.losses.checks import check_number
from detkd.ops.divergence import widen
from detkd.types import Assignment, Context, View

__all__ = [
    "Everywhere",
    "TeacherScore",
    "TeacherTop",
    "add_assigned",
    "batch_mass",
    "teacher_quality",
    "top_anchors",
    "where_labelled",
]


def teacher_quality(logits: Tensor) -> Tensor:
    """The teacher's score of its best class, constant, (..., C) logits -> (...) in [0, 1]."""
    return widen(logits.detach().amax(-1)).sigmoid()


def batch_mass(weights: Tensor) -> Tensor:
    """What a sum over anchors is divided by: the sum of their weights over the whole batch, at least 1."""
    return weights.sum().clamp(min=1)


def top_anchors(quality: Tensor, fraction: float) -> Tensor:
    """Mark the best anchors of each image.

    Args:
        quality: (B, A).
        fraction: Share of the anchors to mark, in (0, 1]; at least one anchor is marked in each image.

    Returns:
        1 for the marked anchors, 0 for the others, (B, A).
    """
    count = max(1, round(fraction * quality.shape[1]))
    return torch.zeros_like(quality).scatter_(1, quality.topk(count, dim=1).indices, 1.0)


def add_assigned(weights: Tensor, assignment: Assignment | None) -> Tensor:
    """Raise the weights of the anchors assigned to labelled objects to 1; the same weights without labels."""
    return weights if assignment is None else torch.maximum(weights, assignment.foreground.to(weights))


def where_labelled(weights: Tensor, otherwise: Tensor, assignment: Assignment) -> Tensor:
    """Take the first weights in labelled images and the second ones in the others; all (B, A)."""
    labelled = assignment.labelled
    return weights if labelled is None else torch.where(labelled[:, None], weights, otherwise)


class Everywhere(Region):
    """All anchors. Mostly background: use it with losses that fade where both sides agree."""

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return ones, (B, A)."""
        return torch.ones_like(teacher_quality(teacher.head(context.branch).logits))


class TeacherTop(Region):
    """The anchors the teacher scores highest in each image, and those assigned to labelled objects.

    Args:
        fraction: Share of an image's anchors to take by teacher score, in (0, 1]; at least one.
        assigned: Whether to add the anchors assigned to labelled objects, where the batch has labels.

    References:
        Zhou et al., Dense Teacher, ECCV 2022, section 3.3 (top 1 %). arXiv:2207.02541
        Differs from the paper: assigned anchors are added, images are cut off one by one.
    """

    def __init__(self, fraction: float = 0.01, assigned: bool = True) -> None:
        super().__init__()
        self.fraction = check_number(
            "fraction", fraction, above=0.0, high=1.0, hint="0.01 takes the top 1 % of the anchors, 1 takes all"
        )
        self.assigned = assigned

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return 1 inside the region and 0 outside, (B, A)."""
        weights = top_anchors(teacher_quality(teacher.head(context.branch).logits), self.fraction)
        return add_assigned(weights, context.assignment) if self.assigned else weights


class TeacherScore(Region):
    """The anchors the teacher scores at or above a threshold, and those assigned to labelled objects.

    An image may have none; the losses are 0 there.

    Args:
        threshold: Teacher score from which an anchor counts, in [0, 1].
        assigned: Whether to add the anchors assigned to labelled objects, where the batch has labels.
    """

    def __init__(self, threshold: float = 0.05, assigned: bool = True) -> None:
        super().__init__()
        self.threshold = check_number("threshold", threshold, low=0.0, high=1.0, hint="0.05 keeps faint detections")
        self.assigned = assigned

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return 1 inside the region and 0 outside, (B, A)."""
        quality = teacher_quality(teacher.head(context.branch).logits)
        weights = (quality >= self.threshold).to(quality)
        return add_assigned(weights, context.assignment) if self.assigned else weights
