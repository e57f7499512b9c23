"""What a detector says, in a form that knows no framework.

Losses see only these types. Where an answer comes from (a live network, a cache, a file, several teachers) is hidden
behind a `View`, so a loss written once works for all of them.

Shape letters used everywhere: B images, A anchors (all pyramid levels in one row, finest level first), C classes,
R bins of a distance distribution, H and W cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from detkd.errors import ShapeError

__all__ = ["Assignment", "Branch", "Context", "HeadOutput", "Labels", "Towers", "View"]

Branch = Literal["one2many", "one2one"]
"""`one2many` needs NMS at run time, `one2one` does not. Detectors without an NMS-free head have `one2many` only."""


class HeadOutput(NamedTuple):
    """Answers of one detection head.

    Attributes:
        logits: Raw class scores before the sigmoid, (B, A, C).
        boxes_xyxy: Decoded boxes in pixels of the student's input, (B, A, 4).
        distances: Decoded left, top, right, bottom distances in cells (stride units), (B, A, 4).
        dist: Raw distribution logits per side, (B, A, 4, R), or None for heads without DFL (YOLO26).
        known: True where the source has an answer, (B, A) bool; None for everywhere. A cache knows some anchors only.
        classes: True for the classes the source knows, (C,) bool; None for all. The recipe compares no others.
    """

    logits: Tensor
    boxes_xyxy: Tensor
    distances: Tensor
    dist: Tensor | None = None
    known: Tensor | None = None
    classes: Tensor | None = None


class Towers(NamedTuple):
    """What lies between neck and answers in one head: the feature maps of its class and box towers, level by level.

    Attributes:
        classes: Maps of the class tower, finest level first, each (B, K, H, W).
        boxes: Maps of the box tower, likewise.
    """

    classes: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]


class View(NamedTuple):
    """All answers of one detector to one batch, on the student's anchors.

    Attributes:
        heads: One `HeadOutput` per head the detector has.
        anchor_points: Cell centres in cells, (A, 2) as x, y.
        strides: Pixels per cell of each anchor, (A, 1).
        imgsz: Height and width of the student's input in pixels.
        feats: Neck maps per level, each (B, K, H, W); None where the source has none (a cache).
        towers: Maps inside each head; None where nobody asked for them.
        finish: Turns such maps, in the source's own width, into what its head makes of them: `finish(branch, towers)`.
            The source's weights are constant, a gradient goes to the maps. None where the source is no live network.
        lost: Why outputs are missing that the networks behind the source do have, by name, e.g. "dist"; for messages.
    """

    heads: dict[str, HeadOutput]
    anchor_points: Tensor
    strides: Tensor
    imgsz: tuple[int, int]
    feats: tuple[Tensor, ...] | None = None
    towers: Mapping[str, Towers] | None = None
    finish: Callable[[str, Towers], HeadOutput] | None = None
    lost: Mapping[str, str] | None = None

    def head(self, branch: Branch) -> HeadOutput:
        """Return the head called `branch`, or raise `ShapeError` naming those there are."""
        if branch not in self.heads:
            raise ShapeError(f"view has no {branch} head, only {sorted(self.heads)}")
        return self.heads[branch]


class Labels(NamedTuple):
    """The labelled objects of a batch, image by image, filled up to the most an image has.

    Attributes:
        boxes_xyxy: Corners in pixels of the student's input, (B, M, 4).
        classes: Class numbers, (B, M) long; 0 where there is no object.
        present: Where there is an object, (B, M) bool.
    """

    boxes_xyxy: Tensor
    classes: Tensor
    present: Tensor


class Assignment(NamedTuple):
    """Which anchors the label assigner gave to labelled objects, for one head of the student.

    Attributes:
        foreground: True where an anchor is responsible for a labelled object, (B, A) bool.
        scores: The assigner's soft target per class, 0 off the foreground, (B, A, C).
        boxes_xyxy: Box of the assigned label in pixels, (B, A, 4); meaningless off the foreground.
        labels: The labelled objects themselves; None where the source does not say.
        classes: Class number of the assigned label, (B, A) long; meaningless off the foreground. None where the source
            does not say. `scores` may not tell: they are 0 where the student's box misses the object.
        labelled: False for images that nobody labelled, (B,) bool; None for none of those. Such an image has neither
            foreground nor labels, which says nothing about what is in it.
    """

    foreground: Tensor
    scores: Tensor
    boxes_xyxy: Tensor
    labels: Labels | None = None
    classes: Tensor | None = None
    labelled: Tensor | None = None


class Context(NamedTuple):
    """Everything besides the two answers that a loss may use, for one head.

    Attributes:
        branch: The head being distilled.
        assignment: The labels' assignment for that head, or None when the batch carries no labels.
        region: Weight of each anchor in [0, 1], (B, A); 0 leaves an anchor out. Constant (no gradient).
        imgsz: Height and width of the student's input in pixels.
    """

    branch: Branch
    assignment: Assignment | None
    region: Tensor
    imgsz: tuple[int, int]
