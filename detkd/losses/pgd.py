"""Prediction-guided distillation: imitate the neck where the teacher predicts each labelled object best."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from detkd.errors import ShapeError
from detkd.losses.adapters import ADAPTERS, build_adapters, levels, standardise
from detkd.losses.base import DistillLoss, Region
from detkd.losses.checks import check_choice, check_number, check_same_shape
from detkd.losses.regions import batch_mass, teacher_quality, where_labelled
from detkd.ops.anchors import split_levels
from detkd.ops.boxes import pairwise_iou
from detkd.ops.divergence import widen
from detkd.types import Context, HeadOutput, Labels, View

__all__ = ["QualityGaussian", "RegionFeatures", "gaussian_weights", "object_weights", "region_squares"]


def gaussian_weights(points: Tensor, chosen: Tensor, sides: Tensor) -> Tensor:
    """Fit a 2-D Gaussian to the chosen cells of each object and return its height at each of them, 1 at the centre.

    Mean and covariance are those of maximum likelihood. A cell counts as a square full of points instead of one point,
    which adds `side^2 / 12` to both variances: a single cell, or cells in a row, have a Gaussian too.

    Args:
        points: Centres of the cells in pixels, (N, K, 2).
        chosen: Which of them count, (N, K) bool; an object may have none.
        sides: Length of each cell's side in pixels, (N, K).

    Returns:
        `exp(-d^2 / 2)` with d the Mahalanobis distance from the mean, 0 where not chosen, (N, K).
    """
    share = chosen / chosen.sum(1, keepdim=True).clamp(min=1)  # (N, K)
    offset = points - (points * share[..., None]).sum(1, keepdim=True)  # (N, K, 2)
    x, y = offset.unbind(-1)
    spread = (share * sides.square()).sum(1) / 12 + (~chosen.any(1)).to(share)  # no cell: anything but 0
    xx, yy, xy = (share * x * x).sum(1) + spread, (share * y * y).sum(1) + spread, (share * x * y).sum(1)
    xx, yy, xy = xx[:, None], yy[:, None], xy[:, None]
    distance = (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy)  # (N, K), squared
    return (-distance / 2).exp() * chosen


@torch.no_grad()
def object_weights(
    head: HeadOutput, points: Tensor, strides: Tensor, labels: Labels, *, top: int = 30, balance: float = 0.6
) -> Tensor:
    """How much each cell counts for the labelled objects, from how well the teacher predicts them there.

    The quality of cell i for object j of class c(j) is `p_ic(j)^(1 - balance) * IoU(box_i, object_j)^balance`, 0 where
    the cell's centre is outside the object. The best `top` cells of all levels keep the height of a Gaussian fitted to
    their positions; the others get 0. A cell takes the largest of its objects' weights.

    Args:
        head: The teacher's answers on A anchors.
        points: Centres of the anchors in pixels, (A, 2).
        strides: Pixels per cell, (A, 1).
        labels: The labelled objects of the batch.
        top: Cells per object, >= 1.
        balance: How much the box counts beside the class, in [0, 1].

    Returns:
        In [0, 1], constant, (B, A); all 0 in images without objects.

    References:
        Yang et al., Prediction-Guided Distillation for Dense Object Detection, ECCV 2022, section 3. arXiv:2203.05469
        Differs from the paper: cells have an extent (see `gaussian_weights`).
    """
    logits, boxes = widen(head.logits), widen(head.boxes_xyxy)
    points, sides = widen(points), widen(strides)[:, 0]
    weights = logits.new_zeros(logits.shape[:2])
    top = min(top, logits.shape[1])
    for image, present in enumerate(labels.present):
        objects, classes = widen(labels.boxes_xyxy[image][present]), labels.classes[image][present]  # (M, 4), (M,)
        if not len(objects):
            continue
        probs = logits[image][:, classes].sigmoid().T  # (M, A)
        inside = ((points > objects[:, None, :2]) & (points < objects[:, None, 2:])).all(-1)  # (M, A)
        quality = probs ** (1 - balance) * pairwise_iou(objects, boxes[image]) ** balance * inside
        best, index = quality.topk(top, dim=1)  # (M, top)
        height = gaussian_weights(points[index], best > 0, sides[index])
        weights[image] = torch.zeros_like(quality).scatter_(1, index, height.to(quality)).amax(0)
    return weights


class QualityGaussian(Region):
    """The cells where the teacher predicts the labelled objects best, highest in their midst; see `object_weights`.

    For terms on answers and, through `RegionFeatures`, on feature maps. Where labels are not known (a batch or an image
    without them, or a source that does not keep them), each anchor counts as much as the teacher's score there.

    Args:
        top: Cells per object; a whole number >= 1.
        balance: How much the box counts beside the class, in [0, 1]. The paper has 0.8 for terms on classes and 0.6
            for terms on boxes.
    """

    def __init__(self, top: int = 30, balance: float = 0.6) -> None:
        super().__init__()
        self.top = round(check_number("top", top, low=1.0, hint="30 is usual, 9 stays close to the best cell"))
        self.balance = check_number("balance", balance, low=0.0, high=1.0, hint="0.6 looks a little more at the box")

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return weights in [0, 1], (B, A)."""
        head, assignment = teacher.head(context.branch), context.assignment
        quality = teacher_quality(head.logits)
        if assignment is None or assignment.labels is None:
            return quality
        points, labels = widen(student.anchor_points) * widen(student.strides), assignment.labels
        weights = object_weights(head, points, student.strides, labels, top=self.top, balance=self.balance)
        return where_labelled(weights, quality, assignment)


