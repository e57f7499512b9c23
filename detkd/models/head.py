"""The only file that knows what an Ultralytics detector returns.

In training mode a Detect head returns `{"boxes", "scores", "feats"}`, or two of them under "one2many" and "one2one".
`boxes` are raw distances (or distribution logits) to the four sides, `scores` raw class logits, both (B, channels, A).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import RepVGGDW
from ultralytics.nn.modules.conv import Conv, Conv2, ConvTranspose, RepConv
from ultralytics.nn.modules.head import Detect
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner, dist2bbox, make_anchors
from ultralytics.utils.torch_utils import fuse_conv_and_bn, fuse_deconv_and_bn

from detkd.ops.divergence import widen
from detkd.types import Assignment, Branch, HeadOutput, Labels, View

__all__ = [
    "AssignmentRecorder",
    "assigners",
    "fold_batchnorm",
    "has_one2many",
    "has_one2one",
    "head_output",
    "native_weights",
    "object_assigner",
    "pad_rows",
    "raw_outputs",
    "read_view",
    "select_images",
]

_CANDIDATES: dict[str, int] = {"one2many": 10, "one2one": 7}
"""Anchors the native losses consider per object. Of its seven, one2one then keeps the best aligned one."""


def has_one2one(head: Detect) -> bool:
    """Return whether the detector has an NMS-free head."""
    return getattr(head, "one2one_cv2", None) is not None


def has_one2many(head: Detect) -> bool:
    """Return whether the detector still has its one-to-many head (fusing for NMS-free use removes it)."""
    return head.cv2 is not None


def raw_outputs(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Run a frozen detector up to its raw head outputs: no decoding, no top-k, no batch statistics.

    Only the head's own flag is switched to training, which selects the output format; its layers stay in eval mode.
    """
    head: Any = model.model[-1]  # type: ignore[index]
    before = head.training
    head.training = True
    try:
        outputs: dict[str, Any] = model.predict(images)  # type: ignore[operator]
    finally:
        head.training = before
    return outputs


def read_view(outputs: dict[str, Any], head: Detect) -> View:
    """Translate raw training outputs into a `View` on the model's own anchors."""
    by_branch = outputs if "one2many" in outputs else {"one2many": outputs}
    present = {branch: raw for branch, raw in by_branch.items() if raw}
    feats = next(iter(present.values()))["feats"]
    anchor_points, strides = make_anchors(feats, head.stride, 0.5)
    heads = {branch: head_output(raw, head, anchor_points, strides) for branch, raw in present.items()}
    height, width = (int(cells * float(head.stride[0])) for cells in feats[0].shape[2:])
    return View(heads, anchor_points, strides, (height, width), tuple(feats))


def head_output(raw: dict[str, Tensor], head: Detect, anchor_points: Tensor, strides: Tensor) -> HeadOutput:
    """Decode what one head said.

    Args:
        raw: `boxes` (B, 4R, A) and `scores` (B, C, A).
        head: The head that said it.
        anchor_points: Cell centres in cells, (A, 2).
        strides: Pixels per cell, (A, 1).
    """
    logits = widen(raw["scores"].permute(0, 2, 1))  # (B, A, C)
    boxes = widen(raw["boxes"].permute(0, 2, 1))  # (B, A, 4R)
    dist = None
    if head.reg_max > 1:
        dist = boxes.unflatten(-1, (4, head.reg_max))  # (B, A, 4, R)
        bins = torch.arange(head.reg_max, dtype=boxes.dtype, device=boxes.device)
        boxes = (dist.softmax(-1) * bins).sum(-1)  # a matrix product would fall to half precision under autocast
    return HeadOutput(logits, dist2bbox(boxes, anchor_points, xywh=False) * strides, boxes, dist)


def select_images(outputs: Any, index: Tensor) -> Any:
    """Keep some images of raw training outputs.

    Args:
        outputs: What the model returned in training mode: tensors of (B, ...) in dictionaries and lists.
        index: Numbers of the images to keep, (N,), in the order they shall have; none is allowed.
    """
    if isinstance(outputs, Tensor):
        return outputs.index_select(0, index)
    if isinstance(outputs, dict):
        return {name: select_images(part, index) for name, part in outputs.items()}
    return [select_images(part, index) for part in outputs]


