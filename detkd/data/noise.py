"""Labels as people draw them in a hurry: boxes too large, a little off, and some objects left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from detkd.data.records import DetectionSet, ImageRecord
from detkd.errors import ConfigError

__all__ = ["hurried_labels", "hurry"]


def hurried_labels(
    record: ImageRecord, *, loose: float, jitter: float, missing: float, rng: np.random.Generator
) -> ImageRecord:
    """Return a record with worse labels; the image stays.

    Args:
        record: Accurate labels.
        loose: How much wider and higher every box gets, as a share of its size.
        jitter: Standard deviation of each side's further shift, as a share of the box's size.
        missing: Share of objects that lose their label.
        rng: Where the randomness comes from.
    """
    keep = rng.random(len(record.classes)) >= missing
    boxes = record.boxes_xyxy[keep]
    size = boxes[:, 2:] - boxes[:, :2]
    low = boxes[:, :2] - size * (loose / 2 + jitter * rng.standard_normal(size.shape))
    high = boxes[:, 2:] + size * (loose / 2 + jitter * rng.standard_normal(size.shape))
    # Shifted sides must not cross nor leave the object: a box keeps a quarter of its size and a centre on the object.
    centre = np.clip((low + high) / 2, boxes[:, :2], boxes[:, 2:])
    half = np.maximum((high - low) / 2, size / 8)
    limit = np.array([record.width, record.height], dtype=np.float64)
    drawn = np.concatenate([np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)], axis=1)
    area = (drawn[:, 2:] - drawn[:, :2]).prod(axis=1)
    return replace(record, boxes_xyxy=drawn, classes=record.classes[keep], crowd=record.crowd[keep], areas=area)


def hurry(dataset: DetectionSet, node: Mapping[str, float], *, seed: int) -> DetectionSet:
    """Return a set with worse labels, the same for the same seed.

    Args:
        dataset: Accurate labels.
        node: `loose`, `jitter` and `missing`, each >= 0 and below 1.
        seed: Decides which objects and how.

    Raises:
        ConfigError: For other keys or values out of range.
    """
    known = {"loose": 0.0, "jitter": 0.0, "missing": 0.0}
    for key, value in node.items():
        if key not in known:
            raise ConfigError(f"data.label_noise.{key}: no such key; there are {', '.join(known)}")
        if not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ConfigError(
                f"data.label_noise.{key}: must be at least 0 and below 1, got {value}; 0 leaves labels alone"
            )
        known[key] = float(value)
    records = tuple(
        hurried_labels(record, **known, rng=np.random.default_rng((seed, record.image_id)))
        for record in dataset.records
    )
    return replace(dataset, records=records)
