"""Which of a teacher's boxes become labels, and what a label keeps of the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detkd.data.records import DataSpec, ImageRecord
from detkd.diagnosis.precision import ClassThreshold
from detkd.errors import ConfigError, DataError, ShapeError
from detkd.footage.collection import Item
from detkd.footage.reject import ROWS, Rejected, annotation_id

__all__ = ["Labels", "Objects", "as_dict", "score_limits"]

_LEAST_SIDE = 1.0  # pixels; nothing can be learnt from a thinner box
_LEAST_PROBABILITY = 0.01  # below it a class is left out of an annotation's `probs`


class Objects(Protocol):
    """What teachers found in an image: boxes (N, 4) in its pixels, class probabilities (N, C), quality (N,)."""

    @property
    def boxes_xyxy(self) -> np.ndarray: ...
    @property
    def probs(self) -> np.ndarray: ...
    @property
    def quality(self) -> np.ndarray: ...


class Labels:
    """The labels as they grow, image by image.

    Args:
        names: C class names.
        category_ids: Their COCO ids.
        limits: Lowest scores, (C,).
        rejected: What to leave out.

    Attributes:
        images: COCO image records.
        annotations: COCO annotations with `score`, `quality` and `probs`, the probabilities by class name.
        records: The same as records.
        best: Highest score seen of each class, (C,); -1 for none.
        counts: What was left out, by reason.
    """

    def __init__(
        self, names: Sequence[str], category_ids: Sequence[int], limits: np.ndarray, rejected: Rejected
    ) -> None:
        self.names, self.category_ids, self.limits, self.rejected = names, category_ids, limits, rejected
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.records: list[ImageRecord] = []
        self.best = np.full(len(names), -1.0)
        self.counts: Counter[str] = Counter()

    def add(self, item: Item, path: Path, image_id: int, objects: Objects) -> None:
        """Take the labels of one image.

        Raises:
            ConfigError: If there are more objects than ids for them.
            ShapeError: If the answer has the wrong shape.
        """
        boxes, probs, quality = _checked(objects, len(self.names), path)
        label = probs.argmax(axis=1)
        score = probs[np.arange(len(label)), label]
        np.fmax.at(self.best, label, score)
        limit = [item.width, item.height] * 2
        boxes = np.clip(boxes, 0, limit)
        thick = np.all(boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE, axis=1)  # False for NaN too
        passed = score >= self.limits[label]
        self.counts["thin boxes"] += int((passed & ~thick).sum())
        rows = np.flatnonzero(passed & thick)
        ids = [annotation_id(image_id, row) for row in rows.tolist()]
        out = self.rejected.find(image_id, ids, boxes[rows])
        self.counts["rejected boxes"] += len(out)
        rows = np.delete(rows, sorted(out))
        boxes, areas = boxes[rows].astype(np.float64), np.prod(boxes[rows, 2:] - boxes[rows, :2], axis=1)
        meta: dict[str, Any] = {"source": str(item.source)}
        if item.time_s is not None:
            meta["time_s"] = round(float(item.time_s), 3)
        size = (int(item.width), int(item.height))
        self.images.append({"id": image_id, "file_name": str(path), "width": size[0], "height": size[1], **meta})
        for row, (x1, y1, x2, y2), area in zip(rows.tolist(), boxes.tolist(), areas.tolist(), strict=True):
            self.annotations.append(
                {
                    "id": annotation_id(image_id, row),
                    "image_id": image_id,
                    "category_id": self.category_ids[label[row]],
                    "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round(area, 2),
                    "iscrowd": 0,
                    "score": round(float(score[row]), 5),
                    "quality": round(float(quality[row]), 5),
                    "probs": {
                        self.names[index]: round(float(probs[row, index]), 4)
                        for index in np.argsort(-probs[row], kind="stable").tolist()
                        if index == label[row] or probs[row, index] >= _LEAST_PROBABILITY
                    },
                }
            )
        self.records.append(
            ImageRecord(
                image_id, path, *size, boxes, label[rows].astype(np.int64), np.zeros(len(rows), dtype=bool), areas, meta
            )
        )

    def why_empty(self, images: int) -> str:
        """Return why there is no label at all, with the scores seen."""
        if not self.records:
            return f"source: none of the {images} images is left (rejected, or labelled already); collect others"
        if self.counts["rejected boxes"]:
            return f"reject: all {self.counts['rejected boxes']} boxes were rejected; there is nothing to learn from"
        seen = [
            f"{self.names[i]} {'none' if self.best[i] < 0 else f'{self.best[i]:.2f}'}"
            + (f" (needs {self.limits[i]:.2f})" if np.isfinite(self.limits[i]) else " (no threshold)")
            for i in np.argsort(-self.best, kind="stable")[:8].tolist()
        ]
        return (
            f"precision: no box of {images} images reaches the threshold of its class; highest scores: "
            f"{', '.join(seen)}; ask for less precision, or check that teacher and footage fit together"
        )

    def notes(self, thresholds: Mapping[str, ClassThreshold | float | None]) -> tuple[str, ...]:
        """Return what one should know about the labels, one line each."""
        empty = sum(not len(record.classes) for record in self.records)
        lines = []
        for name, limit in zip(self.names, self.limits, strict=True):
            if not np.isfinite(limit):
                given = thresholds[name]
                why = f": {given.reason}" if isinstance(given, ClassThreshold) else ""
                lines.append(f"{name} gets no labels{why}; where it is in view, the set says there is nothing")
        if empty:
            lines.append(f"{empty} of {len(self.records)} images have no box and count as background")
        if self.counts["labelled images"]:
            lines.append(f"left out, because they are in the labelled data: {self.counts['labelled images']} images")
        if self.counts["thin boxes"]:
            lines.append(f"left out, because they are thinner than a pixel: {self.counts['thin boxes']} boxes")
        asked = len(self.rejected.images) + sum(map(len, self.rejected.boxes.values()))
        if gone := asked - self.counts["rejected images"] - self.counts["rejected boxes"]:
            lines.append(
                f"{gone} of {asked} rejections fit no label: they are below the threshold or not there any more"
            )
        return tuple(lines)


def score_limits(
    thresholds: Mapping[str, ClassThreshold | float | None], names: Sequence[str], labelled: DataSpec
) -> np.ndarray:
    """Return the lowest score of a label of each class (C,), infinity for a class without labels.

    Raises:
        ConfigError: If they are not thresholds of the labelled data's classes.
        DataError: If no class has one.
    """
    if tuple(names) != labelled.names:
        raise ConfigError(f"names: must be the classes of the labelled data {list(labelled.names)}, got {list(names)}")
    if missing := [name for name in names if name not in thresholds]:
        raise ConfigError(f"thresholds: none for {missing}, only for {list(thresholds)}; null gives a class no labels")
    values = [as_dict(thresholds[name])["threshold"] for name in names]
    if all(value is None for value in values):
        why = [f"{name}: {cut.reason}" for name, cut in thresholds.items() if isinstance(cut, ClassThreshold)]
        raise DataError(
            f"precision: no class has a threshold ({'; '.join(why[:8]) or 'all are null'}); ask for less precision or "
            "fewer hits, or train a better teacher"
        )
    return np.array([np.inf if value is None else value for value in values], dtype=np.float64)


def as_dict(threshold: ClassThreshold | float | None) -> dict[str, Any]:
    """Return a threshold as JSON values."""
    return threshold.to_dict() if isinstance(threshold, ClassThreshold) else {"threshold": threshold}


def _checked(objects: Objects, classes: int, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, probs, quality = (np.asarray(value) for value in (objects.boxes_xyxy, objects.probs, objects.quality))
    count = len(boxes)
    if boxes.shape != (count, 4) or probs.shape != (count, classes) or quality.shape != (count,):
        raise ShapeError(
            f"answers: {path.name} must have boxes (N, 4), probabilities (N, {classes}) and quality (N,), got "
            f"{boxes.shape}, {probs.shape}, {quality.shape}"
        )
    if count > ROWS:
        raise ConfigError(f"max_objects: at most {ROWS} objects per image, got {count} in {path.name}; store fewer")
    return boxes, probs, quality
