"""A few steps of a run that has not begun: is every term alive, does one batch overfit, and what does a step take?

Everything is set up by the trainer itself (model, frozen layers, mixed precision, loader, optimizer), so what is
measured here is what the run would do. Weights are thrown away afterwards.
"""

from __future__ import annotations

import copy
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.utils.torch_utils import autocast, unwrap_model

from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.pull import Pull
from detkd.training.loader import make_set, resized, training_arguments
from detkd.training.plan import TrainPlan
from detkd.training.step_times import Curve, StepTimes
from detkd.training.trainer import Trainer

__all__ = ["Rehearsal", "clean_views", "full_strength"]

LEARNING_RATE = 2e-3
"""Of the AdamW that overfits one batch: the question is whether the loss is wired up, not whether lr0 is good."""

_CLIP = 10.0
"""Largest norm of a step's gradient, as in Ultralytics' training."""
_LOOKS = (
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr",
    "mosaic", "mixup", "cutmix", "copy_paste",
)  # fmt: skip


def full_strength(recipe: Recipe) -> float:
    """Return the share of a run at which the weakest term is as strong as it ever gets."""
    names = list(recipe.terms)
    if not names:
        return 0.5
    return max((step / 20 for step in range(21)), key=lambda p: min(recipe.strength(name, p) for name in names))


