"""Which caches there are, and which may go."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detkd.caching.manifest import MANIFEST, is_manifest, locked, read_manifest
from detkd.caching.reader import CacheReader
from detkd.caching.shards import rank_of
from detkd.errors import DataError, DetkdError
from detkd.io import write_text
from detkd.progress import console

__all__ = ["CacheInfo", "find_caches", "prune", "remove", "touch_used"]

_USED = "used"
_OURS = ("images.json", ".images-*.json", _USED, f".{_USED}-*", ".cache-*.json")
"""What lies in a cache folder besides its shards, its description and its locks."""


@dataclass(frozen=True)
class CacheInfo:
    """One cache.

    Attributes:
        folder: Where it is.
        kind: "views" or "instances"; empty where its description can't be read.
        digest: Of its fingerprint.
        records: Records it holds.
        expected: Records of the finished cache.
        complete: Whether all are there.
        bytes: Size of everything in the folder.
        created: When it was begun, ISO 8601 in UTC.
        last_used: When it was last built or trained with, seconds since 1970.
        broken: What is wrong with it, or None.
        facts: What its builder noted.
    """

    folder: Path
    kind: str
    digest: str
    records: int
    expected: int
    complete: bool
    bytes: int
    created: str
    last_used: float
    broken: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def touch_used(folder: str | Path) -> None:
    """Note that a cache is used; a folder that can't be written keeps its old date."""
    with suppress(DetkdError, OSError):
        write_text(Path(folder) / _USED, f"{time.time():.0f}\n")


def find_caches(root: str | Path) -> list[CacheInfo]:
    """Return the cache at `root`, or those in the folders below it, by name."""
    place = Path(root)
    files = [place / MANIFEST] if (place / MANIFEST).is_file() else sorted(place.glob(f"*/{MANIFEST}"))
    return [_info(file.parent) for file in files]


def _info(folder: Path) -> CacheInfo:
    sizes: list[int] = []
    for file in folder.rglob("*"):
        with suppress(OSError):  # a temporary file of a running build may be gone by now
            sizes.append(file.stat().st_size if file.is_file() else 0)
    size = sum(sizes)
    used = folder / _USED
    when = (used if used.is_file() else folder / MANIFEST).stat().st_mtime
    try:
        manifest = read_manifest(folder)
    except DetkdError as err:
        return CacheInfo(folder, "", "", 0, 0, False, size, "", when, str(err))
    broken, records = None, 0
    try:
        records = len(CacheReader(folder, partial=not manifest.complete))
    except DetkdError as err:
        broken = str(err)
    return CacheInfo(
        folder, manifest.kind, manifest.digest, records, manifest.expected, manifest.complete, size, manifest.created,
        when, broken, manifest.facts,
    )  # fmt: skip


def prune(
    caches: Iterable[CacheInfo],
    *,
    unfinished: bool = False,
    older_days: float | None = None,
    max_bytes: int | None = None,
    keep: Collection[str] = (),
) -> list[CacheInfo]:
    """Choose caches to remove; nothing is removed here.

    Args:
        caches: Those there are.
        unfinished: Take those that are not complete or broken.
        older_days: Take those nobody used for so many days.
        max_bytes: Take the least recently used until those that stay fit into so many bytes.
        keep: Digests of fingerprints that stay whatever happens.
    """
    every = list(caches)
    found = [info for info in every if info.digest not in keep]
    limit = None if older_days is None else time.time() - older_days * 86400
    chosen = [
        info
        for info in found
        if (unfinished and (not info.complete or info.broken)) or (limit is not None and info.last_used < limit)
    ]
    if max_bytes is not None:
        left = sorted((info for info in found if info not in chosen), key=lambda info: info.last_used)
        size = sum(info.bytes for info in every if info not in chosen)
        while left and size > max_bytes:
            info = left.pop(0)
            size -= info.bytes
            chosen.append(info)
    return chosen


def remove(info: CacheInfo) -> None:
    """Delete a cache. Files in its folder that are not the cache's stay, and the folder with them.

    Raises:
        DataError: If the folder holds no cache of ours, or somebody is building it.
    """
    folder = info.folder
    if not is_manifest(folder / MANIFEST):
        raise DataError(f"path: {folder} holds no cache of ours and was left alone; delete it by hand if it can go")
    with ExitStack() as stack:
        for name in sorted({".lock", *(lock.name for lock in folder.glob(".lock-r*"))}):
            if not stack.enter_context(locked(folder, name, wait=False)):
                raise DataError(f"path: {folder} is being built and was left alone; try again when that is done")
        ours = [path for path in (folder / "shards").glob("*") if rank_of(path) >= 0]
        ours += [path for pattern in _OURS for path in folder.glob(pattern)]
        # The description goes last: what an interrupted removal leaves is still listed, as damaged.
        for path in [*ours, folder / MANIFEST]:
            path.unlink(missing_ok=True)
    for path in folder.glob(".lock*"):
        path.unlink(missing_ok=True)
    for place in (folder / "shards", folder):
        with suppress(OSError):
            place.rmdir()
    if folder.exists():
        console.print(
            f"{folder} holds other files and stays, without the cache", highlight=False, markup=False, soft_wrap=True
        )
