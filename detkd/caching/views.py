"""What a head says about a view, in a few kilobytes: its best anchors, with their boxes and a few of their classes.

One record per view. For each head it holds, in this order and without gaps:

- index of each anchor (uint16, uint32 above 65,535 anchors); left out where all anchors are stored,
- left, top, right and bottom distance in cells (float16; float32 with precision float32), (K, 4),
- ids of the stored classes (uint8, uint16 above 256 classes), (K, N); left out where all classes are stored,
- their logits, and behind them one for all other classes: the logit of their mean probability, (K, N + 1).

Logits of precision int8 are 24/254 apart, between -12 and 12: at most 0.012 of a probability is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkd.errors import ConfigError, DataError, ModelError, PairError
from detkd.ops.anchors import distances_to_boxes
from detkd.types import HeadOutput, View

__all__ = ["PRECISIONS", "UNKNOWN", "ViewDecoder", "ViewLayout", "decode_views", "encode_views"]

PRECISIONS = ("int8", "float16", "float32")

UNKNOWN = -20.0
"""Logit of anchors that are not stored: surer of background than any network, so regions by score come to them last."""

LIMIT = 12.0
"""Logits of precision int8 end here."""

STEP = LIMIT / 127
"""Distance of two neighbouring logits of precision int8."""


@dataclass(frozen=True)
class ViewLayout:
    """How views are stored.

    Attributes:
        branches: Heads, in their order in a record.
        anchors: Anchors of each head, A.
        num_classes: Classes of the data, C.
        k: Anchors stored per head, highest score first; None for all.
        classes: Classes stored per anchor, highest first; None for all.
        precision: Of the logits, one of `PRECISIONS`.
        imgsz: Height and width of the student's input in pixels.
        strides: Pixels per cell of each level, finest first.

    Raises:
        ConfigError: If the values can't be used.
    """

    branches: tuple[str, ...]
    anchors: int
    num_classes: int
    k: int | None
    classes: int | None
    precision: str
    imgsz: tuple[int, int]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"cache.precision: unknown choice, got {self.precision!r}; use {', '.join(PRECISIONS)}")
        for key, value, most in (("k", self.k, self.anchors), ("classes", self.classes, self.num_classes)):
            if value is not None and not 1 <= value <= most:
                raise ConfigError(f"cache.{key}: must be between 1 and {most}, got {value}; or all")

    @property
    def rows(self) -> int:
        """Anchors stored per head."""
        return self.anchors if self.k is None else self.k

    @property
    def dense(self) -> bool:
        """Whether all classes are stored; then there is no rest."""
        return self.classes is None or self.classes >= self.num_classes

    def fields(self) -> list[tuple[str, np.dtype[Any], int]]:
        """Return name, type and values per anchor of each array of a head, in their order."""
        box = np.dtype(np.float32 if self.precision == "float32" else np.float16)
        found = [] if self.k is None else [("index", np.dtype(np.uint16 if self.anchors <= 1 << 16 else np.uint32), 1)]
        found.append(("distances", box, 4))
        if self.dense:
            return [*found, ("logits", np.dtype(self.precision), self.num_classes)]
        assert self.classes is not None
        ids = np.dtype(np.uint8 if self.num_classes <= 1 << 8 else np.uint16)
        return [*found, ("ids", ids, self.classes), ("logits", np.dtype(self.precision), self.classes + 1)]

    def head_bytes(self) -> int:
        """Return the size of one head's part of a record."""
        return self.rows * sum(kind.itemsize * width for _, kind, width in self.fields())

    def record_bytes(self) -> int:
        """Return the size of a record."""
        return self.head_bytes() * len(self.branches)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ViewLayout:
        """Read what `to_dict` gave.

        Raises:
            DataError: If it is no such layout.
        """
        try:
            known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**known)
        except TypeError as err:
            raise DataError(f"cache: its layout can't be read ({err}); build the cache anew") from err


def encode_views(view: View, layout: ViewLayout) -> list[bytes]:
    """Store the answers to a batch.

    Args:
        view: Answers on the student's anchors.
        layout: How to store them.

    Returns:
        One record per image.

    Raises:
        PairError: If the view lacks a head, or has other anchors or classes.
        ModelError: If an answer is no number.
    """
    parts = []
    for branch in layout.branches:
        if branch not in view.heads:
            raise PairError(f"cache: the teacher has no {branch} head, only {sorted(view.heads)}; build the cache anew")
        parts.append(_encode_head(view.heads[branch], layout))
    images = len(parts[0]["distances"])
    order = [name for name, _, _ in layout.fields()]
    return [b"".join(part[name][i].tobytes() for part in parts for name in order) for i in range(images)]


