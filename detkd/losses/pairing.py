"""Which head of the teacher teaches which head of the student, and whether it says enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from detkd.errors import PairError
from detkd.types import Branch, HeadOutput, View

__all__ = ["BRANCHES", "check_outputs", "detach_view", "paired_heads"]

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


def check_outputs(term: str, uses: Iterable[str], view: View, branch: Branch, role: str) -> None:
    """Refuse a view that lacks what a term reads.

    Raises:
        PairError: Naming the term, the output and the side that lacks it.
    """
    head = view.head(branch)
    have: dict[str, object] = {
        "logits": head.logits,
        "boxes": head.boxes_xyxy if head.distances is not None else None,
        "dist": head.dist,
        "feats": view.feats,
    }
    missing = [name for name in sorted(uses) if have.get(name) is None]
    if missing:
        reason = "YOLO26 heads have no distance distribution" if "dist" in missing else "its source does not keep them"
        raise PairError(
            f"distill.terms.{term}: reads {', '.join(missing)}, which the {role}'s {branch} head does not give "
            f"({reason}); choose another loss or another {role}"
        )


def detach_view(view: View) -> View:
    """Return the view with every tensor cut from its graph."""
    heads = {}
    for name, head in view.heads.items():
        dist = None if head.dist is None else head.dist.detach()
        logits, boxes, distances = head.logits.detach(), head.boxes_xyxy.detach(), head.distances.detach()
        heads[name] = HeadOutput(logits, boxes, distances, dist, head.known)
    feats = None if view.feats is None else tuple(x.detach() for x in view.feats)
    return view._replace(heads=heads, feats=feats)
