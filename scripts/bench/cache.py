"""What a teacher cache costs and gives: time per epoch, bytes per view, AP against the live teacher.

    python scripts/bench/cache.py                       # everything, hours on two cores; --json: object only
    python scripts/bench/cache.py --parts time,build,bytes
    python scripts/bench/cache.py --parts ap,curve --seeds 0,1,2,3,4 --out runs/bench_cache

Parts, each measured side by side in this one run:

- `time`: an epoch of a YOLO26 nano at 256 pixels on the drawn set: without a teacher (control), with a cache of views
  and of objects, and with live teachers of several sizes, in turns; the ratio is taken round by round, and its median
  over the rounds is reported. Teachers have random weights here: their speed does not depend on them.
- `build`: the same loader and teacher with and without storing, in turns.
- `bytes`: the size on disk of a cache at 80 classes, 640 pixels and the default settings, per view, both heads.
- `sweep`: 20 short trainings that differ in `distill.lambda`, with a live teacher and with one shared cache.
- `ap`: the demo's student, live and cached (default settings), one training each per seed. The interval is that of
  `detkd compare`: over seeds and test images, in pairs.
- `curve`: AP against bytes for other numbers of anchors, precisions and views.

Trainings leave run folders in `--out` and are not repeated, so an interrupted bench goes on. The last
line of the output is one JSON object; what was not measured is null.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import detkd.environment

import torch
from rich.table import Table

from detkd import api
from detkd.caching.store import CacheReader, CacheWriter, create_cache
from detkd.config import compose
from detkd.io import read_json, write_json
from detkd.models.teacher import LiveTeacher
from detkd.models.weights import build_detector, quiet
from detkd.progress import console, out
from detkd.runs import environment_record
from detkd.tasks.caches import prepare
from detkd.tasks.common import get_data
from detkd.tasks.recipes import make_recipe
from detkd.tasks.train import make_plan
from detkd.training.checkpoint import save_plain
from detkd.training.plan import Distillation
from detkd.training.trainer import Trainer
from detkd.training.views import build_views, seen_batches, student_grid

PARTS = ("time", "build", "bytes", "sweep", "ap", "curve")
TEACHERS = ("n", "s", "m")
POINTS: tuple[tuple[str, list[str]], ...] = (
    ("all anchors, float32", ["cache.k=all", "cache.classes=all", "cache.precision=float32"]),
    ("K 128, float16", ["cache.precision=float16"]),
    ("K 128, int8", []),
    ("K 64, int8", ["cache.k=64"]),
    ("K 128, int8, 2 views", ["cache.views=2"]),
    ("K 128, int8, 4 views", ["cache.views=4"]),
    ("K 128, int8, 15 views", ["cache.views=15"]),
    ("objects", ["cache=instances"]),
)
"""Settings of the curve beside the default of 8 views."""


THREADS: list[str] = []
"""Words that set the number of threads of the trainings."""


class Timed(Trainer):
    """Notes how long each epoch takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epochs_seconds: list[float] = []
        self.add_callback("on_train_epoch_start", lambda trainer: setattr(trainer, "_mark", time.perf_counter()))
        self.add_callback(
            "on_train_epoch_end", lambda trainer: trainer.epochs_seconds.append(time.perf_counter() - trainer._mark)
        )


def epoch_seconds(plan: Any) -> float:
    """Train and return the seconds of the last epoch: the first also warms up."""
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan = replace(plan, folder=folder, arguments={**plan.arguments, "save_dir": str(folder / "train")})
        trainer = type("BoundTimed", (Timed,), {"plan": plan})(overrides=plan.arguments)
        trainer.train()
        return float(trainer.epochs_seconds[-1])


def random_teacher(size: str, folder: Path) -> Path:
    """Write a YOLO26 of a size with random weights and the drawn set's classes."""
    names = get_data(toy(64)).names
    path = folder / f"yolo26{size}_random.pt"
    if not path.is_file():
        model = build_detector(f"yolo26{size}.yaml", names, key="teacher")
        save_plain(model, path, train_args={}, metrics={})
    return path


