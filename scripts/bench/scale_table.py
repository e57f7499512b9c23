"""The tables of docs/scale-cost.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scale_limits import breaks
from scale_model import (
    DESIGNS,
    SHARD_BYTES,
    Assumptions,
    Bill,
    Costs,
    base_bill,
    bill,
    build_stage,
    cheapest_epochs,
    costs_of,
    held_seconds,
    records,
    sensitivity,
    stored_views,
    train_stage,
    wall_seconds,
)

LABELS = {"live": "live teacher", "views": "`cache=views`", "instances": "`cache=instances`"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 1) -> str:
    """Return a Markdown table; columns from `right` on are numbers."""
    rule = "|" + "".join("---|" if i < right else "---:|" for i in range(len(head)))
    lines = ["| " + " | ".join(row) + " |" for row in [list(head), *rows]]
    return "\n".join([lines[0], rule, *lines[1:]])


def count(value: float) -> str:
    """Return a large number in words of a few letters."""
    for size, unit in ((1e15, "e15"), (1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value / size:,.3g}{unit}"
    return f"{value:,.0f}" if value < 1000 else significant(value)


def size(value: float) -> str:
    """Return bytes with a unit."""
    for scale, unit in ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{significant(value / scale)} {unit}"
    return f"{value:.0f} B"


def significant(value: float) -> str:
    """Return three digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "never"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.{digits}f}"


def money(value: float) -> str:
    return f"${significant(value)}"


def hours(value: float) -> str:
    return significant(value)


def days(seconds: float) -> str:
    """Return days; what would take longer than a century won't end."""
    return significant(seconds / 86400) if seconds < 100 * 365 * 86400 else "never ends"


def milliseconds(value: float) -> str:
    return f"{significant(1000 * value)} ms"


def measured_table(m: Mapping[str, Any]) -> str:
    student, views, frames, memory, index = m["student"], m["views"], m["frames"], m["memory"], m["tables"]
    rows = [
        [f"teacher, {name}, {px} pixels", milliseconds(seconds)]
        for name, sizes in m["teacher_seconds"].items() for px, seconds in sizes.items()
    ]  # fmt: skip
    for px, seconds in student["step_seconds"].items():
        rows.append([f"training step of a yolo26n, {px} pixels", milliseconds(seconds)])
    for px, seconds in student["sample_seconds"].items():
        rows.append([f"making a training sample (mosaic), {px} pixels", milliseconds(seconds)])
    rows += [
        ["frames read and decoded per sample", f"{student['frames_per_sample']:.2f}"],
        [f"decoding a frame ({frames['width']:.0f} x {frames['height']:.0f} on average)",
         milliseconds(frames["decode_seconds"])],
        ["bytes of a frame", size(frames["bytes"])],
        ["digest of a frame's file", milliseconds(frames["digest_seconds"])],
        ["data check: header of the image, label file", milliseconds(memory["load_seconds"])],
        *([f"bytes of a stored view, {name}", size(one["bytes"])] for name, one in views.items()),
        *([f"bytes of a frame's stored objects, {n} objects", size(one["bytes"])] for n, one in m["objects"].items()),
        ["packing and writing a view", milliseconds(views["K 128, int8"]["encode_seconds"]
                                                    + views["K 128, int8"]["write_seconds"])],
        ["packing and writing the objects of a frame (12)", milliseconds(m["objects"]["12"]["encode_seconds"]
                                                                         + m["objects"]["12"]["write_seconds"])],
        ["reading a view, checksum and unpacking", milliseconds(views["K 128, int8"]["read_seconds"])],
        ["reading the objects of a frame (12)", milliseconds(m["objects"]["12"]["read_seconds"])],
        ["memory of a frame's record with 7 boxes; at its peak, while it is loaded",
         f"{memory['record_bytes']:,.0f} B, {memory['record_peak_bytes']:,.0f} B"],
        ["memory of the same frame in the training's data set", f"{memory['loader_bytes']:,.0f} B"],
        ["memory of an epoch's order, per frame", f"{index['sampler_peak_bytes']:,.0f} B"],
        ["memory of a cache's index, per record; at its peak, when it is opened",
         f"{index['index_bytes']:,.0f} B, {index['index_peak_bytes']:,.0f} B"],
        ["memory of the list of records to store, per record", f"{index['build_key_bytes']:,.0f} B"],
    ]  # fmt: skip
    return table(["per image, one thread", "measured"], rows)


