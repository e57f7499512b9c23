"""`detkd cache`: stored answers of a teacher, built ahead of a training, listed, checked and removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from detkd.errors import ConfigError, DataError
from detkd.progress import console, out, stages
from detkd.tasks.cache_facts import CACHE_ROOT

if TYPE_CHECKING:
    from detkd.caching.catalog import CacheInfo

__all__ = ["CacheResult", "cache"]


@dataclass(frozen=True)
class CacheResult:
    """What a `detkd cache` did.

    Attributes:
        action: build, info, verify or prune.
        folders: The cache that was built or verified, those listed, or those removed.
        facts: One dictionary of JSON values for each of the folders.
    """

    action: str
    folders: tuple[Path, ...] = ()
    facts: tuple[dict[str, Any], ...] = field(default=())


def cache(config: dict[str, Any]) -> CacheResult:
    """Run `detkd cache`.

    Raises:
        ConfigError: If a key can't be used.
        DataError: If a cache is damaged or does not hold what its teacher says.
    """
    action = str(config["action"])
    for key, of in _ONLY.items():
        if config.get(key) and action not in of:
            raise ConfigError(f"{key}: is for detkd cache {' and '.join(of)}, not for {action}; leave it out")
    return {"build": _build, "info": _info, "verify": _verify, "prune": _prune}[action](config)


_ONLY = {
    "path": ("info", "verify", "prune"),
    "json": ("info",),
    "unfinished": ("prune",),
    "older_days": ("prune",),
    "max_gb": ("prune",),
    "dry_run": ("prune",),
}
"""Keys that belong to some actions only: `detkd cache build runs/x` would build elsewhere without a word."""


def _build(config: dict[str, Any]) -> CacheResult:
    from detkd.models.weights import quiet
    from detkd.tasks.caches import prepare
    from detkd.tasks.common import get_data
    from detkd.tasks.engines import check_engine
    from detkd.tasks.pool import with_unlabelled
    from detkd.tasks.teachers import with_packaged_teacher

    check_engine(config)
    node = config.get("cache") or {}
    if str(node.get("kind") or "none") == "none":
        raise ConfigError(
            "cache: none stores nothing; use cache=views (exact under augmentation, for one teacher and student) or "
            "cache=instances (objects of any teacher, for any student)"
        )
    if node.get("build") is False:
        raise ConfigError("cache.build: false forbids what detkd cache build is for; leave it out")
    config = with_packaged_teacher(config)
    with quiet(20 if config.get("verbose") else 40):
        prepared = prepare(config, with_unlabelled(get_data(config["data"]), config))
    assert prepared is not None
    facts = prepared.facts
    out.print(
        f"{prepared.folder}: {facts['records']:,} records, {size_text(facts['bytes'])}, "
        f"{facts['bytes_per_record']:,.0f} bytes each, built in {facts['build_seconds']:,.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    console.print("use it: the same keys with detkd distill find it by themselves")
    return CacheResult("build", (prepared.folder,), (facts,))


def _info(config: dict[str, Any]) -> CacheResult:
    root = _root(config)
    found = _find(root)
    facts = tuple(_facts(info) for info in found)
    if config.get("json"):
        print(json.dumps(list(facts), indent=2, ensure_ascii=False))
    else:
        out.print(caches_table(found, root))
        for info in found:
            if info.broken:
                out.print(f"{info.folder.name}: {info.broken}", style="yellow", highlight=False, soft_wrap=True)
        if len(found) == 1:
            for name, value in facts[0]["facts"].items():
                if not isinstance(value, (dict, list)):
                    out.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    return CacheResult("info", tuple(info.folder for info in found), facts)


def _verify(config: dict[str, Any]) -> CacheResult:
    from detkd.caching.store import verify_checksums
    from detkd.models.weights import quiet
    from detkd.tasks.caches import recheck

    if not config.get("path"):
        raise ConfigError("path: missing; name the folder of a cache, e.g. detkd cache verify runs/cache/views-toy-...")
    folder, count = Path(str(config["path"])).expanduser(), int(config["checks"])
    if count < 0:
        raise ConfigError(f"checks: must be 0 or more, got {count}; 0 compares checksums only")
    with stages() as progress:
        problems = verify_checksums(folder, progress)
    if problems:
        raise DataError("\n".join([*problems, f"path: {folder} is damaged; remove it and build it again"]))
    with quiet(20 if config.get("verbose") else 40):
        problems = list(recheck(folder, count)) if count else []
    if problems:
        raise DataError("\n".join([*problems, f"path: {folder} does not hold what its teacher says; build it again"]))
    (info,) = _find(folder)
    asked = f", {min(count, info.records)} of them asked again" if count else ""
    out.print(f"{folder}: {info.records:,} records are as they were written{asked}", highlight=False, soft_wrap=True)
    return CacheResult("verify", (folder,), (_facts(info),))


def _prune(config: dict[str, Any]) -> CacheResult:
    from detkd.caching.catalog import prune, remove

    days, most = config.get("older_days"), config.get("max_gb")
    for key, value in (("older_days", days), ("max_gb", most)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
            raise ConfigError(f"{key}: must be a number of 0 or more, got {value!r}; e.g. {key}=30")
    if not config["unfinished"] and days is None and most is None:
        raise ConfigError("prune: say what to remove: unfinished=true, older_days=30 or max_gb=10")
    chosen = prune(
        _find(_root(config)),
        unfinished=bool(config["unfinished"]),
        older_days=None if days is None else float(days),
        max_bytes=None if most is None else int(most * 1e9),
    )
    gone = []
    for info in chosen:
        line = f"{info.folder} ({size_text(info.bytes)})"
        if config["dry_run"]:
            out.print(f"would remove {line}", highlight=False, soft_wrap=True)
            continue
        try:
            remove(info)
        except DataError as err:  # one that is being built is left alone
            console.print(f"[yellow]{err}[/yellow]")
            continue
        gone.append(info)
        out.print(f"removed {line}", highlight=False, soft_wrap=True)
    if not chosen:
        out.print("nothing to remove")
    return CacheResult("prune", tuple(info.folder for info in gone), tuple(_facts(info) for info in gone))


def _root(config: Mapping[str, Any]) -> Path:
    return Path(str(config.get("path") or CACHE_ROOT)).expanduser()


def _find(root: Path) -> list[CacheInfo]:
    from detkd.caching.catalog import find_caches

    if not root.is_dir() and root != CACHE_ROOT:
        raise ConfigError(f"path: no such folder, got {root}; name a cache, or a folder that holds caches")
    return find_caches(root)


def _facts(info: CacheInfo) -> dict[str, Any]:
    """Return what is known about a cache as JSON values."""
    return {
        "folder": str(info.folder),
        "kind": info.kind,
        "fingerprint": info.digest,
        "records": info.records,
        "expected": info.expected,
        "complete": info.complete,
        "bytes": info.bytes,
        "created": info.created,
        "last_used": _when(info.last_used).isoformat(timespec="seconds"),
        "broken": info.broken,
        "facts": info.facts,
    }


def size_text(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _records(info: CacheInfo) -> str:
    if info.broken:
        return "damaged"
    return f"{info.records:,}" if info.complete else f"{info.records:,} of {info.expected:,}"


def caches_table(found: Sequence[CacheInfo], root: Path) -> Table:
    """Return all caches below a folder as a table."""
    total = size_text(sum(info.bytes for info in found))
    caption = f"{len(found)} cache{'s' * (len(found) > 1)}, {total}"
    table = Table(title=f"caches in {root}", caption=caption if found else "none yet; detkd cache build makes one")
    table.add_column("cache", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for name in ("records", "size", "bytes each", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    for info in found:
        each = f"{info.bytes / info.records:,.0f}" if info.records else "-"
        cells = (_records(info), size_text(info.bytes), each, f"{_when(info.last_used):%Y-%m-%d}")
        table.add_row(info.folder.name, info.kind, *cells)
    return table


def _when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()
