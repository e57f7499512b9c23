"""Box distillation: the student's decoded boxes towards the teacher's.

Works for heads with and without a distance distribution, because only decoded boxes are compared.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_choice, check_number, check_same_shape
from detkd.losses.errors import ErrorOptions
from detkd.losses.regions import batch_mass, teacher_quality
from detkd.ops.boxes import ciou, giou, has_area, iou
from detkd.ops.divergence import nonnegative, widen
from detkd.types import Context, HeadOutput, View

__all__ = ["BoxIoU", "BoxL1", "BoxOptions", "Selection", "box_iou_loss", "box_l1_loss", "select_boxes"]

OVERLAPS = {"giou": giou, "ciou": ciou}
QUALITIES = ("score", "score_iou")


class BoxOptions(NamedTuple):
    """How much a teacher box is trusted.

    Attributes:
        quality: "score", or "score_iou" to multiply by the teacher box's IoU with the label on assigned anchors.
        quality_power: Exponent of the teacher score; >= 0.
        guard: Whether to drop assigned anchors where the student's box fits the label better than the teacher's. The
            mass keeps them, so that a poor teacher teaches less.
        errors: How much it counts where it contradicts the labels about there being an object; the mass keeps these
            anchors too.
    """

    quality: str = "score"
    quality_power: float = 1.0
    guard: bool = False
    errors: ErrorOptions = ErrorOptions()

    def checked(self) -> BoxOptions:
        """Return the same options, or raise `ConfigError` naming the one that can't be used."""
        check_choice("quality", self.quality, QUALITIES)
        hint = "1 weighs by the teacher's score, 0 weighs all anchors alike"
        power = check_number("quality_power", self.quality_power, low=0.0, hint=hint)
        return self._replace(quality_power=power, errors=self.errors.checked())


DEFAULT_OPTIONS = BoxOptions()


class Selection(NamedTuple):
    """Anchors whose boxes are compared.

    Attributes:
        where: Image and anchor number of each, two of (M,).
        weights: Weight of each, (M,), constant.
        mass: What the weighted sum is divided by, scalar, >= 1.
    """

    where: tuple[Tensor, ...]
    weights: Tensor
    mass: Tensor


@torch.no_grad()
def select_boxes(
    student: HeadOutput, teacher: HeadOutput, context: Context, options: BoxOptions = DEFAULT_OPTIONS
) -> Selection:
    """Weigh anchors by how much their teacher box can be trusted.

    With region weight u and teacher score q = max over classes of the teacher's sigmoid, the weight is `u q^power`,
    and the mass is the sum of the weights over the batch, at least 1. Teacher boxes without area are left out.

    Args:
        student: The student's head; its boxes matter only to the guard.
        teacher: The teacher's head.
        context: Region and, for "score_iou", the guard and the teacher's errors, the labels' assignment.
        options: What the weight is made of.

    Raises:
        ShapeError: If the boxes differ in shape.
    """
    check_same_shape("boxes", student.boxes_xyxy, teacher.boxes_xyxy)
    boxes_t = teacher.boxes_xyxy
    index = (context.region * has_area(boxes_t)).nonzero(as_tuple=True)
    weights = context.region[index] * teacher_quality(teacher.logits[index]) ** options.quality_power
    keep = torch.ones_like(weights)
    if context.assignment is not None and (options.quality == "score_iou" or options.guard):
        assigned = context.assignment.foreground[index]
        labels = context.assignment.boxes_xyxy[index]
        fit_t = iou(boxes_t[index], labels)
        if options.quality == "score_iou":
            weights = weights * torch.where(assigned, fit_t, torch.ones_like(fit_t))
        if options.guard:
            worse = fit_t < iou(student.boxes_xyxy[index], labels)
            keep = torch.where(assigned & worse, torch.zeros_like(keep), keep)
    factors = options.errors.factors(teacher, context.assignment)
    if factors is not None:
        keep = keep * factors[index]
    return Selection(index, weights * keep, batch_mass(weights))


