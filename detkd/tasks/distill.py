"""`detkd distill`: a student learns from labels and a teacher, next to its matched control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkd.data.coco import to_coco
from detkd.data.records import DataSpec
from detkd.errors import PairError
from detkd.evaluation.metrics import Metrics
from detkd.evaluation.side import Run, Side, make_run
from detkd.evaluation.tables import metrics_table, per_class_table
from detkd.evaluation.truth import load_truth
from detkd.io import read_json, write_json
from detkd.progress import console, out
from detkd.report.comparison import compare
from detkd.report.notes import Note
from detkd.report.tables import headline
from detkd.runs import finish_run, read_config, start_run
from detkd.tasks.caches import prepare
from detkd.tasks.common import evaluate_weights, get_data, report_set, split_of
from detkd.tasks.compare import check_report, picture_settings, report_settings, slice_fields, write_report
from detkd.tasks.pool import control_set, with_unlabelled
from detkd.tasks.recipes import make_recipe
from detkd.tasks.results import DistillResult, TrainResult
from detkd.tasks.teachers import (
    teacher_file,
    teacher_notes,
    teacher_sizes,
    teacher_source,
    weak_teacher,
    with_packaged_teacher,
)
from detkd.tasks.train import begin, epoch_samples, keep_pictures, resumable, train_and_evaluate

__all__ = ["distill", "distill_on", "print_outcome"]

FEWER_IMAGES = (
    "the control learned from the {} labelled images alone, the student from {} images; both made the same number of "
    "steps"
)
NO_CONTROL = (
    "no control was trained, so this says how far the student is from its teacher, not what distillation added; "
    "use control=true"
)


def print_estimate(config: Mapping[str, Any]) -> None:
    """Say what a run would cost, without data or weights."""
    from detkd.tasks.estimate import estimate

    make_recipe(config["distill"], tuple(config.get("plugins") or ()))
    live = (config.get("cache") or {}).get("kind", "none") == "none"
    out.print(str(estimate(config, config["data"].get("train_images"), live=live)))


def distill(config: dict[str, Any]) -> DistillResult | None:
    """Run `detkd distill`; with `dry_run` only its cost is printed and nothing is returned."""
    if config.get("dry_run"):
        print_estimate(config)
        return None
    folder, config, resume = begin(config, "distill")
    spec = get_data(config["data"], folder)
    with resumable(folder):
        result = distill_on(config, spec, folder, resume=resume)
        keep_pictures(config, pictured(result), spec, folder)
    metrics = result.metrics
    finish_run(folder, outcome=result.outcome, AP=metrics.AP, AP50=metrics.AP50, gain=result.gain)
    print_outcome(result, "COCO evaluation (points)")
    console.print(f"weights: {result.weights}\npage: {folder / 'compare.html'}")
    return result


def print_outcome(result: DistillResult, title: str) -> None:
    """Print teacher, control and student as tables, then what the difference is worth."""
    rows: list[tuple[str, Metrics, dict[str, Any] | None]] = []
    if result.teacher is not None:
        rows.append(("teacher", result.teacher.metrics, result.teacher_cost))
    if result.control is not None:
        rows.append(("control", result.control.metrics, result.control.cost))
    rows.append(("distilled", result.metrics, result.cost))
    out.print(metrics_table(rows, title=title))
    out.print(per_class_table(rows))
    assert result.comparison is not None
    for line in headline(result.comparison) if result.control is not None else [NO_CONTROL]:
        out.print(line, highlight=False)


def pictured(result: DistillResult) -> list[tuple[str, Path, Run]]:
    """Return title, weights and answers of the models to show side by side."""
    models = [("distilled", result.weights, result.run)]
    if result.control is not None:
        models.insert(0, ("control", result.control.weights, result.control.run))
    return models


def distill_on(config: Mapping[str, Any], spec: DataSpec, folder: Path, *, resume: bool = False) -> DistillResult:
    """Train control (where asked for) and student on loaded data and compare them."""
    from detkd.tasks.estimate import estimate
    from detkd.training.plan import Distillation

    config = with_packaged_teacher(config)
    node = config["distill"]
    plugins = tuple(config.get("plugins") or ())
    make_recipe(node, plugins)  # every mistake in it is reported before any work is done
    reported = report_set(spec, str(config.get("checkpoint") or "last"))
    options = check_report(config.get("report") or {}, load_truth(to_coco(reported)))
    spec = with_unlabelled(spec, config)
    teacher_imgsz: int | None = None
    if (config.get("cache") or {}).get("kind") != "instances":  # objects are found in clean images of any size
        teacher_imgsz, load_imgsz = teacher_sizes(config)
        config = {**config, "load_imgsz": load_imgsz}
    teacher_path = teacher_file(config)
    cached = prepare(config, spec)
    distillation = Distillation(
        source=cached.source if cached else teacher_source(config),
        recipe=lambda: make_recipe(node, plugins),
        imgsz=teacher_imgsz,
    )
    shown = cached.plan if cached else {}
    train = split_of(spec, "train", key="data")
    console.print(f"[dim]{estimate(config, len(train), live=cached is None)}[/dim]")
    same_images = control_set(train) is train
    control = _control(config, spec, folder, resume, {k: v for k, v in shown.items() if k != "soft"})
    student = train_and_evaluate(
        config,
        config["student"],
        spec,
        folder,
        resume=resume,
        distillation=distillation,
        description="distilled",
        **shown,
    )
    if cached is not None:
        write_json(folder / "cache.json", cached.facts)
    if control is not None:
        check_match(control.outcome, student.outcome, same_images=same_images)
    seen = int(config["teacher"].get("imgsz") or config["imgsz"])
    teacher = _teacher(config, teacher_path, seen, spec, folder)
    after = Side("distilled", "after", (student.run,), _with_time(student), str(folder))
    taught_by = None if teacher is None else Side("teacher", "teacher", (teacher[0],), teacher[1], teacher_path)
    before = taught_by
    if control is not None:
        before = Side("control", "before", (control.run,), _with_time(control), str(control.folder))
    assert before is not None  # teacher_file makes sure of one of the two
    comparison = compare(
        before,
        after,
        teacher=taught_by if control is not None else None,
        settings=report_settings(options),
        slices=slice_fields(options),
        pictures=picture_settings(options, student.run.truth),
    )
    notes = [] if cached is None else [Note("info", cache_note(cached.facts))]
    if control is None:
        notes.insert(0, Note("warning", NO_CONTROL))
    elif not same_images:
        notes.append(Note("info", FEWER_IMAGES.format(len(control_set(train)), len(train))))
    if taught_by is not None:
        notes += [Note("info", line) for line in teacher_notes(config, spec.names)]
    alarms = [
        *student.outcome.get("alarms", ()),
        *weak_teacher(config, spec.names, teacher and teacher[0], None if control is None else control.run),
    ]
    notes = [Note("warning", f"alarm: {text}") for text in alarms] + notes
    comparison = replace(comparison, notes=(*notes, *comparison.notes))
    write_report(comparison, folder, config)
    return DistillResult(
        folder,
        student.run,
        student.cost,
        student.weights,
        student.outcome,
        teacher=None if teacher is None else teacher[0],
        teacher_cost={} if teacher is None else teacher[1],
        control=control,
        comparison=comparison,
    )


def _with_time(trained: TrainResult) -> dict[str, Any]:
    """Return what a detector costs to run and took to train."""
    return {**trained.cost, "train_seconds": trained.outcome.get("seconds")}


def cache_note(facts: Mapping[str, Any]) -> str:
    """Return what the report says about stored answers."""
    return (
        f"the teacher's answers were read from a cache ({facts['kind']}, {facts['records']:,} records, "
        f"{facts['bytes'] / 1e6:,.1f} MB); it took {facts['build_seconds']:,.0f} s to build and can serve further "
        "runs, so these seconds are not in the training time"
    )


def check_match(control: Mapping[str, Any], student: Mapping[str, Any], *, same_images: bool = True) -> None:
    """Make sure that control and student differ in the teacher alone.

    Args:
        control: Outcome of the control.
        student: Outcome of the student.
        same_images: False where the student learns from images without labels too; the number of steps is the same.

    Raises:
        PairError: Naming what else differs.
    """
    facts = [("initial_hash", "initial weights"), ("epochs", "the number of epochs"), ("amp", "mixed precision")]
    if same_images:
        facts.append(("batch_hash", "the pixels and labels of the first batches"))
    for key, meaning in (
        ("steps", "the number of steps"),
        ("labels_hash", "the labelled images"),
        ("shown", "the views of each image that are shown"),
    ):
        if key in control:  # controls of earlier versions don't say
            facts.append((key, meaning))
    for key, meaning in facts:
        if control.get(key) != student.get(key):
            raise PairError(
                f"control: differs from the student in {meaning} ({control.get(key)} and {student.get(key)}), so a "
                "gain would mean nothing; use control=true, or train it with the same data, seed, sizes and epochs"
            )


def _control(
    config: Mapping[str, Any], spec: DataSpec, folder: Path, resume: bool, shown: Mapping[str, Any]
) -> TrainResult | None:
    """Train the matched plain student in `folder/control`, or read an earlier one and check that it matches."""
    wanted = config.get("control")
    if not wanted:
        return None
    if wanted is not True:
        return _read_control(Path(str(wanted)), spec, config)
    target = folder / "control"
    resume = resume and (target / "run.json").is_file()
    if not resume:
        dropped = {"teacher", "distill", "control", "student", "dry_run", "cache", "unlabelled"}
        plain = {k: v for k, v in config.items() if k not in dropped}
        target.mkdir(parents=True, exist_ok=True)
        start_run(target, "train", {**plain, "model": config["student"], "out": str(target)})
    train = split_of(spec, "train", key="data")
    labelled = control_set(train)
    more = dict(shown)
    if labelled is not train:  # fewer images, shown as often as it takes to make as many steps
        more["samples"] = epoch_samples(config, train)
    spec = replace(spec, splits={**spec.splits, "train": labelled})
    result = train_and_evaluate(
        {**config, "unlabelled": None}, config["student"], spec, target, resume=resume, description="control", **more
    )
    finish_run(target, outcome=result.outcome, AP=result.metrics.AP, AP50=result.metrics.AP50)
    return result


def _read_control(folder: Path, spec: DataSpec, config: Mapping[str, Any]) -> TrainResult:
    """Read an earlier control; its detections are evaluated on the labels of this run."""
    record = read_json(folder / "metrics.json")
    truth = load_truth(to_coco(report_set(spec, str(config.get("checkpoint") or "last"))))
    protocol = record["metrics"]["protocol"]
    if protocol.get("gt_sha256") != truth.sha256:
        raise PairError(
            f"control: {folder} was evaluated on other images or labels than this run reports on; use control=true, or "
            "train it with the same data and checkpoint"
        )
    run = make_run(
        truth,
        folder / "detections.json",
        source=str(folder),
        seed=read_config(folder).get("seed"),
        settings=protocol.get("settings"),
    )
    return TrainResult(folder, run, record["cost"], Path(record["weights"]), read_json(folder / "outcome.json"))


def _teacher(
    config: Mapping[str, Any], path: str, imgsz: int, spec: DataSpec, folder: Path
) -> tuple[Run, dict[str, Any]] | None:
    """Evaluate the teacher on the reported images, at its own resolution; a results file can't be."""
    if path.endswith(".json"):
        return None
    dataset = report_set(spec, str(config.get("checkpoint") or "last"))
    return evaluate_weights(
        path,
        dataset,
        folder,
        settings={**config, "imgsz": imgsz, "nms": None, **({} if path.endswith(".pt") else {"device": "cpu"})},
        stem="teacher_",
        key="teacher",
        class_map=config["teacher"].get("class_map"),
    )