def toy(images: int) -> dict[str, Any]:
    """Return the data node of a drawn set."""
    config = compose("distill", ["teacher=demo", "student=yolo26n_half", "data=toy"])
    return {**config["data"], "path": f"data/toy_bench_{images}", "images": {"train": images, "val": 8, "test": 16}}


def small(
    teacher: str, *more: str, images: int = 64, student: str = "yolo26n.yaml", imgsz: int = 256
) -> dict[str, Any]:
    """Return the configuration of a short run on a drawn set."""
    words = [
        f"teacher={teacher}", f"student={student}", "data=toy", f"imgsz={imgsz}", "batch=8", "epochs=2", "device=cpu",
        "augment=none", "trainer.mosaic=0.0", "trainer.cache=ram", "trainer.val=false", "trainer.optimizer=AdamW",
        "distill.region.fraction=0.05", "cache.check=0", *more,
    ]  # fmt: skip
    if not any(word.startswith("cache=") for word in words):
        words.insert(0, "cache=views")
    return {**compose("distill", words), "data": toy(images)}


def plans(config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the plans of a control, of the configuration's cached run and of its live run; builds the cache."""
    spec = get_data(config["data"])
    prepared = prepare(config, spec, check=False)
    assert prepared is not None
    recipe = lambda: make_recipe(config["distill"])  # noqa: E731
    control = make_plan(config, config["student"], spec, Path("runs/bench"))
    kept = Distillation(prepared.source, recipe, int(config["imgsz"]))
    live = Distillation(lambda names: LiveTeacher.load(config["teacher"]["path"], names), recipe, int(config["imgsz"]))
    return control, replace(control, distillation=kept, **prepared.plan), replace(control, distillation=live)


def part_time(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure epochs in turns."""
    arms: dict[str, Any] = {}
    for size in TEACHERS:
        config = small(str(random_teacher(size, folder)), "cache.views=2", f"cache.path={folder}/time_{size}")
        control, kept, live = plans(config)
        arms.setdefault("control", control)
        if size == TEACHERS[0]:
            arms["views"] = kept
            objects = small(str(random_teacher(size, folder)), "cache=instances", f"cache.path={folder}/time_objects")
            arms["objects"] = plans(objects)[1]
        arms[f"live_{size}"] = live
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        order = list(arms) if number % 2 == 0 else list(arms)[::-1]
        for name in order:
            console.print(f"[dim]round {number + 1}/{rounds}: {name}[/dim]")
            seconds[name].append(epoch_seconds(arms[name]))
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds["control"], strict=True))
        for name, values in seconds.items()
    }
    return {"seconds": seconds, "ratios": ratios, "images": 64, "imgsz": 256, "student": "yolo26n.yaml", "batch": 8}


def part_build(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure storing against not storing, with the fastest teacher: the worst case."""
    from detkd.tasks.cache_kinds import ViewWork

    config = small(str(random_teacher("n", folder)), "cache.views=1", "imgsz=640", "distill.region.fraction=0.01")
    spec = get_data(config["data"])
    work = ViewWork(config, spec)
    device, grid = torch.device("cpu"), student_grid(640, work.stored.strides, torch.device("cpu"))
    stride = max(work.stored.strides)

    def bare() -> None:
        for batch in seen_batches(work.run, work.keys, work.phases, stride=stride, device=device):
            work.teacher.answer(batch, grid)

    def stored() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "cache"
            create_cache(place, kind="views", fingerprint={}, layout=work.layout, expected=len(work.keys), facts={})
            with CacheWriter(place) as writer:
                build_views(work.run, work.teacher, work.stored, writer, work.keys, work.phases, device)
                writer.finish()

    def clock(job: Callable[[], None]) -> float:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start

    bare()  # warms up
    pairs = []
    for number in range(rounds):
        first, second = (bare, stored) if number % 2 == 0 else (stored, bare)
        a, b = clock(first), clock(second)
        pairs.append((a, b) if number % 2 == 0 else (b, a))
    return {
        "seconds": {"bare": [a for a, _ in pairs], "stored": [b for _, b in pairs]},
        "ratio": statistics.median(b / a for a, b in pairs),
        "teacher": "yolo26n",
        "imgsz": 640,
    }


def part_bytes(folder: Path) -> dict[str, Any]:
    """Build a small cache at 80 classes and 640 pixels with the default settings."""
    import numpy as np

    from detkd.caching.views import ViewLayout, encode_views
    from detkd.models.head import raw_outputs, read_view
    from detkd.models.weights import detect_head

    model = build_detector("yolo26n.yaml", [f"class {i}" for i in range(80)], key="teacher")
    head = detect_head(model, key="teacher", source="the model")
    rng = np.random.default_rng(0)
    node = compose("distill", ["teacher=demo", "student=yolo26n_half", "data=toy", "cache=views"])["cache"]
    layout = ViewLayout(
        branches=("one2many", "one2one"), anchors=8400, num_classes=80, k=node["k"], classes=node["classes"],
        precision=node["precision"], imgsz=(640, 640), strides=(8, 16, 32),
    )  # fmt: skip
    place = folder / "bytes"
    keys = [(i, 0) for i in range(64)]
    create_cache(place, kind="views", fingerprint={}, layout=layout.to_dict(), expected=64, facts={})
    with CacheWriter(place) as writer, torch.no_grad():
        for start in range(0, 64, 8):
            images = torch.from_numpy(rng.random((8, 3, 640, 640), dtype=np.float32))
            for i, payload in enumerate(encode_views(read_view(raw_outputs(model.eval(), images), head), layout)):
                if writer.missing([keys[start + i]]):
                    writer.add(start + i, 0, payload)
        writer.finish()
    reader = CacheReader(place)
    dense = 2 * 8400 * (80 + 4) * 2
    return {"bytes_per_view": reader.nbytes / len(reader), "dense_float16": dense, "layout": layout.to_dict()}


def part_sweep(folder: Path, runs: int) -> dict[str, Any]:
    """Train many times with a live teacher and with one cache, whose building counts."""
    teacher = str(random_teacher("m", folder))
    weights = [round(0.25 + 0.25 * i, 2) for i in range(runs)]
    record: dict[str, Any] = {
        "runs": runs,
        "teacher": "yolo26m",
        "student": "yolo26n_half",
        "imgsz": 192,
        "epochs": 2,
        "images": 32,
    }
    for kind in ("cached", "live"):
        start = time.perf_counter()
        for weight in weights:
            config = small(
                teacher, f"distill.lambda={weight}", "epochs=2", "cache.views=2", f"cache.path={folder}/sweep",
                student="yolo26n_half", imgsz=192, images=32,
            )  # fmt: skip
            spec = get_data(config["data"])
            if kind == "cached":
                plan = plans(config)[1]
            else:
                live = Distillation(
                    lambda names: LiveTeacher.load(teacher, names), lambda c=config: make_recipe(c["distill"]), 192
                )
                plan = make_plan(config, config["student"], spec, Path("runs/bench"), distillation=live)
            epoch_seconds(plan)
        record[f"{kind}_seconds"] = time.perf_counter() - start
    record["ratio"] = record["live_seconds"] / record["cached_seconds"]
    return record


def trained(folder: Path, *words: str) -> Path:
    """Distil the demo's student in a folder, or take what an earlier call left there."""
    if not (folder / "run.json").is_file() or read_json(folder / "run.json")["status"] != "done":
        resume = (folder / "run.json").is_file()
        base = ["teacher=detkd/assets/demo_teacher.pt", "experiment=toy_cache", "pictures=0", *THREADS, f"out={folder}"]
        api.distill(compose("distill", [f"resume={folder}"] if resume else [*base, *words]))
    return folder


def against(live: list[Path], kept: list[Path], folder: Path) -> dict[str, Any]:
    """Compare live and cached trainings over their seeds and test images."""
    result = api.compare(
        compose(
            "compare", [f"before=[{','.join(map(str, live))}]", f"after=[{','.join(map(str, kept))}]", f"out={folder}"]
        )
    )
    row = next(row for row in read_json(result.folder / "compare.json")["rows"] if row["key"] == "AP")
    low, high = row["delta_interval"]
    return {
        **row["values"], "difference": row["delta"], "low": low, "high": high, "p": row["p"], "verdict": row["verdict"],
    }  # fmt: skip


def part_ap(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """Train live and cached with the default cache, seed by seed."""
    live = [trained(folder / f"live-{seed}", f"seed={seed}") for seed in seeds]
    kept = [trained(folder / f"kept-{seed}", f"seed={seed}", "cache=views") for seed in seeds]
    cost = read_json(kept[0] / "cache.json")
    seconds = {
        name: [read_json(run / "outcome.json")["seconds"] for run in runs]
        for name, runs in (("live", live), ("cached", kept))
    }
    return {
        "seeds": seeds,
        "views": 8,
        "AP": against(live, kept, folder / "ap"),
        "cache": cost,
        "train_seconds": seconds,
    }


def part_curve(folder: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """Train with other caches, seed by seed."""
    live = [trained(folder / f"live-{seed}", f"seed={seed}") for seed in seeds]
    rows = []
    for number, (title, words) in enumerate(POINTS):
        # The default is part of `ap` already.
        runs = [
            trained(folder / (f"kept-{seed}" if not words else f"curve{number}-{seed}"), f"seed={seed}",
                    *([] if any(w.startswith("cache=") for w in words) else ["cache=views"]), *words)
            for seed in seeds
        ]  # fmt: skip
        cost = read_json(runs[0] / "cache.json")
        images = cost["records"] // (cost["layout"].get("views") or 1) if "views" in cost["layout"] else None
        rows.append(
            {"setting": title, "overrides": words, "bytes_per_record": cost["bytes_per_record"], "bytes": cost["bytes"],
             "records": cost["records"], "images": images, **against(live, runs, folder / f"curve{number}")}
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--curve-seeds", default="0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=20, help="trainings of the sweep")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/bench_cache"))
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
        THREADS.append(f"threads={given.threads}")
    folder = given.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "parts.json"
    parts: dict[str, Any] = read_json(file) if file.is_file() else {}
    jobs: dict[str, Callable[[], Any]] = {
        "time": lambda: part_time(folder, given.rounds),
        "build": lambda: part_build(folder, given.rounds),
        "bytes": lambda: part_bytes(folder),
        "sweep": lambda: part_sweep(folder, given.runs),
        "ap": lambda: part_ap(folder, [int(seed) for seed in given.seeds.split(",")]),
        "curve": lambda: part_curve(folder, [int(seed) for seed in given.curve_seeds.split(",")]),
    }
    for name in given.parts.split(","):
        parts[name] = jobs[name]()
        write_json(file, parts)
    record = summary(parts)
    if not given.json:
        out.print(shown(record))
    print(json.dumps(record))


def summary(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the final object."""
    ratios = parts.get("time", {}).get("ratios", {})
    ap = parts.get("ap", {}).get("AP", {})
    return {
        "epoch_ratio_cached": ratios.get("views"),
        "epoch_ratio_live": ratios.get(f"live_{TEACHERS[-1]}"),
        "epoch_ratio_live_by_size": {size: ratios.get(f"live_{size}") for size in TEACHERS},
        "bytes_per_view": parts.get("bytes", {}).get("bytes_per_view"),
        "ap_live": ap.get("before"),
        "ap_cached": ap.get("after"),
        "ap_difference_low": ap.get("low"),
        "ap_difference_high": ap.get("high"),
        "build_ratio": parts.get("build", {}).get("ratio"),
        "parts": parts,
        "environment": environment_record(),
    }


def shown(record: dict[str, Any]) -> Table:
    """Return the table for people."""
    table = Table(title="teacher cache")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in record.items():
        if key not in ("parts", "environment"):
            table.add_row(key, json.dumps(value))
    return table


if __name__ == "__main__":
    main()
