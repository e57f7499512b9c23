"""Which head of the teacher teaches which head of the student, and whether it says enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from detkd.errors import PairError, ShapeError
from detkd.losses.base import DistillLoss
from detkd.ops.divergence import widen
from detkd.types import Assignment, Branch, Context, HeadOutput, Towers, View

__all__ = ["BRANCHES", "check_outputs", "detach_view", "known_classes", "make_context", "paired_heads"]

BRANCHES: tuple[Branch, ...] = get_args(Branch)


def paired_heads(
    student: Iterable[str], teacher: Iterable[str], wanted: Iterable[str] = BRANCHES
) -> tuple[Branch, ...]:
    """Return the heads to distil: those both detectors have.

    A head learns only from the same head. The teacher's one2many head answers once per cell around an object; taught to
    a one2one head, which runs without NMS, that would be lessons in giving duplicates.

    Args:
        student: Heads of the student.
        teacher: Heads of the teacher.
        wanted: Heads that the recipe distils.

    Raises:
        PairError: If the student's one2many head would have no teacher, or no head is left.
    """
    student, teacher, wanted = set(student), set(teacher), set(wanted)
    if "one2many" in wanted & student and "one2many" not in teacher:
        raise PairError(
            f"teacher: has no one2many head to teach the student's, got {sorted(teacher)}; use weights that were saved "
            "before fusing or exporting, or set distill.heads.one2many=0"
        )
    pairs = tuple(branch for branch in BRANCHES if branch in wanted & student & teacher)
    if not pairs:
        raise PairError(
            f"distill.heads: nothing to distil, student has {sorted(student)}, teacher {sorted(teacher)}, the "
            f"recipe wants {sorted(wanted)}; give a head that both have a weight above 0, or use distill=none"
        )
    return pairs


def check_outputs(loss: DistillLoss, term: str, view: View, branch: Branch, role: str) -> None:
    """Refuse a view that lacks what a term reads.

    Raises:
        PairError: Naming the term, the output, the side that lacks it and what to use instead.
    """
    head = view.head(branch)
    have: dict[str, object] = {
        "logits": head.logits,
        "boxes": head.boxes_xyxy if head.distances is not None else None,
        "dist": head.dist,
        "feats": view.feats,
        "towers": None if view.towers is None else view.towers.get(branch),
    }
    missing = [name for name in sorted(loss.reads(role)) if have.get(name) is None]
    if missing:
        instead = loss.alternative.replace("TERM", term) or f"choose another loss or another {role}"
        raise PairError(
            f"distill.terms.{term}: reads {', '.join(missing)}, which the {role}'s {branch} head does not give "
            f"({_reason(missing, view, head)}); {instead}"
        )


def _reason(missing: Iterable[str], view: View, head: HeadOutput) -> str:
    """Return why a head lacks these outputs."""
    told = [why for name, why in (view.lost or {}).items() if name in missing]
    if told:
        return "; ".join(told)
    if head.known is not None:
        return "it is made of objects or of stored answers, not a head of its own"
    return "YOLO26 heads have no distance distribution" if "dist" in missing else "its source does not keep them"


def detach_view(view: View) -> View:
    """Return the view with every tensor cut from its graph."""
    heads = {}
    for name, head in view.heads.items():
        dist = None if head.dist is None else head.dist.detach()
        logits, boxes, distances = head.logits.detach(), head.boxes_xyxy.detach(), head.distances.detach()
        heads[name] = HeadOutput(logits, boxes, distances, dist, head.known, head.classes)
    feats = None if view.feats is None else tuple(x.detach() for x in view.feats)
    towers = None
    if view.towers is not None:
        towers = {
            name: Towers(tuple(x.detach() for x in part.classes), tuple(x.detach() for x in part.boxes))
            for name, part in view.towers.items()
        }
    return view._replace(heads=heads, feats=feats, towers=towers)


def known_classes(
    student: View, teacher: View, assignments: Mapping[Branch, Assignment | None]
) -> tuple[View, View, Mapping[Branch, Assignment | None], dict[Branch, Tensor]]:
    """Leave out the classes that the teacher does not know, so that no loss can press on them.

    Args:
        student: The student's answers.
        teacher: The teacher's answers; its heads say which `classes` they know.
        assignments: The labels' assignment per head.

    Returns:
        Both views and the assignments with the known classes only, and per head where an anchor is responsible for an
        object of an unknown class, (B, A) bool: the teacher has nothing to say there.
    """
    flags = next((head.classes for head in teacher.heads.values() if head.classes is not None), None)
    if flags is None or bool(flags.all()):
        return student, teacher, assignments, {}
    index = flags.nonzero()[:, 0]
    number = torch.cumsum(flags.long(), 0) - 1

    def narrow(head: HeadOutput) -> HeadOutput:
        return head._replace(logits=head.logits[..., index.to(head.logits.device)], classes=None)

    def view(side: View) -> View:
        finish = side.finish
        return side._replace(
            heads={name: narrow(head) for name, head in side.heads.items()},
            finish=None if finish is None else lambda branch, towers: narrow(finish(branch, towers)),
        )

    kept: dict[Branch, Assignment | None] = {}
    excluded: dict[Branch, Tensor] = {}
    for branch, part in assignments.items():
        if part is None:
            kept[branch] = None
            continue
        labels, owner = part.labels, part.classes
        if owner is None:  # then only the targets tell, where the assigner left more than 0 of them
            excluded[branch] = part.foreground & (part.scores[..., ~flags] > 0).any(-1)
        else:
            owner = owner.clamp(0, len(flags) - 1)
            excluded[branch] = part.foreground & ~flags[owner]
            owner = number[owner].clamp(min=0)
        if labels is not None:
            classes = labels.classes.clamp(min=0)
            labels = labels._replace(present=labels.present & flags[classes], classes=number[classes].clamp(min=0))
        kept[branch] = part._replace(
            foreground=part.foreground & ~excluded[branch],
            scores=part.scores[..., index],
            labels=labels,
            classes=owner,
        )
    return view(student), view(teacher), kept, excluded


def make_context(
    region: nn.Module,
    student: View,
    teacher: View,
    assignment: Assignment | None,
    branch: Branch,
    excluded: Mapping[Branch, Tensor],
) -> Context:
    """Return what a loss may use besides the two answers, with the region's weights where the teacher has an answer.

    Args:
        region: Decides where to distil.
        student: The student's answers.
        teacher: The teacher's answers.
        assignment: The labels' assignment for the head.
        branch: The head.
        excluded: Anchors per head that are left out, (B, A) bool.

    Raises:
        ShapeError: If the region returns the wrong shape.
    """
    logits = student.head(branch).logits
    blank = Context(branch, assignment, logits.new_ones(logits.shape[:2], dtype=torch.float32), student.imgsz)
    weights = widen(region(student, teacher, blank).detach())
    if weights.shape != logits.shape[:2]:
        raise ShapeError(
            f"distill.region: must have one weight per image and anchor, {tuple(logits.shape[:2])}, got shape "
            f"{tuple(weights.shape)}; teacher and student need the same anchors"
        )
    known = teacher.head(branch).known
    if known is not None:
        weights = weights * known.to(weights)
    if branch in excluded:
        weights = weights * (~excluded[branch]).to(weights)
    return blank._replace(region=weights)
