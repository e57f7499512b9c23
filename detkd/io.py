"""Files that are either complete or absent."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detkd.errors import DataError

__all__ = [
    "DEPTH",
    "FULL",
    "LIMIT",
    "PART",
    "atomic_path",
    "is_url",
    "no_room",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_limit",
    "sha256",
    "sweep",
    "too_large",
    "write_json",
    "write_json_list",
    "write_text",
]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when there is no room for a file: disk, quota or file size."""

PART = ".part"
"""End of a temporary name, before the suffix, so that what a killed process left can't be taken for anything else."""

_LEFT = re.compile(rf"\..+-[a-z0-9_]{{8}}{re.escape(PART)}(\.[^.]*)?")

LIMIT = "DETKD_FILE_LIMIT_MB"
"""Environment variable: megabytes of a file read at once; as Python objects it takes about ten times that."""
_LIMIT_MB = 1024

DEPTH = 100
"""Lists and dictionaries inside each other; label, result and run files need less than ten."""
_YAML_NODES = 1_000_000
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])', re.DOTALL)


def is_url(value: object) -> bool:
    """Whether a path is an address such as `s3://bucket/folder`, which only fsspec can open."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(value)) is not None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name starts with a dot and keeps the suffix, for writers that choose the format by it. Only a process
    that is killed leaves it behind, see `sweep`.

    Raises:
        DataError: If the folder can't be written, or there is no room for the file.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name may have 255 bytes: of a long one only the beginning is kept.
        prefix, suffix = f".{target.stem[:32]}-", f"{PART}{target.suffix}"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
    except OSError as err:
        if err.errno in FULL:
            raise no_room(target, err) from err
        raise DataError(
            f"out: can't write {target} ({err.strerror or err}); choose a writable folder with out=..."
        ) from err
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except Exception as err:
        if (cause := _full(err)) is not None:
            raise no_room(target, cause) from cause
        raise
    finally:
        temporary.unlink(missing_ok=True)


def no_room(target: str | Path, err: OSError) -> DataError:
    """Return the error for a file that there is no room for."""
    parent = Path(target).parent
    free = f" ({shutil.disk_usage(parent).free / 1e6:,.1f} MB are free)" if parent.is_dir() else ""
    return DataError(
        f"out: can't write {target} ({err.strerror}); make room{free} and go on, what was written before is kept"
    )


def _full(err: BaseException) -> OSError | None:
    """Return the error that says there is no room, where that is behind `err`: libraries raise others on top of it."""
    seen: BaseException | None = err
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def sweep(*folders: str | Path) -> None:
    """Remove what processes that were killed while they wrote have left directly in some folders.

    The caller makes sure that nobody is writing there now. Folders that are not there are passed over.
    """
    for folder in map(Path, folders):
        for path in [path for path in folder.glob(f".*{PART}*") if _LEFT.fullmatch(path.name)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> Path:
    """Write JSON atomically and return the path. NaN and infinity are refused: no reader agrees on them."""
    return write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_list(path: str | Path, items: Iterable[Any]) -> Path:
    """Write a JSON list atomically, one entry at a time, so that it need not fit into memory; return the path."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        lead = "["
        for item in items:
            stream.write(lead + json.dumps(item, ensure_ascii=False, allow_nan=False))
            lead = ",\n"
        stream.write("[]\n" if lead == "[" else "]\n")
    return Path(path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: If the file is missing, unreadable, too large, nested too deep or no JSON; names file and line.
    """
    file = Path(path)
    try:
        return parse_json(read_bytes(file))
    except FileNotFoundError as err:
        raise DataError(f"{file}: no such file; check the path") from err
    except json.JSONDecodeError as err:
        raise DataError(f"{file}: not valid JSON (line {err.lineno}: {err.msg}); is the file complete?") from err
    except (OSError, ValueError) as err:
        raise DataError(f"{file}: can't be read ({err}); check the file and its permissions") from err


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file, which may also be a pipe.

    Raises:
        OSError: If it can't be read.
        DataError: If it is larger than the environment variable `DETKD_FILE_LIMIT_MB` allows; 1024 by default.
    """
    limit = read_limit()
    with Path(path).open("rb") as stream:
        known = os.fstat(stream.fileno()).st_size
        content = b"" if known > limit else stream.read(limit + 1)
    if known > limit or len(content) > limit:
        raise too_large(path, known)
    return content


def read_limit() -> int:
    """Return the bytes of a file that are read at once; the environment variable `LIMIT` sets the megabytes."""
    text = os.environ.get(LIMIT, "")
    return 1_000_000 * (int(text) if re.fullmatch("[0-9]{1,9}", text) else _LIMIT_MB)


def too_large(path: str | Path, size: int) -> DataError:
    """Return the error for a file of so many bytes, 0 where its end is not known."""
    limit = read_limit() // 1_000_000
    shown = f"has {size / 1e6:,.0f} MB" if size else "does not end"
    return DataError(
        f"{path}: {shown}, more than the {limit} MB that are read at once; if it is the right file and there is memory "
        f"for ten times its size, set {LIMIT}={max(2 * limit, size // 1_000_000 + 1)}"
    )


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text in UTF-8, with or without byte-order mark.

    Raises:
        ValueError: If it is no JSON (`json.JSONDecodeError`) or no UTF-8, nested deeper than `DEPTH`, or holds an
            integer of thousands of digits.
    """
    if _too_deep(content):
        raise ValueError(f"nested more than {DEPTH} levels deep")
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError as err:  # brackets in texts can hide how deep it is
        raise ValueError(f"nested more than {DEPTH} levels deep") from err
    except ValueError as err:  # Python's own limit for integers
        raise ValueError(str(err).partition(";")[0]) from err


def _too_deep(content: bytes) -> bool:
    """Return whether brackets are nested deeper than `DEPTH`, before a parser or anything behind it recurses."""
    opening = content.count(b"[") + content.count(b"{")
    if opening <= DEPTH:
        return False
    import numpy as np

    steps = np.zeros(256, dtype=np.int8)
    steps[list(b"[{")], steps[list(b"]}")] = 1, -1
    level = highest = 0
    view = np.frombuffer(content, dtype=np.uint8)
    for start in range(0, len(view), 1 << 24):
        levels = steps[view[start : start + (1 << 24)]].cumsum(dtype=np.int32)
        highest = max(highest, level + int(levels.max()))
        level += int(levels[-1])
    if highest <= DEPTH:
        return False
    level = 0  # or are those brackets part of texts?
    for found in _BRACKETS.finditer(content):
        level += 1 if found[1] else -1 if found[2] else 0
        if level > DEPTH:
            return True
    return False


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text. Only plain values: tags that build objects are refused.

    Raises:
        yaml.YAMLError: If it is no plain YAML.
        ValueError: If it is nested too deep, holds itself, or aliases make it larger than a million values.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
        _count_values(value, {}, 0)
    except RecursionError as err:
        raise ValueError("nested too deep") from err
    except (TypeError, AttributeError) as err:  # {[]: 1} and 0000-00-00 break the parser
        raise ValueError(f"{type(err).__name__}: {err}") from err
    return value


def _count_values(value: Any, known: dict[int, int], depth: int) -> int:
    """Return how many values there are when every alias is written out: a few lines can stand for billions."""
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if depth > DEPTH:
        raise ValueError(f"nested more than {DEPTH} levels deep")
    if id(value) not in known:
        known[id(value)] = _YAML_NODES + 1  # until it is counted: what holds itself has no end
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_values(part, known, depth + 1) for part in parts)
    if known[id(value)] > _YAML_NODES:
        raise ValueError("its aliases stand for more than a million values")
    return known[id(value)]


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    import hashlib

    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
