"""Anchors of a dense detector: one per cell of each pyramid level, finest level first, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detkd.errors import ShapeError

__all__ = ["anchor_points", "boxes_to_distances", "distances_to_boxes", "join_levels", "split_levels"]


def anchor_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[float], *, like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lay out the cell centres of all levels.

    Args:
        shapes: Height and width of each level in cells.
        strides: Pixels per cell of each level.
        like: Tensor whose dtype and device to use; float32 on the CPU otherwise.

    Returns:
        Centres in cells as x, y, (A, 2), and pixels per cell of each anchor, (A, 1).

    Raises:
        ShapeError: If there are not as many strides as levels.
    """
    if len(shapes) != len(strides):
        raise ShapeError(f"strides: {len(strides)} given for {len(shapes)} levels; give one per level")
    like = torch.zeros(0) if like is None else like
    points, pixels = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, dtype=like.dtype, device=like.device) + 0.5,
            torch.arange(width, dtype=like.dtype, device=like.device) + 0.5,
            indexing="ij",
        )
        points.append(torch.stack((x, y), dim=-1).reshape(-1, 2))  # (H * W, 2)
        pixels.append(like.new_full((height * width, 1), float(stride)))
    return torch.cat(points), torch.cat(pixels)


def distances_to_boxes(distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Left, top, right, bottom distances in cells, (..., A, 4), to corners in pixels, (..., A, 4)."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1) * strides


def boxes_to_distances(boxes_xyxy: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Corners in pixels to distances in cells, the inverse of `distances_to_boxes`; negative outside the box."""
    cells = boxes_xyxy / strides
    return torch.cat((points - cells[..., :2], cells[..., 2:] - points), dim=-1)


def join_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps per level, each (B, K, H, W), to one row of anchors, (B, A, K)."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def split_levels(row: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """One row of anchors, (B, A, ...), to a list of (B, H * W, ...), one per level.

    Raises:
        ShapeError: If the levels don't add up to the number of anchors.
    """
    sizes = [height * width for height, width in shapes]
    if sum(sizes) != row.shape[1]:
        raise ShapeError(f"shapes: levels {list(shapes)} hold {sum(sizes)} anchors, the tensor has {row.shape[1]}")
    return list(row.split(sizes, dim=1))
