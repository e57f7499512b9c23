"""Splitting a set so that no scene ends up on both sides."""

from __future__ import annotations

import dataclasses
import difflib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from detkd.data.raw import as_float, as_integer
from detkd.data.records import DetectionSet, ImageRecord
from detkd.data.times import time_keys
from detkd.errors import DataError

__all__ = ["SplitBy", "SplitOptions", "assign_groups", "group_keys", "split_options", "split_set", "with_camera"]

SplitBy = Literal["camera", "folder", "time", "image-field", "random"]
_ATTEMPTS = 64
_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
_KEYS = ("by", "field", "pattern", "fractions", "seed")


@dataclass(frozen=True)
class SplitOptions:
    """The keys under `data.split`.

    Attributes:
        by: What belongs together; None makes no split.
        field: Image field that holds it, for `image-field` (and for `time`, where it isn't a usual name).
        pattern: Regular expression searched in the file name; its first group is the camera, field value or time.
        fractions: Share of the images per split; they are scaled to a sum of 1.
        seed: Another seed gives another split.
    """

    by: SplitBy | None = None
    field: str | None = None
    pattern: str | None = None
    fractions: dict[str, float] = dataclasses.field(default_factory=lambda: dict(_FRACTIONS))
    seed: int = 0


def split_options(value: object) -> SplitOptions | None:
    """Check the keys under `data.split`; None where nothing is asked for.

    Raises:
        DataError: Naming the key.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = {"by": value}
    if not isinstance(value, Mapping):
        raise DataError(f"data.split: must be a mapping with the key by, got {value!r:.60}")
    options = {str(key): item for key, item in value.items() if item is not None}
    for key in options:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            raise DataError(
                f"data.split.{key}: no such key; {f'did you mean {near[0]}?' if near else f'the keys are {_KEYS}'}"
            )
    by, pattern, name = options.get("by"), options.get("pattern"), options.get("field")
    if by is not None and by not in get_args(SplitBy):
        raise DataError(f"data.split.by: must be one of {', '.join(get_args(SplitBy))}, got {by!r:.40}")
    if pattern is not None:
        _compile(pattern)
    if name is not None and not isinstance(name, str):
        raise DataError(f"data.split.field: must be the name of an image field, got {name!r:.40}")
    if by == "image-field" and name is None:
        raise DataError("data.split.field: needed with by=image-field; name the field of the image records")
    if by is None and pattern is None:
        return None
    seed = as_integer(options.get("seed", 0))
    if seed is None:
        raise DataError(f"data.split.seed: must be an integer, got {options['seed']!r:.40}")
    fractions = _fractions(options.get("fractions"))
    return SplitOptions(by, name, pattern, fractions, seed)


def split_set(dataset: DetectionSet, options: SplitOptions, *, key: str = "data.split") -> dict[str, DetectionSet]:
    """Divide one set by camera, folder, time or field; images that belong together stay together.

    Groups are handed out so that the numbers of images come close to the fractions (the best of 64 seeded orders);
    by time the order is kept: the first share is train, the last test.

    Args:
        dataset: What to divide.
        options: How.
        key: Where the options came from, for messages.

    Raises:
        DataError: If an image has no group, or there are fewer groups than splits.
    """
    total = sum(options.fractions.values())
    shares = {name: share / total for name, share in options.fractions.items() if share > 0}
    if options.by == "time":
        order = time_keys(dataset.records, options.field, options.pattern, key)
        names = _by_time(order, shares, key)
    else:
        groups = group_keys(dataset.records, options, key=key)
        chosen = assign_groups(Counter(groups), shares, options.seed, key=key, what=str(options.by))
        names = [chosen[group] for group in groups]
    return {
        split: replace(
            dataset,
            split=split,
            records=tuple(r for r, name in zip(dataset.records, names, strict=True) if name == split),
        )
        for split in shares
    }


def group_keys(records: Sequence[ImageRecord], options: SplitOptions, *, key: str = "data.split") -> list[str]:
    """Return what each image belongs to.

    Raises:
        DataError: If an image lacks the field, or the pattern doesn't match its name.
    """
    if options.by == "random":
        return [str(index) for index in range(len(records))]
    if options.by == "folder":
        return [str(record.path.parent) for record in records]
    name = options.field if options.by == "image-field" else options.field or "camera"
    keys = []
    for record in records:
        value = record.meta.get(name or "")
        if options.pattern is not None:
            value = _matched(options.pattern, record)
        if value is None:
            raise DataError(
                f"{key}.by: {record.path.name} has no field {name!r}; set {key}.pattern to a regular expression that "
                "finds it in the file name, for example pattern='^([^_-]+)'"
            )
        keys.append(str(value))
    return keys


def assign_groups(
    sizes: Mapping[str, int], shares: Mapping[str, float], seed: int, *, key: str = "data.split", what: str = "group"
) -> dict[str, str]:
    """Return the split of each group: close to the shares by number of images, no split empty, the same for a seed.

    Raises:
        DataError: If there are fewer groups than splits.
    """
    if len(sizes) < len(shares):
        listed = ", ".join(sorted(sizes)[:4])
        raise DataError(
            f"{key}.by: {what} gives {len(sizes)} group{'s' if len(sizes) != 1 else ''} ({listed}), too few for "
            f"{len(shares)} splits; choose another {key}.by or set a fraction to 0"
        )
    total, generator = sum(sizes.values()), random.Random(seed)
    best: tuple[float, dict[str, str]] | None = None
    for _ in range(_ATTEMPTS):
        order = sorted(sizes)
        generator.shuffle(order)
        room = {name: share * total for name, share in shares.items()}
        chosen: dict[str, str] = {}
        for position, group in enumerate(order):
            empty = [name for name in shares if name not in chosen.values()]
            candidates = empty if len(order) - position <= len(empty) else list(shares)
            target = max(candidates, key=lambda name: room[name] / (shares[name] * total))
            chosen[group] = target
            room[target] -= sizes[group]
        error = sum(abs(left) for left in room.values())
        if best is None or error < best[0]:
            best = (error, chosen)
    assert best is not None
    return best[1]


def with_camera(dataset: DetectionSet, pattern: str) -> DetectionSet:
    """Return the set with the field `camera` taken from file names; images that don't match or have one keep theirs."""
    found = re.compile(pattern)
    records = []
    for record in dataset.records:
        match = found.search(record.path.name)
        add = {"camera": match[1] if found.groups else match[0]} if match and "camera" not in record.meta else {}
        records.append(replace(record, meta={**record.meta, **add}) if add else record)
    return replace(dataset, records=tuple(records))


