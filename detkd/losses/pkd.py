"""Pearson correlation of feature maps: blind to the scale of either network, so it suits unlike pairs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from detkd.losses.adapters import ADAPTERS, build_adapters, levels, standardise
from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_choice, check_same_shape
from detkd.ops.divergence import widen
from detkd.types import Context, View

__all__ = ["Pearson", "pkd"]


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Make each channel rise and fall with the teacher's.

    Each channel of both sides is standardised over images and cells, then `mean (x_s - x_t)^2 / 2`. That is
    `1 - r`, averaged over the channels, with r the correlation of the two.

    Args:
        student: Adapted student map, (B, K, H, W), any float dtype.
        teacher: Teacher map of the same shape; treated as constant.

    Returns:
        Scalar in [0, 2], 0 at a perfect match. A channel that is constant on one side counts 1/2.

    Raises:
        ShapeError: If the shapes differ.

    References:
        Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient,
        NeurIPS 2022, section 3. arXiv:2207.02039. Differs from the paper: none.
    """
    check_same_shape("feats", student, teacher)
    return (standardise(widen(student)) - standardise(widen(teacher.detach()))).square().mean() / 2


class Pearson(DistillLoss):
    """Make each channel of the neck rise and fall with the teacher's, level by level; see `pkd`.

    The mean over the levels. Regions don't matter: all cells have a part in a correlation.

    A teacher map of another size is averaged down to the student's; the paper scales the student's map up.

    Args:
        adapter: "needed" (a 1x1 convolution where the widths differ, as in the paper) or "always".
    """

    uses: ClassVar[frozenset[str]] = frozenset({"feats"})

    def __init__(self, adapter: str = "needed") -> None:
        super().__init__()
        self.adapter = check_choice("adapter", adapter, ADAPTERS)
        self.adapters = nn.ModuleList()

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build the adapters. They have no bias: standardising removes it."""
        self.adapters = build_adapters(student_channels, teacher_channels, when=self.adapter)

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over all levels."""
        return torch.stack([pkd(x_s, x_t) for x_s, x_t in levels(self.adapters, student.feats, teacher.feats)]).mean()
