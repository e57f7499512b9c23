"""Whether stored answers still belong to the teacher, the images and the settings at hand."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from detkd.errors import ConfigError, DataError, DetkdError
from detkd.io import read_json, write_json
from detkd.progress import track

__all__ = ["check_fingerprint", "differences", "digest", "file_digest", "image_digests", "list_digest", "plain"]

_ABSENT = "(absent)"
_SHOWN = 60
"""Characters of a value in a message."""
_BAR_FROM = 3000
"""Files from which on hashing takes long enough for a progress bar."""
_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within the same tick of its clock, unseen."""


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back: tuples as lists, paths as strings, whole floats as integers.

    Raises:
        ConfigError: If the value has no JSON form (NaN included).
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and np.isfinite(value):
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    raise ConfigError(f"cache: a fingerprint holds JSON values only, got {value!r}; leave it out or write it as text")


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return 16 hex digits that stand for a fingerprint; the order of its keys does not matter."""
    return hashlib.blake2b(_canonical(plain(fingerprint)).encode(), digest_size=8).hexdigest()


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compare two fingerprints.

    Returns:
        Dotted name of each field that differs and its two values, in the order of `wanted`; a field only one of them
        has shows as "(absent)" in the other. Lists of equal length are compared item by item (`teachers.0.weights`).
    """
    return list(_walk("", plain(stored), plain(wanted)))


def check_fingerprint(stored: Mapping[str, Any], wanted: Mapping[str, Any], *, folder: Path) -> None:
    """Refuse a cache that was built for something else.

    Args:
        stored: Fingerprint of the cache.
        wanted: Fingerprint of the run.
        folder: The cache, for the message.

    Raises:
        ConfigError: If they differ; names the first field that does, both values and the number of further fields.
    """
    found = differences(stored, wanted)
    if not found:
        return
    field, there, here = found[0]
    others = [name for name, _, _ in found[1:]]
    more = f" ({len(others)} more differ: {', '.join(others[:3])}{', ...' * (len(others) > 3)})" if others else ""
    raise ConfigError(
        f"cache.path: the cache in {folder} was built for something else, its {field} is {_short(there)}, "
        f"got {_short(here)}{more}; choose another cache.path, or delete that folder to build it anew"
    )


def file_digest(path: str | Path) -> str:
    """Return the 128-bit BLAKE2b of a file as 32 hex digits.

    Raises:
        DataError: If the file can't be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as err:
        raise DataError(f"{path}: can't be read ({err.strerror or err}); check the file and its permissions") from err


def list_digest(digests: Iterable[str]) -> str:
    """Return one digest (32 hex digits) for an ordered list of them."""
    return hashlib.blake2b("\n".join(digests).encode(), digest_size=16).hexdigest()


def image_digests(paths: Sequence[str | Path], memo_file: str | Path) -> list[str]:
    """Return the digest of each file's bytes, without reading again what did not change since the last time.

    Args:
        paths: The files.
        memo_file: JSON file that remembers size, times and digest per path. A missing, damaged or read-only one is no
            error: the files are read, that is all.

    Raises:
        DataError: If a file can't be read; names it.
    """
    memo = _read_memo(Path(memo_file))
    names = [str(path) for path in paths]
    unique = list(dict.fromkeys(names))
    fresh: dict[str, list[Any]] = {}
    found: dict[str, str] = {}
    # Hashing leaves the interpreter lock alone, and most of the wait is for the disk.
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        rows: Iterable[tuple[str, list[Any], bool]] = pool.map(lambda name: _entry(name, memo.get(name)), unique)
        if len(unique) > _BAR_FROM:
            rows = track(rows, "digests of the images", len(unique))
        for name, entry, settled in rows:
            found[name] = entry[-1]
            if settled and entry != memo.get(name):
                fresh[name] = entry
    if fresh:
        with suppress(DetkdError, OSError):  # a build that begins removes what it takes for left over
            write_json(memo_file, {**memo, **fresh}, indent=None)
    return [found[name] for name in names]


def _entry(name: str, known: list[Any] | None) -> tuple[str, list[Any], bool]:
    """Return the path, its row of the memo, and whether that row may be remembered."""
    try:
        state = os.stat(name)
    except OSError as err:
        raise DataError(f"{name}: can't be read ({err.strerror or err}); check the path") from err
    # The time of the last change of the inode also shows edits by tools that put the old modification time back.
    stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    if known is not None and known[:-1] == stamp:
        return name, known, True
    settled = time.time_ns() - max(stamp[1:]) >= _SETTLED_NS
    return name, [*stamp, file_digest(name)], settled


def _read_memo(file: Path) -> dict[str, list[Any]]:
    if not file.is_file():
        return {}
    try:
        memo = read_json(file)
    except DataError:
        return {}
    rows = memo.items() if isinstance(memo, dict) else ()
    return {name: row for name, row in rows if isinstance(row, list) and len(row) == 4 and isinstance(row[-1], str)}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _walk(name: str, stored: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in stored if key not in wanted)]:
            yield from _walk(f"{name}.{key}" if name else key, stored.get(key, _ABSENT), wanted.get(key, _ABSENT))
    elif isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        for index, pair in enumerate(zip(stored, wanted, strict=True)):
            yield from _walk(f"{name}.{index}", *pair)
    elif _canonical(stored) != _canonical(wanted):  # `True == 1` in Python, but not in a configuration
        yield name, stored, wanted


def _short(value: Any) -> str:
    text = value if value == _ABSENT else _canonical(value)
    if isinstance(value, list):
        text = f"{len(value)} values {text}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