@dataclass
class Rehearsal:
    """A run that is set up and never started; use `Rehearsal.of`, and `close` at the end.

    Attributes:
        trainer: The run's trainer.
        model: Student and teacher, on the run's device.
        workers: Processes that would load images in the real run.
        load_seconds: How long each batch took to read and augment, in one process.
    """

    trainer: Any
    model: DistilledDetector
    workers: int
    load_seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, plan: TrainPlan) -> Rehearsal:
        """Set up a distillation without starting it.

        Args:
            plan: The run; its folder takes Ultralytics' files.

        Raises:
            DetkdError: As the run itself would.
        """
        wanted = int(plan.arguments.get("workers", 0))
        # No decoding ahead: all images would be read for the sake of a few.
        plan = replace(plan, arguments={**plan.arguments, "workers": 0, "cache": False})
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        bound: type[Trainer] = type("BoundTrainer", (Trainer,), {"plan": plan})
        trainer: Any = bound(overrides=plan.arguments)
        trainer._setup_train()
        trainer.epoch = 0
        trainer._model_train()
        model = unwrap_model(trainer.model)
        assert isinstance(model, DistilledDetector)
        return cls(trainer, model, 0 if trainer.device.type in {"cpu", "mps"} else wanted)

    def close(self) -> None:
        """Give the memory back; a trainer sits in reference cycles."""
        del self.trainer, self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def batches(self, count: int) -> list[dict[str, Any]]:
        """Return the first batches of the run, on its device; at most as many as an epoch has."""
        loaded = []
        stream = iter(self.trainer.train_loader)
        for _ in range(min(count, len(self.trainer.train_loader))):
            started = time.perf_counter()
            batch = next(stream)
            self.load_seconds.append(time.perf_counter() - started)
            loaded.append(self.trainer.preprocess_batch(batch))
        return loaded

    def pulls(self, batches: Sequence[dict[str, Any]]) -> list[Pull]:
        """Return how hard each part of the loss pulls at the initial weights, with all schedules at full strength."""
        found: list[Pull | None] = []
        self.model.progress = full_strength(self.model.recipe)
        for batch in batches:
            self.model.measure, self.model.pull = True, None
            self._loss(self.model, batch)
            found.append(self.model.pull)  # none of a batch from which nothing is taught
        self.model.measure = False
        return [pull for pull in found if pull is not None]

    def overfit(
        self,
        batch: dict[str, Any],
        steps: int,
        *,
        only: Sequence[str] = (),
        seconds: float = float("inf"),
        report: Callable[[int], None] = lambda step: None,
    ) -> dict[str, Curve]:
        """Train on one batch over and over, from the initial weights, which are put back afterwards.

        Args:
            batch: From `batches`.
            steps: How often.
            only: Names of terms to train on without labels and without the other terms; none stands for the whole loss.
            seconds: Stop early when this is used up, but not before eight steps.
            report: Told the number of steps done.

        Returns:
            A curve of each term, of "kd", their sum, and of "loss", the sum that is trained on, per image.
        """
        model, recipe = self.model, self.model.recipe
        saved = copy.deepcopy(model.state_dict())
        weights, alpha = dict(recipe.weights), recipe.alpha
        model.progress, model.measure = full_strength(recipe), False
        if only:
            recipe.alpha = 0.0
            recipe.weights = {name: weight if name in only else 0.0 for name, weight in weights.items()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
        curves: dict[str, list[float]] = {}
        started = time.monotonic()
        try:
            for step in range(steps):
                loss, items = self._loss(model, batch)
                self._backward(loss, optimizer)
                images = max(len(batch["img"]), 1)
                seen = {**{name: items[name] for name in model.kd_names}, "loss": loss.detach() / images}
                for name, value in seen.items():
                    curves.setdefault(name, []).append(float(value))
                report(step + 1)
                if step >= 7 and time.monotonic() - started > seconds:
                    break
        finally:
            recipe.alpha, recipe.weights = alpha, weights
            model.load_state_dict(saved)
        return {name: Curve(tuple(values)) for name, values in curves.items()}

    def times(
        self, batch: dict[str, Any], repeats: int, *, report: Callable[[int], None] = lambda step: None
    ) -> StepTimes:
        """Time steps of control and student in turn, with the run's own optimizer at a learning rate of 0.

        Args:
            batch: From `batches`.
            repeats: Steps of each kind that count; one more of each comes first.
            report: Told the number of rounds done.
        """
        model, trainer = self.model, self.trainer
        model.measure = False
        for group in trainer.optimizer.param_groups:
            group["lr"] = 0.0
        source = model._source[0]
        found: dict[str, list[float]] = {"plain": [], "distilled": [], "teacher": []}
        for number in range(repeats + 1):
            for kind in ("plain", "distilled"):
                network = model if kind == "distilled" else model.student_model
                found[kind].append(self._timed(partial(self._step, network, batch)))
            with torch.no_grad(), self._autocast():
                _, student = model._look(lambda: model.student_model(batch["img"]))
            with self._autocast():
                found["teacher"].append(self._timed(partial(source.answer, batch, student)))
            report(number + 1)
        # The first round pays for set-up.
        medians = {kind: statistics.median(values[1:]) for kind, values in found.items()}
        load = statistics.median(self.load_seconds) if self.load_seconds else 0.0
        return StepTimes(load=load, batches=len(trainer.train_loader), workers=self.workers, **medians)

    def memory(self) -> tuple[float, str]:
        """Return the most memory in use so far in bytes, and of what."""
        if self.trainer.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.trainer.device)), "GPU"
        try:
            import resource
        except ImportError:  # Windows
            return 0.0, "unknown"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1.0 if sys.platform == "darwin" else 1024.0), "process"

    def _autocast(self) -> Any:
        amp = self.trainer.amp
        kind: Any = torch.bfloat16 if self.trainer.args.amp == "bf16" else bool(amp)
        return autocast(kind, device=self.trainer.device.type)

    def _loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            loss, items = network(batch)
            return loss.sum(), items

    def _backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        scaler = self.trainer.scaler
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=_CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def _step(self, network: nn.Module, batch: dict[str, Any]) -> None:
        loss, _ = self._loss(network, batch)
        self.trainer.scaler.scale(loss).backward()
        self.trainer.optimizer_step()

    def _timed(self, call: Callable[[], object]) -> float:
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        started = time.perf_counter()
        call()
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        return time.perf_counter() - started


def clean_views(plan: TrainPlan, numbers: Sequence[int], *, stride: int) -> list[dict[str, Tensor]]:
    """Return images of the validation split as the training loader shows them with all augmentation switched off.

    Args:
        plan: The run.
        numbers: Which images.
        stride: Coarsest stride of the student in pixels.

    Returns:
        Per image `img` (1, 3, H, W) in 0..1 and, where the teacher sees more pixels, `img_teacher`.
    """
    args = training_arguments(replace(plan, arguments={**plan.arguments, "augmentations": []}))
    for name in _LOOKS:
        setattr(args, name, 0.0)
    args.cache, args.fraction = False, 1.0
    # A split of its own, so that nothing hidden or added to the training split matters.
    dataset = make_set(replace(plan, train=plan.val, soft=None), args, stride=stride, training=True, batch=1)
    return [resized({"img": dataset[number]["img"][None].float() / 255}, plan) for number in numbers]
