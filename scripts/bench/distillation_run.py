"""One training of the distillation benchmark: from the saved initial file to a record, in a process of its own.

A process of its own, so that its peak memory is that of this run alone, and nothing of an earlier run is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import detkd.environment

import torch
from distillation_arms import REPO
from filelock import FileLock

from detkd.data.records import DataSpec, DetectionSet
from detkd.io import read_json, sha256, write_json
from detkd.losses.recipe import Recipe
from detkd.models.head import has_one2one
from detkd.models.weights import build_detector, detect_head, load_detector, resolve, state_hash
from detkd.runs import clear_run, environment_record, finish_run, open_run, start_run
from detkd.tasks.caches import prepare
from detkd.tasks.common import evaluate_weights, get_data, split_of
from detkd.tasks.pool import control_set, with_unlabelled
from detkd.tasks.recipes import make_recipe
from detkd.tasks.teachers import teacher_sizes, teacher_source, with_packaged_teacher
from detkd.tasks.train import epoch_samples, train_and_evaluate
from detkd.training.checkpoint import RESUME_FILE
from detkd.training.plan import Distillation

JOB = "job.json"
"""What a run folder is for, written before its process starts."""
RECORD = "record.json"
"""What came out."""
LATE = 0.8
"""Share of the epochs after which AP50 is looked at once more, to see whether it still rises."""
NUMBERS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100")
CACHED = frozenset({"logits", "boxes"})
"""What a cache of views holds; losses that read more need the teacher itself."""


def late_period(epochs: int) -> int | None:
    """Return the `save_period` that keeps the weights of 80 % of the epochs, None where there are too few."""
    late = round(LATE * epochs) - 1  # counted from 0, as the trainer does
    return late if 1 <= late < epochs - 1 else None


def pooled(spec: DataSpec) -> DetectionSet:
    """Return val and test as one set with image ids of its own; test or val alone where there is no other."""
    parts = [spec.splits[name] for name in ("val", "test") if name in spec.splits]
    if len(parts) < 2:
        return split_of(spec, "test", "val", key="data")
    records = [
        replace(record, image_id=number, meta={**record.meta, "split": part.split})
        for number, (part, record) in enumerate(((p, r) for p in parts for r in p.records), start=1)
    ]
    return replace(parts[0], split="val+test", records=tuple(records))


def numbers(folder: Path) -> dict[str, Any]:
    """Return the numbers of a `metrics.json`."""
    record = read_json(folder / "metrics.json")
    metrics = record["metrics"]
    return {**{key: metrics[key] for key in NUMBERS}, "images": metrics["images"], "split": record["split"]}


def fingerprint(config: Mapping[str, Any], initial: str) -> str:
    """Return what a run is known by: its configuration, without what can't change its result, and its start."""
    free = ("threads", "workers", "out", "name", "resume", "verbose", "report", "pictures", "trust")
    kept = {key: value for key, value in config.items() if key not in free}
    text = json.dumps([kept, initial], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_initial(config: Mapping[str, Any], file: Path) -> str:
    """Write the initial weights of a set and seed in full precision, once; return their hash."""
    with FileLock(file.with_suffix(".lock")):
        known = file.with_suffix(".json")
        if not (file.is_file() and known.is_file()):
            file.parent.mkdir(parents=True, exist_ok=True)
            student = config["student"]
            with FileLock(file.parent / "data.lock"):
                spec = get_data(config["data"])
            model: Any = build_detector(
                student["path"], spec.names, key="student", scale=student.get("scale"), seed=int(config["seed"]),
                slice_from=student.get("slice"), slice_by=str(student.get("slice_by") or "power"),
            )  # fmt: skip
            model.criterion = None
            temporary = file.with_suffix(".tmp")
            torch.save({"epoch": -1, "model": model, "ema": None, "train_args": {}}, temporary)
            temporary.replace(file)
            again = build_detector(file, spec.names, key="student", seed=int(config["seed"]))
            if state_hash(again) != state_hash(model):
                raise RuntimeError(f"{file}: the saved initial weights are not those that were built")
            parameters = sum(p.numel() for p in model.parameters())
            write_json(known, {"hash": state_hash(model), "sha256": sha256(file), "parameters": parameters})
        return str(read_json(known)["hash"])


def views_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan that show the views which a cache of views would hold."""
    node = config.get("cache") or {}
    return {"views": int(node["views"]), "augment_seed": int(node["seed"])} if node.get("kind") == "views" else {}


def train(job: Mapping[str, Any], config: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any], DataSpec]:
    """Train one arm, going on where an interrupted attempt stopped; return the result and facts of its cache."""
    plain = bool(job["plain"])
    config = with_packaged_teacher(config)
    student = {"path": job["initial"]}
    teacher_imgsz, load_imgsz = teacher_sizes(config)
    config = {**config, "load_imgsz": load_imgsz, "student": student}
    resume = ready(folder, config)
    with FileLock(Path(job["initial"]).parent / "data.lock"):
        spec = get_data(config["data"], folder)
    spec = with_unlabelled(spec, config)
    train_set = split_of(spec, "train", key="data")
    shown: dict[str, Any] = dict(job["shown"])
    if plain:
        labelled = control_set(train_set)
        if labelled is not train_set:  # fewer images, shown as often as it takes to make as many steps
            shown["samples"] = epoch_samples(config, train_set)
        spec = replace(spec, splits={**spec.splits, "train": labelled})
        given = {**config, "unlabelled": None}
        return (
            train_and_evaluate(given, student, spec, folder, resume=resume, description=job["label"], **shown),
            {},
            spec,
        )
    node = config["distill"]

    def recipe() -> Recipe:
        return make_recipe(node, tuple(config.get("plugins") or ()))

    if (config.get("cache") or {}).get("kind") == "views" and recipe().uses - CACHED:
        config = {**config, "cache": {"kind": "none"}}  # the same views, from the teacher itself
    cached = prepare(config, spec)
    if cached is not None:
        shown = dict(cached.plan)
    source = cached.source if cached is not None else teacher_source(config)
    distillation = Distillation(source=source, recipe=recipe, imgsz=teacher_imgsz)
    result = train_and_evaluate(
        config, student, spec, folder, resume=resume, distillation=distillation, description=job["label"], **shown
    )
    return result, {} if cached is None else cached.facts, spec


def ready(folder: Path, config: Mapping[str, Any]) -> bool:
    """Open the run folder; return whether an interrupted attempt can go on."""
    if (folder / RESUME_FILE).is_file() or (folder / "outcome.json").is_file():
        open_run(folder, "distill")
        return True
    job = read_json(folder / JOB)
    if (folder / "run.json").is_file():
        clear_run(folder)
        write_json(folder / JOB, job)
    start_run(folder, "distill", {**config, "out": str(folder)})
    return False


def evaluate(
    config: Mapping[str, Any], weights: Path, images: DetectionSet, folder: Path, **more: Any
) -> dict[str, Any]:
    """Evaluate weights in a folder of their own."""
    folder.mkdir(exist_ok=True)
    evaluate_weights(weights, images, folder, settings={**config, **more})
    return numbers(folder)


def teacher_numbers(config: Mapping[str, Any], images: DetectionSet, folder: Path) -> dict[str, Any]:
    """Evaluate the first teacher of a set on the pooled images, once for all runs."""
    config = with_packaged_teacher(dict(config))
    teacher = config["teacher"]
    size = int(teacher.get("imgsz") or config["imgsz"])
    weights = sha256(resolve(teacher["path"], key="teacher"))
    name = hashlib.sha256(f"{weights} {size}".encode()).hexdigest()[:8]
    place = folder / f"teacher-{name}"
    with FileLock(folder / f"teacher-{name}.lock"):
        if not (place / "metrics.json").is_file():
            place.mkdir(exist_ok=True)
            evaluate_weights(
                teacher["path"], images, place, settings={**config, "imgsz": size, "nms": None}, key="teacher",
                class_map=teacher.get("class_map"),
            )  # fmt: skip
    return {**numbers(place), "imgsz": size}


def run_job(folder: Path) -> dict[str, Any]:
    """Train and evaluate what a folder's `job.json` says, and write its record."""
    job = read_json(folder / JOB)
    config: dict[str, Any] = job["config"]
    started = time.monotonic()
    result, cache, spec = train(job, config, folder)
    memory = peak_memory()
    outcome = result.outcome
    images = pooled(spec)
    last = evaluate(config, result.weights, images, folder / "pooled", nms=None)
    free = (
        evaluate(config, result.weights, images, folder / "nms_free", nms=False) if two_heads(result.weights) else None
    )
    period = late_period(int(config["epochs"]))
    early = folder / "weights" / f"epoch{period}.pt"
    late = evaluate(config, early, images, folder / "late", nms=None) if period and early.is_file() else None
    teacher = None if job["plain"] else teacher_numbers(config, images, Path(job["shared"]))
    record = {
        "schema": 1,
        "set": job["set"],
        "arm": job["label"],
        "recipe": job["recipe"],
        "seed": config["seed"],
        "overrides": job["words"],
        "arm_words": job["arm_words"],
        "time_of": job["time_of"],
        "fingerprint": job["fingerprint"],
        "initial_hash": outcome["initial_hash"],
        "batch_hash": outcome["batch_hash"],
        "labels_hash": outcome["labels_hash"],
        "shown": outcome["shown"],
        "epochs": outcome["epochs"],
        "steps": outcome["steps"],
        "train_seconds": outcome["seconds"],
        "threads": outcome["threads"],
        "cache": {key: cache[key] for key in ("kind", "bytes", "build_seconds") if key in cache} or None,
        "peak_memory": memory,
        "pooled": last,
        "nms_free": free,
        "late": None if late is None else {**late, "epoch": (period or 0) + 1},
        "test": numbers(folder),
        "cost": {key: result.cost.get(key) for key in ("params", "gflops")},
        "teacher": teacher,
        "alarms": list(outcome.get("alarms") or ()),
        "factors": outcome.get("factors") or {},
        "config": config,
        "environment": environment_record(),
        "seconds": time.monotonic() - started,
    }
    write_json(folder / RECORD, record)
    finish_run(folder, outcome=outcome, AP=last["AP"], AP50=last["AP50"])
    for left in (folder / RESUME_FILE, folder / "weights" / "epoch0.pt"):
        left.unlink(missing_ok=True)
    return record


def two_heads(weights: Path) -> bool:
    """Return whether a model also has a head without NMS."""
    return has_one2one(detect_head(load_detector(weights, key="student"), key="student", source=str(weights)))


def peak_memory() -> dict[str, float]:
    """Return the most memory the training took, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9  # the largest of them, not their sum
    gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    return {"process": round(own, 3), "largest_worker": round(workers, 3), "gpu": round(gpu, 3)}


def without_paths(content: Any) -> Any:
    """Replace this machine's folders by names."""
    text = json.dumps(content)
    assets = os.environ.get("DETKD_ASSETS", "")
    for place, name in ((assets, "$DETKD_ASSETS"), (str(REPO), "."), (str(Path.cwd()), ".")):
        if place and place != ".":
            text = text.replace(place, name)
    return json.loads(text)


def restart(folder: Path) -> None:
    """Remove what an attempt with other settings left."""
    shutil.rmtree(folder, ignore_errors=True)
