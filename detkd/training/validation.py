"""Ultralytics' validator for the curve during training, shared by several processes where there are several."""

from __future__ import annotations

import detkd.environment

import torch
from torch import Tensor
from ultralytics.models.yolo.detect import DetectionValidator

from detkd.training import group

__all__ = ["Validator"]


class Validator(DetectionValidator):
    """Each process looks at its part of the images; the first one counts."""

    loss: dict[str, Tensor]

    def gather_stats(self) -> None:
        """Collect what all processes found, and their losses: the trainer divides by the batches of the first one."""
        super().gather_stats()
        if self.training:
            batches = group.total(torch.tensor(len(self.dataloader)))
            self.loss = {name: group.total(value) / batches * len(self.dataloader) for name, value in self.loss.items()}
