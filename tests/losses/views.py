"""Fake answers in the layout of a YOLO detector, small and seeded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detkd.ops.anchors import anchor_points, distances_to_boxes
from detkd.ops.divergence import widen
from detkd.types import Assignment, Branch, Context, HeadOutput, Towers, View

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
    towers: bool = False,
) -> View:
    """Random answers; leaves that need a gradient if `grad`. The answers are not made of the maps inside the heads."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    points, strides = anchor_points(SHAPES, STRIDES, like=torch.zeros(0, dtype=dtype))
    outputs = {}
    for name in heads:
        logits = (random(images, ANCHORS, classes) * 2).requires_grad_(grad)
        distances = (random(images, ANCHORS, 4).abs() + 0.3).requires_grad_(grad)
        dist = random(images, ANCHORS, 4, bins).requires_grad_(grad) if bins else None
        outputs[name] = HeadOutput(logits, distances_to_boxes(distances, points, strides), distances, dist)
    maps = tuple(random(images, 4, h, w).requires_grad_(grad) for h, w in SHAPES) if feats else None
    view = View(outputs, points, strides, IMGSZ, maps)
    if not towers:
        return view

    def inside() -> tuple[Tensor, ...]:
        return tuple(random(images, 4, h, w).requires_grad_(grad) for h, w in SHAPES)

    return view._replace(towers={name: Towers(inside(), inside()) for name in heads}, finish=make_finish(classes))


def make_finish(classes: int, channels: int = 4) -> Callable[[str, Towers], HeadOutput]:
    """The rest of a fake head: constant 1x1 convolutions, another pair per branch."""

    def finish(branch: str, towers: Towers) -> HeadOutput:
        generator = torch.Generator().manual_seed(BOTH.index(branch))  # type: ignore[arg-type]
        to_logits, to_sides = (torch.randn(k, channels, generator=generator) for k in (classes, 4))
        maps = tuple(torch.cat([x.flatten(2) for x in part], -1).transpose(1, 2) for part in towers)
        with torch.autocast("cpu", enabled=False):  # the precision of a teacher's layers is not what is tested
            logits, sides = (widen(x) @ w.T.to(widen(x)) for x, w in zip(maps, (to_logits, to_sides), strict=True))
        distances = sides.exp()
        points, strides = anchor_points([x.shape[2:] for x in towers.classes], STRIDES, like=distances[0])
        return HeadOutput(logits, distances_to_boxes(distances, points, strides), distances)

    return finish


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
    if view.towers is not None:
        towers = {n: Towers(*(tuple(x[images] for x in part) for part in t)) for n, t in view.towers.items()}
        view = view._replace(towers=towers)
    points, strides = view.anchor_points[anchors], view.strides[anchors]
    return view._replace(heads=heads, anchor_points=points, strides=strides, feats=maps)


def leaves(view: View) -> list[Tensor]:
    """The tensors of a view made with `grad=True` that collect a gradient."""
    return [x for head in view.heads.values() for x in (head.logits, head.distances)]
