"""Ultralytics' training data set, fed from records: nothing is scanned, cached beside the labels or repaired on disk.

Augmentation is replayable. Everything random about sample i in epoch e follows from (seed, e, i) alone, so control and
distilled student see the same pixels, in any number of loader workers and after a resume.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

import detkd.environment

import cv2
import numpy as np
import torch
from ultralytics.data.augment import Compose
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils.patches import imread

from detkd.data.records import DetectionSet, ImageRecord
from detkd.errors import ConfigError, DataError
from detkd.training.augmentation import adopt, reseed
from detkd.training.rows import RowTable, append_boxes, join_rows, to_xywh
from detkd.training.sampler import EpochSampler

__all__ = ["EpochSampler", "RecordDataset", "SampleKey", "to_label"]


def to_label(record: ImageRecord) -> dict[str, Any]:
    """Translate a record to Ultralytics' label dictionary; crowd regions are never trained on."""
    keep = ~record.crowd
    boxes = record.boxes_xyxy[keep]
    return {
        "im_file": str(record.path),
        "shape": (record.height, record.width),
        "cls": record.classes[keep].astype(np.float32).reshape(-1, 1),
        "bboxes": to_xywh(boxes, record.width, record.height),
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


class SampleKey(NamedTuple):
    """Which view of which image a sample is; a named tuple, because pinning memory turns plain ones into lists."""

    image: int
    view: int


class RecordDataset(YOLODataset):
    """One split for Ultralytics' loader.

    Samples say whether they are `labelled` and `taught`; drawn by (view, index) also which `record` they are, an
    (image, view) pair. Where there is more to know of a box than its class, `RowTable.split` says what else they hold.

    Attributes:
        records: The images, in the order of the indices.
        peers: Indices that images are mixed from: those of the same kind as the one being drawn.
    """

    def __init__(
        self,
        dataset: DetectionSet,
        *,
        seed: int,
        augment_seed: int | None = None,
        soft: Callable[[int], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prepare a split.

        Args:
            dataset: The images.
            seed: Decides which images a fraction keeps, and the augmentation.
            augment_seed: Decides the augmentation instead: a view then looks alike in runs of all seeds.
            soft: Returns a teacher's objects in image `index`: `boxes_xyxy` in pixels of the image (M, 4), `probs`
                (M, C) and `quality` (M,). They go through the augmentation like labels, and change neither pixels nor
                labels.
            **kwargs: Arguments of Ultralytics' data set.

        Raises:
            ConfigError: If an option can't be combined with what is known of the boxes.
        """
        self.records = dataset.records
        self.seed = seed
        self.augment_seed = seed if augment_seed is None else augment_seed
        self.soft = soft
        self.epoch = 0
        self._include = kwargs.get("classes")
        self._rows = None
        if soft is not None or any(_special(record) for record in dataset.records):
            self._rows = RowTable(len(dataset.names), soft=soft is not None)
        if soft is not None:
            for key in ("single_cls", "classes"):
                if kwargs.get(key):
                    raise ConfigError(
                        f"trainer.{key}: can't be used with objects of a teacher, which have all classes, got "
                        f"{kwargs[key]}; leave it out"
                    )
        super().__init__(img_path=dataset.split, task="detect", **kwargs)
        kinds = np.array([2 * record.labelled + record.taught for record in self.records])
        self._kinds = {int(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}
        self.peers: np.ndarray = np.arange(len(self.records))

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
        if self._rows is not None and self.augment and hyp.cutmix > 0:
            raise ConfigError(
                f"trainer.cutmix: chooses what it cuts by the boxes, so it can't be used with objects of a teacher, "
                f"boxes of different quality or unlabelled images, got {hyp.cutmix}; set it to 0"
            )
        transforms = super().build_transforms(hyp)
        adopt(transforms, rows=self._rows is not None, soft=self.soft is not None)
        return transforms

    def set_rectangle(self) -> None:
        """Sort by aspect ratio, as Ultralytics does, and keep the records in the labels' order."""
        before = {id(label): record for label, record in zip(self.labels, self.records, strict=True)}
        super().set_rectangle()
        self.records = tuple(before[id(label)] for label in self.labels)

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """Return an image with its boxes; their classes are rows of a table where there is more to know of them."""
        label: dict[str, Any] = super().get_image_and_label(index)
        if self._rows is None:
            return label
        record = self.records[index]
        label["cls"] = self._rows.add_labels(label["cls"], self._quality(record))
        if self.soft is None:
            return label
        found = self.soft(index)
        size = np.array([record.width, record.height] * 2, dtype=np.float64)
        boxes = np.clip(np.asarray(found.boxes_xyxy, dtype=np.float64).reshape(-1, 4), 0, size)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        rows = self._rows.add_soft(found.probs[keep], found.quality[keep], where=str(record.path))
        label["instances"] = append_boxes(label["instances"], to_xywh(boxes[keep], record.width, record.height))
        label["cls"] = np.concatenate([label["cls"], rows])
        return label

    def _quality(self, record: ImageRecord) -> np.ndarray:
        """Return how far each box that is trained on is trusted, (N,)."""
        keep = ~record.crowd
        if self._include is not None:
            keep &= np.isin(record.classes, self._include)
        return np.ones(int(keep.sum())) if record.quality is None else record.quality[keep]

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
        """Return sample `index`, or `(view, index)` for a replayable random view of it."""
        if not isinstance(index, tuple):
            return self._draw(index)
        view, i = index
        state, np_state = random.getstate(), np.random.get_state()
        seed = int(np.random.SeedSequence((self.augment_seed, view, i)).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        reseed(self.transforms, seed)
        try:
            return {**self._draw(i), "record": SampleKey(i, view)}
        finally:
            random.setstate(state)
            np.random.set_state(np_state)

    def _draw(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        self.peers = self._kinds[2 * record.labelled + record.taught]
        if self._rows is not None:
            self._rows.clear()
        sample: dict[str, Any] = super().__getitem__(index)
        if self._rows is not None:
            self._rows.split(sample)
        return {**sample, "labelled": record.labelled, "taught": record.taught}

    @staticmethod
    def collate_fn(batch: list[dict[str, Any]]) -> dict[str, Any]:
        """Put samples together.

        Returns:
            Ultralytics' batch with `labelled` and `taught` bool (B,) and, where the samples have them, `record` (a list
            of pairs), `quality` (n,), `soft_boxes` (m, 4), `soft_probs` (m, C), `soft_quality` (m,) and `soft_idx`
            (m,), the number of the image in the batch.
        """
        joined: dict[str, Any] = YOLODataset.collate_fn(batch)
        for key in ("labelled", "taught"):
            joined[key] = torch.tensor(joined[key], dtype=torch.bool)
        if "record" in joined:
            joined["record"] = list(joined["record"])
        join_rows(joined)
        return joined


def _special(record: ImageRecord) -> bool:
    """Whether there is more to know of a record's boxes than their classes, or less than usual."""
    return record.quality is not None or not record.labelled or not record.taught
