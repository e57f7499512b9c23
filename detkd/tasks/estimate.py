"""What a distillation will cost, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkd.errors import DetkdError
from detkd.models.cost import count_gflops
from detkd.models.weights import build_detector, resolve
from detkd.tasks.teachers import teacher_members

__all__ = ["Estimate", "estimate", "step_ratio"]


@dataclass(frozen=True)
class Estimate:
    """Arithmetic of one distillation run.

    Attributes:
        student_gflops: Forward pass of the student on one image.
        teacher_gflops: Forward pass of the teacher (of all teachers) on one image; 0 where its answers are stored.
        ratio: FLOPs of a distillation step over those of a plain step.
        images: Images seen in the whole run; None where their number is unknown.
        operations: Floating point operations of the whole run; None likewise.
    """

    student_gflops: float
    teacher_gflops: float
    ratio: float
    images: int | None
    operations: float | None

    def __str__(self) -> str:
        text = f"cost: student {self.student_gflops:.1f} GFLOPs per image, the teacher's answers are stored"
        if self.teacher_gflops:
            text = (
                f"cost: student {self.student_gflops:.1f} and teacher {self.teacher_gflops:.1f} GFLOPs per image; a "
                f"step takes {self.ratio:.1f} times the operations of a plain one (operations, not time)"
            )
        if self.images is not None and self.operations is not None:
            unit, size = (
                ("E", 1e18) if self.operations >= 1e18 else ("P", 1e15) if self.operations >= 1e15 else ("T", 1e12)
            )
            text += f"; {self.images:,} images in all, {self.operations / size:,.1f} {unit}FLOPs"
        return text


def step_ratio(student_gflops: float, teacher_gflops: float) -> float:
    """Return the FLOPs of a distillation step over a plain one: 3 student forwards, and 1 teacher forward."""
    return (3 * student_gflops + teacher_gflops) / (3 * student_gflops)


def estimate(config: Mapping[str, Any], images: int | None, *, live: bool = True) -> Estimate:
    """Estimate a resolved distillation config; missing weights are replaced by the architecture of their name.

    Args:
        config: A resolved `distill` configuration.
        images: Images of the training split, None where the data is not at hand.
        live: Whether the teacher runs in every step; it doesn't where its answers are stored.
    """
    imgsz = int(config["imgsz"])
    student = _gflops(str(config["student"]["path"]), config["student"].get("scale"), imgsz, "student")
    members = teacher_members(config["teacher"]) if live else []
    teacher = sum((_gflops(member.path, None, int(member.imgsz or imgsz), "teacher") for member in members), 0.0)
    seen = None if images is None else images * int(config["epochs"])
    work = None if seen is None else seen * (3 * student + teacher) * 1e9
    return Estimate(student, teacher, step_ratio(student, teacher), seen, work)


def _gflops(value: str, scale: Mapping[str, float] | None, imgsz: int, key: str) -> float:
    try:
        path = str(resolve(value, key=key))
    except DetkdError:
        path = f"{Path(value).stem}.yaml"  # the architecture of weights that are not at hand
    return count_gflops(build_detector(path, ["object"], key=key, scale=scale), imgsz) or 0.0
