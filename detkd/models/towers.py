"""The feature maps inside a detection head, and the rest of a head as a function of them.

Each level of a head has two towers, for classes and for boxes: stacked stages of convolutions, then one 1x1 convolution
that gives the answer. A map is read after the last normalisation of a stage and before its activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import detkd.environment

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import Detect
from ultralytics.utils.tal import make_anchors

from detkd.errors import ConfigError, PairError
from detkd.models.head import has_one2many, has_one2one, head_output
from detkd.types import HeadOutput, Towers

__all__ = ["TowerRecorder", "finish_towers", "teacher_towers"]

Finish = Callable[[str, Towers], HeadOutput]


class TowerRecorder:
    """Keeps the maps of all towers of a head in the last forward pass, with their graph.

    A context; it leaves no hook behind. It sees nothing of a network that runs compiled.

    Args:
        head: The detection head.
        stage: After which stage of each tower, counted from 1.

    Raises:
        ConfigError: If the head has no such stage.
        PairError: If a stage is built of something else than Ultralytics' convolutions.
    """

    def __init__(self, head: Detect, stage: int) -> None:
        self._last: dict[tuple[str, str, int], Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self._convs = {key: _last_conv(tower, stage) for key, tower in _towers(head)}

    def __enter__(self) -> TowerRecorder:
        for key, conv in self._convs.items():
            # Folding removes the normalisation; the convolution then gives what it gave.
            part = conv.bn if hasattr(conv, "bn") else conv.conv
            self._hooks.append(part.register_forward_hook(partial(self._keep, key, _in_place(conv))))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _keep(self, key: tuple[str, str, int], copied: bool, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._last[key] = output.clone() if copied else output

    def take(self) -> dict[str, Towers]:
        """Return the maps of each head since the last call and forget them.

        Raises:
            PairError: If no forward pass came by.
        """
        taken, self._last = self._last, {}
        if taken.keys() != self._convs.keys():
            raise PairError(
                f"towers: saw {len(taken)} of {len(self._convs)} maps inside the head; a compiled network shows none, "
                "set trainer.compile=false and teacher.compile=false"
            )
        found: dict[str, dict[str, list[Tensor]]] = {}
        for (branch, part, _), maps in sorted(taken.items(), key=lambda item: item[0]):
            found.setdefault(branch, {}).setdefault(part, []).append(maps)
        return {branch: Towers(tuple(parts["classes"]), tuple(parts["boxes"])) for branch, parts in found.items()}


def finish_towers(head: Detect, stage: int) -> Finish:
    """Return what a frozen head makes of maps that some network has after `stage`, in this head's width.

    The answers are decoded as those of the head itself, on the anchors of the maps given: maps of another size than the
    head's own are allowed. The gradient goes to the maps; it goes to the head's weights only if they want one, so
    freeze them.

    Args:
        head: The head, in eval mode.
        stage: After which stage of each tower, counted from 1.

    Raises:
        ConfigError: If the head has no such stage.
        PairError: If a stage is built of something else than Ultralytics' convolutions.
    """
    towers = dict(_towers(head))
    convs = {key: _last_conv(tower, stage) for key, tower in towers.items()}

    def rest(key: tuple[str, str, int], maps: Tensor) -> Tensor:
        tower, conv = towers[key], convs[key]
        x = maps.to(next(tower.parameters()).dtype)
        x = conv.act(x.clone() if _in_place(conv) else x)
        for layer in tower[stage:]:
            x = layer(x)
        answers: Tensor = x.flatten(2)  # (B, channels, H W)
        return answers

    def finish(branch: str, maps: Towers) -> HeadOutput:
        if (branch, "classes", 0) not in towers:
            raise PairError(f"towers: the teacher has no {branch} head; set branches: [one2many] for this term")
        if len(maps.classes) != head.nl or len(maps.boxes) != head.nl:
            raise PairError(
                f"towers: {len(maps.classes)} class and {len(maps.boxes)} box maps for a head with {head.nl} levels; "
                "choose a pair with the same levels"
            )
        with torch.autocast(maps.classes[0].device.type, enabled=False):
            scores = torch.cat([rest((branch, "classes", i), x) for i, x in enumerate(maps.classes)], dim=-1)
            boxes = torch.cat([rest((branch, "boxes", i), x) for i, x in enumerate(maps.boxes)], dim=-1)
        anchor_points, strides = make_anchors(list(maps.classes), head.stride, 0.5)
        return head_output({"scores": scores, "boxes": boxes}, head, anchor_points.to(boxes), strides.to(boxes))

    return finish


def teacher_towers(
    head: Detect, raw_call: Callable[[], dict[str, Any]], stage: int
) -> tuple[dict[str, Any], dict[str, Towers], Finish]:
    """Run a teacher and keep what lies inside its head.

    Args:
        head: The teacher's head.
        raw_call: Runs the teacher, uncompiled, and returns its raw outputs.
        stage: After which stage of each tower, counted from 1.

    Returns:
        The raw outputs, the maps per head, and the rest of the head. Neither maps nor rest know of a class map: the
        caller translates the logits of what `finish` returns as those of the view.
    """
    with TowerRecorder(head, stage) as recorder:
        outputs = raw_call()
    return outputs, recorder.take(), finish_towers(head, stage)


def _towers(head: Detect) -> Iterator[tuple[tuple[str, str, int], Any]]:
    """Yield the tower of each head, part and level."""
    found: dict[str, tuple[Any, Any]] = {}
    if has_one2many(head):
        found["one2many"] = (head.cv3, head.cv2)
    if has_one2one(head):
        found["one2one"] = (head.one2one_cv3, head.one2one_cv2)
    for branch, parts in found.items():
        for part, levels in zip(("classes", "boxes"), parts, strict=True):
            for level, tower in enumerate(levels):
                yield (branch, part, level), tower


def _last_conv(tower: Any, stage: int) -> Any:
    """Return the last convolution of a stage, with its normalisation and activation."""
    stages = len(tower) - 1
    if not 1 <= stage <= stages:
        raise ConfigError(f"stage: must be in 1..{stages}, the stages of this head's towers, got {stage}; use stage: 1")
    conv: Any = tower[stage - 1]
    while isinstance(conv, nn.Sequential):
        conv = conv[-1]
    if not isinstance(conv, Conv):
        raise PairError(
            f"towers: can't be read in a head whose towers end in {type(conv).__name__}; use a YOLO detector, or "
            "another method, e.g. distill=binary"
        )
    return conv


def _in_place(conv: Any) -> bool:
    """Whether the activation would overwrite what it is given."""
    return bool(getattr(conv.act, "inplace", False))
