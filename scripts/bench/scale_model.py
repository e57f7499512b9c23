"""What supplying a teacher's answers costs: pure functions from measured costs per image and stated assumptions.

Seconds, bytes, US dollars and frames throughout; GB is 1e9 bytes, GiB is 2**30. "Extra" is against the same training
without a teacher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import yaml

DESIGNS = ("live", "views", "instances")
SHARD_BYTES = 64 << 20  # detkd writes a shard when it is full, or
FLUSH_SECONDS = 300.0  # after so long


@dataclass(frozen=True)
class Costs:
    """Measured costs per image; seconds are those of one processor thread."""

    teacher: float
    step: float
    sample: float
    decode: float
    frames_per_sample: float
    frame_bytes: float
    load: float
    digest: float
    record_bytes: Mapping[str, float]
    encode: Mapping[str, float]
    write: Mapping[str, float]
    read: Mapping[str, float]
    set_memory: float
    index_memory: float
    key_memory: float
    sha_byte: float


@dataclass(frozen=True)
class Assumptions:
    """What can't be measured here; see scale.yaml for units and sources."""

    epochs: float
    closing: float
    views: float
    looks: float
    runs: float
    gpu_speedup_teacher: float
    gpu_speedup_student: float
    threads: float
    memory_gib: float
    machines: float
    mtbf_hours: float
    repair_seconds: float
    network_gbit: float
    requests_per_second: float
    price_gpu_hour: float
    price_frame_gb_month: float
    price_cache_gb_month: float
    price_network_gb: float
    price_million_reads: float
    months: float


@dataclass(frozen=True)
class Stage:
    """One kind of work on one image.

    Attributes:
        gpu: Seconds in which the GPU and the process that feeds it are busy.
        cpu: Seconds of one loader thread.
        down: Bytes read from storage.
        up: Bytes written to storage.
        requests: Single files read.
        saved: Images of a full shard; a machine that fails loses what came since. 0: only the end of a pass is saved.
        together: Whether all machines stop when one fails.
    """

    gpu: float
    cpu: float
    down: float
    up: float
    requests: float
    saved: float = 0.0
    together: bool = False


@dataclass(frozen=True)
class Bill:
    """Extra cost of one design."""

    passes: float
    teacher_hours: float
    gpu_hours: float
    stored: float
    network: float
    requests: float
    gpu_money: float
    storage_money: float
    network_money: float

    @property
    def total(self) -> float:
        return self.gpu_money + self.storage_money + self.network_money


