"""How hard each part of a student's loss pulls its weights, on one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from detkd.losses.balance import gradient_norm
from detkd.models.weights import detect_head

__all__ = ["Pull", "measure_pull", "shared_parameters"]

_LIFT = 1024.0
"""Gradients of half-precision activations vanish below 6e-8; both sides of a share are lifted by this factor."""


class Pull(NamedTuple):
    """Norms of gradients on one batch.

    Attributes:
        task: Of the detection loss, on the parameters that feed the heads.
        groups: Of each group of distillation terms, likewise.
        parts: Of each term of each head, on those parameters and the heads' own.
        values: The terms themselves, with the weights they were measured with.
    """

    task: float
    groups: dict[str, float]
    parts: dict[str, float]
    values: dict[str, float]

    def share(self, group: str) -> float:
        """Return the pull of a group in relation to that of the detection loss; 0 where there is nothing to compare."""
        return self.groups.get(group, 0.0) / self.task if self.task > 0 else 0.0


def shared_parameters(student: DetectionModel) -> list[nn.Parameter]:
    """Return the parameters of the layers that feed the heads: the last that all losses reach, and cheap to reach."""
    head = detect_head(student, key="student", source="the student")
    layers: nn.Sequential = student.model
    feeding = [int(index) for index in head.f]
    return [p for index in feeding for p in layers[index].parameters() if p.requires_grad]


def measure_pull(
    student: DetectionModel, task: Tensor, groups: Mapping[str, Tensor], parts: Mapping[str, Tensor]
) -> Pull:
    """Measure without touching `.grad`, the graph or random numbers.

    The one2one head of YOLO26 sits on detached features: its terms pull nothing but the head itself, so they count in
    `parts` and not in `groups`.

    Args:
        student: The network.
        task: Detection loss with its final weight, scalar.
        groups: Distillation per group with its final weight, scalars.
        parts: Single terms, scalars with any weight.
    """
    shared = shared_parameters(student)
    head = detect_head(student, key="student", source="the student")
    everything = [*shared, *(p for p in head.parameters() if p.requires_grad)]
    scale = _LIFT if torch.is_autocast_enabled(task.device.type) else 1.0
    return Pull(
        gradient_norm(task * scale, shared) / scale,
        {name: gradient_norm(value * scale, shared) / scale for name, value in groups.items()},
        {name: gradient_norm(value * scale, everything) / scale for name, value in parts.items()},
        {name: float(value.detach()) for name, value in parts.items()},
    )
