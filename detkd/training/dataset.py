"""Ultralytics' training data set, fed from records: nothing is scanned, cached beside the labels or repaired on disk.

Augmentation is replayable. Everything random about sample i in epoch e follows from (seed, e, i) alone, so control and
distilled student see the same pixels, in any number of loader workers and after a resume.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import detkd.environment

import cv2
import numpy as np
import torch
from torch.utils.data import Sampler
from ultralytics.data.augment import Albumentations, Compose, Mosaic
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils.patches import imread

from detkd.data.records import DetectionSet, ImageRecord
from detkd.errors import DataError

__all__ = ["EpochSampler", "RecordDataset", "to_label"]


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index); the order of an epoch follows from the seed and its number only.

    Attributes:
        epoch: The epoch that the next iteration will yield; set it to resume.
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool = True, rank: int = 0, world_size: int = 1) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.size)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        padded = np.resize(order, len(self) * self.world_size)
        epoch, self.epoch = self.epoch, self.epoch + 1
        return ((epoch, int(i)) for i in padded[self.rank :: self.world_size])

    def __len__(self) -> int:
        return -(-self.size // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that comes next."""
        self.epoch = epoch


def to_label(record: ImageRecord) -> dict[str, Any]:
    """Translate a record to Ultralytics' label dictionary; crowd regions are never trained on."""
    keep = ~record.crowd
    boxes = record.boxes_xyxy[keep]
    size = np.array([record.width, record.height], dtype=np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / size
    extent = (boxes[:, 2:] - boxes[:, :2]) / size
    return {
        "im_file": str(record.path),
        "shape": (record.height, record.width),
        "cls": record.classes[keep].astype(np.float32).reshape(-1, 1),
        "bboxes": np.concatenate([centre, extent], 1).astype(np.float32).reshape(-1, 4),
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


class RecordDataset(YOLODataset):
    """One split for Ultralytics' loader."""

    def __init__(self, dataset: DetectionSet, *, seed: int, **kwargs: Any) -> None:
        self.records = dataset.records
        self.seed = seed
        self.epoch = 0
        super().__init__(img_path=dataset.split, task="detect", **kwargs)

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Return the image paths in the records' order; `trainer.fraction` takes a seeded subset."""
        if self.fraction != 1.0:
            count = (
                self.fraction if isinstance(self.fraction, int) else max(1, round(len(self.records) * self.fraction))
            )
            chosen = np.random.default_rng(self.seed).permutation(len(self.records))[:count]
            self.records = tuple(self.records[i] for i in sorted(chosen))
        return [str(record.path) for record in self.records]

    def get_labels(self) -> list[dict[str, Any]]:
        """Return the records' labels."""
        return [to_label(record) for record in self.records]

    def cache_images(self) -> None:
        """Decode and resize every image into memory, without a progress bar of its own."""
        with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
            for i, loaded in enumerate(pool.imap(self.load_image, range(self.ni))):
                self.ims[i], self.im_hw0[i], self.im_hw[i] = loaded

    def build_transforms(self, hyp: Any) -> Compose:
        """Build Ultralytics' transforms, without the parts whose randomness depends on what was loaded before."""
        transforms = super().build_transforms(hyp)
        for transform in _walk(transforms):
            if isinstance(transform, Mosaic):
                transform.buffer_enabled = False
            elif type(transform) is Albumentations:
                transform.__class__ = _SeededAlbumentations
        return transforms

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Read an image and resize its long side to the training size, from memory where `trainer.cache=ram`."""
        if self.ims[i] is not None:
            return self.ims[i], self.im_hw0[i], self.im_hw[i]
        image = imread(self.im_files[i], flags=self.cv2_flag)
        if image is None:
            raise DataError(
                f"data: {self.im_files[i]} can't be read any more; was it moved or changed during training?"
            )
        height, width = image.shape[:2]
        ratio = self.imgsz / max(height, width)
        if ratio != 1:
            size = (min(math.ceil(width * ratio), self.imgsz), min(math.ceil(height * ratio), self.imgsz))
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        if image.ndim == 2:
            image = image[..., None]
        return image, (height, width), image.shape[:2]

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Return sample `index`, or `(epoch, index)` for a replayable random view of it."""
        if not isinstance(index, tuple):
            sample: dict[str, Any] = super().__getitem__(index)
            return sample
        epoch, i = index
        state, np_state = random.getstate(), np.random.get_state()
        seed = int(np.random.SeedSequence((self.seed, epoch, i)).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        for transform in _walk(self.transforms):
            if isinstance(transform, _SeededAlbumentations):
                transform.reseed(seed)
        try:
            sample = super().__getitem__(i)
            return sample
        finally:
            random.setstate(state)
            np.random.set_state(np_state)


class _SeededAlbumentations(Albumentations):
    """Albumentations whose generator follows the sample's seed instead of the process's."""

    def reseed(self, seed: int) -> None:
        """Restart the generator, and keep the parent from restarting it from torch's seed."""
        if self.transform is not None:
            self.transform.set_random_seed(seed)
            self.transform.seed = torch.initial_seed()


def _walk(transform: Any) -> Iterator[Any]:
    """Yield a transform and everything nested in it."""
    yield transform
    for child in getattr(transform, "transforms", None) or ():
        yield from _walk(child)
    inner = getattr(transform, "pre_transform", None)
    if inner is not None:
        yield from _walk(inner)