def _encode_head(head: HeadOutput, layout: ViewLayout) -> dict[str, np.ndarray]:
    logits, distances = head.logits.detach().float(), head.distances.detach().float()
    if logits.shape[1:] != (layout.anchors, layout.num_classes):
        raise PairError(
            f"cache: stores {layout.anchors} anchors and {layout.num_classes} classes, the teacher answered with "
            f"{tuple(logits.shape[1:])}; build the cache anew"
        )
    arrays: dict[str, np.ndarray] = {}
    if layout.k is not None:
        # A stable sort keeps the lower index first where scores are equal, on every machine.
        best = logits.amax(-1).sort(dim=1, descending=True, stable=True).indices[:, : layout.k]
        arrays["index"] = best.cpu().numpy()
        logits = logits.gather(1, best[..., None].expand(-1, -1, layout.num_classes))
        distances = distances.gather(1, best[..., None].expand(-1, -1, 4))
    if not bool(logits.isfinite().all() & distances.isfinite().all()):
        raise ModelError("teacher: must answer with finite numbers, got NaN or infinity; check its weights")
    if not layout.dense:
        assert layout.classes is not None
        ranked = logits.sort(dim=-1, descending=True, stable=True)
        arrays["ids"] = ranked.indices[..., : layout.classes].cpu().numpy()
        rest = ranked.values[..., layout.classes :].sigmoid().mean(-1, keepdim=True).clamp(1e-8, 1 - 1e-7).logit()
        logits = torch.cat((ranked.values[..., : layout.classes], rest), dim=-1)
    if layout.precision == "int8":
        logits = (logits / STEP).round().clamp(-127, 127)
    if layout.precision != "float32":
        distances = distances.clamp(-6e4, 6e4)
    arrays["distances"], arrays["logits"] = distances.cpu().numpy(), logits.cpu().numpy()
    return {name: np.ascontiguousarray(arrays[name], dtype=kind) for name, kind, _ in layout.fields()}


def decode_views(
    payloads: Sequence[bytes | memoryview],
    layout: ViewLayout,
    *,
    anchor_points: Tensor,
    strides: Tensor,
    device: torch.device | None = None,
) -> dict[str, HeadOutput]:
    """Read the answers to a batch; see `ViewDecoder`, which is faster from batch to batch."""
    return ViewDecoder(layout)(payloads, anchor_points=anchor_points, strides=strides, device=device)


