"""A tiny set of noise images without loss: what is drawn from it is the same on every machine."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import detkd.environment

import cv2
import numpy as np
from torch.utils.data import DataLoader
from ultralytics.cfg import get_cfg

from detkd.data.records import DetectionSet, ImageRecord
from detkd.training.dataset import RecordDataset
from detkd.training.sampler import EpochSampler

SIDE = 64
EXACT = {"scale": 0.0, "translate": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "mosaic": 0.8, "flipud": 0.3}
"""Whole-pixel moves only: no interpolation that OpenCV builds could round differently."""

WILD = {"degrees": 10.0, "mixup": 0.4, "flipud": 0.3}


def noise_set(folder: Path, count: int = 8, **more: Any) -> DetectionSet:
    """Image i has i % 4 boxes of classes 0, 1, 0; `more` is what the records differ in from the default, by index."""
    records = []
    for i in range(count):
        rng = np.random.default_rng(i)
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        corner, size = rng.integers(0, SIDE // 2, (i % 4, 2)), rng.integers(8, SIDE // 2, (i % 4, 2))
        boxes = np.concatenate([corner, corner + size], 1).astype(np.float64)
        n = len(boxes)
        record = ImageRecord(i + 1, path, SIDE, SIDE, boxes, np.arange(n) % 2, np.zeros(n, bool), np.ones(n))
        records.append(replace(record, **{key: value(i) for key, value in more.items()}))
    return DetectionSet("train", ("a", "b"), (1, 2), tuple(records))


def arguments(augmentations: list[dict[str, Any]] | None = None, **over: Any) -> Any:
    args = get_cfg(overrides={**EXACT, **over})
    args.augmentations = augmentations or []
    return args


def build(data: DetectionSet, args: Any | None = None, **more: Any) -> RecordDataset:
    settings = {"seed": 3, "imgsz": SIDE, "augment": True, "batch_size": 3, "data": {"names": {0: "a", 1: "b"}}}
    return RecordDataset(data, **{**settings, "hyp": copy(args or arguments()), **more})


def batches(data: RecordDataset, *, batch: int = 3, workers: int = 0, epochs: int = 1) -> list[dict[str, Any]]:
    sampler = EpochSampler(len(data), seed=5)
    loader = DataLoader(data, batch_size=batch, sampler=sampler, num_workers=workers, collate_fn=data.collate_fn)
    return [joined for _ in range(epochs) for joined in loader]


def twins(data: DetectionSet) -> Any:
    """A teacher that sees exactly the labels, as sure of class 1 as the image's number says."""

    def soft(index: int) -> Any:
        record = data.records[index]
        n = len(record.boxes_xyxy)
        probs = np.tile(np.array([0.25, index / 100]), (n, 1))
        return SimpleNamespace(
            boxes_xyxy=record.boxes_xyxy.astype(np.float32), probs=probs, quality=np.linspace(0.1, 0.9, n)
        )

    return soft
