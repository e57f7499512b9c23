"""The contract of a distillation loss.

A loss is a pure function (tensors in, scalar out) and a thin module around it. Adding one takes three new files and no
edit: `detkd/losses/<name>.py`, `conf/distill/<name>.yaml`, `tests/losses/test_<name>.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from detkd.errors import ConfigError
from detkd.types import Context, View

__all__ = ["DistillLoss", "Region", "TowerChannels", "tower_channels", "tower_stage"]


class TowerChannels(NamedTuple):
    """How wide the towers of one head are, level by level.

    Attributes:
        classes: Channels of the class tower's maps, finest level first.
        boxes: Channels of the box tower's maps, likewise.
    """

    classes: tuple[int, ...]
    boxes: tuple[int, ...]


def tower_channels(view: View) -> dict[str, TowerChannels]:
    """Return the widths of the towers of each head; empty where the view has none."""
    return {
        branch: TowerChannels(*(tuple(maps.shape[1] for maps in part) for part in towers))
        for branch, towers in (view.towers or {}).items()
    }


class DistillLoss(nn.Module):
    """One term of the distillation loss.

    `forward(student, teacher, context)` returns a scalar >= 0, computed in float32, that means the same at any batch
    size: a sum over anchors divided by a positive mass over the batch, or a mean over the batch. A loss on answers is 0
    when the student answers exactly as the teacher; one with new layers of its own need not be. The weight of the term
    and its schedule belong to the recipe, not to the loss.

    Attributes:
        uses: What the loss reads of a view: "logits", "boxes", "dist", "feats", "towers". What is missing is refused by
            name.
        of_teacher: What of that it reads of the teacher, where it needs less of it than of the student; None for all.
        alternative: What to do where it is missing, for the message; TERM stands for the term's name.
        stage: After which of a tower's stages its maps are read, counted from 1; None for losses that read none.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    of_teacher: ClassVar[frozenset[str] | None] = None
    alternative: ClassVar[str] = ""
    stage: int | None = None

    def reads(self, role: str) -> frozenset[str]:
        """Return what it reads of the view of one side, "student" or "teacher"."""
        return self.uses if role == "student" or self.of_teacher is None else self.of_teacher

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build layers that depend on the pair, once, before the optimizer exists. Most losses have none."""

    def setup_towers(self, student: Mapping[str, TowerChannels], teacher: Mapping[str, TowerChannels]) -> None:
        """Build layers that depend on the widths inside the heads, likewise.

        Args:
            student: Widths for each head that this loss compares.
            teacher: The same of the teacher; empty for losses that do not read its towers.
        """

    def doubts(self) -> list[str]:
        """Return what is doubtful about arguments that are allowed, one sentence each that begins with the argument."""
        return []

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss as a scalar tensor with a gradient to `student` only."""
        raise TypeError(f"{type(self).__name__} does not implement forward()")


class Region(nn.Module):
    """Decides where to distil: a weight in [0, 1] per anchor."""

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return constant weights, (B, A)."""
        raise TypeError(f"{type(self).__name__} does not implement forward()")


def tower_stage(terms: Iterable[tuple[str, DistillLoss]]) -> int | None:
    """Return the stage at which the losses of terms read the towers, None if none does.

    Args:
        terms: Name and loss of each.

    Raises:
        ConfigError: If they want different ones; a view has the maps of one stage.
    """
    stages = {name: loss.stage for name, loss in terms if loss.stage is not None}
    if len(set(stages.values())) > 1:
        told = ", ".join(f"{name} at {stage}" for name, stage in stages.items())
        raise ConfigError(
            f"distill.terms: losses read the towers after different stages ({told}); give those with a stage the same "
            "(distill.terms.NAME.loss.stage), or leave one of them out"
        )
    return next(iter(stages.values()), None)
