"""`detkd train`: a plain detector, for teachers, controls and everything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from detkd import ranks
from detkd.data.records import DataSpec, DetectionSet
from detkd.data.unlabelled import by_people
from detkd.diagnosis.working_point import working_point
from detkd.errors import ConfigError
from detkd.evaluation.side import Run
from detkd.locks import let_go
from detkd.progress import console, hushed, out
from detkd.runs import check_unchanged, claim, clear_run, finish_run, new_folder, open_run, read_config, start_run
from detkd.tasks.arguments import pick_device, ultralytics_arguments
from detkd.tasks.common import (
    Trained,
    evaluate_weights,
    get_data,
    report_set,
    split_of,
    train_once,
)
from detkd.tasks.pool import check_use, with_unlabelled
from detkd.tasks.results import TrainResult

__all__ = ["begin", "epoch_samples", "learn", "make_plan", "resumable", "train", "train_alone", "train_and_evaluate"]


def begin(config: dict[str, Any], verb: str) -> tuple[Path, dict[str, Any], bool]:
    """Open the run folder of a new or resumed run; a resumed one comes with its saved configuration."""
    if verb == "demo" and ranks.launched():
        pick_device(config["device"])  # refuses
    if config.get("resume"):
        folder = open_run(config["resume"], verb)
        check_unchanged(read_config(folder), config)
        return folder, config, True
    folder = new_folder(config.get("out"), config.get("name") or verb)
    claim(folder)
    if (folder / "run.json").is_file():
        if verb != "demo":
            let_go(folder)
            raise ConfigError(f"out: {folder} already holds a run; go on with resume={folder}, or choose another out=")
        clear_run(folder)
    start_run(folder, verb, config)
    return folder, config, False


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Name the run folder when the user interrupts, so that the command line can say how to go on."""
    try:
        yield
    except KeyboardInterrupt as err:
        raise KeyboardInterrupt(str(folder)) from err


def make_plan(
    config: Mapping[str, Any],
    student: Mapping[str, Any],
    spec: DataSpec,
    folder: Path,
    *,
    shared: bool = False,
    **more: Any,
) -> Any:
    """Return the training plan of a configuration.

    Args:
        config: A resolved train or distill configuration.
        student: Its `model` or `student` group.
        spec: The data.
        folder: Run folder.
        shared: Whether several processes may share the work.
        more: Further fields of `TrainPlan`.
    """
    from detkd.training.plan import TrainPlan

    for key in ("imgsz", "load_imgsz"):
        if (size := config.get(key)) is not None and (int(size) < 32 or int(size) % 32):
            raise ConfigError(f"{key}: must be a multiple of 32, got {size}; use {max(32, round(int(size) / 32) * 32)}")
    unlabelled = config.get("unlabelled") or {}
    dataset = split_of(spec, "train", key="data")
    check_use(dataset, distilled=more.get("distillation") is not None)
    return TrainPlan(
        train=dataset,
        val=split_of(spec, "val", "test", key="data"),
        student=str(student["path"]),
        scale=student.get("scale"),
        slice_from=student.get("slice"),
        slice_by=str(student.get("slice_by") or "power"),
        imgsz=int(config["imgsz"]),
        seed=int(config["seed"]),
        folder=folder,
        load_imgsz=config.get("load_imgsz"),
        arguments=ultralytics_arguments(config, folder, ranks=shared),
        threads=config.get("threads"),
        share=check_share(unlabelled.get("share"), dataset),
        trust_boxes=unlabelled.get("weight") == "quality",
        **more,
    )


def epoch_samples(config: Mapping[str, Any], dataset: DetectionSet) -> int:
    """Return how many images an epoch of the student shows, batches with a fixed share of unlabelled ones included."""
    share = check_share((config.get("unlabelled") or {}).get("share"), dataset)
    if share is None:
        return len(dataset)
    from detkd.training.sampler import EpochSampler

    groups, count = np.array([by_people(record) for record in dataset.records]), ranks.world_size()
    batch = int(config["batch"]) // count
    mine = EpochSampler(len(dataset), seed=0, groups=groups, share=share, batch=batch, world_size=count)
    return len(mine) * count