def assumption_table(entries: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, entry in entries.items():
        value = entry["value"]
        text = ", ".join(count(one) for one in value) if isinstance(value, list) else f"{value}"
        span = f"{entry['low']:g} to {entry['high']:g}" if "low" in entry else ""
        rows.append([f"`{name}`", text, span, str(entry["source"])])
    return table(["assumption", "used", "range", "source"], rows, 9)


def passes_wall(design: str, frames: float, c: Costs, a: Assumptions) -> float:
    """Return the seconds until all trainings are done, building included."""
    total = a.runs * a.epochs * wall_seconds(train_stage(design, c, a), frames, a)
    if design in DESIGNS[1:]:
        total += wall_seconds(build_stage(design, c, a), frames * records(design, a), a)
    return total


def cost_table(c: Costs, a: Assumptions, sizes: Sequence[float]) -> str:
    rows = []
    for frames in sizes:
        base = base_bill(frames, c, a)
        rows.append([f"{count(frames)}", "training itself", "", hours(base.gpu_hours), size(base.stored),
                     size(base.network), money(base.total), days(passes_wall("control", frames, c, a))])  # fmt: skip
        for design in DESIGNS:
            one = bill(design, frames, c, a)
            rows.append(["", LABELS[design], hours(one.teacher_hours), hours(one.gpu_hours), size(one.stored),
                         size(one.network), money(one.total), days(passes_wall(design, frames, c, a))])  # fmt: skip
    head = ["frames", "design", "teacher, GPU hours", "extra GPU hours held", "stored", "network", "money",
            f"days, {a.machines:g} machines"]  # fmt: skip
    return table(head, rows, 2)


def money_table(c: Costs, a: Assumptions, sizes: Sequence[float]) -> str:
    def row(frames: float, name: str, one: Bill) -> list[str]:
        return [count(frames), name, money(one.gpu_money), money(one.storage_money), money(one.network_money),
                money(one.total)]  # fmt: skip

    rows = []
    for frames in sizes:
        rows.append(row(frames, "training itself", base_bill(frames, c, a)))
        rows += [["", *row(frames, LABELS[design], bill(design, frames, c, a))[1:]] for design in DESIGNS]
    return table(["frames", "design", "GPUs", "storage", "network and requests", "total"], rows, 2)


def break_table(c: Costs, a: Assumptions) -> str:
    rows = [[LABELS.get(one.design, "all"), one.what, count(one.frames), one.remedy] for one in breaks(c, a)]
    return table(["design", "limit", "from frames", "what helps"], rows, 9)


def needs_table(m: Mapping[str, Any], c: Costs, a: Assumptions, sizes: Sequence[float]) -> str:
    """Return what one run over all frames would need with today's code."""
    views, index = stored_views(a), m["tables"]["index_bytes"]
    rows = [
        ("memory: records and labels", lambda n: size(n * c.set_memory)),
        (f"`cache=views`, memory: list of {views:g} views each", lambda n: size(n * views * c.key_memory)),
        ("`cache=views`, memory: index, held", lambda n: size(n * views * index)),
        ("`cache=views`: shards of 64 MB",
         lambda n: count(math.ceil(n * views * c.record_bytes["views"] / SHARD_BYTES))),
        ("`cache=instances`, memory: list of images", lambda n: size(n * c.key_memory)),
        ("`cache=instances`, memory: index, held", lambda n: size(n * index)),
        ("`cache=instances`: shards of 64 MB",
         lambda n: count(math.ceil(n * c.record_bytes["instances"] / SHARD_BYTES))),
        ("digests: size of `images.json`", lambda n: size(n * m["frames"]["digest_memo_bytes"])),
        ("check of images, labels and digests, days of one core",
         lambda n: significant(n * (c.load + c.digest) / 86400)),
    ]  # fmt: skip
    return table(["one run over", *(f"{count(n)} frames" for n in sizes)], [[name, *map(f, sizes)] for name, f in rows])


def even_table(m: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]], a: Assumptions) -> str:
    """Return from how many shown epochs (epochs times runs) a cache is cheaper than the live teacher."""
    rows = []
    plan = {key: entries[key]["value"] for key in ("imgsz", "layout", "objects")}
    for teacher in m["teacher_seconds"]:
        c = costs_of(m, teacher=teacher, **plan)
        speed = a.gpu_speedup_student if teacher == "yolo26n" else a.gpu_speedup_teacher
        for price in (a.price_network_gb, 0.0):
            b = replace(a, gpu_speedup_teacher=speed, price_network_gb=price,
                        price_million_reads=a.price_million_reads if price else 0.0)  # fmt: skip
            even = [cheapest_epochs(c, b, design) for design in DESIGNS[1:]]
            rows.append([teacher, f"${price:g} per GB" if price else "free, requests too",
                         *(f"{n:g}" if math.isfinite(n) else "never" for n in even)])  # fmt: skip
    return table(["teacher", "network", *(f"{LABELS[d]} pays from" for d in DESIGNS[1:])], rows, 2)


