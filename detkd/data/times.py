"""When an image was taken, from its fields or its file name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from detkd.data.records import ImageRecord
from detkd.errors import DataError

__all__ = ["time_keys", "time_of"]

TIME_FIELDS = ("time", "timestamp", "datetime", "date_captured", "date")
_SEPARATOR = r"[-_.:T ]?"
_CALENDAR = re.compile(
    r"(?<!\d)((?:19|20)\d\d)" + _SEPARATOR + r"(0[1-9]|1[0-2])" + _SEPARATOR + r"(0[1-9]|[12]\d|3[01])"
    r"(?:" + r"[-_.T ]{0,2}" + r"([01]\d|2[0-3])" + _SEPARATOR + r"([0-5]\d)(?:" + _SEPARATOR + r"([0-5]\d))?)?"
)
_EPOCH = re.compile(r"(?<!\d)(1\d{9})(\d{3})?(?!\d)")
_FRAME = re.compile(r"^(.*?)(\d+)(\D*)$")

TimeKey = tuple[int, ...]


def time_of(text: str) -> TimeKey | None:
    """Return a sortable time found in a text: a calendar date (with a time of day if there is one) or epoch seconds."""
    if match := _CALENDAR.search(text):
        return tuple(int(part or 0) for part in match.groups())
    if match := _EPOCH.search(text):
        return (0, int(match[1]), int(match[2] or 0))
    return None


def time_keys(
    records: Sequence[ImageRecord], field: str | None = None, pattern: str | None = None, key: str = "data.split"
) -> list[TimeKey]:
    """Return a sortable time for each image.

    Looked for in this order: `pattern` in the file name, `field` or the usual fields of the record, a date or epoch in
    the file name, and frame numbers where the names differ in nothing else.

    Raises:
        DataError: If some image has no time.
    """
    if pattern is None and not field:
        frames = [_FRAME.match(record.path.stem) for record in records]
        dated = any(_own_time(record, None) is not None for record in records)
        if not dated and all(frames) and len({(m[1], m[3]) for m in frames if m}) == 1:
            return [(int(m[2]),) for m in frames if m]
    keys = []
    for record in records:
        value = _own_time(record, field) if pattern is None else _pattern_time(pattern, record.path.name)
        if value is None:
            raise DataError(
                f"{key}.by: no time found for {record.path.name}; set {key}.field to the image field that holds it or "
                f"{key}.pattern to a regular expression whose group finds it in the file name"
            )
        keys.append(value)
    return keys


def _own_time(record: ImageRecord, field: str | None) -> TimeKey | None:
    for name in (field,) if field else TIME_FIELDS:
        value = record.meta.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (0, round(value * 1000))
        if isinstance(value, str) and (found := time_of(value)) is not None:
            return found
    return None if field else time_of(record.path.name)


def _pattern_time(pattern: str, name: str) -> TimeKey | None:
    match = re.search(pattern, name)
    if match is None:
        return None
    text = match[1] if match.re.groups else match[0]
    return time_of(text or "") or tuple(int(part) for part in re.findall(r"\d+", text or "")) or None
