"""Matches of some images or some classes only, so that a slice costs its share of the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detkd.evaluation.matching import Matches

__all__ = ["restrict_classes", "restrict_images"]


def restrict_images(matches: Matches, mask: np.ndarray) -> Matches:
    """Return the matches of the images in `mask`, which are renumbered from 0 in their order.

    Detections of one image never touch another's objects, so these are the matches of the smaller set.

    Args:
        matches: Of the whole set.
        mask: True for the images to keep, bool (I,).
    """
    number = np.cumsum(mask) - 1
    keep = mask[matches.image]
    objects = mask[matches.object_image]
    before = np.concatenate([[0], np.cumsum(keep)])
    smaller = _take(matches, keep, objects, before[matches.offsets])
    return replace(
        smaller,
        images=int(mask.sum()),
        image=number[smaller.image].astype(matches.image.dtype),
        object_image=number[smaller.object_image].astype(matches.object_image.dtype),
    )


def restrict_classes(matches: Matches, classes: Sequence[int]) -> Matches:
    """Return the matches of some classes, numbered in the given, ascending order.

    Args:
        matches: Of all classes.
        classes: Their indices, ascending.
    """
    chosen = np.asarray(classes, dtype=np.int64)
    sizes = np.diff(matches.offsets)
    keep = np.repeat(np.isin(np.arange(len(sizes)), chosen), sizes)
    objects = np.isin(matches.object_label, chosen)
    smaller = _take(matches, keep, objects, np.concatenate([[0], np.cumsum(sizes[chosen])]))
    labels = np.searchsorted(chosen, smaller.object_label).astype(matches.object_label.dtype)
    return replace(smaller, names=tuple(matches.names[k] for k in classes), object_label=labels)


def _take(matches: Matches, keep: np.ndarray, objects: np.ndarray, offsets: np.ndarray) -> Matches:
    return replace(
        matches,
        offsets=offsets.astype(np.int64),
        detection=matches.detection[keep],
        image=matches.image[keep],
        rank=matches.rank[keep],
        score=matches.score[keep],
        outcome=matches.outcome[:, :, keep],
        target=matches.target[:, keep],
        object_row=matches.object_row[objects],
        object_image=matches.object_image[objects],
        object_label=matches.object_label[objects],
        object_counts=matches.object_counts[:, objects],
    )