def box_iou_loss(student: Tensor, teacher: Tensor, selection: Selection, *, kind: str = "giou") -> Tensor:
    """Weighted mean of 1 - overlap: `sum w (1 - overlap(b_s, b_t)) / mass`.

    Args:
        student: Corners in pixels, (B, A, 4), any float dtype.
        teacher: Corners in pixels of the same shape; treated as constant.
        selection: Which anchors, and their weights.
        kind: "giou" or "ciou" (the form of the native box loss).

    Returns:
        Scalar, 0 at a perfect match.
    """
    overlap = OVERLAPS[kind](student[selection.where], teacher.detach()[selection.where])
    return (nonnegative(1 - overlap) * selection.weights).sum() / selection.mass


def box_l1_loss(
    student: Tensor, teacher: Tensor, strides: Tensor, selection: Selection, *, imgsz: tuple[int, int]
) -> Tensor:
    """Weighted mean of side distances: `sum w mean_sides |d_s - d_t| * stride / imgsz / mass`.

    Horizontal sides are divided by the image's width, vertical ones by its height: the units of the L1 loss that
    Ultralytics uses for heads without a distance distribution, so its gain (1.5) is a sensible weight.

    Args:
        student: Left, top, right, bottom distances in cells, (B, A, 4), any float dtype.
        teacher: Distances of the same shape; treated as constant.
        strides: Pixels per cell, (A, 1).
        selection: Which anchors, and their weights.
        imgsz: Height and width of the student's input in pixels.

    Returns:
        Scalar, 0 at a perfect match.

    Raises:
        ShapeError: If the distances differ in shape.
    """
    check_same_shape("distances", student, teacher)
    d_s, d_t = widen(student[selection.where]), widen(teacher.detach()[selection.where])  # (M, 4)
    height, width = imgsz
    scale = widen(strides)[selection.where[1]] / d_s.new_tensor([width, height, width, height])  # (M, 4)
    return (((d_s - d_t).abs() * scale).mean(-1) * selection.weights).sum() / selection.mass


class BoxIoU(DistillLoss):
    """Make the student's boxes overlap the teacher's; see `select_boxes` and `box_iou_loss`.

    Args:
        kind: "giou", or "ciou" as in the native box loss.
        quality: "score" or "score_iou".
        quality_power: Exponent of the teacher score; >= 0.
        guard: Whether to drop assigned anchors where the student's box fits the label better than the teacher's.
        w_fp: Weight where the teacher sees an object that the labels don't have; >= 0, 1 changes nothing.
        w_fn: Weight where it misses one that they have; likewise.
        threshold: Score above which the teacher sees an object; see `error_weights`.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits", "boxes"})

    def __init__(
        self,
        kind: str = "giou",
        quality: str = "score",
        quality_power: float = 1.0,
        guard: bool = False,
        w_fp: float = 1.0,
        w_fn: float = 1.0,
        threshold: float = 0.25,
    ) -> None:
        super().__init__()
        self.options = BoxOptions(quality, quality_power, guard, ErrorOptions(w_fp, w_fn, threshold)).checked()
        self.kind = check_choice("kind", kind, OVERLAPS)

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context."""
        head_s, head_t = student.head(context.branch), teacher.head(context.branch)
        selection = select_boxes(head_s, head_t, context, self.options)
        return box_iou_loss(head_s.boxes_xyxy, head_t.boxes_xyxy, selection, kind=self.kind)


class BoxL1(DistillLoss):
    """Move the sides of the student's boxes to the teacher's; see `select_boxes` and `box_l1_loss`.

    Args:
        quality: "score" or "score_iou".
        quality_power: Exponent of the teacher score; >= 0.
        guard: Whether to drop assigned anchors where the student's box fits the label better than the teacher's.
        w_fp: Weight where the teacher sees an object that the labels don't have; >= 0, 1 changes nothing.
        w_fn: Weight where it misses one that they have; likewise.
        threshold: Score above which the teacher sees an object; see `error_weights`.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits", "boxes"})

    def __init__(
        self,
        quality: str = "score",
        quality_power: float = 1.0,
        guard: bool = False,
        w_fp: float = 1.0,
        w_fn: float = 1.0,
        threshold: float = 0.25,
    ) -> None:
        super().__init__()
        self.options = BoxOptions(quality, quality_power, guard, ErrorOptions(w_fp, w_fn, threshold)).checked()

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context."""
        head_s, head_t = student.head(context.branch), teacher.head(context.branch)
        selection = select_boxes(head_s, head_t, context, self.options)
        return box_l1_loss(head_s.distances, head_t.distances, student.strides, selection, imgsz=context.imgsz)
