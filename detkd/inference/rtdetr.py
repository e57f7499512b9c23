"""How RT-DETR answers: a fixed number of queries, each with one box and a score per class, and no NMS.

Ultralytics stretches the image over the whole input (`RTDETRPredictor.scale_fill`) and boxes come as fractions of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from detkd.errors import ModelError

__all__ = ["RTDETR_HEAD", "check_nms", "query_rows", "query_vectors"]

RTDETR_HEAD = "RTDETRDecoder"
"""Name of the head in the metadata of exported files."""


def check_nms(nms: bool | None, path: Path) -> None:
    """Refuse a head that RT-DETR does not have.

    Raises:
        ModelError: If NMS is asked for.
    """
    if nms is True:
        raise ModelError(f"nms: {path} is an RT-DETR, which works without NMS, got nms=true; use nms=null")


def query_rows(rows: Tensor, images: Tensor) -> Tensor:
    """Return the decoder's own selection in the form of other NMS-free heads.

    Args:
        rows: Centre x, centre y, width, height as fractions of the input, score, class, best first, (B, K, 6).
        images: The input, (B, 3, H, W).

    Returns:
        x1, y1, x2, y2 in pixels of the input, score, class, (B, K, 6) float32.
    """
    rows = rows.float()
    half = rows[..., 2:4] / 2
    corners = torch.cat([rows[..., :2] - half, rows[..., :2] + half], -1) * _size(images, rows)
    return torch.cat([corners, rows[..., 4:]], -1)


def query_vectors(boxes: Tensor, logits: Tensor, images: Tensor) -> Tensor:
    """Return all queries with all class scores in the form of heads before NMS.

    Args:
        boxes: Centre x, centre y, width, height as fractions of the input, (B, K, 4).
        logits: Class scores before the sigmoid, (B, K, C).
        images: The input, (B, 3, H, W).

    Returns:
        (B, 4 + C, K) float32, boxes in pixels of the input.
    """
    return torch.cat([boxes.float() * _size(images, boxes), logits.float().sigmoid()], -1).transpose(1, 2)


def _size(images: Tensor, beside: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=beside.device)