def pad_rows(rows: Tensor, image: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Lay out the objects of a batch image by image, each at the position the native loss gives it.

    Args:
        rows: One row per object, (N, ...).
        image: Number of each object's image, (N,).
        images: Images in the batch, B.

    Returns:
        Rows per image, filled up with zeros, (B, M, ...) with M the most objects of an image, and where there is one,
        (B, M) bool.
    """
    image = image.view(-1).long()
    counts = torch.bincount(image, minlength=images)
    most = int(counts.max()) if len(image) else 0
    padded, present = rows.new_zeros(images, most, *rows.shape[1:]), torch.zeros(images, most, device=rows.device) > 0
    order = image.argsort(stable=True)
    image = image[order]
    position = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    padded[image, position] = rows[order]
    present[image, position] = True
    return padded, present


def object_assigner(branch: str, num_classes: int, strides: Tensor) -> TaskAlignedAssigner:
    """Return the native assigner of a head, before one2one reduces its candidates to one per object.

    Args:
        branch: Name of the head.
        num_classes: C.
        strides: Pixels per cell of each anchor, (A, 1).
    """
    pixels = strides.unique().tolist()  # ascending
    return TaskAlignedAssigner(_CANDIDATES[branch], num_classes, alpha=0.5, beta=6.0, stride=pixels)


def assigners(criterion: E2ELoss | v8DetectionLoss) -> dict[Branch, TaskAlignedAssigner]:
    """Return the label assigner of each head."""
    if isinstance(criterion, E2ELoss):
        return {"one2many": criterion.one2many.assigner, "one2one": criterion.one2one.assigner}
    return {"one2many": criterion.assigner}


class AssignmentRecorder:
    """Keeps what the label assigner of each head decided in the last forward pass.

    As a context it leaves no hook behind, so that none gets into a copy of the model.
    """

    def __init__(self, criterion: E2ELoss | v8DetectionLoss) -> None:
        self._last: dict[Branch, Assignment] = {}
        self._hooks = [
            assigner.register_forward_hook(partial(self._keep, branch))
            for branch, assigner in assigners(criterion).items()
        ]

    def __enter__(self) -> AssignmentRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(
        self, branch: Branch, _module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
    ) -> None:
        classes, boxes, scores, foreground, _ = outputs
        number, corners, there = inputs[3:6]  # (B, M, 1), (B, M, 4) in pixels, (B, M, 1); M may be 0
        labels = Labels(corners.float(), number[..., 0].long(), there[..., 0].bool())
        self._last[branch] = Assignment(foreground.bool(), scores.float(), boxes.float(), labels, classes.long())

    def take(self) -> dict[Branch, Assignment]:
        """Return the assignments since the last call and forget them."""
        taken, self._last = self._last, {}
        return taken


def native_weights(criterion: E2ELoss | v8DetectionLoss) -> dict[Branch, float]:
    """Return how much each head counts in the detection loss at this moment."""
    if isinstance(criterion, E2ELoss):
        return {"one2many": float(criterion.o2m), "one2one": float(criterion.o2o)}
    return {"one2many": 1.0}


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Fold batch normalisation into the convolutions of a frozen detector, in place, keeping both heads.

    Ultralytics' own `fuse()` also removes the head that the default settings don't deploy.
    """
    for module in model.modules():
        m: Any = module
        if isinstance(m, RepConv):
            m.fuse_convs()
            m.forward = m.forward_fuse
        elif isinstance(m, RepVGGDW):
            m.fuse()
            m.forward = m.forward_fuse
        elif isinstance(m, Conv) and hasattr(m, "bn"):
            if isinstance(m, Conv2):
                m.fuse_convs()
            m.conv = fuse_conv_and_bn(m.conv, m.bn)
            del m.bn
            m.forward = m.forward_fuse
        elif isinstance(m, ConvTranspose) and hasattr(m, "bn"):
            m.conv_transpose = fuse_deconv_and_bn(m.conv_transpose, m.bn)
            del m.bn
            m.forward = m.forward_fuse
    return model
