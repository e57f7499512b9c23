"""What a training step costs: each method against Ultralytics' own distillation, in turns, in one process."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import detkd.environment

import torch
from distillation_arms import PRESETS, Arm, arm_words, key_of, last_wins, resolve_config
from filelock import FileLock
from ultralytics.cfg import get_cfg
from ultralytics.nn.distill_model import DistillationModel

from detkd.data.records import DataSpec
from detkd.io import write_json
from detkd.models.distilled import DistilledDetector
from detkd.models.weights import build_detector, quiet
from detkd.progress import console
from detkd.runs import environment_record
from detkd.tasks.common import get_data, split_of
from detkd.tasks.recipes import make_recipe
from detkd.tasks.teachers import live_teacher, teacher_file, teacher_sizes, with_packaged_teacher
from detkd.tasks.train import make_plan
from detkd.training.loader import make_set, resized, training_arguments
from detkd.training.plan import Distillation

THEIRS = "theirs"
MEASURED = "measured "
"""Before the name of a method whose step also measures gradients."""
WARMUP = 3
EVALUATION = 0.35
"""Share of the training time that loading, evaluation and the start of a process come to, as seen in small runs."""


@lru_cache
def data_of(node: str) -> DataSpec:
    """Load data once, however many methods are measured on it."""
    return get_data(json.loads(node))


@contextmanager
def silent() -> Iterator[None]:
    """Print nothing: neither what data there is nor what Ultralytics says of it."""
    before, console.quiet = console.quiet, True
    try:
        with quiet():
            yield
    finally:
        console.quiet = before


class Bench:
    """A batch and a student of a set, from which the steps of all methods are made.

    Args:
        config: A resolved `distill` configuration.
        initial: File of the student's weights.
    """

    def __init__(self, config: dict[str, Any], initial: str) -> None:
        self.config = with_packaged_teacher(config)
        self.initial = initial
        self.spec = data_of(json.dumps(config["data"], default=str))
        self.teacher_imgsz, load = teacher_sizes(self.config)
        self.config["load_imgsz"] = load
        plan = make_plan(
            self.config, {"path": initial}, self.spec, Path("runs/bench_distillation"),
            distillation=Distillation(lambda names: None, lambda: None, self.teacher_imgsz),  # type: ignore[arg-type, return-value]
        )  # fmt: skip
        dataset = make_set(plan, training_arguments(plan), stride=32, training=True, batch=plan.arguments["batch"])
        count = min(int(self.config["batch"]), len(dataset))
        batch = dataset.collate_fn([dataset[index] for index in range(count)])
        batch["img"] = batch["img"].float() / 255
        self.batch: dict[str, Any] = resized(batch, plan)
        self.steps_per_epoch = -(-len(split_of(self.spec, "train", key="data")) // int(self.config["batch"]))

    def student(self) -> Any:
        """Return a fresh student with Ultralytics' arguments."""
        student: Any = build_detector(self.initial, self.spec.names, key="student")
        student.args = get_cfg(overrides={"imgsz": int(self.config["imgsz"]), "dis": 6.0})
        for parameter in student.parameters():
            parameter.requires_grad_(True)
        return student

    def plain(self) -> Callable[[], None]:
        """Return a step of a control."""
        return stepper(self.student().train(), self.batch)

    def theirs(self) -> Callable[[], None]:
        """Return a step of Ultralytics' own distillation, its teacher at the student's resolution."""
        with quiet():
            return stepper(DistillationModel(teacher_file(self.config), self.student()).train(), self.batch)

    def ours(self, config: Mapping[str, Any], *, measured: bool = False) -> Callable[[], None]:
        """Return a step of a recipe with a live teacher; one that also measures gradients, as calibration does."""
        config = with_packaged_teacher(config)
        recipe = make_recipe(config["distill"])
        model = DistilledDetector(self.student(), live_teacher(config, self.spec.names), recipe)
        model.probe(int(config["imgsz"]), self.teacher_imgsz)
        model.progress, model.measure, model.measure_parts = 0.5, measured, False
        return stepper(model.train(), self.batch)


