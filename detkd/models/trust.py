"""Labels that count as much as they are trusted: boxes a teacher drew beside boxes people drew."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import detkd.environment

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from detkd.models.head import assigners, pad_rows

__all__ = ["BoxTrust", "weigh_targets"]


def weigh_targets(scores: Tensor, owner: Tensor, trust: Tensor) -> Tensor:
    """Multiply the assigner's soft targets by the trust in the label each anchor got.

    The native loss weighs an anchor's box terms by the sum of its target, so box and class follow alike.

    Args:
        scores: Soft targets, (B, A, C), 0 off the foreground.
        owner: Position of each anchor's label in its image, (B, A).
        trust: Trust per label, (B, M) in [0, 1].
    """
    return scores * trust.to(scores).gather(1, owner.long())[..., None]


class BoxTrust:
    """Weighs the labels of each batch by their quality, for a plain student and for one with a teacher alike.

    `set(batch)` before a step hooks the label assigners for that step. Each hook removes itself when its assigner has
    run, so neither a copy of the model nor a checkpoint ever holds one. Hooks registered later, such as those of an
    `AssignmentRecorder`, see the weighted targets.

    Args:
        model: An Ultralytics detector in training, or a `DistilledDetector`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._hooks: dict[str, RemovableHandle] = {}

    def set(self, batch: Mapping[str, Any]) -> None:
        """Weigh the labels of this batch in the next forward pass of the loss.

        Args:
            batch: `quality` (N,) in [0, 1] beside `cls` and `batch_idx`; without it all labels count in full.
                `labelled` (B,) where the loss sees some images only.
        """
        self.clear()
        if "quality" not in batch or not len(batch["quality"]):
            return
        if getattr(self._model, "criterion", None) is None:
            self._model.criterion = self._model.init_criterion()
        quality = batch["quality"].float().view(-1)
        images = len(batch["img"])
        trust, _ = pad_rows(quality, batch["batch_idx"].to(quality.device), images)  # (B, M)
        flags = batch.get("labelled")
        labelled = trust if flags is None else trust[flags.to(trust.device)]
        for branch, assigner in assigners(self._model.criterion).items():
            self._hooks[branch] = assigner.register_forward_hook(partial(self._weigh, branch, trust, labelled))

    def clear(self) -> None:
        """Remove the hooks of a step that did not take place."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}

    def _weigh(
        self,
        branch: str,
        trust: Tensor,
        labelled: Tensor,
        _module: nn.Module,
        _inputs: Any,
        outputs: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        self._hooks.pop(branch).remove()
        labels, boxes, scores, foreground, owner = outputs
        # A loss that sees the labelled images only has left out the rows of the others.
        rows = trust if len(trust) == len(scores) else labelled
        if rows.numel():
            scores = weigh_targets(scores, owner, rows.to(scores.device))
        return labels, boxes, scores, foreground, owner
