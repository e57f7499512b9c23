"""Detection data in one form, whatever the files on disk looked like.

Everything downstream (training, evaluation, prediction, export calibration) works on these records and never touches
the folders the images came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["DataSpec", "DetectionSet", "ImageRecord", "SkippedItem"]


@dataclass(frozen=True)
class ImageRecord:
    """One image and its labels.

    Attributes:
        image_id: Positive integer, unique within the set (COCO's own id where there is one).
        path: Absolute path of the image file.
        width: Pixels.
        height: Pixels.
        boxes_xyxy: Labelled boxes in pixels, float64 (N, 4), inside the image, positive area.
        classes: Index into `DetectionSet.names`, int64 (N,).
        crowd: True for COCO crowd regions: evaluated as such, never trained on, bool (N,).
        areas: Object area in square pixels (COCO's `area`, else width x height), float64 (N,).
        meta: Any further field of the image record (camera, time, light, ...), JSON values only.
        quality: How far each box is trusted, float64 (N,) in (0, 1]; None for labels made by people.
        labelled: Whether the boxes are all there is to see. False: they teach nothing, not even where nothing is.
        taught: Whether a teacher's answer to this image counts.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes_xyxy: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)
    quality: np.ndarray | None = None
    labelled: bool = True
    taught: bool = True


@dataclass(frozen=True)
class DetectionSet:
    """One split.

    Attributes:
        split: "train", "val" or "test", or any name the data source uses.
        names: Class names; a class index points into this tuple.
        category_ids: COCO category id of each class (the source's own, else index + 1).
        records: The images, in a fixed order.
    """

    split: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: tuple[ImageRecord, ...]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class SkippedItem:
    """Something left out and why: `where` names file and record, `problem` is a short slug, `detail` a sentence."""

    split: str
    where: str
    problem: str
    detail: str


@dataclass(frozen=True)
class DataSpec:
    """A data set: its splits share one class list.

    Attributes:
        name: Short name for tables and run folders.
        names: Class names, the same for every split.
        splits: Split name to set; at least one.
        skipped: What was left out under `on_bad="skip"`.
        notes: One-line remarks for the summary table (split made by camera, crowd boxes kept, ...).
    """

    name: str
    names: tuple[str, ...]
    splits: dict[str, DetectionSet]
    skipped: tuple[SkippedItem, ...] = ()
    notes: tuple[str, ...] = ()
