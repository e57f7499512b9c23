"""Where the student goes wrong: pressure of the teacher on mistakes that only deployment would show."""

from __future__ import annotations

import torch
from torch import Tensor

from detkd.losses.base import Region
from detkd.losses.checks import check_number
from detkd.losses.errors import without_object
from detkd.losses.regions import add_assigned, teacher_quality, top_anchors
from detkd.types import Context, View

__all__ = ["StudentErrors", "false_alarms"]


@torch.no_grad()
def false_alarms(student: View, context: Context, *, threshold: float, fraction: float) -> Tensor:
    """Mark the anchors where the student sees an object that the labels don't have.

    Args:
        student: The student's answers.
        context: The head, and the labels' assignment. Without labels nobody knows: every anchor where the student sees
            something is marked, and the teacher is the judge.
        threshold: Score of the student's best class from which it sees an object.
        fraction: Largest share of an image's anchors to mark, highest student scores first.

    Returns:
        (B, A) bool.
    """
    head = student.head(context.branch)
    quality = teacher_quality(head.logits)
    fires = (quality >= threshold) & (top_anchors(quality, fraction) > 0)
    return fires if context.assignment is None else without_object(head.boxes_xyxy, context.assignment, fires)


class StudentErrors(Region):
    """The usual anchors (teacher's top, assigned) and those where the student sees what the labels don't have.

    A region made of the teacher's answers alone leaves the student's own false positives to the labels. Losses divide
    by the teacher's score, which is low there, so these anchors add pressure and hardly dilute the rest.

    Args:
        fraction: Share of an image's anchors to take by teacher score, in (0, 1]; at least one.
        threshold: Score from which the student sees an object, in [0, 1].
        most: Largest share of an image's anchors to add by student score, in (0, 1].
        base: Weight of the usual anchors, in (0, 1]; the student's errors have 1, so 0.5 makes them count double.
        assigned: Whether the anchors assigned to labelled objects belong to the usual ones.
    """

    def __init__(
        self,
        fraction: float = 0.01,
        threshold: float = 0.1,
        most: float = 0.01,
        base: float = 1.0,
        assigned: bool = True,
    ) -> None:
        super().__init__()
        self.fraction = check_number(
            "fraction", fraction, above=0.0, high=1.0, hint="0.01 takes the top 1 % of the anchors, 1 takes all"
        )
        self.threshold = check_number("threshold", threshold, low=0.0, high=1.0, hint="0.1 finds faint false alarms")
        self.most = check_number("most", most, above=0.0, high=1.0, hint="0.01 adds at most 1 % of the anchors")
        self.base = check_number(
            "base", base, above=0.0, high=1.0, hint="1 weighs all alike, 0.5 counts the student's errors double"
        )
        self.assigned = assigned

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return weights in [0, 1], (B, A)."""
        weights = top_anchors(teacher_quality(teacher.head(context.branch).logits), self.fraction)
        if self.assigned:
            weights = add_assigned(weights, context.assignment)
        wrong = false_alarms(student, context, threshold=self.threshold, fraction=self.most)
        return torch.where(wrong, torch.ones_like(weights), weights * self.base)
