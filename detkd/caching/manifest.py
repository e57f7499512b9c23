"""What a cache folder says about itself, and who may write to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from detkd.caching.fingerprint import check_fingerprint, digest, plain
from detkd.caching.shards import open_shard, rank_of, write_durably
from detkd.errors import DataError
from detkd.io import read_json
from detkd.progress import console

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Manifest",
    "check_space",
    "create_cache",
    "is_manifest",
    "locked",
    "read_manifest",
    "write_manifest",
]

SCHEMA = 1
MANIFEST = "cache.json"
_FORMAT = "detkd-cache"
_KINDS: dict[str, Any] = {
    "kind": str, "fingerprint": dict, "layout": dict, "expected": int, "complete": bool, "created": str,
    "seconds": (int, float), "shards": dict, "facts": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """Contents of `cache.json`.

    Attributes:
        kind: "views" or "instances".
        fingerprint: Everything the stored bytes depend on, JSON values.
        layout: How a record is to be read, JSON values.
        expected: Records of the finished cache.
        complete: Whether all of them are there and `shards` is filled.
        created: When it was begun, ISO 8601 in UTC.
        seconds: Time spent on building; interrupted attempts and several ranks add up.
        shards: SHA-256 of each shard by file name, once complete.
        facts: Anything worth showing: versions, teacher, configuration of the build.
        schema: Version of the folder's format.
    """

    kind: str
    fingerprint: dict[str, Any]
    layout: dict[str, Any]
    expected: int
    complete: bool = False
    created: str = ""
    seconds: float = 0.0
    shards: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """16 hex digits that stand for the fingerprint."""
        return digest(self.fingerprint)


def create_cache(
    folder: str | Path,
    *,
    kind: str,
    fingerprint: Mapping[str, Any],
    layout: Mapping[str, Any],
    expected: int,
    facts: Mapping[str, Any],
) -> Manifest:
    """Begin a cache, or open the one that is there.

    A finished cache with a shard that is missing or damaged is opened for building again.

    Args:
        folder: The cache's own folder.
        kind: "views" or "instances".
        fingerprint: Everything the stored bytes depend on.
        layout: How a record is to be read.
        expected: Records of the finished cache, at least 1.
        facts: Anything worth showing; those of an existing cache are kept.

    Raises:
        ConfigError: If there is a cache for something else; names the first field that differs.
        DataError: If the folder can't be written, or nothing is to be stored.
    """
    folder = Path(folder)
    if expected < 1:
        raise DataError(f"cache: at least one record must be stored, got {expected}; are there images to train on?")
    wanted = Manifest(kind, plain(fingerprint), plain(layout), expected, created=datetime.now(UTC).isoformat())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"cache.path: can't make {folder} ({err.strerror or err}); choose a writable folder") from err
    with locked(folder):
        if not (folder / MANIFEST).exists():
            wanted = replace(wanted, facts=plain(facts))
            write_manifest(folder, wanted)
            return wanted
        stored = read_manifest(folder)
        check_fingerprint({"kind": stored.kind}, {"kind": kind}, folder=folder)
        check_fingerprint(stored.fingerprint, wanted.fingerprint, folder=folder)
        sizes = ({"layout": one.layout, "expected": one.expected} for one in (stored, wanted))
        check_fingerprint(*sizes, folder=folder)
        if stored.complete and (problem := _damage(folder, stored)):
            console.print(
                f"cache: {problem.split(';')[0]}; its records are made anew",
                style="yellow",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            stored = replace(stored, complete=False, shards={})
            write_manifest(folder, stored)
        return stored


def read_manifest(folder: str | Path) -> Manifest:
    """Read `cache.json`.

    Raises:
        DataError: If there is none, or it is none of ours.
    """
    file = Path(folder) / MANIFEST
    if not file.is_file():
        raise DataError(f"cache.path: no cache in {folder}; build one with `detkd cache build`, or check the path")
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{file}: not the description of a teacher cache; check cache.path")
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"{file}: written by another version of detkd (schema {content.get('schema')}, this one reads {SCHEMA}); "
            "build the cache anew at another cache.path"
        )
    names = {one.name for one in fields(Manifest)}
    if names - content.keys():
        raise DataError(f"{file}: {', '.join(sorted(names - content.keys()))} missing; build the cache anew elsewhere")
    wrong = [name for name, kind in _KINDS.items() if not isinstance(content[name], kind)]
    if not wrong and not all(rank_of(Path(name)) >= 0 and Path(name).name == name for name in content["shards"]):
        wrong = ["shards"]  # a name with folders in it would lead elsewhere
    if wrong:
        raise DataError(f"{file}: {', '.join(wrong)} can't be what detkd wrote; build the cache anew elsewhere")
    return Manifest(**{name: content[name] for name in names})


def is_manifest(file: Path) -> bool:
    """Return whether a file is the description of a teacher cache, of whatever version."""
    try:
        content = read_json(file)
    except DataError:
        return False
    return isinstance(content, dict) and content.get("format") == _FORMAT


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `cache.json`; the caller holds the folder's lock."""
    content = {"format": _FORMAT, **asdict(manifest)}
    write_durably(folder / MANIFEST, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode())


def check_space(folder: str | Path, needed_bytes: int) -> None:
    """Refuse to start what will not fit.

    Raises:
        DataError: If less than `needed_bytes` are free on the folder's file system.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise DataError(
            f"cache.path: {folder} needs {needed_bytes / 1e9:,.3f} GB, got {free / 1e9:,.3f} GB free; make room, "
            "choose another cache.path, or store less (fewer views or anchors)"
        )


@contextmanager
def locked(folder: Path, name: str = ".lock", *, waiting: str = "", wait: bool = True) -> Iterator[bool]:
    """Hold a lock of the folder; the system frees it when a process dies, however it does.

    Args:
        folder: The cache.
        name: File of the lock.
        waiting: What to tell the user when somebody else holds it.
        wait: False yields False at once when somebody else holds it.

    Raises:
        DataError: If the folder can't be written or its file system knows no locks.
    """
    lock = FileLock(folder / name)
    try:
        free = _try(lock)
        if not free and wait:
            if waiting:
                console.print(waiting, highlight=False, markup=False, soft_wrap=True)
            lock.acquire()
            free = True
    except (OSError, NotImplementedError) as err:
        raise DataError(
            f"cache.path: can't lock {folder} ({getattr(err, 'strerror', None) or err}); choose a writable folder on a "
            "file system with locks"
        ) from err
    try:
        yield free
    finally:
        lock.release()


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _damage(folder: Path, manifest: Manifest) -> str:
    """Return what is wrong with a finished cache as far as its tables show, or an empty string."""
    for name in manifest.shards:
        try:
            open_shard(folder / "shards" / name, manifest.digest)
        except DataError as err:
            return str(err)
    return ""
