"""What `detkd doctor` can say of teacher and student without a training step: classes, levels, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import nn

from detkd.data.coco import to_coco
from detkd.data.records import DataSpec
from detkd.evaluation.truth import load_truth
from detkd.tasks.common import report_set, split_of
from detkd.tasks.compare import check_report
from detkd.tasks.recipes import wants_objects
from detkd.tasks.teachers import Member, live_teacher, teacher_file, teacher_members

if TYPE_CHECKING:
    from detkd.models.teacher import LiveTeacher

__all__ = [
    "Finding",
    "check_classes",
    "check_levels",
    "check_resolution",
    "check_settings",
    "load_members",
]

Verdict = Literal["ok", "warning", "problem", "skipped"]

_RESIZED = 1.7
"""A teacher asked at a size this many times off that of its training sees objects of other sizes than it learned."""


@dataclass(frozen=True)
class Finding:
    """One row of the report.

    Attributes:
        check: What was looked at.
        verdict: ok, warning, problem, or skipped.
        text: What was found.
        advice: What to do about it; empty where there is nothing to do.
        facts: The numbers behind it, JSON values.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def check_settings(config: Mapping[str, Any], spec: DataSpec) -> Finding:
    """Look for what `detkd distill` refuses before it starts, beside models and recipe.

    Raises:
        ConfigError: Naming the key that can't be used.
    """
    from detkd.tasks.cache_checks import check_terms

    checkpoint = str(config.get("checkpoint") or "last")
    train, reported = split_of(spec, "train", key="data"), report_set(spec, checkpoint)
    check_report(config.get("report") or {}, load_truth(to_coco(reported)))
    if str(config["teacher"]["path"]).endswith(".json"):
        teacher_file(config)
    if str((config.get("cache") or {}).get("kind") or "none") != "none":
        check_terms(config)
    labelled = sum(record.labelled for record in train.records)
    facts = {"train": len(train), "labelled": labelled, "reported": len(reported), "split": reported.split}
    text = f"{len(train):,} images to train on, {labelled:,} of them labelled; the {checkpoint} weights will be "
    text += f"reported on {len(reported):,} images of {reported.split}"
    return Finding("settings", "ok", text, facts=facts)


def load_members(config: Mapping[str, Any], names: Sequence[str]) -> list[tuple[Member, LiveTeacher]]:
    """Load the teachers one by one, each on its own.

    Raises:
        DetkdError: As the run itself would.
    """
    loaded = []
    for member in teacher_members(config["teacher"]):
        node = {"path": member.path, "class_map": dict(member.class_map), "classes": member.classes}
        teacher = live_teacher({**config, "teacher": node}, names, exact=True)
        loaded.append((member, cast("LiveTeacher", teacher)))  # one path makes one teacher
    return loaded


def check_classes(members: Sequence[tuple[Member, LiveTeacher]], names: Sequence[str]) -> Finding:
    """Say which class of a teacher stands for which of the data."""
    known: dict[str, list[str]] = {name: [] for name in names}
    unused = 0
    for _, teacher in members:
        for name, sources in zip(names, teacher.mapping, strict=True):
            known[name] += [teacher.names[number] for number in sources]
        used = {number for sources in teacher.mapping for number in sources}
        unused += len(teacher.names) - len(used)
    missing = [name for name, sources in known.items() if not sources]
    shown = [f"{name} = {' + '.join(dict.fromkeys(sources))}" for name, sources in known.items() if sources]
    text = "; ".join(shown[:12]) + (f"; and {len(shown) - 12} more" if len(shown) > 12 else "")
    if unused:
        text += f"; {unused} classes of the teacher are not used"
    facts = {"map": known, "unknown": missing, "unused": unused}
    if missing:
        return Finding(
            "classes", "warning", f"{text}; not known to the teacher: {', '.join(missing)}",
            "the student learns these from labels alone; teacher.class_map={theirs: yours} names counterparts", facts,
        )  # fmt: skip
    return Finding("classes", "ok", text, facts=facts)


def check_levels(student: nn.Module, teacher: nn.Module, config: Mapping[str, Any], recipe: Any) -> Finding:
    """Compare strides, channels and heads.

    Args:
        student: Its Detect head.
        teacher: Likewise.
        config: A resolved configuration.
        recipe: The distillation loss.
    """
    from detkd.models.head import has_one2one

    sides: list[dict[str, Any]] = []
    for part in (student, teacher):
        head: Any = part
        sides.append(
            {
                "strides": [int(stride) for stride in head.stride.tolist()],
                "channels": [_inputs(branch) for branch in head.cv2],
                "heads": ["one2many", "one2one"] if has_one2one(head) else ["one2many"],
                "bins": int(head.reg_max),
            }
        )
    mine, theirs = sides
    text = (
        f"strides {mine['strides']} and {theirs['strides']}, channels {mine['channels']} and {theirs['channels']}, "
        f"heads {' + '.join(mine['heads'])} and {' + '.join(theirs['heads'])}"
    )
    facts = {"student": mine, "teacher": theirs}
    nms = (config["teacher"] or {}).get("nms_conf")
    wanted = "one2one" in recipe.paired(mine["heads"], mine["heads"]) if len(recipe.terms) else False
    if wanted and "one2one" not in theirs["heads"]:
        if nms is None:
            advice = "set teacher.nms_conf=0.05, so that the teacher's objects teach the student's NMS-free head"
            return Finding("levels and heads", "warning", f"{text}; the one2one head has no teacher", advice, facts)
        if (config.get("cache") or {}).get("kind") == "views":
            by = "labels alone, as cache=views stores the teacher's own heads"
        elif wants_objects(recipe):
            by = "the teacher's objects"
        else:
            by = "labels alone, as the losses run the teacher's own head"
        text += f"; the one2one head is taught by {by}"
    return Finding("levels and heads", "ok", text, facts=facts)


def check_resolution(members: Sequence[tuple[Member, LiveTeacher]], config: Mapping[str, Any]) -> Finding:
    """Compare the size each teacher is asked at with the size it was trained at."""
    from detkd.models.weights import checkpoint_imgsz, resolve
    from detkd.tasks.demo import PACKAGED_TEACHER, packaged_teacher

    lines, far, facts = [], [], []
    for member, _ in members:
        path = packaged_teacher() if member.path == PACKAGED_TEACHER else resolve(member.path, key="teacher")
        trained, asked = checkpoint_imgsz(Path(path)), int(member.imgsz or config["imgsz"])
        lines.append(f"{member.name} was trained at {trained} pixels and is asked at {asked}")
        facts.append({"trained": trained, "asked": asked})
        if max(trained / asked, asked / trained) > _RESIZED:
            far.append(trained)
    text = "; ".join(lines)
    if far:
        advice = (
            "the teacher is best near the size of its training; try a teacher.imgsz closer to "
            f"{far[0]} (imgsz times 1, 2 or 4) and see the teacher's AP above"
        )
        return Finding("resolution", "warning", text, advice, {"teachers": facts})
    return Finding("resolution", "ok", text, facts={"teachers": facts})


def _inputs(branch: nn.Module) -> int:
    first = next(part for part in branch.modules() if isinstance(part, nn.Conv2d))
    return int(first.in_channels)
