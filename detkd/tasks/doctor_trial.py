"""A training in miniature for `detkd doctor`: the pair put together as the trainer does, on a few batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.head import read_view
from detkd.models.pull import Pull
from detkd.models.teacher import TeacherSource
from detkd.models.weights import build_detector, detect_head
from detkd.ops.boxes import pairwise_iou, xywh_to_xyxy
from detkd.tasks.doctor_batches import peak_memory
from detkd.training.loader import training_arguments
from detkd.training.plan import TrainPlan
from detkd.types import View

__all__ = ["DETECTION", "TOTAL", "Fit", "Speed", "Trial", "best_progress"]

DETECTION, TOTAL = "detection", "total"
"""Names of the summed detection loss and of everything together in `Fit.curves`."""

_LR = 1e-3
_CLIP = 10.0
"""Ultralytics' limit on the norm of the gradient."""
_SEEN = (0.25, 0.5)
"""Score and overlap from which an answer of the teacher counts as having seen a labelled object."""


@dataclass(frozen=True)
class Fit:
    """What training on one batch did to the losses.

    Attributes:
        curves: Per loss its value before each step and after the last one; distillation terms without any weight.
        images: Images of the batch.
        objects: Labelled objects in them.
        steps: Weight updates.
        stopped: Whether the time was up before all steps were made.
    """

    curves: dict[str, list[float]]
    images: int
    objects: int
    steps: int
    stopped: bool = False

    def left(self, name: str) -> float:
        """Return the mean of the last three values of a loss as a share of the first; 1 where it began at 0."""
        values = self.curves[name]
        tail = values[-3:]
        return sum(tail) / len(tail) / values[0] if values[0] else 1.0


@dataclass(frozen=True)
class Speed:
    """Median seconds per batch.

    Attributes:
        load: Reading and augmenting in one process.
        distilled: A step of the student with its teacher.
        control: A step of the student alone.
        teacher: The teacher's part.
        images: Images in such a batch.
        memory: Peak memory in bytes: of the GPU, or of this process on a CPU; None where the system does not say.
        capacity: Bytes there are; None likewise.
    """

    load: float
    distilled: float
    control: float
    teacher: float
    images: int
    memory: int | None = None
    capacity: int | None = None


