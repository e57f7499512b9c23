"""A student in training together with its teacher: `alpha * L_det + (1 - alpha) * lambda * L_kd`."""

from __future__ import annotations

from typing import Any

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from detkd.errors import PairError
from detkd.losses.recipe import Recipe
from detkd.models.head import AssignmentRecorder, native_weights, read_view
from detkd.models.teacher import TeacherSource
from detkd.models.weights import detect_head
from detkd.types import View

__all__ = ["DistilledDetector"]


class DistilledDetector(nn.Module):
    """Wraps a student for training; the trainer, its EMA and its validator use it like a detector.

    The teacher is no submodule: it is in no state dict, no optimizer, no copy (EMA) and no checkpoint.

    Attributes:
        student_model: The network being trained, a plain Ultralytics detector.
        recipe: The distillation loss and its learnable layers, if it has any.
        progress: Share of the training done, 0..1; set by the trainer before each step.
    """

    def __init__(self, student: DetectionModel, source: TeacherSource, recipe: Recipe) -> None:
        super().__init__()
        self.student_model = student
        self.recipe = recipe
        self.progress = 0.0
        self.stride = student.stride
        self._recorder: AssignmentRecorder | None = None
        # In a list, so that nn.Module does not register a teacher that is a module.
        self._source: list[TeacherSource] = [source]
        self.kd_names: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave teacher and hooks out of copies and pickles."""
        return {**self.__dict__, "_source": [], "_recorder": None}

    def probe(self, imgsz: int, teacher_imgsz: int) -> None:
        """Run both once on an empty image: refuses pairs that don't fit and fixes the names of the loss terms.

        Raises:
            PairError: If strides, sizes or heads don't match.
        """
        device = next(self.student_model.parameters()).device
        self._source[0].to(device)
        batch = {"img": torch.zeros(1, 3, imgsz, imgsz, device=device)}
        if teacher_imgsz != imgsz:
            batch["img_teacher"] = torch.zeros(1, 3, teacher_imgsz, teacher_imgsz, device=device)
        was_training = self.student_model.training
        self.student_model.eval()
        with torch.no_grad():
            outputs = self.student_model(batch["img"])[1]
            student = read_view(outputs, detect_head(self.student_model, key="student", source="the student"))
            teacher = self._source[0].answer(batch, student)
            self._setup_losses(student, teacher)
            _, items = self.recipe(student, teacher, {}, 0.0, dict.fromkeys(student.heads, 1.0))
        self.student_model.train(was_training)
        if not items and len(self.recipe.terms):
            raise PairError("distill.terms: no term applies to this pair; list at least one, e.g. distill=binary")
        self.kd_names = (*items, "kd")

    def _setup_losses(self, student: View, teacher: View) -> None:
        """Let losses build their layers, from the same random numbers whatever ran before."""
        if "feats" not in self.recipe.uses or student.feats is None or teacher.feats is None:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.recipe.setup(*(tuple(maps.shape[1] for maps in view.feats or ()) for view in (student, teacher)))
        self.recipe.to(student.strides.device)

    def forward(self, x: Tensor | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss for a batch, or the student's predictions for images."""
        return self.loss(x) if isinstance(x, dict) else self.student_model.predict(x, *args, **kwargs)

    def loss(self, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss per term, 1-D and multiplied by the batch size, and what to log of it.

        In evaluation mode only the detection loss is computed and the distillation terms read 0.
        """
        if not self.training:
            loss, items = self.student_model.loss(batch, preds)
            zero = torch.zeros((), device=loss.device)
            return torch.cat([loss, zero[None]]), {**items, **dict.fromkeys(self.kd_names, zero)}
        outputs = self.student_model(batch["img"]) if preds is None else preds
        if self.criterion is None:
            self.criterion = self.student_model.init_criterion()
        if self._recorder is None:
            self._recorder = AssignmentRecorder(self.criterion)
        loss, items = self.student_model.loss(batch, outputs)
        student = read_view(outputs, self.student_model.model[-1])
        teacher = self._source[0].answer(batch, student)
        kd, kd_items = self.recipe(
            student, teacher, self._recorder.take(), self.progress, native_weights(self.criterion)
        )
        alpha = self.recipe.alpha
        total = torch.cat([alpha * loss, (1 - alpha) * kd[None] * len(batch["img"])])
        return total, {**items, **kd_items, "kd": kd.detach()}

    def fuse(self, verbose: bool = True, imgsz: int | list[int] = 640) -> nn.Module:
        """Return the student, fused for inference."""
        fused: nn.Module = self.student_model.fuse(verbose=verbose, imgsz=imgsz)
        return fused

    @property
    def criterion(self) -> Any:
        """The student's detection loss, or None before the first batch."""
        return getattr(self.student_model, "criterion", None)

    @criterion.setter
    def criterion(self, value: Any) -> None:
        self.student_model.criterion = value
        self._recorder = None

    def init_criterion(self) -> Any:
        """Return a new detection loss of the student."""
        return self.student_model.init_criterion()

    @property
    def end2end(self) -> bool:
        """Whether the student answers with its NMS-free head."""
        return bool(self.student_model.end2end)

    @end2end.setter
    def end2end(self, value: bool) -> None:
        self.student_model.end2end = value

    def set_head_attr(self, **kwargs: Any) -> None:
        """Set attributes of the student's head."""
        self.student_model.set_head_attr(**kwargs)
