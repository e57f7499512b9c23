"""Localization distillation: the distributions of a box's sides, for heads that predict them (DFL)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from detkd.errors import PairError
from detkd.losses.base import DistillLoss, Region
from detkd.losses.boxes import BoxOptions, Selection, select_boxes
from detkd.losses.checks import check_number, check_same_shape
from detkd.losses.errors import ErrorOptions
from detkd.losses.regions import add_assigned, teacher_quality, where_labelled
from detkd.ops.boxes import pairwise_iou
from detkd.ops.divergence import softmax_kl, widen
from detkd.types import Context, Labels, View

__all__ = ["Localization", "ValuableBoxes", "localization_loss", "pairwise_diou", "valuable_weights"]

CANDIDATES = 9
"""Anchors per level and object from which a threshold is estimated."""


def localization_loss(student: Tensor, teacher: Tensor, selection: Selection, *, temperature: float = 10.0) -> Tensor:
    """Weighted mean of the divergence between distributions of side distances.

    With R bins and temperature T: `sum w mean_sides T^2 KL(softmax(v_t / T) || softmax(v_s / T)) / R / mass`.

    Args:
        student: Distribution logits, (B, A, 4, R), any float dtype.
        teacher: The same of the teacher; treated as constant.
        selection: Which anchors, and their weights.
        temperature: Softens both softmaxes; > 0.

    Returns:
        Scalar, 0 at a perfect match.

    Raises:
        PairError: If the two have different numbers of bins.
        ShapeError: If the distributions differ in shape otherwise.

    References:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022, section 3.2. arXiv:2102.12252
        Differs from the paper: positives count alike, not by the student's score.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise PairError(
            f"dist: the student's head has {student.shape[-1]} bins per side, the teacher's {teacher.shape[-1]}; use "
            "models with equal reg_max, or distill=binary, whose terms giou and l1 compare decoded boxes"
        )
    check_same_shape("dist", student, teacher)
    divergence = softmax_kl(student[selection.where], teacher.detach()[selection.where], temperature=temperature)
    return (divergence.mean(-1) / student.shape[-1] * selection.weights).sum() / selection.mass


class Localization(DistillLoss):
    """Make the student as sure about each side of a box as the teacher is; see `localization_loss`.

    Anchors are weighted as for the box losses, see `select_boxes`, but alike by default: the region decides.

    Args:
        temperature: Softens both sides; > 0.
        quality: "score" or "score_iou".
        quality_power: Exponent of the teacher score; >= 0. Above 0, the valuable anchors off the objects fade.
        guard: Whether to drop assigned anchors where the student's box fits the label better than the teacher's.
        w_fp: Weight where the teacher sees an object that the labels don't have; >= 0, 1 changes nothing.
        w_fn: Weight where it misses one that they have; likewise.
        threshold: Score above which the teacher sees an object; see `error_weights`.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits", "boxes", "dist"})
    alternative: ClassVar[str] = "use distill=binary, whose terms giou and l1 compare decoded boxes"

    def __init__(
        self,
        temperature: float = 10.0,
        quality: str = "score",
        quality_power: float = 0.0,
        guard: bool = False,
        w_fp: float = 1.0,
        w_fn: float = 1.0,
        threshold: float = 0.25,
    ) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0.0, hint="10 is usual, 1 is plain KL")
        self.options = BoxOptions(quality, quality_power, guard, ErrorOptions(w_fp, w_fn, threshold)).checked()

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context."""
        head_s, head_t = student.head(context.branch), teacher.head(context.branch)
        if head_s.dist is None or head_t.dist is None:
            raise PairError(f"dist: heads without a distance distribution have none to compare; {self.alternative}")
        selection = select_boxes(head_s, head_t, context, self.options)
        return localization_loss(head_s.dist, head_t.dist, selection, temperature=self.temperature)


