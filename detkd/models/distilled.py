"""A student in training together with its teacher: `alpha * L_det + (1 - alpha) * lambda * L_kd`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from detkd.errors import ModelError, PairError
from detkd.losses.base import tower_channels
from detkd.losses.recipe import Recipe
from detkd.losses.terms import Compared
from detkd.models.assign import assign_by, teacher_share
from detkd.models.head import AssignmentRecorder, native_weights, read_view, select_images
from detkd.models.pull import Pull, measure_pull
from detkd.models.teacher import TeacherSource
from detkd.models.towers import TowerRecorder
from detkd.types import Assignment, HeadOutput, Labels, View

__all__ = ["DistilledDetector"]


class DistilledDetector(nn.Module):
    """Wraps a student for training; the trainer, its EMA and its validator use it like a detector.

    The teacher is no submodule: it is in no state dict, no optimizer, no copy (EMA) and no checkpoint.

    A batch may say which of its images count, in two bool tensors of (B,). The detection loss sees only the images that
    are `labelled`: in the others, an object without a label would count as background. Distillation sees only those
    that are `taught`. A sum over the images that count replaces the sum over the batch, so each of them weighs as much
    as in a batch in which all count. Without these keys all do.

    Attributes:
        student_model: The network being trained, a plain Ultralytics detector.
        recipe: The distillation loss and its learnable layers, if it has any.
        progress: Share of the training done, 0..1; set by the trainer before each step.
        measure: Whether the next batch also measures how hard each group of terms pulls; set by the trainer.
        measure_parts: Whether it then measures every term as well, which costs a backward pass each.
        pull: What the last such batch said.
    """

    def __init__(self, student: DetectionModel, source: TeacherSource, recipe: Recipe) -> None:
        super().__init__()
        self.student_model = student
        self.recipe = recipe
        self.progress = 0.0
        self.measure = False
        self.measure_parts = True
        self.pull: Pull | None = None
        self.stride = student.stride
        # In a list, so that nn.Module does not register a teacher that is a module.
        self._source: list[TeacherSource] = [source]
        if hasattr(source, "wants"):
            live: Any = source
            live.wants, live.stage = recipe.uses, recipe.stage
        self.kd_names: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the teacher out of copies and pickles."""
        return {**self.__dict__, "_source": []}

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
            student = self._look(lambda: self.student_model(batch["img"])[1])[1]
            teacher = self._source[0].answer(batch, student)
            self._setup_losses(student, teacher)
            _, items = self.recipe(student, teacher, {}, 0.0, dict.fromkeys(student.heads, 1.0))
        self.student_model.train(was_training)
        if not items and len(self.recipe.terms):
            raise PairError("distill.terms: no term applies to this pair; list at least one, e.g. distill=binary")
        self.kd_names = (*items, "kd")

    def _setup_losses(self, student: View, teacher: View) -> None:
        """Let losses build their layers, from the same random numbers whatever ran before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if "feats" in self.recipe.uses and student.feats is not None and teacher.feats is not None:
                self.recipe.setup(*(tuple(maps.shape[1] for maps in view.feats or ()) for view in (student, teacher)))
            if student.towers is not None:
                heads = frozenset[str](self.recipe.paired(student.heads, teacher.heads))
                widths = {branch: width for branch, width in tower_channels(student).items() if branch in heads}
                self.recipe.setup_towers(widths, tower_channels(teacher))
        self.recipe.to(student.strides.device)

    def _look(self, call: Callable[[], Any]) -> tuple[Any, View]:
        """Return what the student says, raw and as a view, with the maps inside its head where a loss reads them."""
        head = self.student_model.model[-1]
        if self.recipe.stage is None:
            outputs = call()
            return outputs, read_view(outputs, head)
        with TowerRecorder(head, self.recipe.stage) as recorder:
            outputs = call()
        return outputs, read_view(outputs, head)._replace(towers=recorder.take())

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
        outputs, student = self._look(lambda: self.student_model(batch["img"]) if preds is None else preds)
        if self.criterion is None:
            self.criterion = self.student_model.init_criterion()
        images = len(batch["img"])
        labelled, taught = _chosen(batch, "labelled"), _chosen(batch, "taught")
        teacher = self._source[0].answer(batch, student)
        mix = teacher_share(self.recipe.assignment, self.progress)
        seen = teacher if labelled is None or not mix else _pick(teacher, labelled)
        with assign_by(self.criterion, seen, mix), AssignmentRecorder(self.criterion) as recorder:
            if labelled is None:
                loss, items = self.student_model.loss(batch, outputs)
            else:
                loss, items = self.student_model.loss(_labels_of(batch, labelled), select_images(outputs, labelled))
        assignments = recorder.take()
        if labelled is not None:
            assignments = {branch: _spread(part, labelled, images) for branch, part in assignments.items()}
        count = images
        if taught is not None:
            count = len(taught)
            # With none, all go in and nothing of it counts: every learnable layer needs its gradient, if only a zero.
            rows = taught if count else torch.arange(images, device=taught.device)
            student, teacher = _pick(student, rows), _pick(teacher, rows)
            assignments = {branch: _pick_labels(part, rows) for branch, part in assignments.items()}
        compared = self.recipe.compare(student, teacher, assignments, self.progress, native_weights(self.criterion))
        kd, alpha = self.recipe.total(compared), self.recipe.alpha
        _check_finite(compared, loss)
        shown = images if labelled is None else len(labelled)
        if self.measure and count and shown:
            # Per image, so that few labels or many unlabelled images don't count as weak labels.
            self.pull = self._pull(compared, loss * (images / shown), images)
        kd_items = compared.items
        if not count:
            kd, kd_items = kd * 0, {name: value * 0 for name, value in kd_items.items()}
        total = torch.cat([alpha * loss, (1 - alpha) * kd[None] * count])
        return total, {**items, **kd_items, "kd": kd.detach()}

    def _pull(self, compared: Compared, loss: Tensor, images: int) -> Pull:
        """Measure how hard both losses of so many images pull, as if no head and no schedule faded."""
        alpha = self.recipe.alpha
        groups = {name: (1 - alpha) * images * self.recipe.factor(name) * x for name, x in compared.full.items()}
        parts = compared.parts if self.measure_parts else {}
        return measure_pull(self.student_model, alpha * loss.sum(), native_weights(self.criterion), groups, parts)

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


def _chosen(batch: dict[str, Any], key: str) -> Tensor | None:
    """Return the numbers of the images for which `key` holds, (N,), or None if it holds for all."""
    flags: Tensor | None = batch.get(key)
    if flags is None or bool(flags.all()):
        return None
    return flags.to(batch["img"].device).nonzero()[:, 0]


def _labels_of(batch: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Return the labels of these images, whose numbers become 0, 1, ..."""
    number = rows.new_full((len(batch["img"]),), -1)
    number[rows] = torch.arange(len(rows), device=rows.device)
    image = number.to(batch["batch_idx"].device)[batch["batch_idx"].view(-1).long()]
    kept = image >= 0
    labels = {key: batch[key][kept] for key in ("cls", "bboxes")}
    return {**labels, "batch_idx": image[kept].to(batch["batch_idx"])}


