"""Feature distillation on the neck: what the teacher sees, whatever the scale of its numbers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from detkd.errors import ShapeError
from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_number, check_same_shape
from detkd.losses.regions import teacher_quality
from detkd.ops.anchors import split_levels
from detkd.ops.divergence import widen
from detkd.types import Context, View

__all__ = ["NeckFeatures", "pearson_distance", "standardise"]


def standardise(maps: Tensor) -> Tensor:
    """Return each channel with mean 0 and variance 1 over images and cells, (B, K, H, W), in float32."""
    maps = widen(maps)
    mean = maps.mean((0, 2, 3), keepdim=True)
    # A channel that is constant over the batch says nothing: it becomes 0 instead of noise.
    variance = maps.var((0, 2, 3), unbiased=False, keepdim=True)
    return (maps - mean) / variance.clamp(min=1e-12).sqrt()


def pearson_distance(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Half the weighted mean squared difference of two standardised maps.

    With equal weights this is 1 - r, where r is the mean over channels of the correlation between student and teacher.

    Args:
        student: Feature map, (B, K, H, W), any float dtype.
        teacher: Feature map of the same shape; treated as constant.
        weight: Weight of each cell, (B, H, W), >= 0, positive sum.

    Returns:
        Scalar, 0 for maps that agree up to scale and offset per channel.

    Raises:
        ShapeError: If the maps differ in shape.

    References:
        Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient,
        NeurIPS 2022. arXiv:2207.02039. Differs from the paper: cells can be weighted.
    """
    check_same_shape("feats", student, teacher)
    error = (standardise(student) - standardise(teacher.detach())).pow(2).mean(1) / 2  # (B, H, W)
    return (error * weight).sum() / weight.sum()


class NeckFeatures(DistillLoss):
    """Make the student's neck maps correlate with the teacher's, through a learnt 1x1 convolution per level.

    Half of the attention (`focus`) goes where the teacher scores objects, the rest is spread evenly. The convolutions
    exist in training only. Meant for one head (`branches: [one2many]`): both heads read the same maps.

    Args:
        focus: Share of the weight that follows the teacher's scores, in [0, 1].
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits", "feats"})

    def __init__(self, focus: float = 0.5) -> None:
        super().__init__()
        self.focus = check_number("focus", focus, low=0.0, high=1.0, hint="0 spreads the weight evenly")
        self.adapters = nn.ModuleList()

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Make one 1x1 convolution per level, student's channels to teacher's."""
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.adapters = nn.ModuleList(nn.Conv2d(s, t, 1, bias=False) for s, t in pairs)

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the mean over levels, each between 0 and about 1."""
        assert student.feats is not None
        assert teacher.feats is not None
        if len(student.feats) != len(self.adapters):
            raise ShapeError(f"feats: {len(self.adapters)} levels were set up, got {len(student.feats)}")
        shapes = [(maps.shape[2], maps.shape[3]) for maps in student.feats]
        quality = split_levels(teacher_quality(teacher.head(context.branch).logits)[..., None], shapes)
        total = student.strides.new_zeros((), dtype=torch.float32)
        for adapter, s, t, q in zip(self.adapters, student.feats, teacher.feats, quality, strict=True):
            if t.shape[2:] != s.shape[2:]:  # a teacher at a higher resolution
                t = functional.adaptive_avg_pool2d(t, (s.shape[2], s.shape[3]))
            score = q.reshape(len(s), *s.shape[2:]).detach()
            even = torch.full_like(score, 1 / score.numel())
            weight = (1 - self.focus) * even + self.focus * score / score.sum().clamp(min=1e-6)
            total = total + pearson_distance(adapter(s), t, weight)
        return total / len(self.adapters)