def _by_time(order: Sequence[Any], shares: Mapping[str, float], key: str) -> list[str]:
    steps = Counter(order)
    names = list(shares)
    if len(steps) < len(names):
        raise DataError(f"{key}.by: only {len(steps)} different times for {len(names)} splits; choose another {key}.by")
    ends: list[float] = []
    for name in names:
        ends.append((ends[-1] if ends else 0.0) + shares[name] * len(order))
    current, done, taken, chosen = 0, 0, 0, {}
    for position, step in enumerate(sorted(steps)):
        middle = done + steps[step] / 2
        left = len(steps) - position
        # move on at the boundary, once the split has something, and early enough to leave each later one something
        if current < len(names) - 1 and taken and (middle > ends[current] or left <= len(names) - 1 - current):
            current, taken = current + 1, 0
        chosen[step] = names[current]
        done, taken = done + steps[step], taken + 1
    return [chosen[step] for step in order]


def _matched(pattern: str, record: ImageRecord) -> str | None:
    match = re.search(pattern, record.path.name)
    if match is None:
        return None
    return match[1] if match.re.groups else match[0]


def _compile(pattern: object) -> None:
    try:
        re.compile(pattern)  # type: ignore[call-overload]
    except (re.error, TypeError) as err:
        raise DataError(f"data.split.pattern: no regular expression, got {pattern!r:.60} ({err})") from err


def _fractions(value: object) -> dict[str, float]:
    if value is None:
        return dict(_FRACTIONS)
    if not isinstance(value, Mapping) or not value:
        raise DataError(f"data.split.fractions: must map train, val, test to their shares, got {value!r:.60}")
    shares = {str(name): as_float(share) for name, share in value.items() if share is not None}
    if not all(0 <= share < 1e9 for share in shares.values()) or not any(shares.values()):
        raise DataError(f"data.split.fractions: shares must be 0 or more and not all 0, got {value!r:.60}")
    return shares
