"""What stored answers cost on this machine: bytes, seconds and memory per record, with detkd's own code."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from timeit import timeit
from typing import Any

import detkd.environment

import numpy as np
import torch

from detkd.caching.objects import SoftObjects, encode_objects
from detkd.caching.shards import shard_files
from detkd.caching.store import CacheReader, CacheWriter, create_cache
from detkd.caching.views import ViewDecoder, ViewLayout, encode_views
from detkd.io import sha256
from detkd.models.teacher import LiveTeacher
from detkd.models.weights import build_detector
from detkd.progress import console
from detkd.tasks.cache_objects import ObjectLookup
from detkd.training.sampler import EpochSampler
from detkd.training.views import Phases, student_grid, view_keys
from detkd.types import View

BATCH = 8
CLASSES = 80


def best(job: Callable[[], Any], repeats: int = 3) -> float:
    """Return the processor's seconds of the cheapest of some calls, so that others may use this machine, too."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        job()
        found.append(time.process_time() - start)
    return min(found)


def held(job: Callable[[], Any]) -> tuple[Any, int, int]:
    """Return what a call returns, the bytes that this holds, and the most bytes the call held."""
    tracemalloc.start()
    result = job()
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return result, now, peak


def names() -> list[str]:
    return [f"class {i}" for i in range(CLASSES)]


def layouts() -> dict[str, ViewLayout]:
    def layout(k: int | None, precision: str, classes: int | None = 8) -> ViewLayout:
        return ViewLayout(
            branches=("one2many", "one2one"), anchors=8400, num_classes=CLASSES, k=k, classes=classes,
            precision=precision, imgsz=(640, 640), strides=(8, 16, 32),
        )  # fmt: skip

    return {
        "K 128, int8": layout(128, "int8"),
        "K 32, int8": layout(32, "int8"),
        "K 128, float16": layout(128, "float16"),
        "all anchors and classes, float16": layout(None, "float16", None),
    }


def store(folder: Path, payloads: Sequence[bytes], count: int, kind: str) -> tuple[float, float, CacheReader]:
    """Write `count` records with the real writer; return seconds and bytes on disk per record, and a reader.

    These are seconds by the clock: the writer waits until the disk has the bytes.
    """
    create_cache(folder, kind=kind, fingerprint={}, layout={}, expected=count, facts={})
    start = time.perf_counter()
    with CacheWriter(folder) as writer:
        for number, payload in zip(range(count), itertools.cycle(payloads), strict=False):
            writer.add(number, 0, payload)
        writer.finish()
    seconds = time.perf_counter() - start
    return seconds / count, sum(path.stat().st_size for path in shard_files(folder)) / count, CacheReader(folder)


def read_views(reader: CacheReader, decoder: ViewDecoder, grid: View) -> None:
    """Read and unpack 16 batches at random."""
    rng = np.random.default_rng(0)
    for _ in range(16):
        records = [reader.read(int(i), 0) for i in rng.integers(len(reader), size=BATCH)]
        decoder(records, anchor_points=grid.anchor_points, strides=grid.strides)


def stored_views(folder: Path) -> dict[str, Any]:
    """Return bytes and seconds of stored views, at 640 pixels and 80 classes."""
    console.print("[dim]stored views[/dim]")
    teacher = LiveTeacher(build_detector("yolo26n.yaml", names(), key="teacher"), names())
    grid = student_grid(640, (8, 16, 32), torch.device("cpu"))
    view = teacher.answer({"img": torch.rand(BATCH, 3, 640, 640)}, grid)
    found: dict[str, Any] = {}
    for title, layout in layouts().items():
        payloads = encode_views(view, layout)
        small = layout.record_bytes() < 100_000
        write, size, reader = store(
            folder / f"views{len(found)}", payloads, 20_000 if title == "K 128, int8" else 512 if small else 32, "views"
        )
        found[title] = {"bytes": size, "write_seconds": write}
        if title == "K 128, int8":
            found[title]["encode_seconds"] = best(partial(encode_views, view, layout)) / BATCH
            job = partial(read_views, reader, ViewDecoder(layout), grid)
            job()
            found[title]["read_seconds"] = best(job) / (16 * BATCH)
    return found


def stored_objects(folder: Path) -> dict[str, Any]:
    """Return bytes and seconds of stored objects by their number, 8 of 80 classes each."""
    console.print("[dim]stored objects[/dim]")
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for count in (0, 4, 12, 50):
        corner = rng.random((count, 2)) * 300
        boxes = np.concatenate([corner, corner + 20 + rng.random((count, 2)) * 100], 1).astype(np.float32)
        probs = rng.random((count, CLASSES), dtype=np.float32)
        objects = SoftObjects(boxes, probs, rng.random(count, dtype=np.float32))
        pack = partial(encode_objects, objects, size=(640, 480), classes=8, max_objects=100)
        write, size, reader = store(folder / f"objects{count}", [pack()], 20_000, "instances")
        look = ObjectLookup(reader, [(640, 480)] * len(reader), CLASSES)
        rows = rng.integers(len(reader), size=1000).tolist()
        found[str(count)] = {
            "bytes": size,
            "write_seconds": write,
            "encode_seconds": timeit(pack, timer=time.process_time, number=200) / 200,
            "read_seconds": best(partial(list, map(look, rows)), 1) / len(rows),
        }
    return found


def tables(folder: Path, count: int = 300_000) -> dict[str, float]:
    """Return what the index of a cache and the lists of keys hold in memory, per record."""
    console.print("[dim]index of a cache[/dim]")
    _, _, reader = store(folder / "index", [b"12345678"], count, "instances")
    del reader
    seconds = best(lambda: CacheReader(folder / "index"))
    _, now, peak = held(lambda: CacheReader(folder / "index"))
    keys, key_bytes, _ = held(lambda: view_keys(count // 4, Phases(main=4, closing=0, first=4)))
    _, pass_bytes, pass_peak = held(lambda: list(EpochSampler(count, seed=0)))
    shard = shard_files(folder / "index")[0]
    return {
        "records": count,
        "index_bytes": now / count,
        "index_peak_bytes": peak / count,
        "index_open_seconds": seconds / count,
        "table_bytes_on_disk": 20.0,
        "build_key_bytes": key_bytes / len(keys),
        "sampler_bytes": pass_bytes / count,
        "sampler_peak_bytes": pass_peak / count,
        "sha_seconds_per_byte": best(lambda: sha256(shard)) / shard.stat().st_size,
    }
