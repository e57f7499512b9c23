"""Parts of a set that deserve numbers of their own: by camera, light, weather or any other field of the image records.

A field divides the set: every image is in exactly one of its slices. Those that are derived, `objects in the image` and
`hours`, may leave images out: those without objects, or without a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from detkd.errors import ConfigError
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.side import Slice

__all__ = ["HOURS", "OBJECTS", "make_slices"]

OBJECTS = "objects in the image"
"""Derived field: how many objects are in the image. "objects" asks for it too, where the records have no such field."""

HOURS = "hours"
"""Derived field: the quarter of the day that a time stamp or the file name tells."""

OTHER = "other"
NOT_GIVEN = "not given"
"""The slices of values too rare for one of their own, and of images without the field."""

_ENOUGH = 5
"""Images that a value needs to be found worth a slice; a field that is named gets all its values."""

_MOST_FIELDS = 4
"""Fields that are found; each costs the statistics about one more pass over the set."""

_TELLING = (
    ("camera", "cam", "device", "sensor"),
    ("site", "location", "place", "scene", "view"),
    ("video", "clip", "sequence", "seq"),
    ("light", "lighting", "illumination", "daytime", "timeofday", "day", "night"),
    ("weather", "season", "rain", "snow", "fog", "visibility"),
)
_LIGHT = 3
_TIMES = ("time", "timestamp", "datetime", "captured_at", "file_name")
# COCO's date_captured is left out: it is the day the photo was collected, not taken.
_CLOCK = re.compile(
    r"(?<!\d)(?:19|20)\d\d[-_.:]?(?:0[1-9]|1[0-2])[-_.:]?(?:0[1-9]|[12]\d|3[01])"
    r"[-_.T ]{0,2}([01]\d|2[0-3])[-_.:]?[0-5]\d"
)
_BINS = (("1 to 3", 1, 3), ("4 to 10", 4, 10), ("11 or more", 11, None))


def make_slices(truth: GroundTruth, fields: Sequence[str] | None = None, *, max_values: int = 12) -> tuple[Slice, ...]:
    """Divide the images of a set by fields of their records.

    Without `fields` up to four are found whose name tells a condition: cameras, then places, videos, light and weather.
    They hold text, yes or no or whole numbers, most images have them, two of their values have at least 5 images each,
    and they do not divide the set as an earlier one does. `hours` and `objects in the image` are added where they
    divide the set: the time comes from a time stamp or the file name, and only where no field tells the light; the
    number of objects makes the bins 1 to 3, 4 to 10 and 11 or more (images without objects have no AP).

    Args:
        truth: The labels.
        fields: Names, with dots for nested values ("capture.light"). A numeric field with more than `max_values`
            values is cut into four ranges with about as many images each.
        max_values: Most slices of a field, the rest is its slice "other"; images without the field are "not given".

    Returns:
        Slices, field by field, values in alphabetical or numeric order.

    Raises:
        ConfigError: If no image has a named field, or its values are lists; names the fields there are.
    """
    columns = _columns(truth)
    result: list[Slice] = []
    if fields is not None:
        for field in dict.fromkeys(OBJECTS if name == "objects" and name not in columns else name for name in fields):
            result += _named(truth, field, columns, max_values)
        return tuple(result)
    seen: set[tuple[int, ...]] = set()
    light = False
    for field in _candidates(columns, len(truth.images)):
        parts = _divide(field, columns[field], max_values, _ENOUGH)
        if len(parts) > 1 and (shape := _shape(parts)) not in seen:
            seen.add(shape)
            light |= _rank(field) == _LIGHT
            result += parts
        if len(seen) == _MOST_FIELDS:
            break
    derived: list[tuple[str, Callable[[GroundTruth], list[Any]]]] = [(OBJECTS, _object_bins)]
    if not light:
        derived.insert(0, (HOURS, _hours))
    for field, values in derived:
        if field not in columns:
            parts = _divide(field, values(truth), max_values, _ENOUGH, rest=False)
            result += parts if len(parts) > 1 else []
    return tuple(result)


def _named(truth: GroundTruth, field: str, columns: Mapping[str, list[Any]], max_values: int) -> list[Slice]:
    """Return the slices of a field somebody asked for."""
    derived = {OBJECTS: _object_bins, HOURS: _hours}
    values = columns.get(field)
    if values is None and field in derived:
        values = derived[field](truth)
    known = [value for value in values or () if value is not None]
    if values is None or not known:
        there = ", ".join([*(name for name in columns if name not in ("id", "file_name")), *derived])
        raise ConfigError(f"report.slices: no image has the field {field!r}; name one that there is: {there}")
    if any(isinstance(value, list) for value in known):
        raise ConfigError(
            f"report.slices: the field {field!r} holds lists, such as {known[0]!r}; name one with a single value"
        )
    if len(set(known)) > max_values and all(_is_number(value) for value in known):
        values = _ranges(values)
    return _divide(field, values, max_values, 1, rest=field not in derived)


def _columns(truth: GroundTruth) -> dict[str, list[Any]]:
    """Return the values of each field, dots for nested ones, None where an image lacks it."""
    columns: dict[str, list[Any]] = {}
    for index, record in enumerate(truth.images):
        for name, value in _flat(record):
            columns.setdefault(name, [None] * len(truth.images))[index] = value
    return columns


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None and value != "":
            yield f"{prefix}{key}", list(value) if isinstance(value, (list, tuple)) else value


def _candidates(columns: Mapping[str, list[Any]], images: int) -> list[str]:
    """Return fields whose name tells a condition, the most telling ones first."""
    found = []
    for field, values in columns.items():
        known = [value for value in values if value is not None]
        plain = {type(value) for value in known} <= {str, bool, int}
        if plain and 2 * len(known) > images and _rank(field) < len(_TELLING):
            found.append(field)
    return sorted(found, key=_rank)


def _rank(field: str) -> int:
    """Return the place of a field in `_TELLING`, its length if it is not there."""
    words = set(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field).lower()))
    return next((rank for rank, telling in enumerate(_TELLING) if words & set(telling)), len(_TELLING))


def _shape(parts: Sequence[Slice]) -> tuple[int, ...]:
    """Return what two fields have in common that divide the set in the same way, whatever the names of the values."""
    label = np.zeros(len(parts[0].mask), dtype=np.int64)
    for number, part in enumerate(parts, start=1):
        label[part.mask] = number
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return tuple(first[inverse].tolist())


def _divide(field: str, values: Sequence[Any], max_values: int, enough: int, *, rest: bool = True) -> list[Slice]:
    """Return the slices of one field.

    Args:
        field: Its name.
        values: One per image, None where it has none.
        max_values: Most values with a slice of their own.
        enough: Images they need.
        rest: Also make slices of the remaining images; without them every image has a value or is in no slice.
    """
    texts = [None if value is None else _text(value) for value in values]
    counts = Counter(text for text in texts if text is not None)
    large = [text for text, count in counts.most_common() if count >= enough]
    if (rest and len(large) < len(counts)) or len(large) > max_values:
        large = [text for text in large if text != OTHER]
    large = large[:max_values]
    if len(large) < 2 <= enough:
        return []
    kept = set(large)
    where = {text: np.asarray([own == text for own in texts]) for text in sorted(large, key=_natural)}
    others = np.asarray([own is not None and own not in kept for own in texts])
    if others.any() and (rest or len(counts) > max_values):
        where[OTHER] = others
    absent = np.asarray([own is None for own in texts])
    if absent.any() and rest:
        where[NOT_GIVEN] = absent | where.get(NOT_GIVEN, False)
    return [Slice(field, text, mask) for text, mask in where.items()]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """Sort numbers inside texts by their size."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, float(part), "") if part.isdecimal() else (0, 0.0, part) for part in parts if part)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _ranges(values: Sequence[Any]) -> list[str | None]:
    """Replace numbers by the quarter of the images they are in, written as the range it spans."""
    numbers = np.asarray([value for value in values if value is not None], dtype=np.float64)
    place = np.searchsorted(np.quantile(numbers, (0.25, 0.5, 0.75)), numbers, side="left")
    parts = {quarter: numbers[place == quarter] for quarter in np.unique(place).tolist()}
    names = {quarter: f"{part.min():.4g} to {part.max():.4g}" for quarter, part in parts.items()}
    quarters = iter(place.tolist())
    return [None if value is None else names[next(quarters)] for value in values]


def _object_bins(truth: GroundTruth) -> list[Any]:
    counts = np.bincount(truth.image[~truth.crowd], minlength=len(truth.images)).tolist()
    return [next((name for name, low, high in _BINS if n >= low and (high is None or n <= high)), None) for n in counts]


def _hours(truth: GroundTruth) -> list[Any]:
    """Return the quarter of the day of each image; the clock is the camera's own, so it says little about the sun."""
    found: list[Any] = []
    for record in truth.images:
        texts = [value for name in _TIMES if isinstance(value := record.get(name), str)]
        hit = next((match for text in texts if (match := _CLOCK.search(text))), None)
        start = int(hit[1]) // 6 * 6 if hit else 0
        found.append(f"{start:02d} to {start + 6:02d} h" if hit else None)
    return found
