"""The two kinds of cache: what is stored, how it is named, made, checked and read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from detkd.caching.engine import Engine
from detkd.caching.fingerprint import digest
from detkd.data.records import DataSpec
from detkd.data.unlabelled import labels_hash
from detkd.errors import ConfigError, PairError
from detkd.tasks.cache_checks import check_region, check_terms
from detkd.tasks.cache_facts import CACHE_ROOT, code_facts, data_facts, moves_boxes
from detkd.tasks.elsewhere import portable, same_teacher
from detkd.tasks.teachers import live_teacher, teacher_facts, teacher_sizes
from detkd.tasks.train import make_plan

__all__ = ["Work", "number_or_all", "open_kind"]

_LOOK = (
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr",
    "mosaic", "mixup", "cutmix", "copy_paste", "copy_paste_mode", "augmentations",
)  # fmt: skip
"""Ultralytics' arguments that decide what a view looks like."""

_MIXING = ("mosaic", "mixup", "cutmix", "copy_paste")


class Work(Protocol):
    """One cache to be found or made.

    Attributes:
        fingerprint: Everything the stored answers depend on.
        layout: How they are stored, JSON values.
        keys: The (image, view) pairs to store.
        record_bytes: Bytes of one record; an upper bound where records differ.
        facts: What else is worth knowing about the cache.
    """

    fingerprint: dict[str, Any]
    layout: dict[str, Any]
    keys: list[tuple[int, int]]
    record_bytes: int
    facts: dict[str, Any]

    def time_estimate(self, count: int, device: str) -> str:
        """Return how long storing `count` records will take, from a first batch."""
        ...

    def build(self, writer: Any, keys: Sequence[tuple[int, int]], device: str, engine: Engine) -> None:
        """Store the records that are missing."""
        ...

    def check(self, reader: Any, count: int, device: str) -> Iterable[str]:
        """Ask again about some records and return what differs."""
        ...

    def source(self, reader: Any) -> Callable[[tuple[str, ...]], Any]:
        """Return what makes the teacher that reads the cache."""
        ...

    def plan(self, reader: Any) -> dict[str, Any]:
        """Return the fields of `TrainPlan` that make a run show what was stored."""
        ...


def open_kind(kind: str, config: Mapping[str, Any], spec: DataSpec) -> Work:
    """Return the work behind `cache=views` or `cache=instances`.

    Raises:
        ConfigError: If the kind is unknown, or a term of the recipe reads what no cache keeps.
    """
    check_terms(config)
    if float((config.get("trainer") or {}).get("fraction") or 1.0) != 1.0:
        raise ConfigError("trainer.fraction: does not go with a cache; choose images in the data, or use data.labelled")
    if kind == "views":
        return ViewWork(config, spec)
    if kind == "instances":
        from detkd.tasks.cache_objects import ObjectWork

        return ObjectWork(config, spec)
    raise ConfigError(f"cache: unknown kind, got {kind!r}; use none, instances or views")


def number_or_all(node: Mapping[str, Any], key: str, most: int) -> int | None:
    """Return `cache.<key>`, None for all of them.

    Raises:
        ConfigError: If it is neither a positive integer nor "all".
    """
    value = node.get(key)
    if value is None or value == "all":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"cache.{key}: must be a positive integer or all, got {value!r}")
    return value if value < most else None


