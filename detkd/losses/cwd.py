"""Channel-wise distillation: where each channel of the neck fires."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from detkd.losses.adapters import ADAPTERS, build_adapters, levels, standardise
from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_choice, check_number, check_same_shape
from detkd.ops.divergence import softmax_kl, widen
from detkd.types import Context, View

__all__ = ["ChannelWise", "cwd"]


def cwd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, standardised: bool = True) -> Tensor:
    """Match where each channel fires: KL between the spatial softmaxes of two maps.

    With x the maps (each channel standardised first, if asked for):
    `mean over images and channels of temperature^2 * KL(softmax_cells(x_t / temperature) || softmax_cells(x_s / ...))`.

    Args:
        student: Adapted student map, (B, K, H, W), any float dtype.
        teacher: Teacher map of the same shape; treated as constant.
        temperature: Softens both softmaxes; > 0.
        standardised: Whether each channel of both sides gets mean 0 and variance 1 over images and cells first, which
            makes the temperature mean the same in every network.

    Returns:
        Scalar, 0 at a perfect match.

    Raises:
        ShapeError: If the shapes differ.

    References:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, eq. 4-5. arXiv:2011.13256
        Differs from the paper: temperature 1 instead of 4 and standardised channels, as usual for detectors.
    """
    check_same_shape("feats", student, teacher)
    student, teacher = widen(student), widen(teacher.detach())
    if standardised:
        student, teacher = standardise(student), standardise(teacher)
    return softmax_kl(student.flatten(2), teacher.flatten(2), temperature=temperature).mean()


class ChannelWise(DistillLoss):
    """Match where each channel of the neck fires, level by level; see `cwd`. The mean over the levels.

    Regions don't matter: a softmax over all cells decides by itself which of them count.

    Args:
        temperature: Softens both softmaxes; > 0.
        standardise: Whether each channel gets mean 0 and variance 1 first.
        adapter: "always" (a 1x1 convolution per level) or "needed" (only where the widths differ).
    """

    uses: ClassVar[frozenset[str]] = frozenset({"feats"})

    def __init__(self, temperature: float = 1.0, standardise: bool = True, adapter: str = "always") -> None:
        super().__init__()
        hint = "1 is usual for detectors, more looks at more cells"
        self.temperature = check_number("temperature", temperature, above=0.0, hint=hint)
        self.standardise = standardise
        self.adapter = check_choice("adapter", adapter, ADAPTERS)
        self.adapters = nn.ModuleList()

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build the adapters. They have no bias: a softmax does not see it."""
        self.adapters = build_adapters(student_channels, teacher_channels, when=self.adapter)

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over all levels."""
        values = [
            cwd(x_s, x_t, temperature=self.temperature, standardised=self.standardise)
            for x_s, x_t in levels(self.adapters, student.feats, teacher.feats)
        ]
        return torch.stack(values).mean()
