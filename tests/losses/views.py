"""Fake answers in the layout of a YOLO detector, small and seeded."""

from __future__ import annotations

import torch
from torch import Tensor

from detkd.ops.anchors import anchor_points, distances_to_boxes
from detkd.types import Assignment, Branch, Context, HeadOutput, View

SHAPES = ((8, 6), (4, 3), (2, 2))  # 64 anchors; not square, so swapped axes show
STRIDES = (8, 16, 32)
IMGSZ = (64, 48)
ANCHORS = sum(h * w for h, w in SHAPES)
BOTH: tuple[Branch, ...] = ("one2many", "one2one")


def make_view(
    seed: int,
    *,
    images: int = 2,
    classes: int = 5,
    heads: tuple[str, ...] = BOTH,
    dtype: torch.dtype = torch.float32,
    grad: bool = False,
    bins: int = 0,
    feats: bool = False,
) -> View:
    """Random answers; leaves that need a gradient if `grad`."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    points, strides = anchor_points(SHAPES, STRIDES, like=torch.zeros(0, dtype=dtype))
    outputs = {}
    for name in heads:
        logits = (random(images, ANCHORS, classes) * 2).requires_grad_(grad)
        distances = (random(images, ANCHORS, 4).abs() + 0.3).requires_grad_(grad)
        dist = random(images, ANCHORS, 4, bins) if bins else None
        outputs[name] = HeadOutput(logits, distances_to_boxes(distances, points, strides), distances, dist)
    maps = tuple(random(images, 4, h, w).requires_grad_(grad) for h, w in SHAPES) if feats else None
    return View(outputs, points, strides, IMGSZ, maps)


def make_assignment(seed: int, *, images: int = 2, classes: int = 5, share: float = 0.2) -> Assignment:
    """Random foreground anchors with labelled boxes."""
    generator = torch.Generator().manual_seed(seed)
    foreground = torch.rand(images, ANCHORS, generator=generator) < share
    scores = torch.rand(images, ANCHORS, classes, generator=generator) * foreground[..., None]
    low = torch.rand(images, ANCHORS, 2, generator=generator) * 20
    boxes = torch.cat((low, low + 4 + torch.rand(images, ANCHORS, 2, generator=generator) * 20), dim=-1)
    return Assignment(foreground, scores, boxes)


def make_context(
    view: View, *, region: Tensor | None = None, assignment: Assignment | None = None, branch: Branch = "one2many"
) -> Context:
    """A context over all anchors, or over `region`."""
    everywhere = torch.ones(view.head(branch).logits.shape[:2])
    return Context(branch, assignment, everywhere if region is None else region, view.imgsz)


def pick(view: View, images: Tensor | slice = slice(None), anchors: Tensor | slice = slice(None)) -> View:
    """Select or reorder images and anchors; feature maps keep the order of their cells."""

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[images][:, anchors]

    heads = {name: HeadOutput(*(cut(x) for x in head)) for name, head in view.heads.items()}
    maps = None if view.feats is None else tuple(x[images] for x in view.feats)
    points, strides = view.anchor_points[anchors], view.strides[anchors]
    return view._replace(heads=heads, anchor_points=points, strides=strides, feats=maps)


def leaves(view: View) -> list[Tensor]:
    """The tensors of a view made with `grad=True` that collect a gradient."""
    return [x for head in view.heads.values() for x in (head.logits, head.distances)]