def check_share(value: Any, dataset: DetectionSet) -> float | None:
    """Return `unlabelled.share`, None where images come as they come.

    Raises:
        ConfigError: If it is no share, or there are no images of one kind.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"unlabelled.share: must be between 0 and 1, got {value!r}; null takes images as they come")
    return float(value)


def train_and_evaluate(
    config: Mapping[str, Any], student: Mapping[str, Any], spec: DataSpec, folder: Path, **more: Any
) -> TrainResult:
    """Train one detector in `folder`, if that is not done yet, and evaluate the reported checkpoint."""
    reported = report_set(spec, str(config.get("checkpoint") or "last"))
    trained = train_alone(config, student, spec, folder, **more)
    key = more.get("key", "student")
    run, cost = evaluate_weights(trained.weights, reported, folder, settings=config, key=key)
    return TrainResult(folder, run, cost, trained.weights, trained.outcome)


def train_alone(
    config: Mapping[str, Any], student: Mapping[str, Any], spec: DataSpec, folder: Path, **more: Any
) -> Trained:
    """Train one detector in `folder`, if that is not done yet, and leave it at that."""
    plan = make_plan(config, student, spec, folder, shared=True, **more)
    loggers = (config.get("report") or {}).get("loggers")
    checkpoint = str(config.get("checkpoint") or "last")
    return train_once(plan, checkpoint=checkpoint, verbose=bool(config.get("verbose")), loggers=loggers)


def keep_pictures(
    config: Mapping[str, Any], models: Sequence[tuple[str, Path, Run]], spec: DataSpec, folder: Path
) -> list[Path]:
    """Draw the boxes of one or several models beside the labels, on as many images as `pictures` says.

    Each model is shown above the score at which its F1 is best; one that never hits, above a usual score.
    """
    from detkd.tasks.pictures import write_side_by_side

    if not config.get("pictures"):
        return []
    dataset = report_set(spec, str(config.get("checkpoint") or "last"))
    return write_side_by_side(
        [(title, path, working_point(run.matches)["threshold"] or 0.25) for title, path, run in models],
        dataset,
        folder / "pictures",
        count=int(config["pictures"]),
        imgsz=int(config["imgsz"]),
        nms=config.get("nms"),
        device=pick_device(config["device"]),
    )


def learn(config: dict[str, Any], folder: Path, *, resume: bool) -> None:
    """Do the training of `detkd train` and nothing else: the part that several processes share."""
    from detkd.training.group import in_turn

    spec = in_turn(lambda: get_data(config["data"], folder if ranks.first() else None))
    spec = with_unlabelled(spec, config, distilled=False)
    train_alone(config, config["model"], spec, folder, resume=resume, key="model", description=folder.name)


def train(config: dict[str, Any]) -> TrainResult:
    """Run `detkd train`."""
    from detkd.evaluation.tables import metrics_table
    from detkd.tasks.together import begin_together, train_together

    folder, config, resume = begin_together(config, "train")
    with resumable(folder):
        config, done = train_together(config, "train", folder, resume)
        with hushed(done):  # it was all said when the training began
            spec = with_unlabelled(get_data(config["data"], folder), config, distilled=False)
        result = train_and_evaluate(
            config, config["model"], spec, folder, resume=resume or done, key="model", description=folder.name
        )
        keep_pictures(config, [(folder.name, result.weights, result.run)], spec, folder)
    finish_run(folder, outcome=result.outcome, AP=result.metrics.AP, AP50=result.metrics.AP50)
    out.print(metrics_table([(folder.name, result.metrics, result.cost)]))
    console.print(f"weights: {result.weights}")
    return result
