"""How hard each part of a student's loss pulls its weights, on one batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from detkd.losses.balance import gradient_norm
from detkd.models.weights import detect_head
from detkd.types import Branch

__all__ = ["Pull", "common_parameters", "measure_pull"]

_LIFT = 1024.0
"""Gradients of half-precision activations vanish below 6e-8; both sides of a share are lifted by this factor."""


class Pull(NamedTuple):
    """Norms of gradients on one batch.

    Attributes:
        tasks: Of the detection loss for each group of terms, on the parameters that both reach, at the head's full
            weight.
        groups: Of each group of distillation terms, likewise.
        parts: Of each term of each head, on those parameters and the heads' own.
        values: The terms themselves, with the weights they were measured with.
    """

    tasks: dict[str, float]
    groups: dict[str, float]
    parts: dict[str, float]
    values: dict[str, float]

    def share(self, group: str) -> float:
        """Return the pull of a group in relation to that of the labels; 0 where there is nothing to compare."""
        task = self.tasks.get(group, 0.0)
        return self.groups.get(group, 0.0) / task if task > 0 else 0.0


def common_parameters(student: DetectionModel) -> dict[str, list[nn.Parameter]]:
    """Return for each group of terms the last parameters that these terms and the labels both reach.

    The layers that feed the heads; where those are frozen, the one2many head itself. The one2one head of YOLO26
    sits on detached features and pulls nothing but itself.
    """
    head = detect_head(student, key="student", source="the student")
    layers: nn.Sequential = student.model
    feeding = [p for index in head.f for p in layers[int(index)].parameters() if p.requires_grad]
    towers = {
        prefix: [p for part in ("cv2", "cv3") for p in _trained(getattr(head, f"{prefix}{part}", None))]
        for prefix in ("", "one2one_")
    }
    return {"head": feeding or towers[""], "head_o2o": towers["one2one_"], "features": feeding}


def _trained(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else [p for p in module.parameters() if p.requires_grad]


def _norm(loss: Tensor, parameters: Sequence[Tensor], scale: float) -> float:
    """Return the norm of a gradient, measured at a scale where it can be."""
    lifted = gradient_norm(loss * scale, parameters) / scale
    return lifted if scale == 1.0 or math.isfinite(lifted) else gradient_norm(loss, parameters)


def measure_pull(
    student: DetectionModel,
    task: Tensor,
    native: Mapping[Branch, float],
    groups: Mapping[str, Tensor],
    parts: Mapping[str, Tensor],
) -> Pull:
    """Measure without touching `.grad`, the graph or random numbers.

    Args:
        student: The network.
        task: Detection loss with its final weight, scalar.
        native: Weight of each head in it.
        groups: Distillation per group at full weight, scalars.
        parts: Single terms, scalars with any weight.
    """
    common = common_parameters(student)
    head = detect_head(student, key="student", source="the student")
    everything = [*common["features"], *_trained(head)]
    scale = _LIFT if torch.is_autocast_enabled(task.device.type) else 1.0
    tasks: dict[str, float] = {}
    for name in groups:
        weight = native.get("one2one" if name == "head_o2o" else "one2many", 0.0)
        same = next((done for done in tasks if common[done] is common[name]), None)
        if same is not None:  # a backward pass less
            tasks[name] = tasks[same]
        else:
            tasks[name] = _norm(task, common[name], scale) / weight if weight > 0 else 0.0
    return Pull(
        tasks,
        {name: _norm(value, common[name], scale) for name, value in groups.items()},
        {name: _norm(value, everything, scale) for name, value in parts.items()},
        {name: float(value.detach()) for name, value in parts.items()},
    )
