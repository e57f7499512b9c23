"""A teacher that is read from disk: what it said about exactly these views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from detkd.caching.manifest import Manifest
from detkd.caching.views import ViewDecoder, ViewLayout
from detkd.errors import DataError, PairError
from detkd.ops.anchors import anchor_points
from detkd.types import View

__all__ = ["CachedTeacher", "RecordReader"]


class RecordReader(Protocol):
    """Where records come from; `detkd.caching.store.CacheReader` is one."""

    @property
    def manifest(self) -> Manifest:
        """What the cache says of itself."""
        ...

    def read(self, image: int, view: int) -> bytes | memoryview:
        """Return a record."""
        ...


class CachedTeacher:
    """Answers with what is stored for the views of a batch; the losses can't tell it from a live teacher.

    An answer holds until the next one, which reuses its tensors.

    Args:
        reader: An open cache of kind "views".
        classes: Which classes of the data the teacher knew that filled it, (C,) bool; None for all.

    Raises:
        DataError: If the cache holds something else.
    """

    def __init__(self, reader: RecordReader, classes: Tensor | None = None) -> None:
        if reader.manifest.kind != "views":
            raise DataError(f"cache.path: holds {reader.manifest.kind}, not views; use cache={reader.manifest.kind}")
        self.layout = ViewLayout.from_dict(reader.manifest.layout)
        self._reader = reader
        self._classes = classes
        self._decoder = ViewDecoder(self.layout)
        self._checked: set[tuple[tuple[int, int], int]] = set()

    def silence(self, branch: str) -> str:
        """Return why it has nothing to say to a head of a student."""
        return (
            f"the cache holds no answers for {branch}: not all of its teachers have that head, and objects depend on "
            "the student of the moment (cache=none can teach by them)"
        )

    def to(self, device: torch.device) -> CachedTeacher:
        """Return self; answers go where the student's anchors are."""
        return self

    @torch.no_grad()
    def answer(self, batch: Mapping[str, Any], student: View) -> View:
        """Return what is stored for `batch["record"]`, one (image, view) per image.

        A batch without records, such as the empty one that a run is tried with, has no known anchor.

        Raises:
            PairError: If the student has other anchors than the cache.
            DataError: If a record is missing or damaged.
        """
        self._check(student)
        if "record" in batch:
            payloads = [self._reader.read(int(image), int(view)) for image, view in batch["record"]]
            heads = self._decoder(payloads, anchor_points=student.anchor_points, strides=student.strides)
        else:
            heads = self._decoder.unknown(
                len(batch["img"]), anchor_points=student.anchor_points, strides=student.strides
            )
        if self._classes is not None:
            self._classes = self._classes.to(student.strides.device)
            heads = {branch: head._replace(classes=self._classes) for branch, head in heads.items()}
        return View(heads, student.anchor_points, student.strides, student.imgsz)

    def _check(self, student: View) -> None:
        key = (student.imgsz, len(student.strides))
        if key in self._checked:
            return
        shapes = [(self.layout.imgsz[0] // s, self.layout.imgsz[1] // s) for s in self.layout.strides]
        _, strides = anchor_points(shapes, [float(s) for s in self.layout.strides], like=student.strides)
        if student.imgsz != self.layout.imgsz or not torch.equal(strides, student.strides):
            found = [int(s) for s in torch.unique_consecutive(student.strides.flatten()).tolist()]
            raise PairError(
                f"cache.path: was built for {self.layout.imgsz} pixels and strides {list(self.layout.strides)}, the "
                f"student has {student.imgsz} and {found}; build another cache"
            )
        self._checked.add(key)
