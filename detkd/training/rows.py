"""What belongs to a box and must arrive with it, whatever the augmentation drops, reorders or mixes.

Ultralytics' transforms carry one number per box, the class. Where more is known of a box (how far a label is trusted,
or a teacher's class probabilities), that number is the row of a table instead, and is looked up when all is done.
"""

from __future__ import annotations

from typing import Any

import detkd.environment

import numpy as np
import torch
from torch import Tensor
from ultralytics.utils.instance import Instances

from detkd.errors import DataError

__all__ = ["MAX_ROWS", "RowTable", "append_boxes", "is_soft", "join_rows", "to_xywh"]

MAX_ROWS = 2**24
"""Ultralytics keeps classes as float32, which holds integers exactly up to here."""

_JOINED = ("quality", "soft_boxes", "soft_probs", "soft_quality")


class RowTable:
    """The boxes of one sample, of all the images it was put together from.

    Labels have the rows 0, 1, ...; soft objects -1, -2, ..., which is how transforms tell them apart. The table is of
    one sample at a time, since those of the whole set need not fit into memory.

    Attributes:
        num_classes: Classes of the data, C.
        soft: Whether there are soft objects at all.
    """

    def __init__(self, num_classes: int, *, soft: bool) -> None:
        self.num_classes = num_classes
        self.soft = soft
        self.clear()

    def clear(self) -> None:
        """Forget the last sample."""
        self._counts = [0, 0]
        self._classes: list[np.ndarray] = []
        self._quality: list[np.ndarray] = []
        self._probs: list[np.ndarray] = []
        self._soft_quality: list[np.ndarray] = []

    def add_labels(self, classes: np.ndarray, quality: np.ndarray) -> np.ndarray:
        """Take in labels and return their rows, float32 (N, 1).

        Args:
            classes: Class indices, (N, 1).
            quality: How far each is trusted, (N,).
        """
        self._classes.append(np.asarray(classes, dtype=np.float32).reshape(-1, 1))
        self._quality.append(np.asarray(quality, dtype=np.float32).reshape(-1))
        return self._rows(0, len(self._classes[-1]))

    def add_soft(self, probs: np.ndarray, quality: np.ndarray, *, where: str) -> np.ndarray:
        """Take in soft objects and return their rows, float32 (M, 1), all negative.

        Args:
            probs: Class probabilities, (M, C).
            quality: How far each is trusted, (M,).
            where: The image, for messages.

        Raises:
            DataError: If the classes aren't those of the data.
        """
        probs = np.asarray(probs, dtype=np.float32)
        if len(probs) and probs.shape[1] != self.num_classes:
            raise DataError(
                f"cache: the teacher's objects in {where} must have {self.num_classes} class probabilities, got "
                f"{probs.shape[1]}; build the cache anew"
            )
        self._probs.append(probs.reshape(-1, self.num_classes))
        self._soft_quality.append(np.asarray(quality, dtype=np.float32).reshape(-1))
        return -1 - self._rows(1, len(probs))

    def _rows(self, kind: int, count: int) -> np.ndarray:
        first, self._counts[kind] = self._counts[kind], self._counts[kind] + count
        if self._counts[kind] > MAX_ROWS:
            raise DataError(
                f"data: one training image is put together from more boxes than can be told apart, got "
                f"{self._counts[kind]} of at most {MAX_ROWS}; lower cache.max_objects or leave out crowded images"
            )
        return np.arange(first, first + count, dtype=np.float32).reshape(-1, 1)

    def split(self, sample: dict[str, Any]) -> None:
        """Replace the rows of a formatted sample by what they stand for.

        Args:
            sample: With `cls` (N, 1) rows, `bboxes` (N, 4) and `batch_idx` (N,). Keeps the labels' part of them and
                gains `quality` (n,); with soft objects also `soft_boxes` (m, 4) normalised xywh, `soft_probs` (m, C),
                `soft_quality` (m,) and `soft_idx` (m,) int64.
        """
        rows, boxes = sample["cls"].reshape(-1), sample["bboxes"]
        soft = rows < 0
        picked = rows[~soft].long()
        sample["cls"] = _pick(self._classes, picked, (0, 1))
        sample["quality"] = _pick(self._quality, picked, (0,))
        sample["bboxes"] = boxes[~soft]
        sample["batch_idx"] = sample["batch_idx"][~soft]
        if not self.soft:
            return
        picked = -1 - rows[soft].long()
        sample["soft_boxes"] = boxes[soft]
        sample["soft_probs"] = _pick(self._probs, picked, (0, self.num_classes))
        sample["soft_quality"] = _pick(self._soft_quality, picked, (0,))
        sample["soft_idx"] = torch.zeros(len(picked), dtype=torch.int64)


def join_rows(batch: dict[str, Any]) -> None:
    """Turn what `RowTable.split` left in each sample of a collated batch, tuples of tensors, into one tensor each."""
    for key in _JOINED:
        if key in batch:
            batch[key] = torch.cat(batch[key], 0)
    if "soft_idx" in batch:
        batch["soft_idx"] = torch.cat([idx + i for i, idx in enumerate(batch["soft_idx"])], 0)


def is_soft(cls: np.ndarray) -> np.ndarray:
    """Return which boxes of an Ultralytics label are soft objects, bool (N,), given its `cls` (N, 1)."""
    return np.asarray(cls).reshape(-1) < 0


def to_xywh(boxes_xyxy: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return pixel boxes as centre and size in parts of the image, float32 (N, 4)."""
    size = np.array([width, height], dtype=np.float64)
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 / size
    extent = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / size
    return np.concatenate([centre, extent], 1).astype(np.float32).reshape(-1, 4)


def append_boxes(instances: Instances, boxes_xywh: np.ndarray) -> Instances:
    """Return instances with further boxes, normalised xywh (M, 4) as the instances are."""
    boxes = np.concatenate([instances.bboxes, boxes_xywh]).astype(np.float32)
    return Instances(boxes, instances.segments, None, bbox_format="xywh", normalized=True)


def _pick(parts: list[np.ndarray], rows: Tensor, empty: tuple[int, ...]) -> Tensor:
    if not parts:
        return torch.zeros(empty)
    return torch.from_numpy(np.concatenate(parts))[rows]
