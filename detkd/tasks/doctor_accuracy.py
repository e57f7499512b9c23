"""How good teacher and student are before `detkd doctor` lets them near each other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from detkd.data.coco import to_coco
from detkd.data.records import DetectionSet
from detkd.evaluation.side import Run, Side, make_run
from detkd.evaluation.truth import load_truth
from detkd.statistics.records import Settings
from detkd.statistics.study import study
from detkd.tasks.arguments import pick_device
from detkd.tasks.doctor_checks import Finding

__all__ = [
    "Gap",
    "accuracy",
    "check_gap",
    "check_student",
    "check_teacher",
    "few_images",
    "measure_gap",
    "over_classes",
]

_USELESS = 1.0
"""AP in points below which a teacher knows nothing of the data."""
_CLOSE = 2.0
"""A teacher this few points above its student has little to teach."""
_DRAWS = 200
"""Draws of the images for the interval of a difference; enough for a verdict."""


class Gap(NamedTuple):
    """How far the teacher is above the student, in points of AP.

    Attributes:
        points: The difference.
        low: Lower end of its 95 % interval over the images, None where there is none.
        high: Its upper end.
    """

    points: float
    low: float | None = None
    high: float | None = None


def few_images(dataset: DetectionSet, most: int) -> DetectionSet:
    """Return at most so many images of a split, spread evenly over it."""
    count = len(dataset)
    if count <= most:
        return dataset
    return replace(dataset, records=tuple(dataset.records[number * count // most] for number in range(most)))


def accuracy(
    path: str, dataset: DetectionSet, config: Mapping[str, Any], imgsz: int, class_map: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], Run]:
    """Return AP and AP50 in points (None where they can't be measured) of a file that answers, and its answers.

    Raises:
        DetkdError: If it can't be loaded or has no class in common with the data.
    """
    from detkd.inference.detector import Detector
    from detkd.inference.results import detect_set
    from detkd.models.classmap import plain_name

    detector = Detector.load(path, device=pick_device(config["device"]), imgsz=imgsz, nms=None)
    renamed = {plain_name(source): target for source, target in (class_map or {}).items()}
    detector.names = tuple(renamed.get(plain_name(name), name) for name in detector.names)
    run = make_run(load_truth(to_coco(dataset)), detect_set(detector, dataset), source=path)
    return {"AP": run.metrics.AP, "AP50": run.metrics.AP50, "images": len(dataset), "imgsz": imgsz}, run


def over_classes(run: Run, known: Sequence[str]) -> dict[str, Any]:
    """Return AP and AP50 over the classes that a teacher answers for, and which these are where it isn't all.

    Args:
        run: Its answers.
        known: Classes of the data.
    """
    if set(known) >= set(run.metrics.names):
        return {}
    numbers = {key: [run.metrics.number(f"{key}/{name}") for name in known] for key in ("AP", "AP50")}
    told = {key: [value for value in values if value is not None] for key, values in numbers.items()}
    return {**{key: statistics.fmean(of) if of else None for key, of in told.items()}, "classes": list(known)}


def measure_gap(teacher: Run, student: Run, known: Sequence[str]) -> Gap | None:
    """Return how far the teacher is above the student over the classes it knows, None where no number can be given.

    Args:
        teacher: Its answers.
        student: Those of the student, on the same images.
        known: Classes of the data that the teacher answers for.
    """
    if set(known) >= set(teacher.metrics.names):
        sides = (Side("student", "before", (student,)), Side("teacher", "after", (teacher,)))
        found = study(sides, [("student", "teacher")], settings=Settings(resamples=_DRAWS, permutations=0))
        whole = found.contrasts["student", "teacher"]["AP"]
        return None if whole.delta is None else Gap(whole.delta, whole.low, whole.high)
    # Classes that it does not teach say nothing about it as a teacher.
    pairs = [(teacher.metrics.number(f"AP/{name}"), student.metrics.number(f"AP/{name}")) for name in known]
    gaps = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    return Gap(statistics.fmean(gaps)) if gaps else None


def check_teacher(found: Mapping[str, Any], name: str) -> Finding:
    """Say how good the teacher is on the data."""
    text = f"{name}: {_points(found['AP'])} AP, {_points(found['AP50'])} AP50 "
    text += f"over {', '.join(found['classes'])} " if found.get("classes") else ""
    text += f"on {found['images']} images of "
    text += f"{found['split']} at {found['imgsz']} pixels"
    if found["AP"] is None or found["AP"] < _USELESS:
        return Finding(
            "teacher", "problem", text,
            "it knows nothing of this data: check teacher.class_map and teacher.imgsz, or train it on the data first",
            dict(found),
        )  # fmt: skip
    return Finding("teacher", "ok", text, facts=dict(found))


def check_student(
    found: Mapping[str, Any] | None, config: Mapping[str, Any], *, other_classes: bool = False
) -> Finding:
    """Say what the student knows before it begins.

    Args:
        found: What `accuracy` says, None where there is nothing to measure.
        config: A resolved configuration.
        other_classes: Whether it has trained weights, but for none of these classes.
    """
    node = config["student"]
    name = Path(str(node["path"])).name
    if found is not None:
        return Finding("student", "ok", f"{name}: {_points(found['AP'])} AP before training", facts=dict(found))
    source = f"cut out of {Path(str(node['slice'])).name}" if node.get("slice") else "random, no weights"
    text = f"{name}: initial weights are {source}"
    if other_classes:
        text = f"{name}: its weights know no class of the data, so its answers begin anew"
    return Finding("student", "ok", text, facts={"AP": None})


def check_gap(gap: Gap | None) -> Finding:
    """Say whether the teacher has something to teach; `gap` is None where the student knows nothing yet."""
    check = "teacher above student"
    if gap is None:
        return Finding(check, "ok", "the student knows nothing yet", facts={"gap": None})
    points, low, high = gap
    facts = {"gap": points, "low": low, "high": high}
    text = (
        f"the teacher is {abs(points):.1f} points AP {'better' if points >= 0 else 'worse'} than the untrained student"
    )
    if low is not None and high is not None:
        text += f" (95% interval {low:+.1f} to {high:+.1f})"
    surely_worse = high < 0 if high is not None else points < -_CLOSE
    if surely_worse:
        advice = "a worse teacher teaches its mistakes: train it on this data, choose another, or raise teacher.imgsz"
        return Finding(check, "problem", text, advice, facts)
    if points < _CLOSE:
        advice = "there is little to learn from it; a larger teacher or a larger teacher.imgsz has more to say"
        return Finding(check, "warning", text, advice, facts)
    return Finding(check, "ok", text, facts=facts)


def _points(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
