"""Reading a cache at random, and checking all of it."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkd.caching.manifest import read_manifest
from detkd.caching.shards import KEY_LIMIT, REPAIR, Shard, codes, map_file, open_shard, shard_files
from detkd.errors import DataError
from detkd.io import sha256

__all__ = ["CacheReader", "verify_checksums"]

_RELEASE_BYTES = 256 << 20
"""Pages of the files stay mapped for this many bytes read, so that a process does not grow with the cache."""


class CacheReader:
    """Reads records at random; cheap to hand to the workers of a data loader.

    The tables of all shards are read once (40 bytes per record), the records are mapped into memory and their checksum
    is compared at each reading. A reader that was pickled opens the files again when it is first used.

    Args:
        folder: The cache.
        partial: Whether to accept an unfinished one and read what is there.

    Attributes:
        manifest: The cache's description.

    Raises:
        DataError: If there is no cache, it is unfinished, or a shard is missing or damaged; names file and fix.
    """

    def __init__(self, folder: str | Path, *, partial: bool = False) -> None:
        self.folder = Path(folder)
        self.partial = partial
        self._tables: _Tables | None = None
        self.manifest = read_manifest(self.folder)
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        # Maps can't be pickled. Nothing is opened when a reader comes back inside a checkpoint and is never read.
        return {**self.__dict__, "_tables": None}

    def __len__(self) -> int:
        return len((self._tables or self._open()).codes)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, tuple) or len(key) != 2:
            return False
        return _find((self._tables or self._open()).codes, int(key[0]), int(key[1])) >= 0

    @property
    def nbytes(self) -> int:
        """Bytes of all shards on disk."""
        return (self._tables or self._open()).nbytes

    def keys(self) -> np.ndarray:
        """Return image and view of all records, int64 (n, 2), sorted."""
        packed = (self._tables or self._open()).codes
        return np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1)

    def read(self, image: int, view: int) -> memoryview:
        """Return a record; the memory is read-only and stays valid as long as the result is kept.

        Raises:
            DataError: If there is no such record, or its bytes are not those that were written.
        """
        tables = self._tables or self._open()
        row = _find(tables.codes, image, view)
        if row < 0:
            raise DataError(
                f"cache: no record for image {image}, view {view} in {self.folder}; it was built for other data or "
                "fewer views, build it anew at another cache.path"
            )
        shard = tables.shard[row]
        record: memoryview = tables.views[shard][tables.starts[row] : tables.stops[row]]
        if zlib.crc32(record) != tables.crc[row]:
            raise DataError(
                f"{tables.paths[shard]}: the record of image {image}, view {view} is damaged, its checksum differs; "
                f"{REPAIR}"
            )
        tables.touched += len(record)
        if tables.touched > _RELEASE_BYTES:
            tables.release()
        return record

    def _open(self) -> _Tables:
        """Read the tables of all shards and map the files.

        Raises:
            DataError: If the cache is unfinished, or a shard is missing or damaged.
        """
        manifest = self.manifest = read_manifest(self.folder)
        if manifest.complete:
            paths = [self.folder / "shards" / name for name in sorted(manifest.shards)]
        elif self.partial:
            paths = shard_files(self.folder)
        else:
            raise DataError(
                f"cache.path: {self.folder} is not finished; run `detkd cache build` (or the same training) again, it "
                "goes on where it stopped"
            )
        tables = _Tables([open_shard(path, manifest.digest) for path in paths])
        if manifest.complete and len(tables.codes) != manifest.expected:
            raise DataError(
                f"cache.path: {self.folder} holds {len(tables.codes):,} records, expected {manifest.expected:,}; "
                "delete that folder and build it anew"
            )
        self._tables = tables
        return tables


class _Tables:
    """Where each record lies, sorted by image and view, and the mapped files."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        none = np.empty(0, np.int64)
        # A key that is there twice (two ranks raced) counts once: the first in order of the shards.
        self.codes, first = np.unique(np.concatenate([none, *(codes(one.keys) for one in shards)]), return_index=True)
        self.shard = np.repeat(np.arange(len(shards)), [len(one.keys) for one in shards])[first]
        self.starts = np.concatenate([none, *(one.starts for one in shards)])[first]
        self.stops = np.concatenate([none, *(one.stops for one in shards)])[first]
        self.crc = np.concatenate([none, *(one.crc for one in shards)])[first]
        self.paths = [one.path for one in shards]
        self.maps = [map_file(one.path) for one in shards]
        self.views = [memoryview(one) for one in self.maps]
        self.nbytes = sum(one.size for one in shards)
        self.touched = 0

    def release(self) -> None:
        """Give mapped pages back; they stay in the system's cache and come back when they are read again."""
        self.touched = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            for one in self.maps:
                one.madvise(mmap.MADV_DONTNEED)


def _find(packed: np.ndarray, image: int, view: int) -> int:
    """Return the row of a record, or -1."""
    if not (0 <= image < KEY_LIMIT and 0 <= view < KEY_LIMIT):
        return -1
    code = int(image) << 32 | int(view)
    row = int(packed.searchsorted(code))
    return row if row < len(packed) and packed[row] == code else -1


def verify_checksums(folder: str | Path, progress: Callable[[str, int, int], None] | None = None) -> list[str]:
    """Compare every shard with its SHA-256 and every record with its own checksum.

    Args:
        folder: The cache.
        progress: Told label, bytes done and bytes in all, as `detkd.progress.stages` gives it.

    Returns:
        What is wrong, one line each; empty for a sound cache.

    Raises:
        DataError: If there is no cache.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    names = sorted({path.name for path in shard_files(folder)} if not manifest.complete else manifest.shards)
    paths = [folder / "shards" / name for name in names]
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
    problems: list[str] = []
    stored: list[np.ndarray] = [np.empty(0, np.int64)]
    for number, path in enumerate(paths):
        if progress is not None:
            progress("checksums", sum(sizes[:number]), sum(sizes))
        try:
            shard = open_shard(path, manifest.digest)
        except DataError as err:
            problems.append(str(err))
            continue
        stored.append(codes(shard.keys))
        bad = _damaged_records(shard)
        if bad:
            problems.append(
                f"{path}: {len(bad)} damaged records, the first is image {bad[0][0]}, view {bad[0][1]}; {REPAIR}"
            )
        elif manifest.complete and sha256(path) != manifest.shards[path.name]:
            problems.append(f"{path}: differs from its SHA-256 in {folder / 'cache.json'}; {REPAIR}")
    if progress is not None:
        progress("checksums", sum(sizes), sum(sizes))
    count = len(np.unique(np.concatenate(stored)))
    if not manifest.complete:
        problems.append(
            f"{folder}: not finished, {count:,} of {manifest.expected:,} records; run `detkd cache build` again"
        )
    elif count != manifest.expected and not problems:
        problems.append(f"{folder}: {count:,} of {manifest.expected:,} records; delete that folder and build it anew")
    return problems


def _damaged_records(shard: Shard) -> list[tuple[int, int]]:
    with map_file(shard.path) as data, memoryview(data) as view:
        rows = zip(shard.keys.tolist(), shard.starts.tolist(), shard.stops.tolist(), shard.crc.tolist(), strict=True)
        return [(key[0], key[1]) for key, start, stop, crc in rows if zlib.crc32(view[start:stop]) != crc]
