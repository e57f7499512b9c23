"""Boxes and their overlaps: differentiable, float32 inside, finite for boxes without area.

A box with x2 < x1 or y2 < y1 counts as one without area. A detector without a distance distribution can predict such
boxes early in training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detkd.ops.divergence import widen

__all__ = ["ciou", "giou", "has_area", "iou", "pairwise_iou", "xywh_to_xyxy", "xyxy_to_xywh"]

EPS = 1e-7
MIN_SIDE = 1e-3
"""Pixels. Shorter sides count as none; it keeps areas above EPS and the aspect ratio's gradient small."""


def xyxy_to_xywh(boxes_xyxy: Tensor) -> Tensor:
    """Corners to centre, width and height, (..., 4)."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def xywh_to_xyxy(boxes_xywh: Tensor) -> Tensor:
    """Centre, width and height to corners, (..., 4)."""
    centre, half = boxes_xywh[..., :2], boxes_xywh[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def has_area(boxes_xyxy: Tensor) -> Tensor:
    """True where both sides are longer than `MIN_SIDE`, (..., 4) -> (...)."""
    return (widen(boxes_xyxy[..., 2:]) - widen(boxes_xyxy[..., :2]) > MIN_SIDE).all(-1)


def _overlap(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union area of broadcastable boxes that are wide already."""
    low = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    high = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area1 = (boxes1[..., 2:] - boxes1[..., :2]).clamp(min=0).prod(-1)
    area2 = (boxes2[..., 2:] - boxes2[..., :2]).clamp(min=0).prod(-1)
    union = area1 + area2 - inter
    # A floor instead of an addend: equal boxes reach exactly 1.
    return inter / union.clamp(min=EPS), union


def _enclosing(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Width and height of the smallest box around all four corners of both, (..., 2)."""
    low = torch.minimum(
        torch.minimum(boxes1[..., :2], boxes1[..., 2:]), torch.minimum(boxes2[..., :2], boxes2[..., 2:])
    )
    high = torch.maximum(
        torch.maximum(boxes1[..., :2], boxes1[..., 2:]), torch.maximum(boxes2[..., :2], boxes2[..., 2:])
    )
    return high - low


def iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union, box by box.

    Args:
        boxes1: Corners in pixels, (..., 4).
        boxes2: Corners in pixels, broadcastable with `boxes1`.

    Returns:
        In [0, 1], shape (...); 0 where either box has no area.
    """
    return _overlap(widen(boxes1), widen(boxes2))[0]


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of each of N boxes with each of M, (N, 4) and (M, 4) -> (N, M)."""
    return iou(boxes1[:, None], boxes2[None])


def giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU, box by box: IoU minus the share of the enclosing box that neither covers.

    Args:
        boxes1: Corners in pixels, (..., 4).
        boxes2: Corners in pixels, broadcastable with `boxes1`.

    Returns:
        In [-1, 1], shape (...); 1 for equal boxes with area.

    References:
        Rezatofighi et al., Generalized Intersection over Union, CVPR 2019. arXiv:1902.09630
    """
    boxes1, boxes2 = widen(boxes1), widen(boxes2)
    overlap, union = _overlap(boxes1, boxes2)
    enclosing = _enclosing(boxes1, boxes2).prod(-1)
    return overlap - (enclosing - union) / enclosing.clamp(min=EPS)


def ciou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Complete IoU, box by box: IoU minus a centre distance and an aspect ratio penalty.

    Args:
        boxes1: Corners in pixels, (..., 4).
        boxes2: Corners in pixels, broadcastable with `boxes1`.

    Returns:
        In [-2, 1], shape (...); 1 for equal boxes with area. The trade-off factor carries no gradient.

    References:
        Zheng et al., Distance-IoU Loss, AAAI 2020, eq. 10-12. arXiv:1911.08287
    """
    boxes1, boxes2 = widen(boxes1), widen(boxes2)
    overlap, _ = _overlap(boxes1, boxes2)
    diagonal = _enclosing(boxes1, boxes2).square().sum(-1).clamp(min=EPS)
    centres = (boxes1[..., :2] + boxes1[..., 2:] - boxes2[..., :2] - boxes2[..., 2:]).square().sum(-1) / 4
    size1 = (boxes1[..., 2:] - boxes1[..., :2]).clamp(min=MIN_SIDE)
    size2 = (boxes2[..., 2:] - boxes2[..., :2]).clamp(min=MIN_SIDE)
    angle = torch.atan2(size1[..., 0], size1[..., 1]) - torch.atan2(size2[..., 0], size2[..., 1])
    aspect = 4 / math.pi**2 * angle.square()
    trade_off = (aspect / (1 - overlap + aspect + EPS)).detach()
    return overlap - centres / diagonal - trade_off * aspect
