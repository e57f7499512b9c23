"""Ultralytics' own distillation loss, computed by Ultralytics' code: the row every other method is compared with."""

from __future__ import annotations

from typing import ClassVar

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.nn.distill_model import DistillationModel

from detkd.errors import PairError
from detkd.losses.adapters import adapt, check_levels
from detkd.losses.base import DistillLoss
from detkd.ops.anchors import split_levels
from detkd.ops.divergence import widen
from detkd.types import Context, View

__all__ = ["UltralyticsFeatures", "location_scores"]


def location_scores(teacher: View) -> Tensor:
    """How much the teacher sees at each anchor, constant, (B, 1, A).

    The sigmoid of the mean of its heads' logits, maximum over classes; a teacher with one head counts alone. A head
    that was made of objects for the student's sake answers on a few anchors only and is none of the teacher's own.
    """
    own = [head for head in teacher.heads.values() if head.known is None]
    logits = torch.stack([widen(head.logits.detach()) for head in own]).mean(0)
    return logits.sigmoid().amax(-1)[:, None]


class UltralyticsFeatures(DistillLoss):
    """Score-weighted L2 between neck maps, as `distill_model=` of Ultralytics computes it.

    Per level `sum_x a_x sum_k (phi(F_s) - F_t)^2 / (K sum_x a_x)`, summed over the levels, with a_x from
    `location_scores` and phi two 1x1 convolutions with a ReLU between them. Their factor `dis` is the weight of the
    term. Values are in the teacher's own feature scale: neither standardised nor 0 for equal networks.

    Their total is `L_det + dis * L`. A recipe with alpha 1/2 gives half of that. Optimizers that divide a gradient by
    its size (AdamW) hardly notice: only the clipping of large gradients and their epsilon do. It halves the step of
    SGD, and in part of MuSGD, unless the learning rate is doubled.

    Differs from theirs: a_x looks at the classes of the data only, not at others the teacher may have; the projector
    computes in float32 under mixed precision.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits", "feats"})

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.ModuleList()

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Build the projectors, with the layers and initialisation of theirs."""
        check_levels(student_channels, teacher_channels)
        self.projector = nn.ModuleList(
            nn.Sequential(nn.Conv2d(k_s, k_t, 1), nn.ReLU(inplace=True), nn.Conv2d(k_t, k_t, 1))
            for k_s, k_t in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the sum over the levels; the region is not used, theirs knows none.

        Raises:
            PairError: If the teacher sees another resolution than the student.
        """
        feats_s, feats_t = student.feats or (), teacher.feats or ()
        shapes = [(maps.shape[2], maps.shape[3]) for maps in feats_s]
        if shapes != [(maps.shape[2], maps.shape[3]) for maps in feats_t]:
            raise PairError(
                f"teacher.imgsz: Ultralytics' loss needs teacher and student at one resolution, got maps of "
                f"{[tuple(maps.shape[2:]) for maps in feats_t]} and {shapes} cells; set teacher.imgsz to imgsz, or "
                "use distill=pkd"
            )
        scores = location_scores(teacher).transpose(1, 2)  # (B, A, 1)
        per_level = tuple(part.transpose(1, 2) for part in split_levels(scores, shapes))
        total = scores.new_zeros(())
        for index, (layer, maps_s, maps_t) in enumerate(zip(self.projector, feats_s, feats_t, strict=True)):
            # Their method reads nothing of its model, so it needs none.
            total = total + DistillationModel.loss_sl2(
                None, adapt(layer, maps_s), widen(maps_t.detach()), index, per_level
            )
        return total