class ViewWork:
    """What the teacher says about every augmented view."""

    def __init__(self, config: Mapping[str, Any], spec: DataSpec) -> None:
        from detkd.caching.views import ViewLayout
        from detkd.models.head import has_one2one
        from detkd.models.weights import build_detector, detect_head
        from detkd.training.plan import Distillation
        from detkd.training.views import phases_of, view_keys

        node = config["cache"]
        count = node.get("views")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"cache.views: must be a positive integer, got {count!r}; e.g. cache.views=8")
        if node.get("precision") not in ("int8", "float16", "float32"):
            raise ConfigError(f"cache.precision: must be int8, float16 or float32, got {node.get('precision')!r}")
        self.config = config
        self.spec = spec
        self.views = count
        self.teacher_imgsz, load = teacher_sizes(config)
        self.seed = int(node.get("seed") or 0)
        distillation = Distillation(source=self.live, recipe=_no_recipe, imgsz=self.teacher_imgsz)
        self.run = make_plan(
            {**config, "load_imgsz": load}, config["student"], spec, Path("runs"),
            distillation=distillation, views=count, augment_seed=self.seed, shared=True,
        )  # fmt: skip
        student = build_detector(self.run.student, spec.names, key="student", scale=self.run.scale)
        head: Any = detect_head(student, key="student", source="the student")
        strides = tuple(int(stride) for stride in head.stride.tolist())
        size = self.run.imgsz
        anchors = sum((size // stride) ** 2 for stride in strides)
        heads = ("one2many", "one2one") if has_one2one(head) and "one2one" in self.teacher.branches else ("one2many",)
        self.stored = ViewLayout(
            branches=heads,
            anchors=anchors,
            num_classes=len(spec.names),
            k=number_or_all(node, "k", anchors),
            classes=number_or_all(node, "classes", len(spec.names)),
            precision=node["precision"],
            imgsz=(size, size),
            strides=strides,
        )
        self.layout = self.stored.to_dict()
        check_region(config, self.stored)
        self.phases = phases_of(self.run, count)
        self.keys = view_keys(len(self.run.train), self.phases)
        self.record_bytes = self.stored.record_bytes()
        self.facts = {
            "teacher": str(config["teacher"]["path"]),
            "views": self.phases.main,
            "closing_views": self.phases.closing,
        }
        self.fingerprint = self._fingerprint(node, strides)

    def _fingerprint(self, node: Mapping[str, Any], strides: Sequence[int]) -> dict[str, Any]:
        from detkd.training.loader import training_arguments

        folder = Path(str(node["path"])).expanduser() if node.get("path") else CACHE_ROOT
        args = training_arguments(self.run)
        look = {name: getattr(args, name, None) for name in _LOOK}
        facts = {
            "teacher": teacher_facts(self.config, self.teacher_imgsz),
            "data": data_facts(self.spec, folder / "images.json"),
            "student": {"imgsz": self.run.imgsz, "load_imgsz": self.run.load_imgsz, "strides": list(strides)},
            "augmentation": {**look, "seed": self.seed, "views": self.phases.main, "closing": self.phases.closing},
            "stored": self.layout,
            "code": code_facts(),
        }
        if self.teacher_imgsz > self.run.imgsz:  # earlier versions let the teacher's other classes choose
            facts["student"]["cells"] = "by the classes of the data"
        kinds = [(record.labelled, record.taught) for record in self.run.train.records]
        by_labels = bool(look["cutmix"]) or moves_boxes(args.augmentations)
        if len(set(kinds)) > 1 and (by_labels or any(look[name] for name in _MIXING)):
            # Images are mixed with their like only.
            facts["data"]["kinds"] = digest({"kinds": kinds})
        if by_labels:  # Ultralytics takes a transform back that leaves no label
            facts["data"]["labels"] = labels_hash(self.run.train)
        return facts

    @cached_property
    def teacher(self) -> Any:
        """The live teacher."""
        return self.live(self.spec.names)

    def live(self, names: tuple[str, ...]) -> Any:
        """Load the live teacher."""
        return live_teacher(self.config, names, exact=True)

    def time_estimate(self, count: int, device: str) -> str:
        """Return how long storing `count` records will take, from a first batch."""
        from detkd.caching.views import encode_views
        from detkd.inference.device import torch_device
        from detkd.training.views import seen_batches, student_grid

        place = torch_device(device)
        size = int(self.run.arguments["batch"])
        keys = self.keys[: 2 * size]
        grid = student_grid(self.run.imgsz, self.stored.strides, place)
        teacher = self.teacher.to(place)
        marks = []
        for batch in seen_batches(self.run, keys, self.phases, stride=max(self.stored.strides), device=place):
            encode_views(teacher.answer(batch, grid), self.stored)
            marks.append((time.monotonic(), len(batch["record"])))
        if len(marks) < 2:
            return "a few seconds"
        seconds = (marks[1][0] - marks[0][0]) / marks[1][1] * count
        return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"

    def build(self, writer: Any, keys: Sequence[tuple[int, int]], device: str, engine: Engine) -> None:
        """Store the records that are missing."""
        from detkd.inference.device import torch_device
        from detkd.training.views import build_views

        reload = partial(
            same_teacher, portable(self.config), self.spec.names, self.fingerprint["teacher"], self.fingerprint["code"]
        )
        build_views(
            self.run, self.teacher, self.stored, writer, keys, self.phases, torch_device(device),
            engine=engine, reload=reload,
        )  # fmt: skip

    def check(self, reader: Any, count: int, device: str) -> Iterable[str]:
        """Ask again about some records and return what differs."""
        from detkd.caching.fidelity import problems
        from detkd.inference.device import torch_device
        from detkd.training.views import recheck_views

        place = torch_device(device)
        for key, branch, fidelity in recheck_views(
            self.run, self.teacher, self.stored, reader, self.phases, place, count=count
        ):
            for line in problems(fidelity, self.stored):
                yield f"image {key[0]}, view {key[1]}, {branch}: {line}"

    def source(self, reader: Any) -> Callable[[tuple[str, ...]], Any]:
        """Return what makes the teacher that reads the cache."""
        from detkd.models.cached import CachedTeacher

        classes = self.teacher.classes
        self.__dict__.pop("teacher", None)  # it would keep its memory, on a GPU too
        return lambda names: CachedTeacher(reader, classes)

    def plan(self, reader: Any) -> dict[str, Any]:
        """Return the fields of `TrainPlan` that make a run show what was stored."""
        return {"views": self.views, "augment_seed": self.seed}


def _no_recipe() -> Any:
    raise PairError("cache: is built without a recipe")
