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
    "FULL",
    "PART",
    "atomic_path",
    "no_room",
    "read_json",
    "sha256",
    "sweep",
    "write_json",
    "write_json_list",
    "write_text",
]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when there is no room for a file: disk, quota or file size."""

PART = ".part"
"""End of a temporary name, before the suffix, so that what a killed process left can't be taken for anything else."""

_LEFT = re.compile(rf"\..+-[a-z0-9_]{{8}}{re.escape(PART)}(\.[^.]*)?")


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
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=f"{PART}{target.suffix}", dir=target.parent)
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