def sensitivity_table(c: Costs, a: Assumptions, entries: Mapping[str, Mapping[str, Any]], frames: float) -> str:
    every = {design: sensitivity(c, a, entries, design, frames) for design in DESIGNS}

    def span(low: float, used: float, high: float) -> float:
        return max(low, used, high) / max(min(low, used, high), 1e-9)

    spread = {name: max(span(*rows[name]) for rows in every.values()) for name in every["live"]}
    rows = []
    for name in sorted(spread, key=lambda n: -spread[n]):
        if spread[name] < 1.01:
            continue
        cells = [f"{money(every[d][name][0])} to {money(every[d][name][2])}" for d in DESIGNS]
        firsts = {min((every[d][name][end], d) for d in DESIGNS)[1] for end in (0, 1, 2)}
        rows.append([f"`{name}` {entries[name]['low']:g} to {entries[name]['high']:g}", *cells,
                     " or ".join(LABELS[d] for d in DESIGNS if d in firsts)])  # fmt: skip
    return table(["assumption", *(LABELS[d] for d in DESIGNS), "cheapest"], rows, 1)


def check_table(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [one["setting"], hours(one["formula"] / 3600), hours(one["simulated"] / 3600),
         f"{100 * one['difference']:+.1f} %", f"{one['failures']:.1f}"]
        for one in checks
    ]  # fmt: skip
    return table(["setting", "formula, h", "simulation, h", "simulation over formula", "failures"], rows)


def pace_table(c: Costs, a: Assumptions) -> str:
    """Return what each stage needs, and how many machines fill the network or the storage's requests."""
    rows = []
    stages = [("training, no teacher", train_stage("control", c, a)),
              *((f"training, {LABELS[d]}", train_stage(d, c, a)) for d in DESIGNS),
              *((f"building, {LABELS[d]}", build_stage(d, c, a)) for d in DESIGNS[1:])]  # fmt: skip
    for name, stage in stages:
        seconds = held_seconds(stage, a)
        limit = "loader" if stage.cpu / a.threads > stage.gpu else "GPU"
        rows.append([
            name, f"{1 / seconds:,.0f}", limit, size(stage.down / seconds) + "/s",
            f"{a.network_gbit * 1e9 / 8 * seconds / (stage.down + stage.up):,.0f}",
            f"{a.requests_per_second * seconds / stage.requests:,.0f}",
        ])  # fmt: skip
    head = ["stage", "images/s of a machine", "held up by", "reads", "machines that fill the network",
            "machines that fill the requests"]  # fmt: skip
    return table(head, rows)


def write_page(page: Path, parts: Mapping[str, str]) -> None:
    """Put the tables between their marks."""
    page.write_text(filled(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


def filled(text: str, parts: Mapping[str, str]) -> str:
    for name, part in parts.items():
        start, stop = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if start not in text or stop not in text:
            raise SystemExit(f"docs: no marks {start} and {stop}")
        before, after = text.split(start)[0], text.split(stop)[1]
        text = f"{before}{start}\n{part}\n{stop}{after}"
    return text
