"""Views with feature maps of a chosen width and size, and leaves that collect their gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from detkd.types import Assignment, Labels, View
from tests.losses.views import SHAPES, make_assignment, make_view

OBJECTS = (((4.0, 4.0, 40.0, 30.0), 1), ((20.0, 24.0, 44.0, 60.0), 0))


def random_map(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_maps_view(
    seed: int, channels: tuple[int, ...], *, ratio: int = 1, grad: bool = False, images: int = 2,
    classes: int = 5, dtype: torch.dtype = torch.float32,
) -> View:  # fmt: skip
    """A view whose maps have these channels and `ratio` times the usual size."""
    view = make_view(seed, images=images, classes=classes, dtype=dtype, grad=grad)
    maps = tuple(
        random_map(seed + level, images, k, h * ratio, w * ratio, dtype=dtype).requires_grad_(grad)
        for level, (k, (h, w)) in enumerate(zip(channels, SHAPES, strict=True))
    )
    return view._replace(feats=maps)


def make_labels(images: int = 2, objects: tuple = OBJECTS) -> Labels:
    """The same objects in each image but the last, which has none."""
    boxes = torch.tensor([box for box, _ in objects] or [[0.0] * 4]).expand(images, -1, 4).clone()
    classes = torch.tensor([number for _, number in objects] or [0]).expand(images, -1).clone()
    present = torch.full(classes.shape, bool(objects))
    present[-1] = False
    return Labels(boxes * present[..., None], classes * present, present)


def make_labelled(seed: int, labels: Labels, classes: int = 5) -> Assignment:
    return make_assignment(seed, images=len(labels.present), classes=classes)._replace(labels=labels)


def feats(view: View) -> tuple[Tensor, ...]:
    assert view.feats is not None
    return view.feats
