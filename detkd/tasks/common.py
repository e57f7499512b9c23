"""What several verbs do alike: data, arguments, training, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from detkd import ranks
from detkd.data.coco import to_coco
from detkd.data.load import load_data, summary_table, write_report
from detkd.data.noise import hurry
from detkd.data.records import DataSpec, DetectionSet
from detkd.data.toy import draw_toy
from detkd.errors import ConfigError
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.records import read_records
from detkd.evaluation.side import Run, make_run
from detkd.evaluation.truth import load_truth
from detkd.io import read_json, sha256, write_json, write_json_list
from detkd.progress import console
from detkd.tasks.arguments import pick_device

__all__ = [
    "TRUTH_FILE",
    "Trained",
    "evaluate_weights",
    "get_data",
    "named_split",
    "report_set",
    "split_of",
    "train_once",
]

TRUTH_FILE = "ground_truth.json"
"""The labels of the evaluated images as COCO instances, kept in every run folder."""


def get_data(node: Mapping[str, Any], folder: Path | None = None) -> DataSpec:
    """Load the data a config describes, drawing the toy set where that is asked for, and print a summary.

    Args:
        node: The `data` group.
        folder: Run folder for the report of what was skipped; None writes none.
    """
    from detkd.models.datasets import ultralytics_dataset

    source = {key: value for key, value in node.items() if key not in {"train_images", "labelled", "use_test"}}
    if source.get("format") == "toy":
        drawn = draw_toy(
            source["path"],
            images=source["images"],
            size=source["size"],
            difficulty=source["difficulty"],
            seed=source["seed"],
        )
        source = {"name": source["name"], "format": "coco", "path": str(drawn), "on_bad": source.get("on_bad", "error")}
    spec = load_data(source, on_bad=str(source.get("on_bad") or "error"), resolver=ultralytics_dataset)
    if node.get("format") == "toy" and node.get("label_noise"):
        train = hurry(spec.splits["train"], node["label_noise"], seed=int(node["seed"]))
        note = "training labels were made worse on purpose: " + ", ".join(
            f"{key} {value}" for key, value in node["label_noise"].items()
        )
        spec = replace(spec, splits={**spec.splits, "train": train}, notes=(*spec.notes, note))
    if node.get("use_test") is False and "test" in spec.splits:
        spec = replace(spec, splits={name: part for name, part in spec.splits.items() if name != "test"})
    console.print(summary_table(spec))
    for note in spec.notes:
        console.print(f"[dim]{note}[/dim]")
    if folder is not None:
        write_report(spec, folder)
    return spec


def split_of(spec: DataSpec, *names: str, key: str) -> DetectionSet:
    """Return the first split that exists.

    Raises:
        ConfigError: If none does.
    """
    for name in names:
        if name in spec.splits:
            return spec.splits[name]
    raise ConfigError(
        f"{key}: the data has no {' or '.join(names)} split, only {', '.join(spec.splits)}; see docs/data.md"
    )


def named_split(spec: DataSpec, name: object) -> DetectionSet:
    """Return the split a user asked for; where test is asked for and missing, val."""
    wanted = str(name or "test")
    return split_of(spec, *(("test", "val") if wanted == "test" else (wanted,)), key="split")


def report_set(spec: DataSpec, checkpoint: str) -> DetectionSet:
    """Return the split that results are reported on: test where there is one, else val.

    Raises:
        ConfigError: If the checkpoint was chosen on that split.
    """
    chosen = split_of(spec, "test", "val", key="data")
    if checkpoint == "best" and chosen is split_of(spec, "val", "test", key="data"):
        raise ConfigError(
            f"checkpoint: best was chosen on {chosen.split}, which would also be reported; add a split for each or use "
            "checkpoint=last"
        )
    return chosen


@dataclass(frozen=True)
class Trained:
    """A trained detector.

    Attributes:
        folder: Run folder.
        weights: The checkpoint that is reported.
        outcome: Hashes, epochs and seconds of the training.
    """

    folder: Path
    weights: Path
    outcome: dict[str, Any]


def train_once(
    plan: Any, *, checkpoint: str = "last", verbose: bool = False, loggers: Sequence[str] | None = None
) -> Trained:
    """Train according to a plan, or return what an earlier, finished attempt in the same folder made.

    Where several processes share the training all of them call this, and the first one looks and writes.
    """
    from detkd.models.weights import quiet
    from detkd.training import group
    from detkd.training.integrations import switched
    from detkd.training.run import run_training, settle

    folder: Path = plan.folder
    weights = folder / "weights" / f"{checkpoint}.pt"
    done = folder / "outcome.json"
    if not plan.resume and ranks.first():
        for left in (done, folder / "resume.pt"):
            left.unlink(missing_ok=True)
    settle(plan)
    outcome: dict[str, Any] | None = group.share(lambda: read_json(done) if done.is_file() else None)
    if outcome is None:
        with quiet(20 if verbose else 40), switched(loggers):
            outcome = asdict(run_training(plan))
        if ranks.first():
            write_json(done, outcome)
            outcome = read_json(done)
    return Trained(folder, weights, outcome)


def evaluate_weights(
    weights: str | Path,
    dataset: DetectionSet,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    stem: str = "",
    key: str = "model",
    class_map: Mapping[str, str] | None = None,
    truth: GroundTruth | None = None,
) -> tuple[Run, dict[str, Any]]:
    """Detect, evaluate and measure the cost of one model.

    Writes `metrics.json`, `detections.json` and `ground_truth.json`, so that the folder can be compared later on.

    Args:
        weights: Checkpoint, exported model, run folder or official name.
        dataset: The images.
        folder: Where the files go.
        settings: `imgsz` (None: the checkpoint's own), `device`, `nms`, and optionally `batch`, `conf`, `iou`,
            `max_det`, `engine`, `seed`; other keys are ignored, so a verb's config can be given as it is.
        stem: Prefix of the file names.
        key: Config key of the model for messages.
        class_map: Names of the model's classes to read as others.
        truth: The labels where they are at hand; else those of `dataset`.

    Returns:
        The evaluated run and the cost (parameters, GFLOPs, size, latency) as JSON values.
    """
    from detkd.inference.detector import Detector
    from detkd.inference.results import stream_set
    from detkd.models.classmap import plain_name
    from detkd.models.cost import measure
    from detkd.models.weights import checkpoint_imgsz, resolve

    path = resolve(weights, key=key)
    chosen = {name: settings[name] for name in ("conf", "iou", "max_det", "batch") if settings.get(name) is not None}
    if "epochs" in settings:
        chosen.pop("batch", None)  # the batch of a training run says nothing about inference
    detector = Detector.load(
        path,
        device=pick_device(settings["device"]),
        imgsz=int(settings.get("imgsz") or checkpoint_imgsz(path)),
        nms=settings.get("nms"),
        **chosen,
    )
    if class_map:
        renamed = {plain_name(source): target for source, target in class_map.items()}
        detector.names = tuple(renamed.get(plain_name(name), name) for name in detector.names)
    file = write_json_list(folder / f"{stem}detections.json", stream_set(detector, dataset))
    described = {**detector.describe(), "weights_sha256": sha256(path) if path.is_file() else None}
    if truth is None:
        content = to_coco(dataset)
        truth = load_truth(content)
        write_json(folder / TRUTH_FILE, content, indent=None)
    run = make_run(
        truth,
        chain.from_iterable(read_records(file)),  # read back piece by piece: as a list it would fill the memory
        source=str(weights),
        seed=settings.get("seed") if "epochs" in settings else None,
        engine=str(settings.get("engine") or "auto"),
        settings=described,
    )
    cost = measure(detector).to_dict()
    record = {"metrics": run.metrics.to_dict(), "cost": cost, "weights": str(path), "split": dataset.split}
    write_json(folder / f"{stem}metrics.json", record)
    return run, cost
