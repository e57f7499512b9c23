"""What the readers of the single formats hand on: labels as written, images not opened yet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["RawBox", "RawImage", "RawSplit", "as_float", "as_integer", "finite_json"]


class RawBox(NamedTuple):
    """One label. Corners in pixels, or in 0..1 when the image is marked `normalised`; not checked yet.

    Attributes:
        where: File and record (or line), for messages.
        class_index: Index into the split's names, already checked.
        corners: x1, y1, x2, y2.
        crowd: COCO crowd region, or VOC object marked difficult.
        area: Object area in square pixels where the source gives one.
    """

    where: str
    class_index: int
    corners: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None


@dataclass
class RawImage:
    """One image record and its labels.

    Attributes:
        path: Where the image should be.
        where: File and record, for messages.
        image_id: The source's own id; None lets the builder number the images.
        size: Width and height as the label file states them, if it does.
        boxes: Labels.
        normalised: The corners are fractions of width and height.
        labelled: A label file or record exists, even if it is empty.
        meta: Further fields.
    """

    path: Path
    where: str
    image_id: int | None = None
    size: tuple[int, int] | None = None
    boxes: list[RawBox] = field(default_factory=list)
    normalised: bool = False
    labelled: bool = True
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class RawSplit:
    """One split as read."""

    split: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: list[RawImage]


def as_float(value: object) -> float:
    """Return a JSON number as a float; anything else (also true and false) as NaN, too large a number as infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def as_integer(value: object) -> int | None:
    """Return a JSON number without fraction as an integer (5 and 5.0), anything else as None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def finite_json(value: Any) -> Any:
    """Return a JSON value with NaN and infinity replaced by None, which every reader accepts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return value
