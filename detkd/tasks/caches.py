"""The teacher's stored answers: found, built where they are missing, and checked before a training relies on them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detkd import ranks
from detkd.caching.catalog import find_caches, touch_used
from detkd.caching.engine import Engine
from detkd.caching.fingerprint import check_fingerprint, differences, digest, plain
from detkd.caching.store import CacheReader, CacheWriter, check_space, create_cache, read_manifest
from detkd.data.records import DataSpec
from detkd.errors import ConfigError, DataError
from detkd.progress import console
from detkd.runs import environment_record
from detkd.tasks.arguments import pick_device
from detkd.tasks.cache_facts import CACHE_ROOT
from detkd.tasks.engines import engine_of, own_device

__all__ = ["Prepared", "prepare", "recheck"]

_WAIT = 5.0
"""Seconds between two looks at whether the other ranks are done."""


@dataclass(frozen=True)
class Prepared:
    """A cache that is ready for training.

    Attributes:
        folder: Where it is.
        kind: "views" or "instances".
        source: Makes the teacher that reads it; takes the class names of the data.
        plan: Fields of `TrainPlan` that make a run show what was stored.
        facts: Bytes, records and seconds of the building, for the run's record.
    """

    folder: Path
    kind: str
    source: Callable[[tuple[str, ...]], Any]
    plan: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(config: Mapping[str, Any], spec: DataSpec, *, check: bool = True) -> Prepared | None:
    """Open the cache of a distillation, building what is missing of it.

    Args:
        config: A resolved `distill` or `cache` configuration.
        spec: The data, its training split as the run sees it.
        check: Whether to ask the teacher again about a few records, as `cache.check` says.

    Returns:
        None where the configuration wants no cache.

    Raises:
        ConfigError: If a key can't be used, or the cache belongs to other settings; names the first that differs.
        DataError: If the cache is damaged, the disk too small, or stored answers differ from live ones.
    """
    from detkd.models.weights import quiet

    if str((config.get("cache") or {}).get("kind") or "none") == "none":
        return None
    with quiet(20 if config.get("verbose") else 40):
        return _prepare(config, spec, check)


def _prepare(config: Mapping[str, Any], spec: DataSpec, check: bool) -> Prepared:
    from detkd.tasks.cache_kinds import open_kind

    node = config["cache"]
    kind = str(node["kind"])
    engine = engine_of(config)
    config = {**config, "device": own_device(config)}
    work = open_kind(kind, config, spec)
    device = pick_device(config["device"], ranks=True)
    folder = _folder(node, spec.name, work.fingerprint)
    if node.get("build") is False and not ((folder / "cache.json").is_file() and read_manifest(folder).complete):
        raise ConfigError(
            f"cache.build: false, and there is no finished cache for these settings in {folder}; build it with "
            "detkd cache build, or set cache.build=true"
        )
    manifest = create_cache(
        folder,
        kind=kind,
        fingerprint=work.fingerprint,
        layout=work.layout,
        expected=len(work.keys),
        facts={**work.facts, "environment": environment_record(), "config": _plain(config)},
    )
    if ranks.launched():
        from detkd.training import group

        if not group.same(manifest.created):
            raise ConfigError(
                f"cache.path: {folder} is another folder on each machine, so none would ever have all records; name "
                "one that all of them share"
            )
    seconds = 0.0
    if not manifest.complete:
        if config.get("threads") and device == "cpu":
            import torch

            torch.set_num_threads(int(config["threads"]))  # how sums are split decides their last digits
        seconds = _build(work, folder, device, engine)
    if ranks.first():
        touch_used(folder)
    reader = CacheReader(folder)
    if check and ranks.first() and int(node.get("check") or 0) > 0 and seconds == 0.0:
        _check(work, reader, int(node["check"]), device)
    built = reader.manifest
    facts = {
        "folder": str(folder),
        "kind": kind,
        "records": len(reader),
        "bytes": reader.nbytes,
        "bytes_per_record": round(reader.nbytes / max(len(reader), 1), 1),
        "build_seconds": round(built.seconds, 1),
        "layout": work.layout,
    }
    return Prepared(folder, kind, work.source(reader), work.plan(reader), facts)


def recheck(folder: str | Path, count: int) -> list[str]:
    """Ask the teacher of a cache again about `count` random records.

    Returns:
        What differs by more than the cache's precision explains, one line each; none where all is well.

    Raises:
        ConfigError: If the teacher, the images or the settings are not those the cache was built with.
    """
    from detkd.tasks.cache_kinds import open_kind
    from detkd.tasks.common import get_data
    from detkd.tasks.pool import with_unlabelled

    reader = CacheReader(folder)
    config = reader.manifest.facts.get("config")
    if not isinstance(config, dict):
        raise DataError(
            f"checks: {folder} does not say how it was built (detkd pseudolabel makes such), so its teacher can't be "
            "asked again; use checks=0"
        )
    spec = with_unlabelled(get_data(config["data"]), config)
    work = open_kind(reader.manifest.kind, config, spec)
    check_fingerprint(reader.manifest.fingerprint, work.fingerprint, folder=Path(folder))
    return list(work.check(reader, count, pick_device("auto", ranks=True)))


def _folder(node: Mapping[str, Any], name: str, fingerprint: Mapping[str, Any]) -> Path:
    """Return the cache's folder; says what differs from the nearest other one when a new one is begun."""
    if node.get("path"):
        return Path(str(node["path"])).expanduser().resolve()
    folder = (CACHE_ROOT / f"{node['kind']}-{name}-{digest(fingerprint)}").resolve()
    if not folder.exists():
        alike = (info for info in find_caches(CACHE_ROOT) if info.folder.name.startswith(f"{node['kind']}-{name}-"))
        if kin := [info for info in alike if info.kind]:
            newest = max(kin, key=lambda info: info.created)
            stored = read_manifest(newest.folder).fingerprint
            changed = [field for field, _, _ in differences(stored, plain(fingerprint))]
            console.print(f"[dim]{newest.folder.name} can't be used: {', '.join(changed[:3])} differ[/dim]")
    return folder


def _build(work: Any, folder: Path, device: str, engine: Engine) -> float:
    rank, world_size = ranks.rank(), ranks.world_size()
    with CacheWriter(folder, rank=rank, world_size=world_size) as writer:
        mine = work.keys[rank::world_size]
        left = writer.missing(mine)
        if left:
            need = work.record_bytes * len(left)
            when = f"on {engine.where}" if engine.where else work.time_estimate(len(left), device)
            console.print(
                f"cache: {len(left):,} of {len(work.keys):,} records to store, about {need / 1e6:,.1f} MB "
                f"({shutil.disk_usage(folder).free / 1e9:,.1f} GB free), {when}"
            )
            check_space(folder, need)
            work.build(writer, mine, device, engine)
        manifest = writer.finish()
    if not manifest.complete:
        console.print(f"cache: rank {rank} of {world_size} is done and waits for the others")
    while not manifest.complete:
        time.sleep(_WAIT)
        with CacheWriter(folder, rank=rank, world_size=world_size) as writer:
            manifest = writer.finish()
    console.print(f"[dim]cache: {folder}[/dim]")
    return max(manifest.seconds, 1e-9)


def _check(work: Any, reader: CacheReader, count: int, device: str) -> None:
    problems = list(work.check(reader, count, device))
    if problems:
        raise DataError(
            f"cache.check: {problems[0]} (and {len(problems) - 1} more); the cache does not hold what this teacher "
            "says here, build it anew at another cache.path"
        )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration as JSON values."""
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(config)))
    return plain