@dataclass
class Trial:
    """A student with its teacher, ready for steps.

    Attributes:
        model: Both of them.
        teacher: The teacher.
        device: Where they are.
        amp: Whether half precision is used where it is safe, as in the run.
    """

    model: DistilledDetector
    teacher: TeacherSource
    device: torch.device
    amp: bool = False
    _start: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def build(cls, plan: TrainPlan, device: torch.device) -> Trial:
        """Put a pair together.

        Raises:
            ModelError: If a model can't be built.
            PairError: If the two don't fit.
        """
        assert plan.distillation is not None
        args = training_arguments(plan)
        student = build_detector(
            plan.student, plan.train.names, key=plan.key, scale=plan.scale, seed=plan.seed,
            slice_from=plan.slice_from, slice_by=plan.slice_by,
        )  # fmt: skip
        student.args = args
        teacher = plan.distillation.source(plan.train.names)
        model = DistilledDetector(student.to(device), teacher, plan.distillation.recipe())
        model.probe(plan.imgsz, plan.distillation.imgsz or plan.imgsz)
        frozen = getattr(args, "freeze", None)
        numbers = frozen if isinstance(frozen, list) else range(frozen or 0)
        for name, parameter in model.named_parameters():
            still = any(f"model.{number}." in name for number in numbers) or ".dfl" in name
            parameter.requires_grad_(not still)
        model.progress = best_progress(model.recipe)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        return cls(model.train(), teacher, device, device.type == "cuda" and bool(args.amp), _start=start)

    def reset(self) -> None:
        """Go back to the initial weights."""
        self.model.load_state_dict(self._start)

    def fit(self, batch: Mapping[str, Any], steps: int, *, limit: float, tick: Callable[[], None] | None = None) -> Fit:
        """Train on one batch from the initial weights.

        Args:
            batch: As `load_batches` gives it.
            steps: Weight updates.
            limit: Seconds after which no further step is begun; five are always made.
            tick: Called after each step.

        Raises:
            ModelError: If a distillation term is no number.
        """
        self.reset()
        here = self._moved(batch)
        optimizer, scaler = self._optimizer()
        curves: dict[str, list[float]] = {}
        started, done = time.monotonic(), 0
        while True:
            with torch.set_grad_enabled(done < steps):
                loss, items = self._loss(here)
            detection = loss[:-1].detach().sum() / len(here["img"])
            for name, value in {TOTAL: loss.detach().sum() / len(here["img"]), DETECTION: detection, **items}.items():
                curves.setdefault(name, []).append(float(value))
            late = time.monotonic() - started > limit and done >= 5
            if done >= steps or late:
                break
            self._update(loss.sum(), optimizer, scaler)
            done += 1
            if tick is not None:
                tick()
        names = {TOTAL, DETECTION, *self.model.kd_names} - {"kd"}
        kept = {name: values for name, values in curves.items() if name in names}
        return Fit(kept, len(here["img"]), len(here["cls"]), done, done < steps)

    def fit_alone(self, name: str, batch: Mapping[str, Any], steps: int, *, limit: float) -> Fit:
        """Train on one batch as `fit` does, with one distillation term and nothing else."""
        recipe = self.model.recipe
        alpha, weights = recipe.alpha, recipe.weights
        recipe.alpha = 0.0
        recipe.weights = {other: weight if other == name else 0.0 for other, weight in weights.items()}
        try:
            return self.fit(batch, steps, limit=limit)
        finally:
            recipe.alpha, recipe.weights = alpha, weights

    def pulls(self, batches: Sequence[Mapping[str, Any]]) -> list[Pull]:
        """Measure on each batch how hard detection and distillation pull at the weights as they are now."""
        found = []
        for batch in batches:
            self.model.measure = True
            try:
                self._loss(self._moved(batch))
            finally:
                self.model.measure = False
            if self.model.pull is not None:
                found.append(self.model.pull)
            self.model.pull = None
        return found

    @torch.no_grad()
    def seen(self, batches: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Return how many labelled objects of classes it knows the teacher sees in these batches, and how many."""
        hits = total = 0
        for batch in batches:
            here = self._moved(batch)
            with self._cast():
                answer = self.teacher.answer(here, self._view(here))
            head = answer.head("one2many")
            scores, width, height = head.logits.float().sigmoid(), *reversed(answer.imgsz)
            boxes = xywh_to_xyxy(here["bboxes"].float()) * here["bboxes"].new_tensor([width, height] * 2).float()
            for image in range(len(here["img"])):
                mine = here["batch_idx"].view(-1) == image
                classes = here["cls"].view(-1)[mine].long()
                known = torch.ones_like(classes, dtype=torch.bool) if head.classes is None else head.classes[classes]
                classes, labels = classes[known], boxes[mine][known]
                near = pairwise_iou(labels, head.boxes_xyxy[image].float()) >= _SEEN[1]  # (N, A)
                sure = scores[image][:, classes].T >= _SEEN[0]
                hits += int((near & sure).any(1).sum())
                total += len(classes)
        return hits, total

    def speed(self, batches: Sequence[Mapping[str, Any]], load: float, *, limit: float) -> Speed:
        """Time steps with and without the teacher in turn; at least one of each after one to warm up.

        Args:
            batches: Whole batches.
            load: Seconds that loading one took.
            limit: Seconds after which no further pair is begun.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.reset()
        optimizer, scaler = self._optimizer()
        seconds: dict[str, list[float]] = {"distilled": [], "control": [], "teacher": []}
        started = time.monotonic()
        for number in range(1 + 3 * max(len(batches), 1)):
            here = self._moved(batches[number % len(batches)])
            for kind in ("distilled", "control"):
                with self._clock() as took:
                    loss = self._loss(here)[0] if kind == "distilled" else self._control_loss(here)
                    self._update(loss.sum(), optimizer, scaler)
                seconds[kind].append(took[0])
            if number == 0:
                seconds = {kind: [] for kind in seconds}
            with torch.no_grad(), self._cast():
                view = self._view(here)
                with self._clock() as took:
                    self.teacher.answer(here, view)
            seconds["teacher"].append(took[0])
            if number >= 1 and time.monotonic() - started > limit:
                break
        memory, capacity = peak_memory(self.device)
        middle = {kind: sorted(values)[len(values) // 2] for kind, values in seconds.items()}
        return Speed(load, **middle, images=len(batches[0]["img"]), memory=memory, capacity=capacity)

    def _view(self, batch: Mapping[str, Any]) -> View:
        """Return what the student says."""
        student: Any = self.model.student_model
        return read_view(student(batch["img"]), detect_head(student, key="student", source="the student"))

    def _loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        with self._cast():
            return self.model.loss(batch)

    def _control_loss(self, batch: dict[str, Any]) -> Tensor:
        with self._cast():
            loss: Tensor = self.model.student_model.loss(batch)[0]
        return loss

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=self.amp)

    def _optimizer(self) -> tuple[torch.optim.Optimizer, torch.amp.GradScaler]:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=_LR), torch.amp.GradScaler(self.device.type, enabled=self.amp)

    def _update(self, loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        scaler.step(optimizer)
        scaler.update()

    def _moved(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {key: x.to(self.device) if isinstance(x, Tensor) else x for key, x in batch.items()}

    @contextmanager
    def _clock(self) -> Iterator[list[float]]:
        """Time what is done inside; a GPU is waited for."""
        took: list[float] = []
        self._wait()
        started = time.perf_counter()
        yield took
        self._wait()
        took.append(time.perf_counter() - started)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def best_progress(recipe: Recipe) -> float:
    """Return the share of the run at which most terms count, and those most; the earliest of several."""

    def strengths(progress: float) -> tuple[int, float]:
        values = [recipe.strength(name, progress) for name in recipe.terms]
        return sum(value > 0 for value in values), sum(values)

    return max((step / 100 for step in range(101)), key=lambda progress: (strengths(progress), -progress))
