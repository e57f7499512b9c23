"""Do losses look only where a cache has answers? Tried on made-up answers, before anything is built or trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detkd.losses.base import DistillLoss
from detkd.losses.pairing import BRANCHES, make_context
from detkd.losses.recipe import Recipe
from detkd.ops.anchors import anchor_points, distances_to_boxes
from detkd.types import Assignment, Context, HeadOutput, View

__all__ = ["STORED", "unstored_readers"]

STORED = frozenset({"logits", "boxes"})
"""What a cache keeps of a teacher."""

_IMGSZ, _STRIDES, _CLASSES = 64, (8, 16, 32), 3
_SHAPES = [(_IMGSZ // stride, _IMGSZ // stride) for stride in _STRIDES]
_ANCHORS = sum(height * width for height, width in _SHAPES)


def unstored_readers(recipe: Recipe) -> list[str]:
    """Return the terms whose value depends on what stands at anchors of which a teacher has said nothing.

    A cache has placeholders there, and `context.region` is 0. Terms that also read maps or distributions, and those
    that can't cope with answers that no network gave, are not tried.
    """
    found = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        known = torch.rand(1, _ANCHORS) < 0.5
        student, teacher = _view(), _view(known)
        other = _where(known, teacher, _view())
        labels, regions = _labels(), dict(recipe.regions.items())
        for name, loss in recipe.terms.items():
            if not isinstance(loss, DistillLoss) or not loss.uses <= STORED:
                continue
            region = regions.get(name, recipe.region)
            for branch in recipe.branches[name]:
                try:
                    context = make_context(region, student, teacher, labels, branch, {})
                    first, second = (_value(loss, student, one, context) for one in (teacher, other))
                    same = torch.allclose(first, second, equal_nan=True)
                except Exception:  # the first step of a training says what is wrong with it
                    continue
                if not same:
                    found.append(name)
                    break
    return found


def _value(loss: nn.Module, student: View, teacher: View, context: Context) -> Tensor:
    torch.manual_seed(1)  # a loss may draw random numbers
    value: Tensor = loss(student, teacher, context)
    return value


def _view(known: Tensor | None = None) -> View:
    """Return random answers of one image."""
    points, strides = anchor_points(_SHAPES, _STRIDES)
    heads: dict[str, HeadOutput] = {}
    for branch in BRANCHES:
        distances = torch.rand(1, _ANCHORS, 4) * 3 + 0.3
        logits = torch.randn(1, _ANCHORS, _CLASSES) * 3
        heads[branch] = HeadOutput(logits, distances_to_boxes(distances, points, strides), distances, known=known)
    return View(heads, points, strides, (_IMGSZ, _IMGSZ))


def _where(known: Tensor, view: View, other: View) -> View:
    """Return the answers of one view where they are known and those of another elsewhere."""
    mixed = {}
    for branch, head in view.heads.items():
        parts = {
            name: torch.where(known[..., None], getattr(head, name), getattr(other.heads[branch], name))
            for name in ("logits", "boxes_xyxy", "distances")
        }
        mixed[branch] = head._replace(**parts)
    return view._replace(heads=mixed)


def _labels() -> Assignment:
    """Return labels at random anchors."""
    foreground = torch.rand(1, _ANCHORS) < 0.2
    scores = torch.rand(1, _ANCHORS, _CLASSES) * foreground[..., None]
    low = torch.rand(1, _ANCHORS, 2) * 20
    boxes = torch.cat((low, low + 4 + torch.rand(1, _ANCHORS, 2) * 20), dim=-1)
    return Assignment(foreground, scores, boxes, classes=scores.argmax(-1))
