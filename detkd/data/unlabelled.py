"""Images without labels next to images with them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detkd.data.images import check_images
from detkd.data.records import DetectionSet, ImageRecord
from detkd.errors import ConfigError, DataError

__all__ = [
    "USES",
    "add_pool",
    "by_people",
    "hide_labels",
    "labelled_only",
    "labels_hash",
    "plain_records",
    "without_labels",
]

USES = ("hard", "soft", "both")
"""What an image that people did not label teaches: boxes a teacher drew, its live or stored answers, or both."""


def without_labels(record: ImageRecord) -> ImageRecord:
    """Return the record as one nobody has labelled."""
    return replace(
        record,
        boxes_xyxy=np.zeros((0, 4)),
        classes=np.zeros(0, dtype=np.int64),
        crowd=np.zeros(0, dtype=bool),
        areas=np.zeros(0),
        quality=None,
        labelled=False,
    )


def hide_labels(dataset: DetectionSet, share: Any, *, seed: int) -> DetectionSet:
    """Keep the labels of a random part of the images; the smaller part is always inside the larger.

    Args:
        dataset: A split with labels.
        share: Part of the images that keeps its labels, in (0, 1].
        seed: Which images.

    Raises:
        ConfigError: If the share can't be used.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"data.labelled: must be a share in (0, 1], got {share!r}; null uses all labels")
    order = np.random.default_rng((seed, 0x1ABE1)).permutation(len(dataset))
    kept = set(order[: max(1, round(share * len(dataset)))].tolist())
    records = tuple(r if i in kept else without_labels(r) for i, r in enumerate(dataset.records))
    return replace(dataset, records=records)


def plain_records(paths: Sequence[Path], *, first_id: int) -> tuple[ImageRecord, ...]:
    """Return records without labels for image files.

    Raises:
        DataError: Naming the first file that can't be used.
    """
    records = []
    for number, (path, info) in enumerate(zip(paths, check_images(list(paths)), strict=True)):
        if info.problem:
            raise DataError(f"unlabelled.path: {info.detail}; remove the file, or let detkd pseudolabel leave it out")
        blank = ImageRecord(
            first_id + number, path.resolve(), *info.size,
            boxes_xyxy=np.zeros((0, 4)), classes=np.zeros(0, dtype=np.int64), crowd=np.zeros(0, dtype=bool),
            areas=np.zeros(0), labelled=False,
        )  # fmt: skip
        records.append(blank)
    return tuple(records)


def add_pool(dataset: DetectionSet, pool: Sequence[ImageRecord], use: str) -> DetectionSet:
    """Put images that people did not label behind those they did.

    Args:
        dataset: The labelled training split.
        pool: Further images, with a teacher's boxes where `use` needs them.
        use: One of `USES`.

    Raises:
        ConfigError: If `use` is unknown.
        DataError: If an image of the pool is a labelled one.
    """
    if use not in USES:
        raise ConfigError(f"unlabelled.labels: unknown choice, got {use!r}; use one of {', '.join(USES)}")
    known = {record.path.resolve() for record in dataset.records}
    if both := [record.path for record in pool if record.path.resolve() in known]:
        raise DataError(
            f"unlabelled.path: {len(both)} images are in the labelled training set too ({both[0].name}); collect the "
            "footage without them"
        )
    first = max((record.image_id for record in dataset.records), default=0) + 1
    added = []
    for number, record in enumerate(pool):
        one = without_labels(record) if use == "soft" else replace(record, labelled=True, taught=use == "both")
        added.append(replace(one, image_id=first + number))
    return replace(dataset, records=(*dataset.records, *added))


def by_people(record: ImageRecord) -> bool:
    """Whether people labelled an image."""
    return record.labelled and record.quality is None


def labels_hash(dataset: DetectionSet) -> str:
    """Return a short hash of the images that people labelled, by name and boxes: what a control must share."""
    digest = hashlib.sha256()
    for record in dataset.records:
        if by_people(record):
            digest.update(record.path.name.encode())
            digest.update(np.ascontiguousarray(record.boxes_xyxy).tobytes())
            digest.update(np.ascontiguousarray(record.classes).tobytes())
    return digest.hexdigest()[:16]


def labelled_only(dataset: DetectionSet) -> DetectionSet:
    """Return the split without the images that nobody labelled: neither blank ones nor those with a teacher's boxes."""
    kept = tuple(record for record in dataset.records if by_people(record))
    return dataset if len(kept) == len(dataset) else replace(dataset, records=kept)
