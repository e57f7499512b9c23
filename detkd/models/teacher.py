"""Where the teacher's answers come from. Losses can't tell one source from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import detkd.environment

import torch
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel

from detkd.errors import PairError
from detkd.models.align import Aligner
from detkd.models.classmap import class_map, map_logits
from detkd.models.head import fold_batchnorm, has_one2many, raw_outputs, read_view
from detkd.models.weights import detect_head, load_detector, model_names
from detkd.types import View

__all__ = ["LiveTeacher", "TeacherSource"]


class TeacherSource(Protocol):
    """Anything that can answer for the teacher: a live network, a cache, a file, several teachers."""

    def answer(self, batch: Mapping[str, Any], student: View) -> View:
        """Return the teacher's view of a batch on the student's anchors and classes; constant (no gradient)."""
        ...

    def to(self, device: torch.device) -> TeacherSource:
        """Move to a device and return self."""
        ...


class LiveTeacher:
    """A frozen network that sees every batch.

    It stays in eval mode (its batch statistics never change), batch normalisation is folded into the convolutions with
    both heads kept, and it runs up to the logits only: no decoding, no top-k, no gradient.
    """

    def __init__(
        self, model: DetectionModel, data_names: Sequence[str], mapping: Mapping[str, str] | None = None
    ) -> None:
        head = detect_head(model, key="teacher", source="the model")
        if not has_one2many(head):
            raise PairError(
                "teacher: these weights were fused for NMS-free use and have lost their one2many head; "
                "give the original .pt"
            )
        self.names = model_names(model)
        self.mapping = class_map(self.names, data_names, mapping)
        self.model = fold_batchnorm(model.float().eval()).requires_grad_(False)
        self.head = head
        self._align = Aligner()

    @classmethod
    def load(cls, path: str, data_names: Sequence[str], mapping: Mapping[str, str] | None = None) -> LiveTeacher:
        """Load a checkpoint as a teacher for data with the given class names."""
        return cls(load_detector(path, key="teacher"), data_names, mapping)

    def to(self, device: torch.device) -> LiveTeacher:
        """Move to a device and return self."""
        self.model.to(device)
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def answer(self, batch: Mapping[str, Any], student: View) -> View:
        """Return what the teacher says about `batch["img_teacher"]`, else `batch["img"]`, (B, 3, H, W) in 0..1."""
        images: Tensor = batch.get("img_teacher", batch["img"])
        view = self._align(student, read_view(raw_outputs(self.model, images), self.head))
        heads = {b: h._replace(logits=map_logits(h.logits, self.mapping)) for b, h in view.heads.items()}
        return view._replace(heads=heads)
