"""Whether splits share scenes or pictures: then a score on one says little about the other."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

from detkd.data.records import DataSpec, DetectionSet
from detkd.errors import DataError

__all__ = ["check_leakage", "find_duplicates", "shared_groups"]

SCENE_FIELDS = ("camera", "camera_id", "scene", "video", "video_id", "sequence")
_HELD_OUT = ("val", "test")


def check_leakage(
    spec: DataSpec, *, fields: Iterable[str] = SCENE_FIELDS, raise_error: bool = False
) -> tuple[str, ...]:
    """Return a line for each pair of splits that shares scenes or pictures; none where nothing is shared.

    Only pairs with val or test on one side count, and only image fields that exist.

    Args:
        spec: The data set.
        fields: Image fields that name a scene.
        raise_error: Raise instead of returning.

    Raises:
        DataError: With the first line, if asked to.
    """
    lines: list[str] = []
    for left, right in _pairs(spec.splits):
        for field in fields:
            if both := shared_groups(spec.splits[left], spec.splits[right], field):
                listed = ", ".join(both[:4]) + (", ..." if len(both) > 4 else "")
                lines.append(
                    f"LEAK: {left} and {right} share {len(both)} {field} value{'s' if len(both) > 1 else ''} ({listed})"
                )
    for (left, right), pairs in find_duplicates(spec.splits).items():
        first = f"{pairs[0][0].name} = {pairs[0][1].name}"
        lines.append(
            f"LEAK: {left} and {right} share {len(pairs)} identical picture{'s' if len(pairs) > 1 else ''} ({first})"
        )
    if lines and raise_error:
        more = f" (and {len(lines) - 1} more like it)" if len(lines) > 1 else ""
        raise DataError(
            f"data.leakage: {lines[0].removeprefix('LEAK: ')}{more}; split by scene or set data.leakage=warn"
        )
    return tuple(lines)


def shared_groups(left: DetectionSet, right: DetectionSet, field: str) -> list[str]:
    """Return the values of an image field that occur in both sets, sorted."""
    values = [{str(r.meta[field]) for r in side.records if r.meta.get(field) is not None} for side in (left, right)]
    return sorted(values[0] & values[1])


def find_duplicates(splits: Mapping[str, DetectionSet]) -> dict[tuple[str, str], list[tuple[Path, Path]]]:
    """Return pictures that two splits share: the same file, or files with the same bytes.

    Only files of equal size are read, so a set without duplicates costs next to nothing.
    """
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for split, dataset in splits.items():
        for record in dataset.records:
            try:
                by_size[os.stat(record.path).st_size].append((split, record.path))
            except OSError:
                continue
    found: dict[tuple[str, str], list[tuple[Path, Path]]] = defaultdict(list)
    for items in by_size.values():
        if len({split for split, _ in items}) < 2:
            continue
        by_bytes: dict[str, dict[str, Path]] = defaultdict(dict)
        digests = {path: _digest(path) for path in {path for _, path in items}}
        for split, path in items:
            by_bytes[digests[path]].setdefault(split, path)
        for places in by_bytes.values():
            for pair in _pairs(splits):
                if pair[0] in places and pair[1] in places:
                    found[pair].append((places[pair[0]], places[pair[1]]))
    return dict(found)


def _pairs(splits: Mapping[str, DetectionSet]) -> list[tuple[str, str]]:
    return [pair for pair in combinations(splits, 2) if set(pair) & set(_HELD_OUT)]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
    except OSError:
        return str(path)  # unreadable now: equal to nothing else
