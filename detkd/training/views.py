"""Store what a teacher says about every augmented view, so that it need not be asked again.

A view is one augmentation of one image, made again at will from (seed, view, image) alone. The loader that trains and
the loader that stores are the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import detkd.environment

import numpy as np
import torch
from torch.utils.data import DataLoader
from ultralytics.data.build import seed_worker

from detkd.caching.engine import Engine, LocalEngine, batched
from detkd.caching.fidelity import Fidelity, compare_views
from detkd.caching.store import CacheReader, CacheWriter
from detkd.caching.views import ViewLayout, encode_views
from detkd.errors import PairError
from detkd.models.cached import CachedTeacher
from detkd.models.teacher import TeacherSource
from detkd.ops.anchors import anchor_points
from detkd.progress import console, track
from detkd.training.dataset import RecordDataset
from detkd.training.loader import loader_workers, make_set, moved, resized, training_arguments, view_plan
from detkd.training.plan import Distillation, TrainPlan
from detkd.types import View

__all__ = [
    "Phases",
    "ViewAsker",
    "build_views",
    "phases_of",
    "recheck_views",
    "seen_batches",
    "student_grid",
    "view_batches",
    "view_keys",
]


@dataclass(frozen=True)
class Phases:
    """How many views of each kind a run needs.

    Attributes:
        main: Views with everything mixed in.
        closing: Views of the last epochs, in which Ultralytics mixes no images any more.
        first: Number of the first closing view.
    """

    main: int
    closing: int
    first: int

    @property
    def views(self) -> list[int]:
        """Numbers of all views."""
        return [*range(self.main), *range(self.first, self.first + self.closing)]


def phases_of(plan: TrainPlan, views: int) -> Phases:
    """Return the views that a run of `plan` shows if there are `views` of each image."""
    order = view_plan(plan, views)
    return Phases(min(views, order.epochs - order.closing), min(views, order.closing), views)


def view_keys(images: int, phases: Phases) -> list[tuple[int, int]]:
    """Return the (image, view) pairs to store, view by view, so that an unfinished cache has whole views."""
    return [(image, view) for view in phases.views for image in range(images)]


def student_grid(imgsz: int, strides: Sequence[int], device: torch.device) -> View:
    """Return the student's anchors without any answer."""
    shapes = [(imgsz // stride, imgsz // stride) for stride in strides]
    points, pixels = anchor_points(shapes, [float(stride) for stride in strides])
    return View({}, points.to(device), pixels.to(device), (imgsz, imgsz))


def seen_batches(
    plan: TrainPlan, keys: Sequence[tuple[int, int]], phases: Phases, *, stride: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Yield the batches of exactly these views, ready for a teacher, in their order; `record` names them.

    Args:
        plan: The run whose views they are.
        keys: Pairs of image and view.
        phases: Which views are closing ones.
        stride: The student's coarsest stride.
        device: Where the images go.
    """
    size = int(plan.arguments["batch"])
    yield from _batches(plan, view_batches(keys, phases, size), phases, stride=stride, device=device, sets={})


def view_batches(keys: Sequence[tuple[int, int]], phases: Phases, size: int) -> list[Sequence[tuple[int, int]]]:
    """Cut pairs of image and view into batches of `size`, none with both closing views and others."""
    parts = [[key for key in keys if (key[1] >= phases.first) is closing] for closing in (False, True)]
    return [batch for part in parts for batch in batched(part, size)]


def _batches(
    plan: TrainPlan,
    batches: Iterable[Sequence[tuple[int, int]]],
    phases: Phases,
    *,
    stride: int,
    device: torch.device,
    sets: dict[bool, RecordDataset],
) -> Iterator[dict[str, Any]]:
    """Yield the views of each of some batches; `sets` keeps what was opened for them."""
    listed = list(batches)
    size = int(plan.arguments["batch"])
    workers = loader_workers(plan) if device.type != "cpu" else 0
    for closing, group in groupby(listed, key=lambda batch: batch[0][1] >= phases.first):
        chosen = [[(view, image) for image, view in batch] for batch in group]
        if closing not in sets:
            args = training_arguments(plan)
            if sum(map(len, listed)) < len(plan.train):
                args.cache = False  # decoding the whole set for a few of its images would take longer than the rest
            sets[closing] = make_set(plan, copy(args), stride=stride, training=True, batch=size)
            if closing:
                sets[closing].close_mosaic(hyp=copy(args))
        loader: DataLoader[Any] = DataLoader(
            sets[closing],
            batch_sampler=chosen,
            num_workers=workers,
            collate_fn=sets[closing].collate_fn,
            worker_init_fn=seed_worker,
        )
        for batch in loader:
            yield resized(moved(batch, device), plan)


class ViewAsker:
    """Turns batches of views into records of `detkd.caching.views`; see `detkd.caching.engine.Asker`.

    Args:
        plan: The run whose views they are.
        layout: How the answers are stored.
        phases: Which views are closing ones.
        device: Where the teacher runs.
        source: The teacher, or what loads it at the first call.
        reload: Loads the same teacher in another process; can be pickled.
    """

    def __init__(
        self,
        plan: TrainPlan,
        layout: ViewLayout,
        phases: Phases,
        device: torch.device,
        *,
        source: TeacherSource | None = None,
        reload: Callable[[], TeacherSource] | None = None,
    ) -> None:
        self._plan, self._layout, self._phases, self._device = plan, layout, phases, device
        self._source, self._reload = source, reload
        self._sets: dict[bool, RecordDataset] = {}

    def placed(self, device: str) -> ViewAsker:
        """Return one without the teacher that loads it itself."""
        assert self._reload is not None
        imgsz = self._plan.teacher_imgsz
        plan = replace(
            self._plan,
            val=self._plan.train,  # not read there, and so not sent
            distillation=Distillation(source=_absent, recipe=_absent, imgsz=imgsz),
        )
        place = torch.device("cpu" if device == "cpu" else f"cuda:{device}")
        return ViewAsker(plan, self._layout, self._phases, place, reload=self._reload)

    def __call__(self, batches: Iterable[Sequence[tuple[int, int]]]) -> Iterator[bytes]:
        """Yield the record of each view."""
        if self._source is None:
            assert self._reload is not None
            self._source = self._reload()
        source = self._source = self._source.to(self._device)
        grid = student_grid(self._plan.imgsz, self._layout.strides, self._device)
        stride = max(self._layout.strides)
        seen = _batches(self._plan, batches, self._phases, stride=stride, device=self._device, sets=self._sets)
        for batch in seen:
            yield from encode_views(source.answer(batch, grid), self._layout)


def _absent(*_: Any) -> Any:
    raise PairError("cache: a worker has no teacher and no recipe of a run")


def build_views(
    plan: TrainPlan,
    source: TeacherSource,
    layout: ViewLayout,
    writer: CacheWriter,
    keys: Sequence[tuple[int, int]],
    phases: Phases,
    device: torch.device,
    *,
    engine: Engine | None = None,
    reload: Callable[[], TeacherSource] | None = None,
) -> float:
    """Ask the teacher about every view that is not stored yet; return the seconds it took.

    Args:
        plan: The run whose views they are.
        source: The teacher.
        layout: How the answers are stored.
        writer: An open writer.
        keys: This rank's pairs of image and view.
        phases: Which views are closing ones.
        device: Where the teacher runs.
        engine: Where it is asked; None: in this process.
        reload: Loads the same teacher in another process, for engines that need one.
    """
    missing = writer.missing(keys)
    if not missing:
        return 0.0
    started = time.monotonic()
    asker = ViewAsker(plan, layout, phases, device, source=source, reload=reload)
    batches = view_batches(missing, phases, int(plan.arguments["batch"]))
    ordered = [key for batch in batches for key in batch]
    packed = (engine or LocalEngine()).run(asker, batches)
    for (image, view), payload in zip(ordered, track(packed, "teacher, view by view", len(ordered)), strict=True):
        writer.add(image, view, payload)
    return time.monotonic() - started


def recheck_views(
    plan: TrainPlan,
    source: TeacherSource,
    layout: ViewLayout,
    reader: CacheReader,
    phases: Phases,
    device: torch.device,
    *,
    count: int,
    seed: int = 0,
) -> list[tuple[tuple[int, int], str, Fidelity]]:
    """Ask the teacher again about random views and compare with what is stored.

    Returns:
        Per view and head: the key, the head and how far both answers are apart.
    """
    stored = reader.keys()
    picked = np.random.default_rng(seed).permutation(len(stored))[:count]
    keys = sorted((int(stored[i][0]), int(stored[i][1])) for i in picked)
    source = source.to(device)
    cached = CachedTeacher(reader).to(device)
    grid = student_grid(plan.imgsz, layout.strides, device)
    found: list[tuple[tuple[int, int], str, Fidelity]] = []
    for batch in seen_batches(plan, keys, phases, stride=max(layout.strides), device=device):
        live, kept = source.answer(batch, grid), cached.answer(batch, grid)
        for branch, head in kept.heads.items():
            for row, (image, view) in enumerate(batch["record"]):
                one = [h._replace(**{k: v[row : row + 1] for k, v in h._asdict().items() if v is not None})
                       for h in (head, live.heads[branch])]  # fmt: skip
                found.append(((int(image), int(view)), branch, compare_views(one[0], one[1], layout)))
    console.print(f"[dim]{len(keys)} stored views were asked again[/dim]")
    return found