def _check_finite(compared: Compared, loss: Tensor) -> None:
    """Stop before a step that would ruin the weights, where distillation is to blame for it.

    Terms that have no weight at this moment are in no sum, so what they say ruins nothing.

    Raises:
        ModelError: Naming the terms and what to do.
    """
    values = {name: value.detach() for name, value in compared.parts.items()}
    if (
        not values
        or bool(torch.stack(list(values.values())).isfinite().all())
        or not bool(loss.detach().isfinite().all())
    ):
        return
    bad = [name for name, value in values.items() if not bool(value.isfinite())]
    raise ModelError(
        f"distill.terms: {', '.join(bad)} became infinite or not a number while the detection loss is finite; lower "
        "trainer.lr0 or, with calibration, distill.calibrate.head / features (else distill.lambda), train with "
        "trainer.amp=false, or leave the term out (~distill.terms.NAME)"
    )


def _spread(part: Assignment, rows: Tensor, images: int) -> Assignment:
    """Put the assignment of some images back at their places in the batch; the others are not labelled."""

    def place(x: Tensor) -> Tensor:
        return x.new_zeros(images, *x.shape[1:]).index_copy_(0, rows, x)

    return _each(part, place)._replace(labelled=place(torch.ones_like(rows, dtype=torch.bool)))


def _pick_labels(part: Assignment, rows: Tensor) -> Assignment:
    """Keep the assignment of these images."""
    return _each(part, lambda x: x[rows])


def _each(part: Assignment, change: Callable[[Tensor], Tensor]) -> Assignment:
    """Change every tensor of an assignment."""
    labels = None if part.labels is None else Labels(*(change(x) for x in part.labels))
    classes, labelled = (None if x is None else change(x) for x in (part.classes, part.labelled))
    return Assignment(change(part.foreground), change(part.scores), change(part.boxes_xyxy), labels, classes, labelled)


def _pick(view: View, rows: Tensor) -> View:
    """Keep these images of a view."""
    heads = {}
    for name, head in view.heads.items():
        per_image = {part: x[rows] for part, x in head._asdict().items() if x is not None and part != "classes"}
        heads[name] = HeadOutput(**per_image, classes=head.classes)
    towers = view.towers
    if towers is not None:
        towers = {name: type(t)(*(tuple(x[rows] for x in maps) for maps in t)) for name, t in towers.items()}
    return view._replace(
        heads=heads, feats=None if view.feats is None else tuple(x[rows] for x in view.feats), towers=towers
    )
