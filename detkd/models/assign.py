"""Whose answers decide which anchors learn a label: the student's, the teacher's or a mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import detkd.environment

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss

from detkd.errors import ConfigError, ShapeError
from detkd.losses.checks import check_choice
from detkd.losses.recipe import ASSIGNMENTS
from detkd.models.head import assigners
from detkd.types import HeadOutput, View

__all__ = ["assign_by", "teacher_share"]

Metrics = tuple[Tensor, Tensor]


def teacher_share(assignment: str, progress: float) -> float:
    """Return how much the teacher decides, in [0, 1].

    Args:
        assignment: One of `ASSIGNMENTS`; "mixed" falls from 1 to 0 as half a cosine.
        progress: Share of the run that is done, in [0, 1].

    Raises:
        ConfigError: If the choice is unknown.
    """
    check_choice("distill.assignment", assignment, ASSIGNMENTS)
    if assignment == "mixed":
        return (1 + math.cos(math.pi * progress)) / 2
    return float(assignment == "teacher")


@contextmanager
def assign_by(criterion: E2ELoss | v8DetectionLoss, teacher: View, mix: float) -> Iterator[None]:
    """Let the teacher have a say in the assignment of labels to anchors, while this context lasts.

    The native assigner ranks the anchors in an object by `m = score^0.5 IoU^6`, with the score of the object's class. A
    student that knows nothing ranks them by chance. Here, with share k, both of what it takes from a detector is mixed:
    `m = (1 - k) m_student + k m_teacher` and `IoU = (1 - k) IoU_student + k IoU_teacher`. k = 1 is what the assigner
    makes of the teacher's answers, k = 0 what it makes of the student's. Everything after that stays native: of the
    anchors of object j, each gets the target score `m / (max over them of m) * (max over them of IoU)`.

    An object keeps the student's choice where the teacher has nothing to say: its class is unknown to the teacher, or
    no anchor in it has an answer of the teacher that overlaps it. A head that the teacher lacks keeps it as well.

    Args:
        criterion: The student's detection loss.
        teacher: The teacher's answers to the very images that the loss will see, on the student's anchors.
        mix: k, in [0, 1].

    Raises:
        ConfigError: If `mix` is out of range.
        ShapeError: If the loss sees other images, anchors or classes than the teacher did.

    References:
        Feng et al., TOOD: Task-aligned One-stage Object Detection, ICCV 2021, section 3.2 (the alignment m).
        arXiv:2108.07755. That the teacher assigns is what PaddleDetection's distillation of PP-YOLOE does, which copies
        the teacher's targets for the whole run. Differs from both: the two alignments are mixed.
    """
    if not 0 <= mix <= 1:
        raise ConfigError(f"mix: must be in [0, 1], got {mix}; 0 is the student's assignment, 1 the teacher's")
    hooks: list[RemovableHandle] = []
    changed: list[Any] = []
    try:
        for branch, assigner in assigners(criterion).items() if mix else ():
            if branch not in teacher.heads:
                continue
            hooks.append(assigner.register_forward_pre_hook(partial(_bring, teacher.heads[branch]), with_kwargs=True))
            native = assigner.get_box_metrics
            # Beside the class's method, so that deleting it brings that back.
            assigner.get_box_metrics = partial(_mixed_metrics, native, assigner.eps, mix)
            changed.append(assigner)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for assigner in changed:
            del assigner.get_box_metrics


def _bring(
    teacher: HeadOutput, _assigner: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Give the teacher's answers to the assigner, which hands extra tensors on, in parts if memory runs out."""
    scores, boxes = args[:2]
    if scores.shape != teacher.logits.shape:
        raise ShapeError(
            f"assignment: the detection loss sees answers of shape {tuple(scores.shape)}, the teacher gave "
            f"{tuple(teacher.logits.shape)}; both need the same images, anchors and classes"
        )
    images, anchors, classes = scores.shape
    device = scores.device
    known = torch.ones(images, anchors, dtype=torch.bool, device=device) if teacher.known is None else teacher.known
    named = torch.ones(classes, dtype=torch.bool, device=device) if teacher.classes is None else teacher.classes
    brought = {
        "teacher_scores": teacher.logits.detach().sigmoid().to(scores),
        "teacher_boxes": teacher.boxes_xyxy.detach().to(boxes),
        "teacher_known": known.to(device),
        "teacher_classes": named.to(device).expand(images, -1),
    }
    return args, {**kwargs, **brought}


def _mixed_metrics(
    native: Callable[..., Metrics],
    eps: float,
    mix: float,
    scores: Tensor,
    boxes: Tensor,
    number: Tensor,
    corners: Tensor,
    candidates: Tensor,
    *,
    teacher_scores: Tensor,
    teacher_boxes: Tensor,
    teacher_known: Tensor,
    teacher_classes: Tensor,
    **extra: Any,
) -> Metrics:
    """Return alignment and overlap of each object with each anchor, (B, M, A) each; `candidates` is (B, M, A) too."""
    aligned, overlap = native(scores, boxes, number, corners, candidates, **extra)
    answered = candidates * teacher_known[:, None]
    aligned_t, overlap_t = native(teacher_scores, teacher_boxes, number, corners, answered, **extra)
    named = teacher_classes.gather(1, number[..., 0].long().clamp(min=0))[..., None]  # (B, M, 1)
    share = mix * (named & (aligned_t.amax(-1, keepdim=True) > eps)).to(aligned)
    return (1 - share) * aligned + share * aligned_t, (1 - share) * overlap + share * overlap_t
