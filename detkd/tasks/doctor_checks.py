"""What `detkd doctor` can say of teacher and student without a training step: accuracy, classes, levels, pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from detkd.data.coco import to_coco
from detkd.data.records import DetectionSet
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from detkd.ops.boxes import pairwise_iou
from detkd.tasks.arguments import pick_device
from detkd.tasks.teachers import Member, live_teacher, teacher_members

if TYPE_CHECKING:
    from detkd.models.teacher import LiveTeacher

__all__ = [
    "Finding",
    "accuracy",
    "check_classes",
    "check_gap",
    "check_levels",
    "check_preprocessing",
    "check_resolution",
    "check_student",
    "check_teacher",
    "few_images",
    "load_members",
]

Verdict = Literal["ok", "warning", "problem", "skipped"]

_USELESS = 1.0
"""AP in points below which a teacher knows nothing of the data."""
_CLOSE = 2.0
"""A teacher this few points above its student has little to teach."""
_SURE = 0.25
"""Score from which a box must be the same in both pipelines."""
_OTHER_PIXELS = 0.05
"""Mean difference of two images, of 1, that rounding does not explain."""
_SAME_BOX = 0.9
"""IoU from which two boxes are the same; the two round the size of an image differently, by up to a pixel."""
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


def few_images(dataset: DetectionSet, most: int) -> DetectionSet:
    """Return at most so many images of a split, spread evenly over it."""
    count = len(dataset)
    if count <= most:
        return dataset
    return replace(dataset, records=tuple(dataset.records[number * count // most] for number in range(most)))


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


def accuracy(
    path: str, dataset: DetectionSet, config: Mapping[str, Any], imgsz: int, class_map: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return AP and AP50 in points (None where they can't be measured) of a file that answers.

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
    return {"AP": run.metrics.AP, "AP50": run.metrics.AP50, "images": len(dataset), "imgsz": imgsz}


def check_teacher(found: Mapping[str, Any], name: str) -> Finding:
    """Say how good the teacher is on the data."""
    text = f"{name}: {_points(found['AP'])} AP, {_points(found['AP50'])} AP50 on {found['images']} images of "
    text += f"{found['split']} at {found['imgsz']} pixels"
    if found["AP"] is None or found["AP"] < _USELESS:
        return Finding(
            "teacher", "problem", text,
            "it knows nothing of this data: check teacher.class_map and teacher.imgsz, or train it on the data first",
            dict(found),
        )  # fmt: skip
    return Finding("teacher", "ok", text, facts=dict(found))


def check_student(found: Mapping[str, Any] | None, config: Mapping[str, Any]) -> Finding:
    """Say what the student knows before it begins; `found` is None without trained weights."""
    node = config["student"]
    name = Path(str(node["path"])).name
    if found is not None:
        return Finding("student", "ok", f"{name}: {_points(found['AP'])} AP before training", facts=dict(found))
    source = f"cut out of {Path(str(node['slice'])).name}" if node.get("slice") else "random, no weights"
    return Finding("student", "ok", f"{name}: initial weights are {source}", facts={"AP": None})


def check_gap(teacher: Mapping[str, Any], student: Mapping[str, Any] | None) -> Finding:
    """Say whether the teacher has something to teach."""
    mine, theirs = teacher["AP"], None if student is None else student["AP"]
    if theirs is None or mine is None:
        return Finding("teacher above student", "ok", "the student knows nothing yet")
    gap = mine - theirs
    facts = {"gap": gap}
    text = f"the teacher is {abs(gap):.1f} points AP {'better' if gap >= 0 else 'worse'} than the untrained student"
    if gap < 0:
        advice = "a worse teacher teaches its mistakes: train it on this data, choose another, or raise teacher.imgsz"
        return Finding("teacher above student", "problem", text, advice, facts)
    if gap < _CLOSE:
        advice = "there is little to learn from it; a larger teacher or a larger teacher.imgsz has more to say"
        return Finding("teacher above student", "warning", text, advice, facts)
    return Finding("teacher above student", "ok", text, facts=facts)


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
        text += "; the one2one head is taught by the teacher's objects"
    return Finding("levels and heads", "ok", text, facts=facts)


def check_resolution(members: Sequence[tuple[Member, LiveTeacher]], config: Mapping[str, Any]) -> Finding:
    """Compare the size each teacher is asked at with the size it was trained at."""
    from detkd.models.weights import checkpoint_imgsz, resolve
    from detkd.tasks.demo import PACKAGED_TEACHER, packaged_teacher

    lines, far, facts = [], [], []
    for member, _ in members:
        path = packaged_teacher() if member.path == PACKAGED_TEACHER else resolve(member.path, key="teacher")
        trained, asked = checkpoint_imgsz(Path(path)), int(member.imgsz or config["imgsz"])
        lines.append(f"{Path(path).name} was trained at {trained} pixels and is asked at {asked}")
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


def check_preprocessing(
    path: str, teacher: LiveTeacher, views: Sequence[Mapping[str, torch.Tensor]], files: Sequence[Path]
) -> Finding:
    """Ask the teacher about the same images as the training does and as `Detector` does, and compare the boxes.

    Args:
        path: The teacher's checkpoint.
        teacher: The same, loaded for training.
        views: Images as the training loader shows them without augmentation.
        files: The same images.
    """
    from detkd.inference.detector import Detector
    from detkd.inference.images import read_image
    from detkd.models.head import raw_outputs, read_view
    from detkd.models.objects import found_objects

    shown = [view.get("img_teacher", view["img"]) for view in views]
    side = int(shown[0].shape[-1])
    detector = Detector.load(path, device="cpu", imgsz=side, nms=True, conf=_SURE, multi_label=False)
    teacher = teacher.to(torch.device("cpu"))
    same = total = 0
    apart = 0.0
    for pixels, file in zip(shown, files, strict=True):
        prepared, _ = detector.prepare([read_image(file)])
        apart = max(apart, float((prepared - pixels).abs().mean()) if prepared.shape == pixels.shape else 1.0)
        rows = detector.select(detector.raw(prepared))[0]  # (N, 6) in canvas pixels
        with torch.no_grad():
            head = read_view(raw_outputs(teacher.model, pixels), teacher.head).head("one2many")
        # A little below the threshold: a score may fall on either side of it.
        objects = found_objects(head, conf=_SURE * 0.8, iou=detector.iou)
        live = objects.boxes_xyxy[0][objects.present[0]]
        label = objects.probs[0][objects.present[0]].argmax(-1)
        total += len(rows)
        if len(rows) and len(live):
            overlap = pairwise_iou(rows[:, :4], live) * (rows[:, 5:6] == label[None])
            same += int((overlap.amax(1) >= _SAME_BOX).sum())
    facts = {"images": len(shown), "boxes": total, "same": same, "pixels": apart}
    text = f"{same} of {total} boxes above {_SURE} are the same in training and at run time, on {len(shown)} images"
    if not total:
        advice = "the teacher sees nothing in these images; see its AP above"
        return Finding("preprocessing", "warning", f"no box above {_SURE} in {len(shown)} images", advice, facts)
    if same < 0.9 * total or apart > _OTHER_PIXELS:
        advice = f"the two see other pixels (mean difference {apart:.3f} of 1); please report this with the checkpoint"
        return Finding("preprocessing", "problem" if same < 0.5 * total else "warning", text, advice, facts)
    return Finding("preprocessing", "ok", text, facts=facts)


def _inputs(branch: nn.Module) -> int:
    first = next(part for part in branch.modules() if isinstance(part, nn.Conv2d))
    return int(first.in_channels)


def _points(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
