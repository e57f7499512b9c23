"""What losses on feature maps share: bring both sides to one width, one size and one scale.

A level is one map of the neck. Student and teacher have the same levels; width (channels) and size may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detkd.errors import PairError, ShapeError
from detkd.losses.checks import check_same_shape
from detkd.ops.divergence import widen

__all__ = ["ADAPTERS", "adapt", "build_adapters", "check_levels", "levels", "match_maps", "standardise"]

ADAPTERS = ("always", "needed")
"""When a 1x1 convolution stands between the student's map and the teacher's: always, or if their widths differ."""

EPS = 1e-5


def check_levels(student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
    """Refuse pairs whose levels can't be matched one by one.

    Raises:
        PairError: Showing the channels of both.
    """
    if len(student_channels) != len(teacher_channels):
        raise PairError(
            f"teacher: has {len(teacher_channels)} feature maps with {tuple(teacher_channels)} channels, the student "
            f"{len(student_channels)} with {tuple(student_channels)}; choose a pair with the same levels, or a method "
            "without feature maps, e.g. distill=binary"
        )


def build_adapters(
    student_channels: Sequence[int], teacher_channels: Sequence[int], *, when: str = "always", bias: bool = False
) -> nn.ModuleList:
    """Make one layer per level that turns the student's channels into the teacher's.

    Args:
        student_channels: Channels of each of the student's levels.
        teacher_channels: Channels of each of the teacher's levels.
        when: One of `ADAPTERS`; a level without a convolution gets an identity.
        bias: Whether the convolution adds a constant; useless before anything that removes the mean.

    Raises:
        PairError: If the two don't have the same number of levels.
    """
    check_levels(student_channels, teacher_channels)
    return nn.ModuleList(
        nn.Identity() if when == "needed" and k_s == k_t else nn.Conv2d(k_s, k_t, kernel_size=1, bias=bias)
        for k_s, k_t in zip(student_channels, teacher_channels, strict=True)
    )


def adapt(layer: nn.Module, maps: Tensor) -> Tensor:
    """Apply a learnable layer to (B, K, H, W) in its own precision, whatever autocast says."""
    weights = next(layer.parameters(), None)
    wide = widen(maps) if weights is None else maps.to(weights.dtype)
    with torch.autocast(maps.device.type, enabled=False):
        adapted: Tensor = layer(wide)
    return adapted


def match_maps(student: Tensor, teacher: Tensor) -> Tensor:
    """Shrink the teacher's map to the student's size, for teachers that see more pixels.

    Args:
        student: (B, K_s, H, W).
        teacher: (B, K_t, r H, r W) with a whole ratio r >= 1; treated as constant.

    Returns:
        The mean of each block of r x r cells, (B, K_t, H, W); float32 (float64 for float64 input).

    Raises:
        PairError: If the ratio of the sizes is no whole number.
    """
    teacher = widen(teacher.detach())
    size, larger = student.shape[2:], teacher.shape[2:]
    ratio = larger[0] // size[0]
    if ratio < 1 or (size[0] * ratio, size[1] * ratio) != tuple(larger):
        raise PairError(
            f"teacher.imgsz: the teacher's feature map has {tuple(larger)} cells and the student's {tuple(size)}; "
            "both need the same strides, and teacher.imgsz must be imgsz times 1, 2, 4, ..."
        )
    return teacher if ratio == 1 else functional.avg_pool2d(teacher, ratio)


def standardise(maps: Tensor) -> Tensor:
    """Give each channel of (B, K, H, W) mean 0 and variance 1 over images and cells; constant channels become 0.

    The statistics are the batch's own, so nothing is learnt or remembered, and student and teacher never share any.
    """
    var, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0, keepdim=True)
    return (maps - mean) * (var + EPS).rsqrt()


def levels(
    layers: nn.ModuleList, student: Sequence[Tensor] | None, teacher: Sequence[Tensor] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both sides of each level in the teacher's width and the student's size.

    Args:
        layers: What `build_adapters` returned.
        student: The student's maps, each (B, K_s, H, W).
        teacher: The teacher's maps; treated as constant.

    Raises:
        ShapeError: If there are not as many maps as layers, or the adapted maps differ in shape.
        PairError: If the sizes can't be matched.
    """
    student, teacher = student or (), teacher or ()
    if not len(layers) == len(student) == len(teacher) > 0:
        raise ShapeError(
            f"feats: {len(student)} student maps and {len(teacher)} teacher maps for {len(layers)} adapters; give the "
            "same levels on both sides and call setup() with their channels first"
        )
    for layer, maps_s, maps_t in zip(layers, student, teacher, strict=True):
        adapted, target = adapt(layer, maps_s), match_maps(maps_s, maps_t)
        check_same_shape("feats", adapted, target)
        yield adapted, target
