"""Read a JSON list of records piece by piece: a results file is several times larger as Python objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detkd.errors import DataError
from detkd.io import parse_json, read_json, read_limit, too_large

__all__ = ["read_records"]

_PIECE = 1 << 19
"""Bytes parsed at once."""

_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_TRIES = 4
"""Cuts tried before more of the file is read; several are needed only where records hold lists of objects."""

_HEAD = 64
"""Bytes in which the bracket of a list must open."""

_LARGER = 8
"""Times the size that is read at once: as columns a record takes about the room that it takes in the file."""


def read_records(path: str | Path, piece: int = _PIECE) -> Any:
    """Return the content of a JSON file, a list as an iterator over lists of its entries.

    The file is cut where one object ends and the next begins. A cut inside a record or a text leaves more than one
    bracket open, so the piece does not parse, and another cut is tried.

    Args:
        path: A JSON file.
        piece: Bytes to parse at once, more or less.

    Raises:
        DataError: If the file is missing, unreadable or no JSON; names the file and the line. For a list, errors behind
            the first piece are raised while iterating.
    """
    try:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as stream:
            start = stream.read(_HEAD).lstrip() if size else b""  # what a pipe gave can't be read again
    except OSError:
        start, size = b"", 0
    if start.startswith(b"[") and size > _LARGER * read_limit():
        raise too_large(path, size)
    # Anything but a list is read at once, which also says what is wrong with it.
    return _pieces(Path(path), piece) if start.startswith(b"[") else read_json(path)


def _pieces(path: Path, piece: int) -> Iterator[list[Any]]:
    with path.open("rb") as stream:
        rest, wanted = stream.read(max(piece, _HEAD)).lstrip()[1:], piece
        while more := stream.read(wanted):
            rest += more
            for cut in reversed(list(_BETWEEN.finditer(rest))[-_TRIES:]):
                records = _parse(rest[: cut.start() + 1] + b"]")
                if records is not None:
                    yield records
                    rest, wanted = rest[cut.end() - 1 :], piece
                    break
            else:
                wanted = 2 * len(rest)
                if len(rest) > read_limit():  # no list of objects
                    raise too_large(path, path.stat().st_size)
    records = _parse(rest)
    if records is None:
        read_json(path)  # raises and names the line
        raise DataError(f"{path}: changed while it was being read; evaluate again")
    yield records


def _parse(items: bytes) -> list[Any] | None:
    """Return the entries of a list whose opening bracket is missing, or None if it does not parse."""
    try:
        records: list[Any] = parse_json(b"[" + items)
    except ValueError:
        return None
    return records
