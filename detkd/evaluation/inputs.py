"""Ground truth and detections as checked columns, numbered from 1 before any engine sees them.

Engines disagree on annotation id 0, string or negative ids, unknown images, missing scores and NaN. None of that gets
past this module, so the choice of engine can't change a number.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from detkd.errors import ConfigError, DataError
from detkd.io import read_json

__all__ = ["Detections", "GroundTruth", "OnBad", "Problems", "box_problem", "check_on_bad", "open_source"]

OnBad = Literal["error", "skip"]


@dataclass(frozen=True)
class GroundTruth:
    """Labelled objects of one set.

    Attributes:
        source: File or description, for messages.
        names: Class names in the file's order.
        category_ids: The file's own id of each class.
        images: Image records as they are in the file, sorted by id.
        image: Index into `images` of each object, int64 (N,).
        label: Index into `names`, int64 (N,).
        boxes_xywh: Left, top, width, height in pixels, float64 (N, 4), positive sizes.
        areas: Square pixels, float64 (N,); COCO's `area` where given, else width x height.
        crowd: True for crowd regions, bool (N,).
        warnings: What was left out or looks odd.
    """

    source: str
    names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    images: tuple[Mapping[str, Any], ...]
    image: np.ndarray
    label: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def sha256(self) -> str:
        """Hash of what an evaluator sees: classes, images in order, objects.

        Coordinates count to 0.001 pixels, the order of objects and their ids do not count, so a set read from COCO
        JSON and written again by another tool keeps its hash.
        """
        rows = np.column_stack([self.image, self.label, self.crowd, self.areas[:, None], self.boxes_xywh])
        rows = np.round(rows.astype(np.float64), 3) + 0.0  # + 0.0 turns -0.0 into 0.0
        rows = rows[np.lexsort(rows.T[::-1])]
        digest = hashlib.sha256(repr((self.names, len(self.images))).encode())
        digest.update(np.ascontiguousarray(rows).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Detections:
    """Answers of one detector on the images of a `GroundTruth`.

    Attributes:
        source: File or description, for messages.
        image: Index into the ground truth's images, int64 (N,).
        label: Index into its names, int64 (N,).
        boxes_xywh: Left, top, width, height in pixels, float64 (N, 4), positive sizes.
        scores: Confidence, finite, float64 (N,).
        reading: How ids were understood: `image_id` and `category_id` to "id", "file name" or "class index + 1".
        warnings: What was left out or looks odd.
    """

    source: str
    image: np.ndarray
    label: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray
    reading: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def sha256(self) -> str:
        """Hash of the columns, bit for bit and in order."""
        digest = hashlib.sha256()
        for column in (self.image, self.label, self.boxes_xywh, self.scores):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


_LONGEST = 300


class Problems:
    """Collects unusable records: raises at the first under "error", counts them under "skip"."""

    def __init__(self, source: str, on_bad: OnBad) -> None:
        self.source = source
        self.on_bad = on_bad
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, where: str, what: str, fix: str, kind: str) -> None:
        """Note one record.

        Args:
            where: Which record.
            what: What is wrong with it and the value it has.
            fix: What to do about it.
            kind: A few words to group by in the summary.

        Raises:
            DataError: Unless records are skipped.
        """
        if self.on_bad == "error":
            raise DataError(f"{self.source}: {where}: {_line(what)}; {fix}, or leave such records out with on_bad=skip")
        self.counts[kind] += 1
        self.first.setdefault(kind, where)

    def warnings(self) -> tuple[str, ...]:
        """One sentence per kind of problem."""
        return tuple(
            f"{self.source}: left out {count} record{'s' if count > 1 else ''} with {kind} (first: {self.first[kind]})"
            for kind, count in self.counts.items()
        )


def _line(text: str) -> str:
    """Return a text of somebody else's file as one line that fits a message."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def check_on_bad(on_bad: str) -> OnBad:
    """Return `on_bad` if it is a known choice.

    Raises:
        ConfigError: Otherwise.
    """
    if on_bad in ("error", "skip"):
        return cast(OnBad, on_bad)
    raise ConfigError(f"on_bad: must be error or skip, got {on_bad!r}; choose one of the two")


def open_source(value: Any, key: str) -> tuple[str, Any]:
    """Return (name for messages, content): paths are read as JSON, everything else is passed through."""
    if isinstance(value, (str, Path)):
        return str(value), read_json(value)
    return key, value


_FIX_BOX = "boxes are [left, top, width, height] in pixels"


def box_problem(box: Any, *, flat: bool = False) -> tuple[str, str, str] | None:
    """Return (what, fix, kind) if `box` is no usable [left, top, width, height], else None; `flat`: sizes may be 0."""
    try:
        values = [float(v) for v in box if not isinstance(v, (str, bool))]
    except (TypeError, ValueError, OverflowError):  # the last: a whole number of hundreds of digits
        values = []
    if len(values) != 4 or len(box) != 4:
        return f"bbox must be four numbers, got {box!r:.80}", _FIX_BOX, "a malformed box"
    if not np.isfinite(values).all():
        return (
            f"bbox has NaN or infinity, got {list(box)!r}",
            "find out where the detector or the file breaks",
            "a non-finite box",
        )
    if min(values[2:]) < 0 or (not flat and min(values[2:]) == 0):
        return f"bbox has no area, got {list(box)!r}", _FIX_BOX, "an empty box"
    return None


def chunks(items: Iterable[Any], size: int = 65536) -> Iterator[list[Any]]:
    """Cut an iterable into lists, so that a long stream never lies in memory as Python objects."""
    block: list[Any] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
