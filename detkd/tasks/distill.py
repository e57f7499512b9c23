"""`detkd distill`: a student learns from labels and a teacher, next to its matched control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkd.data.records import DataSpec
from detkd.evaluation.metrics import Metrics
from detkd.evaluation.side import Run, Side
from detkd.evaluation.tables import metrics_table, per_class_table
from detkd.io import write_json
from detkd.progress import console, hushed, out
from detkd.ranks import first
from detkd.report.comparison import compare
from detkd.report.notes import Note
from detkd.report.tables import headline
from detkd.runs import finish_run
from detkd.tasks.arguments import check_sizes
from detkd.tasks.common import evaluate_weights, get_data, report_set
from detkd.tasks.compare import picture_settings, report_settings, slice_fields, write_report
from detkd.tasks.distill_runs import Job, Trainings, check_match, set_up
from detkd.tasks.recipes import make_recipe
from detkd.tasks.results import DistillResult, TrainResult
from detkd.tasks.teachers import teacher_notes, weak_teacher
from detkd.tasks.together import begin_together, train_together
from detkd.tasks.train import keep_pictures, resumable
from detkd.training.calibration import Calibrator

__all__ = ["distill", "distill_on", "learn", "print_outcome"]

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
    check_sizes(config)
    live = (config.get("cache") or {}).get("kind", "none") == "none"
    out.print(str(estimate(config, config["data"].get("train_images"), live=live)))


def learn(config: dict[str, Any], folder: Path, *, resume: bool) -> None:
    """Do the trainings of `detkd distill` and nothing else: the part that several processes share."""
    from detkd.training.group import in_turn

    spec = in_turn(lambda: get_data(config["data"], folder if first() else None))
    trainings = set_up(config, spec, folder)
    if trainings.control is not None:
        trainings.control.begin(resume)
        trainings.control.train(resume)
    trainings.student.train(resume)


def distill(config: dict[str, Any]) -> DistillResult | None:
    """Run `detkd distill`; with `dry_run` only its cost is printed and nothing is returned."""
    if config.get("dry_run"):
        print_estimate(config)
        return None
    folder, config, resume = begin_together(config, "distill")
    with resumable(folder):
        config, done = train_together(config, "distill", folder, resume)
        with hushed(done):  # it was all said when the training began
            spec = get_data(config["data"], folder)
            trainings = set_up(config, spec, folder, again=done)
        result = judge(trainings, folder, resume or done)
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
    """Train control (where asked for) and student on loaded data, as far as that is not done, and compare them."""
    return judge(set_up(config, spec, folder), folder, resume)


def judge(trainings: Trainings, folder: Path, resume: bool) -> DistillResult:
    """Train what is not trained yet, evaluate it and compare it."""
    config, spec, cached = trainings.config, trainings.spec, trainings.cached
    control = trainings.earlier
    if trainings.control is not None:
        control = _finish_control(trainings.control, resume)
    student = trainings.student.result(resume)
    if cached is not None:
        write_json(folder / "cache.json", cached.facts)
    if control is not None:
        check_match(control.outcome, student.outcome, same_images=trainings.same_images)
    teacher_path = trainings.teacher
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
        settings=report_settings(trainings.options),
        slices=slice_fields(trainings.options),
        pictures=picture_settings(trainings.options, student.run.truth),
    )
    notes = [] if cached is None else [Note("info", cache_note(cached.facts))]
    if control is None:
        notes.insert(0, Note("warning", NO_CONTROL))
    elif not trainings.same_images:
        notes.append(Note("info", FEWER_IMAGES.format(*trainings.images)))
    notes += [Note("info", line) for line in student.outcome.get("notes", ())]
    if taught_by is not None:
        notes += [Note("info", line) for line in teacher_notes(config, spec.names)]
    weak = weak_teacher(config, spec.names, teacher[0] if teacher else None, control.run if control else None)
    for text in weak:
        Calibrator(folder, resume=True).alarm("weak teacher", text)
    alarms = list(dict.fromkeys([*student.outcome.get("alarms", ()), *weak]))
    notes = [Note("warning", f"alarm: {text}") for text in alarms] + notes
    comparison = replace(comparison, notes=(*notes, *comparison.notes))
    write_report(comparison, folder, config)
    return DistillResult(
        folder,
        student.run,
        student.cost,
        student.weights,
        {**student.outcome, "alarms": alarms},
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


def _finish_control(job: Job, resume: bool) -> TrainResult:
    """Train the control, if that is not done yet, and evaluate it."""
    job.begin(resume)
    result = job.result(resume)
    finish_run(job.folder, outcome=result.outcome, AP=result.metrics.AP, AP50=result.metrics.AP50)
    return result


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
