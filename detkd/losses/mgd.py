"""Masked generative distillation: rebuild the teacher's map from a student map with holes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from detkd.losses.adapters import ADAPTERS, adapt, build_adapters, levels
from detkd.losses.adapters import standardise as standardise_maps
from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_choice, check_number, check_same_shape
from detkd.ops.divergence import widen
from detkd.types import Context, View

__all__ = ["MaskedGeneration", "mgd", "visible_cells"]


def visible_cells(maps: Tensor, ratio: float) -> Tensor:
    """Draw which cells of (B, K, H, W) stay visible: 0 with probability `ratio`, else 1; (B, 1, H, W).

    The numbers come from torch's generator of the maps' device, so a resumed run goes on with the same ones.
    """
    return (torch.rand(len(maps), 1, *maps.shape[2:], device=maps.device) >= ratio).to(maps.dtype)


def mgd(student: Tensor, teacher: Tensor, *, standardised: bool = True) -> Tensor:
    """Mean squared error between a regenerated map and the teacher's.

    Args:
        student: Regenerated map, (B, K, H, W), any float dtype.
        teacher: Teacher map of the same shape; treated as constant.
        standardised: Whether the teacher's channels get mean 0 and variance 1 over images and cells first. Without
            it, the value depends on the scale of the teacher's features.

    Returns:
        Scalar, mean over images, channels and cells.

    Raises:
        ShapeError: If the shapes differ.

    References:
        Yang et al., Masked Generative Distillation, ECCV 2022, section 3. arXiv:2205.01529
        Differs from the paper: a mean instead of a sum per image, and the teacher is standardised by default. That
        makes one weight fit all teachers (the paper has 2e-5 for detectors with one stage).
    """
    check_same_shape("feats", student, teacher)
    target = widen(teacher.detach())
    return (widen(student) - (standardise_maps(target) if standardised else target)).square().mean()


class MaskedGeneration(DistillLoss):
    """Hide cells of the student's neck and let a small network rebuild the teacher's maps; see `mgd`.

    What is visible has to tell what is hidden, so each cell learns about its surroundings. The network (3x3
    convolution, ReLU, 3x3 convolution per level, in the teacher's width) is dropped after training. It is new at the
    start, so the loss is not 0 for equal maps. The mean over the levels; regions don't matter.

    Args:
        ratio: Share of the cells that is hidden, in [0, 0.99]; the same cells in all channels.
        standardise: Whether the teacher's channels get mean 0 and variance 1 first.
        adapter: "needed" (a 1x1 convolution where the widths differ, as in the paper) or "always".
    """

    uses: ClassVar[frozenset[str]] = frozenset({"feats"})

    def __init__(self, ratio: float = 0.65, standardise: bool = True, adapter: str = "needed") -> None:
        super().__init__()
        hint = "0.65 hides about two cells in three, 0 hides none"
        self.ratio = check_number("ratio", ratio, low=0.0, high=0.99, hint=hint)
        self.standardise = standardise
        self.adapter = check_choice("adapter", adapter, ADAPTERS)
        self.adapters = nn.ModuleList()
        self.generators = nn.ModuleList()

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build the adapters and the generation blocks."""
        self.adapters = build_adapters(student_channels, teacher_channels, when=self.adapter, bias=True)
        self.generators = nn.ModuleList(
            nn.Sequential(nn.Conv2d(k, k, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(k, k, 3, padding=1))
            for k in teacher_channels
        )

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over all levels, with newly drawn holes."""
        pairs = list(levels(self.adapters, student.feats, teacher.feats))
        values = [
            mgd(adapt(generator, x_s * visible_cells(x_s, self.ratio)), x_t, standardised=self.standardise)
            for generator, (x_s, x_t) in zip(self.generators, pairs, strict=True)
        ]
        return torch.stack(values).mean()
