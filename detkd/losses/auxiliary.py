"""Distances as distributions for heads that have none: a branch that only training sees (DLD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from detkd.errors import PairError
from detkd.losses.adapters import adapt
from detkd.losses.base import DistillLoss, TowerChannels
from detkd.losses.boxes import BoxOptions, Selection, select_boxes
from detkd.losses.checks import check_number
from detkd.losses.regions import batch_mass, teacher_quality
from detkd.ops.boxes import pairwise_iou
from detkd.ops.divergence import nonnegative, widen
from detkd.types import Assignment, Context, HeadOutput, View

__all__ = ["AuxiliaryDistances", "label_distances", "side_probabilities", "vote_spread"]

BINS = 16
"""One per cell, as in the heads of YOLOv8 and YOLO11."""

VOTE = 0.5
"""IoU from which two boxes of a teacher are about one object."""

AT_ONCE = 256
"""Boxes whose votes are counted together: all against all of a large image would take a gigabyte."""


def side_probabilities(distances: Tensor, spread: Tensor, bins: int) -> Tensor:
    """Turn a distance into a distribution: a Laplace density around it, read at whole cells.

    `p_r = exp(-|r - d| / b) / sum_r' exp(-|r' - d| / b)` for r = 0..R-1.

    Args:
        distances: Distances d in cells, (..., 4).
        spread: Scale b in cells, > 0, (..., 4).
        bins: R.

    Returns:
        (..., 4, R), each distribution sums to 1.
    """
    cells = torch.arange(bins, device=distances.device, dtype=distances.dtype)
    return (-(cells - distances[..., None]).abs() / spread[..., None]).softmax(-1)


@torch.no_grad()
def vote_spread(
    head: HeadOutput, voters: HeadOutput, strides: Tensor, where: tuple[Tensor, ...], *, least: float = 0.5
) -> Tensor:
    """Measure how far the boxes for one object disagree about each side.

    All boxes of an image that overlap a box by an IoU of at least 0.5 vote, as strongly as their score; the spread is
    the mean distance of their sides from those of the box. That is the scale of a Laplace density in maximum
    likelihood.

    Args:
        head: The head whose boxes are asked about.
        voters: The head that votes: one that answers several times per object.
        strides: Pixels per cell, (A, 1).
        where: Image and anchor number of each box asked about, two of (M,).
        least: Smallest spread in cells; where nobody else votes, it is the spread.

    Returns:
        Spread per side in cells of the box's own anchor, (M, 4).
    """
    spread = widen(strides).new_zeros(len(where[0]), 4)
    for image in where[0].unique().tolist():
        others, strength = widen(voters.boxes_xyxy[image]), teacher_quality(voters.logits[image])
        if voters.known is not None:
            strength = strength * voters.known[image]
        for some in (where[0] == image).nonzero()[:, 0].split(AT_ONCE):
            boxes = widen(head.boxes_xyxy[image][where[1][some]])
            votes = (pairwise_iou(boxes, others) >= VOTE) * strength  # (M, A)
            apart = torch.stack([(votes * (boxes[:, i : i + 1] - others[:, i]).abs()).sum(1) for i in range(4)], dim=-1)
            spread[some] = apart / votes.sum(1, keepdim=True).clamp(min=1e-9)
    return (spread / widen(strides)[where[1]]).clamp(min=least)


def label_distances(assignment: Assignment, view: View) -> Tensor:
    """Return the distances in cells from the centres of the anchors to the sides of their labels, (B, A, 4)."""
    boxes = widen(assignment.boxes_xyxy) / widen(view.strides)
    points = widen(view.anchor_points)
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def _learn_labels(logits: Tensor, view: View, assignment: Assignment | None) -> Tensor:
    """Distribution focal loss of the assigned anchors, weighted by their target scores; 0 without labels."""
    if assignment is None:
        return logits.sum() * 0
    found = assignment.foreground
    weights = widen(assignment.scores).sum(-1)[found]
    target = label_distances(assignment, view)[found].clamp(0, logits.shape[-1] - 1.01)  # (P, 4)
    below = target.long()
    share = target - below
    log_p = functional.log_softmax(logits[found], dim=-1)
    near = log_p.gather(-1, torch.stack((below, below + 1), dim=-1))  # (P, 4, 2)
    loss = -(near[..., 0] * (1 - share) + near[..., 1] * share).mean(-1)
    return (loss * weights).sum() / batch_mass(widen(assignment.scores))


def _learn_teacher(logits: Tensor, target: Tensor, selection: Selection) -> Tensor:
    """Weighted mean over anchors of the mean over sides of KL(target || student)."""
    log_s = functional.log_softmax(logits[selection.where], dim=-1)
    divergence = nonnegative((torch.special.xlogy(target, target) - target * log_s).sum(-1))  # (M, 4)
    return (divergence.mean(-1) * selection.weights).sum() / selection.mass


class AuxiliaryDistances(DistillLoss):
    """Let the student's box tower say how sure it is about each side, beside the boxes that it gives.

    A 1x1 convolution per level turns the maps of the box tower, of which the boxes are made, into a distribution over
    the distance of each side. It learns from the labels (distribution focal loss) and from the teacher (KL), and is
    dropped after training. What the tower learns for it stays, at no cost on the device.

    The teacher's distribution is its own where it has one (YOLOv8, YOLO11); else it is a Laplace density around its
    distance, as wide as the boxes of its one-to-many head disagree about that side (`vote_spread`).

    Needs a student that is not compiled; of the teacher it reads answers only, stored ones too. The branch is new at
    the start, so the loss is not 0 for equal answers.

    Args:
        labels: Weight of the part that learns from labels; >= 0.
        least: Smallest width of the teacher's distribution in cells; > 0.
        quality_power: Exponent of the teacher score that weighs an anchor; >= 0.

    References:
        Li et al., YOLOv6 v3.0: A Full-Scale Reloading, 2023, section 2.3 (DLD). arXiv:2301.05586
        Li et al., Generalized Focal Loss, NeurIPS 2020, eq. 6 (the part on labels). arXiv:2006.04388
        Differs from the paper: for teachers without distributions too; no temperature; the recipe schedules it.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits", "boxes", "towers"})
    of_teacher: ClassVar[frozenset[str]] = frozenset({"logits", "boxes"})
    alternative: ClassVar[str] = "use distill=binary, or set distill.terms.TERM.branches=[one2many]"
    stage: int | None = 2

    def __init__(self, labels: float = 1.0, least: float = 0.5, quality_power: float = 1.0) -> None:
        super().__init__()
        self.labels = check_number("labels", labels, low=0.0, hint="1 is usual, 0 leaves the labels out")
        self.least = check_number("least", least, above=0.0, hint="0.5 is half a cell")
        self.options = BoxOptions(quality_power=quality_power).checked()
        self.branches = nn.ModuleDict()

    def setup_towers(self, student: Mapping[str, TowerChannels], teacher: Mapping[str, TowerChannels]) -> None:
        """Build the branch of each head and level."""
        self.branches = nn.ModuleDict(
            {
                branch: nn.ModuleList(nn.Conv2d(channels, 4 * BINS, kernel_size=1) for channels in widths.boxes)
                for branch, widths in student.items()
            }
        )

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context, and over the labelled anchors.

        Raises:
            PairError: If the student shows no towers for this head.
        """
        logits = self._logits(student, context.branch)
        head_t = teacher.head(context.branch)
        selection = select_boxes(student.head(context.branch), head_t, context, self.options)
        total = _learn_teacher(logits, self._target(teacher, context, selection.where), selection)
        if self.labels:
            total = total + self.labels * _learn_labels(logits, student, context.assignment)
        return total

    def _logits(self, student: View, branch: str) -> Tensor:
        """Return what the new branch says, (B, A, 4, R)."""
        towers = None if student.towers is None else student.towers.get(branch)
        if towers is None or branch not in self.branches:
            raise PairError(
                f"distill: an auxiliary branch needs the {branch} head of the student, uncompiled; set "
                "trainer.compile=false, or branches: [one2many]"
            )
        layers = self.branches[branch]
        assert isinstance(layers, nn.ModuleList)
        parts = [
            adapt(layer, functional.silu(widen(maps))).flatten(2)
            for layer, maps in zip(layers, towers.boxes, strict=True)
        ]
        logits: Tensor = torch.cat(parts, dim=-1).unflatten(1, (4, BINS)).permute(0, 3, 1, 2)
        return logits

    @torch.no_grad()
    def _target(self, teacher: View, context: Context, where: tuple[Tensor, ...]) -> Tensor:
        """Return the teacher's distributions of these anchors, (M, 4, R)."""
        head = teacher.head(context.branch)
        if head.dist is not None:
            own = widen(head.dist[where]).softmax(-1)
            inside, beyond = own[..., : BINS - 1], own[..., BINS - 1 :].sum(-1, keepdim=True)
            return torch.cat((functional.pad(inside, (0, BINS - 1 - inside.shape[-1])), beyond), dim=-1)
        voters = teacher.heads.get("one2many", head)
        spread = vote_spread(head, voters, teacher.strides, where, least=self.least)
        return side_probabilities(widen(head.distances[where]), spread, BINS)