def stepper(model: Any, batch: Mapping[str, Any]) -> Callable[[], None]:
    """Return one step: loss, gradient, weight update."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step() -> None:
        loss, _ = model.loss(dict(batch))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

    return step


def clock(steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time steps in turns, forwards and backwards; the first rounds only warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-WARMUP, rounds):
        for name in list(steps) if number % 2 == 0 else list(steps)[::-1]:
            start = time.perf_counter()
            steps[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(one: list[float], other: list[float]) -> float:
    """Return the median over the rounds of the ratio of two steps of one round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def measure_steps(queue: Any, *, rounds: int) -> dict[str, Any]:
    """Measure all arms of a queue on each of its sets and store the result beside the records."""
    from distillation_table import STEPS, read_steps

    if queue.threads:
        torch.set_num_threads(queue.threads)
    record: dict[str, Any] = {}
    for name in dict.fromkeys(name for name, _, _ in queue.items):
        arms = list(
            dict.fromkeys(arm for other, arm, _ in queue.items if other == name and arm.recipe != "control_time")
        )
        seed = queue.items[0][2]

        def config(arm: Arm, name: str = name, seed: int = seed) -> dict[str, Any]:
            words = arm_words(PRESETS[name], arm, teacher=queue.teacher, seed=seed, more=queue.more)
            # Theirs knows one resolution; a step is compared on the same pixels, with a teacher at work.
            words = [word for word in words if not key_of(word).startswith("cache")]
            return resolve_config(last_wins([*words, "teacher.imgsz=null", "load_imgsz=null"]))

        job = queue.job(name, Arm("control", "control"), seed)
        with silent():
            bench = Bench(config(Arm("control", "control")), job["initial"])
            steps = {THEIRS: bench.theirs()}
            for arm in arms:
                words = config(arm)
                steps[arm.label] = bench.plain() if arm.plain else bench.ours(words)
                if not arm.plain and words["distill"].get("calibrate"):
                    steps[MEASURED + arm.label] = bench.ours(words, measured=True)
        console.print(f"{name}: {rounds} rounds of {', '.join(steps)}")
        seconds = clock(steps, rounds)
        record[name] = {
            label: {
                "ratio": ratio(seconds[label], seconds[THEIRS]),
                "median_seconds": statistics.median(seconds[label]),
                "over_control": ratio(seconds[label], seconds["control"]) if "control" in seconds else None,
            }
            for label in steps
            if not label.startswith(MEASURED)
        }
        for label, row in record[name].items():
            if MEASURED + label in seconds:
                row["measured_ratio"] = ratio(seconds[MEASURED + label], seconds[label])
        for label, row in record[name].items():
            more = f", {row['measured_ratio']:.2f} of itself when measured" if "measured_ratio" in row else ""
            console.print(f"  {label}: {row['median_seconds'] * 1000:.0f} ms, {row['ratio']:.3f} of theirs{more}")
        record[name]["facts"] = {
            "rounds": rounds, "threads": torch.get_num_threads(), "batch": len(bench.batch["img"]),
            "imgsz": bench.batch["img"].shape[-1], "environment": environment_record(),
        }  # fmt: skip
    queue.results.mkdir(parents=True, exist_ok=True)
    with FileLock(queue.folder / ".summary.lock"):
        stored = read_steps(queue.results)
        for name, rows in record.items():
            stored[name] = {**stored.get(name, {}), **rows}
        write_json(queue.results / STEPS, stored)
    return record


def probe_seconds(job: Mapping[str, Any]) -> float:
    """Return about how many seconds a run will take, from three steps."""
    torch.set_num_threads(int(job["config"].get("threads") or torch.get_num_threads()))
    config = copy.deepcopy(dict(job["config"]))
    with silent():
        bench = Bench(config, job["initial"])
        cached = (config.get("cache") or {}).get("kind", "none") != "none"
        step = bench.plain() if job["plain"] or cached else bench.ours(config)
    seconds = statistics.median(clock({"one": step}, 3)["one"])
    return seconds * bench.steps_per_epoch * int(config["epochs"]) * (1 + EVALUATION) + 30