def region_squares(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over cells of the squared error between standardised maps, averaged over channels.

    Each channel of both sides gets mean 0 and variance 1 over images and cells; then
    `sum over images and cells of w * mean over channels of (x_s - x_t)^2`. It grows with the weights and the batch: the
    caller divides it.

    Args:
        student: Adapted student map, (B, K, H, W), any float dtype.
        teacher: Teacher map of the same shape; treated as constant.
        weights: One per image and cell, row by row, (B, H * W).

    Returns:
        Scalar, 0 at a perfect match.

    Raises:
        ShapeError: If the maps differ in shape.
    """
    check_same_shape("feats", student, teacher)
    gap = standardise(widen(student)) - standardise(widen(teacher.detach()))
    return (gap.square().mean(1).flatten(1) * weights).sum()


class RegionFeatures(DistillLoss):
    """Make the student's neck maps rise and fall with the teacher's where the region says; see `region_squares`.

    With `QualityGaussian` as the region this is the feature part of prediction-guided distillation. The sum of
    `region_squares` over the levels is divided by one mass for all of them, the sum of the region's weights over the
    batch: a weighted mean over the cells of all levels, or less than that where the weights sum to less than 1. Cells
    of which the teacher says nothing (unknown anchors, objects of unknown classes) have weight 0 by then.

    Args:
        adapter: "always" (a 1x1 convolution per level) or "needed" (only where the widths differ).

    References:
        Yang et al., Prediction-Guided Distillation for Dense Object Detection, ECCV 2022, section 3. arXiv:2203.05469
        Differs from the paper: maps of the neck instead of the head's towers, standardised; one weight map instead of
        one for classes and one for boxes; no attention weights, no term on the background.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"feats"})

    def __init__(self, adapter: str = "always") -> None:
        super().__init__()
        self.adapter = check_choice("adapter", adapter, ADAPTERS)
        self.adapters = nn.ModuleList()

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build the adapters. They have no bias: standardising removes it."""
        self.adapters = build_adapters(student_channels, teacher_channels, when=self.adapter)

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context."""
        pairs = list(levels(self.adapters, student.feats, teacher.feats))
        shapes = [(x_s.shape[2], x_s.shape[3]) for x_s, _ in pairs]
        if sum(height * width for height, width in shapes) != context.region.shape[1]:
            raise ShapeError(
                f"feats: maps of {shapes} cells for a region of {context.region.shape[1]} anchors; this loss needs one "
                "anchor per cell"
            )
        parts = split_levels(context.region, shapes)
        total = torch.stack([region_squares(x_s, x_t, part) for (x_s, x_t), part in zip(pairs, parts, strict=True)])
        return total.sum() / batch_mass(context.region)
