"""Writing a cache, so that a build can be killed at any moment and goes on from there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from detkd.caching.manifest import Manifest, locked, read_manifest, write_manifest
from detkd.caching.shards import KEY_LIMIT, codes, open_shard, rank_of, shard_files, shard_name, write_shard
from detkd.errors import DataError
from detkd.io import PART, sha256
from detkd.progress import console, track

__all__ = ["CacheWriter"]

_FLUSH_SECONDS = 300.0
"""At most this much of a slow teacher's work is lost when the build is killed."""
_BAR_FROM = 2 << 30
"""Bytes from which on hashing takes long enough for a progress bar."""


class CacheWriter:
    """Stores records; a context manager that holds the lock of its rank.

    A second writer of the same folder and rank waits, and then finds the work done. Records that were added but are
    not in a shard yet are written when the block is left, whatever the reason.

    Args:
        folder: A folder `create_cache` has begun.
        rank: Number of this process; each writes shards of its own.
        world_size: Number of processes that build this cache together.
        shard_bytes: A shard is closed when it holds this much.
    """

    def __init__(self, folder: str | Path, *, rank: int = 0, world_size: int = 1, shard_bytes: int = 64 << 20) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        self.folder = Path(folder)
        self.rank = rank
        self.world_size = world_size
        self.shard_bytes = shard_bytes
        self._manifest: Manifest | None = None
        self._stack = ExitStack()
        self._failed = False
        self._started = 0.0
        self._stored: dict[str, np.ndarray] = {}
        self._clear()

    def __enter__(self) -> CacheWriter:
        read_manifest(self.folder)
        with ExitStack() as stack:
            stack.enter_context(self._rank_lock(self.rank))
            self._manifest = read_manifest(self.folder)
            self._started = time.monotonic()
            self._failed = False
            self._stored.clear()
            self._clear()
            self._sweep()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # After a failed attempt the first error is the one to act on.
            if not self._failed:
                self._flush()
        finally:
            self._manifest = None
            self._stack.close()

    def missing(self, keys: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return those of `keys` (image, view) that nobody has stored yet, in the same order."""
        manifest = self._opened()
        wanted = [(int(image), int(view)) for image, view in keys]
        for path in shard_files(self.folder):
            if path.name not in self._stored:
                self._stored[path.name] = codes(open_shard(path, manifest.digest).keys)
        known = [codes(np.array(self._keys, dtype=np.int64)), *self._stored.values()]
        stored = np.isin(codes(np.array(wanted, dtype=np.int64)), np.concatenate(known))
        return [key for key, there in zip(wanted, stored.tolist(), strict=True) if not there]

    def add(self, image: int, view: int, payload: bytes) -> None:
        """Store a record; of several under one key the first counts.

        Raises:
            DataError: If a shard can't be written, a full disk included. What was stored before stays.
        """
        self._opened()
        if not (0 <= image < KEY_LIMIT and 0 <= view < KEY_LIMIT):
            raise ValueError(f"image and view must be in [0, {KEY_LIMIT}), got {image}, {view}")
        self._keys.append((int(image), int(view)))
        self._payloads.append(bytes(payload))
        self._bytes += len(payload)
        if self._bytes >= self.shard_bytes or time.monotonic() - self._begun >= _FLUSH_SECONDS:
            self._flush()

    def finish(self) -> Manifest:
        """Write what is left; completes the cache if every record of all ranks is there.

        Returns:
            The description; `complete` is False while other ranks are at work.

        Raises:
            DataError: If a shard can't be written or read, or there are more records than the cache expects.
        """
        self._flush()
        with locked(self.folder):
            self._manifest = manifest = self._spent(read_manifest(self.folder))
            if manifest.complete:
                return manifest
            shards = [open_shard(path, manifest.digest) for path in shard_files(self.folder)]
            count = len(np.unique(np.concatenate([np.empty(0, np.int64), *(codes(one.keys) for one in shards)])))
            if count > manifest.expected:
                raise DataError(
                    f"cache: {self.folder} holds {count:,} records, expected {manifest.expected:,}; delete that folder "
                    "and build it anew"
                )
            if count == manifest.expected:
                large = sum(one.size for one in shards) > _BAR_FROM
                hashed = track(shards, "checksums") if large else shards
                sums = {one.path.name: sha256(one.path) for one in hashed}
                self._manifest = manifest = replace(manifest, complete=True, shards=sums)
            write_manifest(self.folder, manifest)
            return manifest

    def _opened(self) -> Manifest:
        if self._manifest is None:
            raise RuntimeError("a CacheWriter is used inside its `with` block")
        return self._manifest

    def _clear(self) -> None:
        self._keys: list[tuple[int, int]] = []
        self._payloads: list[bytes] = []
        self._bytes = 0
        self._begun = time.monotonic()

    def _flush(self) -> None:
        """Write the records held in memory as one shard; they are kept when that fails."""
        manifest = self._opened()
        if not self._keys:
            self._begun = time.monotonic()
            return
        number = 0
        while (path := self.folder / "shards" / shard_name(self.rank, number)).exists():
            number += 1
        self._failed = True
        write_shard(path, manifest.digest, self._keys, self._payloads)
        self._failed = False
        self._stored[path.name] = codes(np.array(self._keys, dtype=np.int64))
        self._clear()
        with locked(self.folder):
            write_manifest(self.folder, self._spent(read_manifest(self.folder)))

    def _rank_lock(self, rank: int, *, wait: bool = True) -> AbstractContextManager[bool]:
        part = f" (rank {rank})" if self.world_size > 1 else ""
        message = f"cache: another process is building {self.folder}{part}; waiting for it"
        return locked(self.folder, f".lock-r{rank:02d}", waiting=message, wait=wait)

    def _spent(self, manifest: Manifest) -> Manifest:
        """Add the time since the last call; written with each shard, so that a killed build counts, too."""
        now = time.monotonic()
        spent, self._started = now - self._started, now
        return manifest if manifest.complete else replace(manifest, seconds=round(manifest.seconds + spent, 3))

    def _sweep(self) -> None:
        """Remove what killed builds have left: temporary files, and shards that are no longer whole."""
        with locked(self.folder):
            manifest = read_manifest(self.folder)
            for pattern in (".cache-*.json", f".images-*{PART}.json", f".used-*{PART}"):
                for path in self.folder.glob(pattern):
                    path.unlink(missing_ok=True)
        left: dict[int, list[Path]] = {}
        for path in (self.folder / "shards").glob(".r*.safetensors"):
            left.setdefault(rank_of(path), []).append(path)
        # A finished cache may have readers; `create_cache` opens a damaged one for building again.
        for path in [] if manifest.complete else shard_files(self.folder):
            try:
                open_shard(path, manifest.digest)
            except DataError as err:
                console.print(
                    f"cache: {str(err).split(';')[0]}; it is removed and made anew",
                    style="yellow",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
                left.setdefault(rank_of(path), []).append(path)
        for rank, paths in left.items():
            with nullcontext(True) if rank == self.rank else self._rank_lock(rank, wait=False) as idle:
                for path in paths if idle else ():
                    path.unlink(missing_ok=True)