class ViewDecoder:
    """Reads the answers to batch after batch.

    Most anchors of a batch are not stored and look as they did before, so only the rows of the last batch are wiped.
    Each call therefore overwrites what the one before it returned.
    """

    def __init__(self, layout: ViewLayout) -> None:
        self.layout = layout
        self._canvases: dict[str, _Canvas] = {}

    @torch.no_grad()
    def __call__(
        self,
        payloads: Sequence[bytes | memoryview],
        *,
        anchor_points: Tensor,
        strides: Tensor,
        device: torch.device | None = None,
    ) -> dict[str, HeadOutput]:
        """Read the answers to a batch.

        Args:
            payloads: One record per image.
            anchor_points: The student's cell centres, (A, 2).
            strides: Its pixels per cell, (A, 1).
            device: Where the answers go; None for where the anchors are.

        Returns:
            One `HeadOutput` per stored head. Anchors that are not stored have logits of `UNKNOWN`, distances of 0 and
            `known` False; `known` is None where all are stored.

        Raises:
            DataError: If a record has another size than the layout's, or names an anchor that does not exist.
        """
        layout, size, images = self.layout, self.layout.record_bytes(), len(payloads)
        if wrong := [len(payload) for payload in payloads if len(payload) != size]:
            raise DataError(f"cache: a record has {wrong[0]} bytes, not {size}; check it with detkd cache verify")
        place = anchor_points.device if device is None else device
        block = np.frombuffer(b"".join(payloads), dtype=np.uint8).reshape(images, size)
        # Under mixed precision the student's grid comes in half precision.
        grid = (anchor_points.to(place).float(), strides.to(place).float())
        heads, start = {}, 0
        for branch in layout.branches:
            arrays: dict[str, np.ndarray] = {}
            for name, kind, width in layout.fields():
                stop = start + layout.rows * width * kind.itemsize
                part = np.ascontiguousarray(block[:, start:stop])
                arrays[name] = part.view(kind).reshape(images, layout.rows, width)
                start = stop
            heads[branch] = self._head(branch, arrays, *grid)
        return heads

    @torch.no_grad()
    def unknown(self, images: int, *, anchor_points: Tensor, strides: Tensor) -> dict[str, HeadOutput]:
        """Return answers to `images` images of which nothing is known."""
        grid = (anchor_points.float(), strides.float())
        return {name: self._canvas(name, images, *grid).wiped(images) for name in self.layout.branches}

    def _head(self, branch: str, arrays: Mapping[str, np.ndarray], points: Tensor, strides: Tensor) -> HeadOutput:
        layout, device = self.layout, points.device
        logits = torch.from_numpy(arrays["logits"].astype(np.float32)).to(device)
        if layout.precision == "int8":
            logits = logits * STEP
        distances = torch.from_numpy(arrays["distances"].astype(np.float32)).to(device)
        if not layout.dense:
            ids = torch.from_numpy(arrays["ids"].astype(np.int64)).to(device)
            full = logits[..., -1:].expand(-1, -1, layout.num_classes).clone()
            logits = full.scatter_(2, ids, logits[..., :-1])
        if layout.k is None:
            return HeadOutput(logits, distances_to_boxes(distances, points, strides), distances)
        if int(arrays["index"].max(initial=0)) >= layout.anchors:
            raise DataError("cache: a record names an anchor that does not exist; check it with detkd cache verify")
        index = torch.from_numpy(arrays["index"].astype(np.int64)).to(device)[..., 0]
        boxes = distances_to_boxes(distances, points[index], strides[index])
        return self._canvas(branch, len(index), points, strides).painted(index, logits, boxes, distances)

    def _canvas(self, branch: str, images: int, points: Tensor, strides: Tensor) -> _Canvas:
        canvas = self._canvases.get(branch)
        if canvas is None or len(canvas.known) < images or canvas.known.device != points.device:
            canvas = self._canvases[branch] = _Canvas(images, self.layout.num_classes, points, strides)
        return canvas


class _Canvas:
    """Answers of one head that are kept from batch to batch."""

    def __init__(self, images: int, num_classes: int, points: Tensor, strides: Tensor) -> None:
        self.centres = (points * strides).repeat(1, 2)  # (A, 4)
        self.logits = points.new_full((images, len(points), num_classes), UNKNOWN)
        self.boxes = self.centres.repeat(images, 1, 1)
        self.distances = torch.zeros_like(self.boxes)
        self.known = torch.zeros(images, len(points), dtype=torch.bool, device=points.device)
        self.rows = torch.zeros(0, dtype=torch.int64, device=points.device)  # painted last, in images x anchors

    def wiped(self, images: int) -> HeadOutput:
        """Return answers of which nothing is known."""
        self.logits.flatten(0, 1).index_fill_(0, self.rows, UNKNOWN)
        self.boxes.flatten(0, 1).index_copy_(0, self.rows, self.centres[self.rows % len(self.centres)])
        self.distances.flatten(0, 1).index_fill_(0, self.rows, 0.0)
        self.known.flatten().index_fill_(0, self.rows, False)
        self.rows = self.rows[:0]
        return HeadOutput(self.logits[:images], self.boxes[:images], self.distances[:images], known=self.known[:images])

    def painted(self, index: Tensor, logits: Tensor, boxes: Tensor, distances: Tensor) -> HeadOutput:
        """Return answers that are known at `index`, (B, K)."""
        head = self.wiped(len(index))
        rows = (index + torch.arange(len(index), device=index.device)[:, None] * self.known.shape[1]).flatten()
        for kept, values in ((self.logits, logits), (self.boxes, boxes), (self.distances, distances)):
            kept.flatten(0, 1).index_copy_(0, rows, values.flatten(0, 1))
        self.known.flatten().index_fill_(0, rows, True)
        self.rows = rows
        return head