def pairwise_diou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Distance-IoU of each of N boxes with each of M: IoU minus the squared share of their distance.

    Args:
        boxes1: Corners in pixels, (N, 4).
        boxes2: Corners in pixels, (M, 4).

    Returns:
        DIoU in [-1, 1] and IoU in [0, 1], both (N, M).

    References:
        Zheng et al., Distance-IoU Loss, AAAI 2020, eq. 6. arXiv:1911.08287
    """
    overlap = pairwise_iou(boxes1, boxes2)
    first, second = widen(boxes1)[:, None], widen(boxes2)[None]
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    diagonal = (high - low).square().sum(-1).clamp(min=1e-7)
    centres = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]).square().sum(-1) / 4
    return overlap - centres / diagonal, overlap


@torch.no_grad()
def valuable_weights(
    points: Tensor, strides: Tensor, labels: Labels, *, gamma: float = 0.25, size: float = 8.0
) -> Tensor:
    """Weigh the anchors that are near a labelled object but not near enough to be positives.

    Each anchor stands for a square of `size` cells around its centre. For each object, the DIoU of the nearest
    `CANDIDATES` anchors of every level has a mean and a deviation; their sum t is the threshold of a positive. Anchors
    with a DIoU in [gamma t, t) are valuable and weigh their IoU with the object.

    A tiny object overlaps a square by less than the distance takes away, so t is about 0 and the range may be empty.
    An object smaller than the squares of the finest level then takes the nearest `CANDIDATES` anchors of that level.
    For the weight, an object is at least as large as a cell of that level.

    Args:
        points: Centres of the anchors in pixels, (A, 2).
        strides: Pixels per cell, (A, 1).
        labels: The labelled objects of the batch.
        gamma: Where the valuable range begins, as a share of t, in [0, 1]; 1 leaves none.
        size: Side of an anchor's square in cells, > 0.

    Returns:
        Constant, in [0, 1], (B, A): the largest over the objects of an image, 0 elsewhere.

    References:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022, section 3.3, algorithm 1.
        Zhang et al., ATSS, CVPR 2020, algorithm 1 (the threshold). arXiv:1912.02424
        Differs from the papers: heads without anchor boxes have the squares; t is made of DIoU, as what it bounds; no
        tiny object is left without anchors.
    """
    points, strides = widen(points), widen(strides)
    squares = torch.cat((points - strides * size / 2, points + strides * size / 2), dim=-1)  # (A, 4)
    levels = [(strides[:, 0] == stride).nonzero()[:, 0] for stride in strides.unique()]  # finest first
    cell = float(strides.min())
    weights = points.new_zeros(len(labels.present), len(points))
    for image, present in enumerate(labels.present):
        objects = widen(labels.boxes_xyxy[image][present])  # (M, 4)
        if not len(objects):
            continue
        diou, _ = pairwise_diou(objects, squares)  # (M, A)
        centres = (objects[:, :2] + objects[:, 2:]) / 2
        distance = torch.cdist(centres, points.to(objects))
        near = []
        for level in levels:
            nearest = distance[:, level].topk(min(CANDIDATES, len(level)), dim=1, largest=False).indices
            near.append(level[nearest])
        candidates = diou.gather(1, torch.cat(near, dim=1))
        bound = candidates.mean(1, keepdim=True) + candidates.std(1, correction=0, keepdim=True)
        valuable = (diou >= gamma * bound) & (diou < bound)  # (M, A)
        sides = objects[:, 2:] - objects[:, :2]
        lost = ~valuable.any(1, keepdim=True) & (sides < size * cell).all(1, keepdim=True)
        closest = torch.zeros_like(valuable).scatter_(1, near[0], gamma < 1)
        valuable = torch.where(lost, closest, valuable)
        half = sides.clamp(min=cell) / 2
        overlap = pairwise_iou(torch.cat((centres - half, centres + half), dim=1), squares)
        weights[image] = (overlap * valuable).amax(0)
    return weights


class ValuableBoxes(Region):
    """The anchors assigned to labelled objects and the valuable ones around them; see `valuable_weights`.

    Where labels are not known (a batch or an image without them, or a source that does not keep them), each anchor
    counts as much as the teacher's score there.

    Args:
        gamma: Where the valuable range begins, as a share of a positive's threshold, in [0, 1].
        size: Side of an anchor's square in cells; > 0.
        assigned: Whether assigned anchors belong to the region, with weight 1.
    """

    def __init__(self, gamma: float = 0.25, size: float = 8.0, assigned: bool = True) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma, low=0.0, high=1.0, hint="0.25 is the paper's, 1 leaves none")
        self.size = check_number("size", size, above=0.0, hint="8 is usual: 64 pixels at stride 8")
        self.assigned = assigned

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return weights in [0, 1], (B, A)."""
        assignment = context.assignment
        weights = teacher_quality(teacher.head(context.branch).logits)
        if assignment is not None and assignment.labels is not None:
            points, labels = widen(student.anchor_points) * widen(student.strides), assignment.labels
            valuable = valuable_weights(points, student.strides, labels, gamma=self.gamma, size=self.size)
            weights = where_labelled(valuable, weights, assignment)
        return add_assigned(weights, assignment) if self.assigned else weights
