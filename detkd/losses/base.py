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
        alternative: What to do where it is missing, for the message; TERM stands for the term's name.
        stage: After which of a tower's stages its maps are read, counted from 1; None for losses that read none.
    """

    uses: ClassVar[frozenset[str]] = frozenset()
    alternative: ClassVar[str] = ""
    stage: int | None = None

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build layers that depend on the pair, once, before the optimizer exists. Most losses have none."""

    def setup_towers(self, student: Mapping[str, TowerChannels], teacher: Mapping[str, TowerChannels]) -> None:
        """Build layers that depend on the widths inside the heads, likewise.

        Args:
            student: Widths for each head that this loss compares.
            teacher: The same of the teacher.
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


def tower_stage(losses: Iterable[DistillLoss]) -> int | None:
    """Return the stage at which these losses read the towers, None if none does.

    Raises:
        ConfigError: If they want different ones; a view has the maps of one stage.
    """
    stages = sorted({loss.stage for loss in losses if loss.stage is not None})
    if len(stages) > 1:
        raise ConfigError(f"distill.terms: losses read the towers at stages {stages}; give all of them the same stage")
    return stages[0] if stages else None
