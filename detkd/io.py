"""Files that are either complete or absent."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detkd.errors import DataError

__all__ = ["atomic_path", "is_url", "read_json", "sha256", "write_json", "write_json_list", "write_text"]


def is_url(value: object) -> bool:
    """Whether a path is an address such as `s3://bucket/folder`, which only fsspec can open."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(value)) is not None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name starts with a dot and keeps the suffix, for writers that choose the format by it.

    Raises:
        DataError: If the folder can't be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as err:
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
    finally:
        temporary.unlink(missing_ok=True)


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
        DataError: If the file is missing, unreadable or no JSON; names the file and the line.
    """
    file = Path(path)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DataError(f"{file}: no such file; check the path") from err
    except json.JSONDecodeError as err:
        raise DataError(f"{file}: not valid JSON (line {err.lineno}: {err.msg}); is the file complete?") from err
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{file}: can't be read ({err}); check the file and its permissions") from err


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    import hashlib

    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
