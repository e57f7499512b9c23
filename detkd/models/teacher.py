"""Where the teacher's answers come from. Losses can't tell one source from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import detkd.environment

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.tal import TaskAlignedAssigner

from detkd.errors import ConfigError, PairError
from detkd.models.align import Aligner
from detkd.models.classmap import known_classes, map_logits, only_classes, partial_class_map
from detkd.models.head import fold_batchnorm, has_one2many, has_one2one, object_assigner, raw_outputs, read_view
from detkd.models.objects import found_objects, spread_objects
from detkd.models.towers import teacher_towers
from detkd.models.weights import detect_head, load_detector, model_names
from detkd.progress import console
from detkd.types import HeadOutput, View

__all__ = ["OBJECTS_HINT", "LiveTeacher", "TeacherSource"]

OBJECTS_HINT = (
    " (teacher.nms_conf=0.05 lets a teacher without that head teach it by objects, where a loss can use them)"
)


class TeacherSource(Protocol):
    """Anything that can answer for the teacher: a live network, a cache, a file, several teachers.

    A source whose work depends on what is read has two more attributes: `wants`, the names of the outputs that some
    loss reads (`Recipe.uses`; None, its first value, stands for all but the towers), and `stage`, after which stage of
    the towers their maps are read. One that may lack a head has a method `silence(branch)` that says why.
    """

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

    It need not know every class of the data. What it does not know has no part in distillation (`HeadOutput.classes`),
    so an older model can keep its classes alive in a student that learns new ones from labels.

    A teacher without NMS-free head teaches the one2one head of a student by objects (`nms_conf`): its one2many answers
    are reduced by non-maximum suppression as at run time, and each object becomes the target of the anchors that the
    student's own assigner picks for it, see `detkd.models.objects.spread_objects`. Its dense answers would teach
    duplicates.

    Args:
        model: An unfused Ultralytics detector; it is changed in place.
        data_names: Classes of the data in index order.
        mapping: Its class to class of the data where names differ.
        classes: Classes of the data it answers for; None for all that it knows.
        imgsz: Side of the image it sees, for one of several teachers; None for the largest there is.
        nms_conf: Least score of an object for the one2one head of a student if it has no such head itself, in (0, 1);
            None leaves that head alone.
        nms_iou: Overlap above which non-maximum suppression drops the weaker box, in (0, 1).
        half: Whether it computes in half precision; None: on a GPU. With towers asked for it never does: a gradient
            passes through it then.
        compiled: Whether its forward pass is compiled by torch. Without a compiler it runs as it is.

    Attributes:
        names: Its classes.
        mapping: Per class of the data, which of its classes mean it.
        stage: After which stage of its towers maps are read where towers are wanted; None for the first.

    Raises:
        PairError: If it knows none of the classes, or lacks its one2many head.
        ConfigError: If a number is out of its range.
    """

    def __init__(
        self,
        model: DetectionModel,
        data_names: Sequence[str],
        mapping: Mapping[str, str] | None = None,
        *,
        classes: Sequence[str] | None = None,
        imgsz: int | None = None,
        nms_conf: float | None = None,
        nms_iou: float = 0.7,
        half: bool | None = False,
        compiled: bool = False,
    ) -> None:
        head = detect_head(model, key="teacher", source="the model")
        if not has_one2many(head):
            raise PairError(
                "teacher: these weights were fused for NMS-free use and have lost their one2many head; "
                "give the original .pt"
            )
        for key, value in (("nms_conf", nms_conf), ("nms_iou", nms_iou)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"teacher.{key}: must be between 0 and 1, got {value!r}; e.g. teacher.nms_conf=0.05")
        self.names = model_names(model)
        self.mapping = only_classes(partial_class_map(self.names, data_names, mapping), data_names, classes)
        network: Any = fold_batchnorm(model.float().eval()).requires_grad_(False)
        if compiled:
            network.predict = torch.compile(network.predict)  # lazy: nothing is compiled before the first batch
        self.model: nn.Module = network
        self.head = head
        self._known = known_classes(self.mapping)
        self._imgsz = imgsz
        self._nms = None if nms_conf is None or has_one2one(head) else (nms_conf, nms_iou)
        self._assigner: TaskAlignedAssigner | None = None
        self._half = half
        self._compiled = compiled
        self._wants: frozenset[str] | None = None
        self.stage: int | None = None
        self._align = Aligner()

    @classmethod
    def load(
        cls, path: str, data_names: Sequence[str], mapping: Mapping[str, str] | None = None, **settings: Any
    ) -> LiveTeacher:
        """Load a checkpoint as a teacher for data with the given class names."""
        return cls(load_detector(path, key="teacher"), data_names, mapping, **settings)

    @property
    def wants(self) -> frozenset[str] | None:
        """What is read of the answers, None for all but the towers; see `TeacherSource`."""
        return self._wants

    @wants.setter
    def wants(self, outputs: frozenset[str] | None) -> None:
        self._wants = outputs
        if self._towers and self._compiled:
            self._run_uncompiled("a loss reads inside its head")
        self.to(next(self.model.parameters()).device)

    @property
    def branches(self) -> tuple[str, ...]:
        """Heads of its own, which can be stored."""
        return ("one2many", "one2one") if has_one2one(self.head) else ("one2many",)

    def teaches(self, branch: str) -> bool:
        """Whether it has something to say to this head of a student, by its own head or by objects."""
        return branch in self.branches or (branch == "one2one" and self._nms is not None)

    def silence(self, branch: str) -> str:
        """Return why it has nothing to say to a head of a student."""
        return f"the teacher has no {branch} head{OBJECTS_HINT}"

    @property
    def classes(self) -> Tensor | None:
        """Which classes of the data it knows, (C,) bool; None for all."""
        return self._known

    def to(self, device: torch.device) -> LiveTeacher:
        """Move to a device and return self."""
        half = (device.type == "cuda" if self._half is None else self._half) and not self._towers
        self.model.to(device=device, dtype=torch.float16 if half else torch.float32)
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        self._known = None if self._known is None else self._known.to(device)
        return self

    @torch.no_grad()
    def answer(self, batch: Mapping[str, Any], student: View) -> View:
        """Return what the teacher says about `batch["img_teacher"]`, else `batch["img"]`, (B, 3, H, W) in 0..1."""
        images: Tensor = batch.get("img_teacher", batch["img"])
        if self._imgsz is not None and max(images.shape[2:]) != self._imgsz:
            images = batch["img"]
        own = self._look(images, student)
        # Named first: a cell that is sure of a class the data doesn't have must not speak for its neighbours.
        named = {branch: self._named(head) for branch, head in own.heads.items()}
        view = self._align(student, own._replace(heads=named))
        heads = dict(view.heads)
        if self._nms and "one2one" in student.heads:
            heads["one2one"] = self._objects(own, student)
        return view._replace(heads=heads)

    @property
    def _towers(self) -> bool:
        return self._wants is not None and "towers" in self._wants

    def _look(self, images: Tensor, student: View) -> View:
        """Return the answers on the teacher's own anchors and classes, with maps only where they are read."""
        dtype = next(self.model.parameters()).dtype
        if self._towers:
            stage = self.stage or 1
            outputs, towers, finish = teacher_towers(self.head, lambda: raw_outputs(self.model, images), stage)
            view = read_view(outputs, self.head)
            view = view._replace(towers=towers, finish=lambda branch, maps: self._named(finish(branch, maps)))
        else:
            outputs = self._raw(images.to(dtype) if dtype == torch.float16 else images)
            if dtype == torch.float16:
                outputs = _widened(outputs, student.strides.dtype)
            view = read_view(outputs, self.head)
        return view if self._wants is None or "feats" in self._wants else view._replace(feats=None)

    def _raw(self, images: Tensor) -> dict[str, Any]:
        if not self._compiled:
            return raw_outputs(self.model, images)
        try:
            return raw_outputs(self.model, images)
        except Exception as err:  # there are as many kinds as compilers; a fault of the model itself comes again below
            reason = (str(err).strip().splitlines() or [""])[0][:120]
            self._run_uncompiled(f"torch can't compile it here ({type(err).__name__}: {reason})")
            return raw_outputs(self.model, images)

    def _run_uncompiled(self, reason: str) -> None:
        self._compiled = False
        del self.model.predict
        console.print(
            f"teacher.compile: {reason}, so it runs uncompiled", markup=False, highlight=False, soft_wrap=True
        )

    def _named(self, head: HeadOutput) -> HeadOutput:
        """Translate an answer to the classes of the data."""
        return head._replace(logits=map_logits(head.logits, self.mapping), classes=self._known)

    def _objects(self, own: View, student: View) -> HeadOutput:
        """Answer for a one2one head by what is left of the one2many head's answers after NMS."""
        assert self._nms is not None
        head = self._named(own.head("one2many"))
        conf, iou = self._nms
        found = found_objects(head, conf=conf, iou=iou)
        ratio = own.imgsz[0] / student.imgsz[0]
        if self._assigner is None:
            self._assigner = object_assigner("one2one", len(self.mapping), student.strides)
        found = found._replace(boxes_xyxy=found.boxes_xyxy / ratio)
        return spread_objects("one2one", student, found, self._assigner)._replace(classes=self._known)


def _widened(outputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Give feature maps in half precision the student's type, from which anchors take theirs."""
    if "feats" in outputs:
        return {**outputs, "feats": [maps.to(dtype) for maps in outputs["feats"]]}
    return {branch: _widened(raw, dtype) for branch, raw in outputs.items() if raw}
