"""Several live teachers that answer as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detkd.errors import ConfigError, PairError
from detkd.models.classmap import UNKNOWN
from detkd.models.teacher import OBJECTS_HINT, LiveTeacher
from detkd.ops.anchors import distances_to_boxes
from detkd.types import HeadOutput, View

__all__ = ["EnsembleTeacher", "merge_heads"]


def merge_heads(heads: Sequence[HeadOutput], weights: Sequence[float], points: Tensor, strides: Tensor) -> HeadOutput:
    """Merge what several teachers say about the same anchors.

    With w_m the weight of teacher m where it has an answer (it knows the class, and the anchor is known) and 0 where it
    has none, the probability of a class and the distances of a box are

        `p = sum_m w_m p_m / sum_m w_m`
        `d = sum_m w_m s_m d_m / sum_m w_m s_m`, with s_m the highest probability among the classes that m knows

    so a teacher that sees nothing there has next to no say in the box. The mean of probabilities is exact for logits of
    any size: `logit p = log sum w_m sigmoid(z_m) - log sum w_m sigmoid(-z_m)`.

    Args:
        heads: Answers of each teacher on the same anchors and classes.
        weights: Weight of each teacher, > 0.
        points: Cell centres in cells, (A, 2).
        strides: Pixels per cell, (A, 1).

    Returns:
        The merged answer without a distribution of distances. An anchor is known where each class that any teacher
        knows is answered by at least one; `classes` are those that any of them knows.

    References:
        Probability averaging of ensembles: Lakshminarayanan et al., arXiv:1612.01474, equation 2. Boxes weighted by
        score: Solovyev et al., arXiv:1910.13302, equations 2 and 3; here per anchor, so boxes need no matching.
    """
    if len(heads) == 1:
        return heads[0]
    logits = torch.stack([head.logits.float() for head in heads])  # (M, B, A, C)
    able = torch.stack(torch.broadcast_tensors(*(_able(head) for head in heads)))  # (M, B or 1, A or 1, C) bool
    share = able * logits.new_tensor(list(weights)).view(-1, 1, 1, 1)
    logs = share.log()  # -inf where a teacher has no answer
    positive = torch.logsumexp(logs + functional.logsigmoid(logits), 0)
    negative = torch.logsumexp(logs + functional.logsigmoid(-logits), 0)
    answered = able.any(0)  # (B or 1, A or 1, C)
    merged = torch.where(answered, positive - negative, logits.new_tensor(UNKNOWN))
    score = (logits.sigmoid() * share).amax(-1, keepdim=True)  # (M, B, A, 1)
    total = score.sum(0)
    # A box nobody has a say in is the mean of all: it is not known, but must be a number.
    part = torch.where(total > 0, score / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / len(heads))
    distances = (part * torch.stack([head.distances.float() for head in heads])).sum(0)
    classes = torch.stack([_classes(head) for head in heads]).any(0)
    known = None
    if any(head.known is not None for head in heads):
        known = (answered | ~classes).all(-1).expand(merged.shape[:2])
    return HeadOutput(
        merged,
        distances_to_boxes(distances, points.float(), strides.float()),
        distances,
        known=known,
        classes=None if all(head.classes is None for head in heads) else classes,
    )


def _classes(head: HeadOutput) -> Tensor:
    """Return which classes a teacher knows, (C,) bool."""
    if head.classes is None:
        return torch.ones_like(head.logits[0, 0], dtype=torch.bool)
    return head.classes.to(head.logits.device)


def _able(head: HeadOutput) -> Tensor:
    """Return where a teacher has an answer, (B or 1, A or 1, C) bool."""
    classes = _classes(head)[None, None]
    return classes if head.known is None else classes & head.known[..., None]


class EnsembleTeacher:
    """Several live teachers that answer as one; see `merge_heads`.

    Each sees the image of its own size. Feature maps are those of the first: maps of different networks have nothing in
    common that could be averaged. The one2one head is left out where those who have one don't know all classes that the
    others know.

    Args:
        members: The teachers with the weight of each, > 0, the first one first.

    Raises:
        ConfigError: If there are none, or a weight is not above 0.
    """

    def __init__(self, members: Sequence[tuple[LiveTeacher, float]]) -> None:
        if not members:
            raise ConfigError("teacher: at least one is needed, got none; name a checkpoint")
        for _, weight in members:
            if not weight > 0:
                raise ConfigError(f"teacher.weight: must be above 0, got {weight!r}; leave a teacher out instead")
        self._members = [teacher for teacher, _ in members]
        self._weights = [float(weight) for _, weight in members]
        self.stage: int | None = None  # nobody reads the towers of several
        # Head by head, a student can only be told one set of classes.
        known = _union(self._members)
        self._whole = known == _union([member for member in self._members if member.teaches("one2one")])
        self._known = None if all(known) else torch.tensor(known)

    @property
    def wants(self) -> frozenset[str] | None:
        """What is read of the answers; see `detkd.models.teacher.TeacherSource`."""
        return self._members[0].wants

    @wants.setter
    def wants(self, outputs: frozenset[str] | None) -> None:
        if outputs is not None and "towers" in outputs:
            raise PairError(
                "teacher.others: a loss that runs the teacher's own head needs one teacher, got "
                f"{len(self._members)}; leave teacher.others out, or use distill=binary"
            )
        first, *others = self._members
        first.wants = outputs
        for member in others:
            member.wants = (outputs or frozenset()) - {"feats"}

    @property
    def branches(self) -> tuple[str, ...]:
        """Heads of their own, which can be stored."""
        both = self._whole and any("one2one" in member.branches for member in self._members)
        return ("one2many", "one2one") if both else ("one2many",)

    @property
    def classes(self) -> Tensor | None:
        """Which classes of the data somebody knows, (C,) bool; None for all."""
        return self._known

    def to(self, device: torch.device) -> EnsembleTeacher:
        """Move to a device and return self."""
        for member in self._members:
            member.to(device)
        self._known = None if self._known is None else self._known.to(device)
        return self

    @torch.no_grad()
    def answer(self, batch: Mapping[str, Any], student: View) -> View:
        """Return what the teachers together say about a batch, on the student's anchors and classes."""
        views = [member.answer(batch, student) for member in self._members]
        first = views[0]
        heads = {}
        for branch in dict.fromkeys(branch for view in views for branch in view.heads):
            if branch == "one2one" and not self._whole:
                continue
            has = [branch in view.heads for view in views]
            said = [view.heads[branch] for view in compress(views, has)]
            weights = list(compress(self._weights, has))
            merged = merge_heads(said, weights, first.anchor_points, first.strides)
            heads[branch] = merged._replace(classes=self._known)
        lost = {"dist": "the answers of several teachers are averaged, which leaves no distance distribution"}
        return first._replace(heads=heads, lost=lost)

    def silence(self, branch: str) -> str:
        """Return why they have nothing to say to a head of a student."""
        if not any(member.teaches(branch) for member in self._members):
            return self._members[0].silence(branch)
        return "the teachers that answer for it don't know every class that the others know" + OBJECTS_HINT


def _union(members: Sequence[LiveTeacher]) -> list[bool]:
    """Return which classes of the data somebody knows."""
    return [any(sources) for sources in zip(*(member.mapping for member in members), strict=True)]