def read_assumptions(path: Path) -> tuple[Assumptions, dict[str, dict[str, Any]]]:
    """Return the values, and all entries with their ranges and sources."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = {field.name: float(entries[field.name]["value"]) for field in fields(Assumptions)}
    return Assumptions(**values), entries


def costs_of(measured: Mapping[str, Any], *, teacher: str, imgsz: int, layout: str, objects: int) -> Costs:
    """Pick the costs of one plan out of the record of the measurements."""
    frame, memory, table = measured["frames"], measured["memory"], measured["tables"]
    student, view, thing = measured["student"], measured["views"], measured["objects"][str(objects)]
    timed = view["K 128, int8"]
    return Costs(
        teacher=measured["teacher_seconds"][teacher][str(imgsz)],
        step=student["step_seconds"][str(imgsz)],
        sample=student["sample_seconds"][str(imgsz)],
        decode=frame["decode_seconds"],
        frames_per_sample=student["frames_per_sample"],
        frame_bytes=frame["bytes"],
        load=memory["load_seconds"],
        digest=frame["digest_seconds"],
        record_bytes={"live": 0.0, "views": view[layout]["bytes"], "instances": thing["bytes"]},
        encode={"live": 0.0, "views": timed["encode_seconds"], "instances": thing["encode_seconds"]},
        write={"live": 0.0, "views": view[layout]["write_seconds"], "instances": thing["write_seconds"]},
        read={"live": 0.0, "views": timed["read_seconds"], "instances": thing["read_seconds"]},
        set_memory=max(
            memory["record_peak_bytes"],
            memory["record_bytes"] + memory["loader_bytes"] + table["sampler_peak_bytes"],
        ),
        index_memory=table["index_peak_bytes"],
        key_memory=table["build_key_bytes"],
        sha_byte=table["sha_seconds_per_byte"],
    )


def stored_views(a: Assumptions) -> float:
    """Return records per frame with `cache=views`: the last epochs mix no images and have views of their own."""
    closing = min(a.closing, a.epochs)
    return min(a.views, a.epochs - closing) + min(a.views, closing)


def records(design: str, a: Assumptions) -> float:
    """Return stored records per frame."""
    return {"live": 0.0, "views": stored_views(a), "instances": 1.0}[design]


def teacher_passes(design: str, a: Assumptions) -> float:
    """Return how often the teacher sees each frame in all."""
    return {"live": a.epochs * a.runs, "views": stored_views(a), "instances": a.looks}[design]


def build_stage(design: str, c: Costs, a: Assumptions) -> Stage:
    """Return the work of storing one record."""
    if design == "live":
        raise ValueError("design: a live teacher builds nothing, got 'live'; use views or instances")
    size, views = c.record_bytes[design], design == "views"
    looks = 1.0 if views else a.looks
    gpu = looks * c.teacher / a.gpu_speedup_teacher + c.encode[design] + c.write[design]
    frames = c.frames_per_sample if views else 1.0
    return Stage(gpu, c.sample if views else c.decode, frames * c.frame_bytes, size, frames, SHARD_BYTES / size)


def train_stage(design: str, c: Costs, a: Assumptions) -> Stage:
    """Return the work of training on one image; `design` may also be "control", without a teacher."""
    gpu, cpu, down = c.step / a.gpu_speedup_student, c.sample, c.frames_per_sample * c.frame_bytes
    if design == "live":
        gpu += c.teacher / a.gpu_speedup_teacher
    elif design == "views":
        gpu, down = gpu + c.read[design], down + c.record_bytes[design]
    elif design == "instances":  # every image of a mosaic brings its objects
        cpu += c.frames_per_sample * c.read[design]
        down += c.frames_per_sample * c.record_bytes[design]
    return Stage(gpu, cpu, down, 0.0, c.frames_per_sample, together=True)


def held_seconds(stage: Stage, a: Assumptions) -> float:
    """Return the seconds a machine is busy with one image: its GPU or its loader threads, whichever takes longer."""
    return max(stage.gpu, stage.cpu / a.threads)


def bill(design: str, frames: float, c: Costs, a: Assumptions) -> Bill:
    """Return what a design costs beyond the same training without a teacher."""
    shown = frames * a.epochs * a.runs
    control, train = train_stage("control", c, a), train_stage(design, c, a)
    seconds = shown * (held_seconds(train, a) - held_seconds(control, a))
    network = shown * (train.down - control.down)
    stored = requests = 0.0
    if design != "live":
        build, count = build_stage(design, c, a), frames * records(design, a)
        seconds += count * held_seconds(build, a)
        network += count * (build.down + build.up)
        stored, requests = count * build.up, count * build.requests
    passes = frames * teacher_passes(design, a)
    return Bill(
        passes=passes,
        teacher_hours=passes * c.teacher / a.gpu_speedup_teacher / 3600,
        gpu_hours=seconds / 3600,
        stored=stored,
        network=network,
        requests=requests,
        gpu_money=seconds / 3600 * a.price_gpu_hour,
        storage_money=stored / 1e9 * a.price_cache_gb_month * a.months,
        network_money=network / 1e9 * a.price_network_gb + requests / 1e6 * a.price_million_reads,
    )


def base_bill(frames: float, c: Costs, a: Assumptions) -> Bill:
    """Return what the training without a teacher costs: every design pays it."""
    stage, shown = train_stage("control", c, a), frames * a.epochs * a.runs
    hours = shown * held_seconds(stage, a) / 3600
    stored, network, requests = frames * c.frame_bytes, shown * stage.down, shown * stage.requests
    return Bill(
        0.0, 0.0, hours, stored, network, requests, hours * a.price_gpu_hour,
        stored / 1e9 * a.price_frame_gb_month * a.months,
        network / 1e9 * a.price_network_gb + requests / 1e6 * a.price_million_reads,
    )  # fmt: skip


def retried(length: float, mtbf: float, repair: float) -> float:
    """Return the expected seconds of work that takes `length` without a failure and begins anew after each.

    Failures come at random, `mtbf` apart on average, and each costs `repair` seconds besides the work lost. Infinite
    where it would not end.
    """
    share = length / mtbf
    return math.inf if share > 500 else (mtbf + repair) * math.expm1(share)


def wall_seconds(stage: Stage, images: float, a: Assumptions) -> float:
    """Return the expected seconds that all machines together take for one pass over `images`.

    The slowest of machines, network and storage requests sets the pace; failures make part of the work anew. Machines
    that build a cache have fixed shares, as in detkd: the one with the most failures is the last.
    """
    mtbf = a.mtbf_hours * 3600
    shared = min(
        a.network_gbit * 1e9 / 8 / max(stage.down + stage.up, 1e-12), a.requests_per_second / max(stage.requests, 1e-12)
    )
    own = a.machines / held_seconds(stage, a)
    if stage.together:
        length = images / min(own, shared)
        return retried(length, mtbf / a.machines, a.repair_seconds)
    chunk = min(stage.saved, images / a.machines)
    length = min(chunk * a.machines / own, FLUSH_SECONDS)
    pace = length * own / retried(length, mtbf, a.repair_seconds)
    if pace >= shared:  # what is lost is read again through the full network, which slows down everybody
        length = min(chunk * a.machines / shared, FLUSH_SECONDS)
        return images / (shared * length / mtbf / math.expm1(length / mtbf))
    seconds = images / pace
    spread = math.sqrt(seconds / mtbf) * (a.repair_seconds + length / 2)
    return seconds + last_of(a.machines) * spread


def last_of(machines: float) -> float:
    """Return how many standard deviations the last of some machines is behind their mean (Blom's approximation)."""
    return 0.0 if machines <= 1 else NormalDist().inv_cdf((machines - 0.375) / (machines + 0.25))


def wall_seconds_per_image(stage: Stage, a: Assumptions) -> float:
    """Return the seconds per image of all machines together without failures."""
    return max(
        held_seconds(stage, a) / a.machines,
        (stage.down + stage.up) / (a.network_gbit * 1e9 / 8),
        stage.requests / a.requests_per_second,
    )


def cheapest_epochs(c: Costs, a: Assumptions, design: str, frames: float = 1e6) -> float:
    """Return from how many shown epochs (epochs times runs) on a cache is cheaper than the live teacher; inf if never.

    The number of views stays that of the plan, as far as there are epochs for them.
    """
    for shown in range(1, 2001):
        plan = replace(a, epochs=float(shown), runs=1.0, closing=min(a.closing, float(shown)))
        if bill(design, frames, c, plan).total < bill("live", frames, c, plan).total:
            return float(shown)
    return math.inf


def sensitivity(
    c: Costs, a: Assumptions, entries: Mapping[str, Mapping[str, Any]], design: str, frames: float
) -> dict[str, tuple[float, float, float]]:
    """Return the total at the low, the used and the high value of each assumption."""
    used = bill(design, frames, c, a).total
    rows = {}
    for name, entry in entries.items():
        if "low" in entry and hasattr(a, name):
            ends = [bill(design, frames, c, replace(a, **{name: float(entry[end])})).total for end in ("low", "high")]
            rows[name] = (ends[0], used, ends[1])
    return rows
