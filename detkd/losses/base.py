"""The contract of a distillation loss.

A loss is a pure function (tensors in, scalar out) and a thin module around it. Adding one takes three new files and no
edit: `detkd/losses/<name>.py`, `conf/distill/<name>.yaml`, `tests/losses/test_<name>.py`.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from detkd.types import Context, View

__all__ = ["DistillLoss", "Region"]


class DistillLoss(nn.Module):
    """One term of the distillation loss.

    `forward(student, teacher, context)` returns a scalar that is 0 when the student answers exactly as the teacher,
    computed in float32, divided by a positive mass over the batch so that it means the same at any batch size. The
    weight of the term and its schedule belong to the recipe, not to the loss.

    Attributes:
        uses: What the loss reads of a view: "logits", "boxes", "dist", "feats". Missing outputs are refused by name.
    """

    uses: ClassVar[frozenset[str]] = frozenset()

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build layers that depend on the pair, once, before the optimizer exists. Most losses have none."""

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss as a scalar tensor with a gradient to `student` only."""
        raise TypeError(f"{type(self).__name__} does not implement forward()")


class Region(nn.Module):
    """Decides where to distil: a weight in [0, 1] per anchor."""

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return constant weights, (B, A)."""
        raise TypeError(f"{type(self).__name__} does not implement forward()")
