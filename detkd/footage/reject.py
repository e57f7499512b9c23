"""What a person rejected on the review page, and which labels that are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detkd.data.raw import as_float, as_integer
from detkd.errors import DataError
from detkd.io import read_json

__all__ = ["IMAGES_FROM", "ROWS", "Rejected", "annotation_id", "read_rejected"]

IMAGES_FROM = 2**38
"""Image ids are from here to twice of it: out of the way of other sets' ids, and an annotation's stays below 2^53."""

ROWS = 10_000
"""Most rows of an answer; an annotation's id is its image's id times this plus the row."""

_SAME = 0.5  # IoU from which a box is the one that was rejected


def annotation_id(image_id: int, row: int) -> int:
    """Return the id of the label made of one row of the answer to an image."""
    return image_id * ROWS + row


@dataclass(frozen=True)
class Rejected:
    """Images and boxes to leave out.

    Attributes:
        entries: As they stand in the file.
        images: Ids of images.
        boxes: Image id to annotation ids and where the boxes were, (4,) as x, y, width, height in pixels, None unknown.
    """

    entries: tuple[Any, ...] = ()
    images: frozenset[int] = frozenset()
    boxes: dict[int, list[tuple[int, np.ndarray | None]]] = field(default_factory=dict)

    def find(self, image_id: int, ids: Sequence[int], boxes_xyxy: np.ndarray) -> set[int]:
        """Return the positions of the rejected labels of an image.

        Rows change when the teacher or its settings do. So a label with the id counts only if it lies where the
        rejected box was; otherwise the one that overlaps that place most is meant, if that is by half.

        Args:
            image_id: The image.
            ids: Annotation ids of its N labels.
            boxes_xyxy: Their boxes in pixels, (N, 4).
        """
        found: set[int] = set()
        for number, place in self.boxes.get(image_id, ()):
            same = ids.index(number) if number in ids else None
            if place is not None and len(ids):
                overlap = _overlap(boxes_xyxy, place)
                if same is None or overlap[same] < _SAME:
                    same = int(overlap.argmax()) if overlap.max() >= _SAME else None
            if same is not None:
                found.add(same)
        return found


def read_rejected(source: str | Path | Sequence[Any] | None) -> Rejected:
    """Read a list of rejected images and boxes.

    Args:
        source: File saved by the review page, or its content: ids of images and annotations, those of annotations also
            as `{"id": ..., "bbox": [x, y, width, height]}`. None rejects nothing.

    Raises:
        DataError: If the file can't be read or an entry is neither.
    """
    if source is None:
        return Rejected()
    entries, name = (read_json(source), str(source)) if isinstance(source, str | Path) else (source, "the list")
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise DataError(
            f"reject: {name} must hold a list of ids, got a {type(entries).__name__}; save it with the page"
        )
    images, boxes = set(), dict[int, list[tuple[int, np.ndarray | None]]]()
    for position, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {"id": entry}
        number, bbox = as_integer(fields.get("id")), fields.get("bbox")
        place = [as_float(value) for value in bbox] if isinstance(bbox, list) else None
        usable = place is None if bbox is None else place is not None and len(place) == 4 and np.isfinite(place).all()
        if number is None or not usable:
            raise DataError(
                f"reject: entry {position} of {name} must be an id, or an object with id and bbox, got {entry!r:.80}; "
                "save the list with the review page"
            )
        if number < 2 * IMAGES_FROM:
            images.add(number)
        else:
            boxes.setdefault(number // ROWS, []).append((number, None if place is None else np.asarray(place)))
    return Rejected(tuple(entries), frozenset(images), boxes)


def _overlap(boxes_xyxy: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the IoU of each box with one given as x, y, width, height."""
    low, high = place[:2], place[:2] + place[2:]
    sides = np.clip(np.minimum(boxes_xyxy[:, 2:], high) - np.maximum(boxes_xyxy[:, :2], low), 0, None)
    shared = sides.prod(axis=1)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    result: np.ndarray = shared / np.maximum(areas + place[2:].prod() - shared, 1e-9)
    return result
