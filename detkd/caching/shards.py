"""One shard: many records in one safetensors file.

The container is safetensors because it is maintained, maps into memory, executes nothing when it is read and refuses a
truncated file by itself. Records differ in length, so they lie in a row in one tensor with a table of offsets.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from detkd.errors import DataError
from detkd.io import FULL, atomic_path

__all__ = [
    "KEY_LIMIT",
    "REPAIR",
    "Shard",
    "codes",
    "map_file",
    "open_shard",
    "rank_of",
    "shard_files",
    "shard_name",
    "write_durably",
    "write_shard",
]

KEY_LIMIT = 1 << 31
"""Images and views are numbered below this."""
REPAIR = (
    "delete that file and run `detkd cache build` again, only its records are made anew (`detkd cache verify` lists "
    "everything damaged)"
)

_NAME = re.compile(r"r(\d{2,})-\d{5,}\.safetensors")
_TEMPORARY = re.compile(r"\.r(\d{2,})-.*\.safetensors")
_TENSORS = {"data": ("U8", 1), "offsets": ("I64", 1), "keys": ("I32", 2), "crc": ("U32", 1)}


@dataclass(frozen=True)
class Shard:
    """The table of one shard; the records themselves stay on disk.

    Attributes:
        path: The file.
        size: Its bytes.
        keys: Image and view of each record, int32 (n, 2).
        starts: First byte of each record within the file, int64 (n,).
        stops: Byte after its last one, int64 (n,).
        crc: `zlib.crc32` of each record, uint32 (n,).
    """

    path: Path
    size: int
    keys: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    crc: np.ndarray


def shard_name(rank: int, number: int) -> str:
    """Return a shard's file name."""
    return f"r{rank:02d}-{number:05d}.safetensors"


def rank_of(path: Path) -> int:
    """Return the rank that wrote a shard or a temporary file of one; -1 for any other file."""
    match = _NAME.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def shard_files(folder: Path) -> list[Path]:
    """Return the finished shards of a cache folder, sorted by name."""
    return sorted(path for path in (folder / "shards").glob("r*.safetensors") if _NAME.fullmatch(path.name))


def codes(keys: np.ndarray) -> np.ndarray:
    """Return one int64 per (image, view), in the order of the pairs."""
    wide = keys.astype(np.int64).reshape(-1, 2)
    packed: np.ndarray = wide[:, 0] << 32 | wide[:, 1]
    return packed


def map_file(path: Path) -> mmap.mmap:
    """Map a shard into memory, read-only.

    Raises:
        DataError: If the system refuses.
    """
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as err:
        raise DataError(
            f"{path}: can't be mapped into memory ({getattr(err, 'strerror', None) or err}); each shard needs an open "
            "file, see `ulimit -n`"
        ) from err


def write_shard(path: Path, cache: str, keys: Sequence[tuple[int, int]], payloads: Sequence[bytes]) -> None:
    """Write a shard that is complete and on disk, or not there at all.

    The same records give the same bytes.

    Args:
        path: The file.
        cache: Digest of the cache's fingerprint, so that a shard can't be taken for one of another cache.
        keys: Image and view of each record.
        payloads: Their bytes, in the same order.

    Raises:
        DataError: If it can't be written, a full disk included.
    """
    tensors: dict[str, np.ndarray] = {
        "data": np.frombuffer(bytearray().join(payloads), dtype=np.uint8),
        "offsets": np.cumsum([0, *map(len, payloads)], dtype=np.int64),
        "keys": np.array(keys, dtype=np.int32).reshape(-1, 2),
        "crc": np.array([zlib.crc32(payload) for payload in payloads], dtype=np.uint32),
    }
    # One entry only: safetensors writes several in an order that changes from run to run.
    note = json.dumps({"schema": 1, "cache": cache, "table": _table_crc(tensors)})
    write_durably(path, save(tensors, metadata={"detkd": note}))


def open_shard(path: Path, cache: str) -> Shard:
    """Read a shard's table and check it; the records are not read.

    Raises:
        DataError: If the file is missing, cut short, damaged or of another cache; names it and what to do.
    """
    try:
        size = path.stat().st_size
        with safe_open(path, framework="np") as file:  # type: ignore[no-untyped-call,unused-ignore]
            note = json.loads((file.metadata() or {})["detkd"])
            schema, owner, table = note["schema"], note["cache"], note["table"]
            parts = {name: file.get_slice(name) for name in list(file.keys())}
            kinds = {name: (part.get_dtype(), len(part.get_shape())) for name, part in parts.items()}
            if kinds != _TENSORS:
                raise ValueError(f"unexpected contents {sorted(kinds)}")
            tables = {name: file.get_tensor(name) for name in ("offsets", "keys", "crc")}
            length = int(parts["data"].get_shape()[0])
        with path.open("rb") as stream:
            head = int.from_bytes(stream.read(8), "little")
            first = 8 + head + int(json.loads(stream.read(head))["data"]["data_offsets"][0])
        if schema != 1 or table != _table_crc(tables):
            raise ValueError("its table of records does not match its checksum")
        offsets = tables["offsets"]
        count = len(tables["crc"])
        if tables["keys"].shape != (count, 2) or offsets.shape != (count + 1,) or int(offsets[-1]) != length:
            raise ValueError("its table of records does not fit its data")
    except FileNotFoundError as err:
        raise DataError(f"{path}: the shard is missing; run `detkd cache build` again, it makes it anew") from err
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as err:
        reason = str(err).strip() or type(err).__name__
        raise DataError(f"{path}: the shard is cut short or damaged ({reason}); {REPAIR}") from err
    if owner != cache:
        raise DataError(f"{path}: the shard belongs to another cache, {owner} and not {cache}; {REPAIR}")
    return Shard(path, size, tables["keys"], first + offsets[:-1], first + offsets[1:], tables["crc"])


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that survives a power cut once this returns; on failure nothing is left of it.

    Raises:
        DataError: If there is no room or the folder can't be written.
    """
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(path.parent)
    except (OSError, DataError) as err:
        cause = err if isinstance(err, OSError) else err.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL:
            free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
            raise DataError(
                f"cache.path: no room for {path.name} in {path.parent} ({cause.strerror}), it needs {len(content):,} "
                f"bytes and {free:,} are free; make room and run the same command again, it goes on where it stopped"
            ) from err
        raise DataError(
            f"cache.path: can't write {path} ({getattr(cause, 'strerror', None) or err}); choose a writable folder"
        ) from err


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _table_crc(tensors: dict[str, np.ndarray]) -> int:
    crc = 0
    for name in ("offsets", "keys", "crc"):
        crc = zlib.crc32(np.ascontiguousarray(tensors[name]).tobytes(), crc)
    return crc
