"""Everything a training run needs to know, settled before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detkd import ranks
from detkd.data.records import DetectionSet
from detkd.losses.recipe import Recipe
from detkd.models.teacher import TeacherSource

__all__ = ["Distillation", "TrainPlan", "usable_cores"]


@dataclass(frozen=True)
class Distillation:
    """The teacher's side of a run.

    Attributes:
        source: Makes the teacher; called once, with the class names of the data.
        recipe: Makes the distillation loss; called once.
        imgsz: Pixels the teacher sees, or None for what the student sees.
    """

    source: Callable[[tuple[str, ...]], TeacherSource]
    recipe: Callable[[], Recipe]
    imgsz: int | None = None


@dataclass(frozen=True)
class TrainPlan:
    """One training run; without `distillation` a plain one (a control or a teacher).

    Attributes:
        train: Images to learn from.
        val: Images to watch the training with.
        student: Name, `.pt` or model YAML.
        scale: Depth, width and max_channels replacing those of a model YAML.
        slice_from: Larger detector whose trained weights the student's initial ones are cut out of; None for none.
        slice_by: How its channels are chosen.
        imgsz: Pixels the student sees.
        seed: Decides initial weights, order and augmentation.
        folder: Run folder.
        distillation: Teacher and loss, or None.
        load_imgsz: Pixels images are loaded at before they are reduced to `imgsz`; None for the same.
        views: Number of random views each image is shown in, in turn; None for a new one every epoch.
        augment_seed: Decides the views where they are counted, so that runs of all seeds can share a cache of them.
        soft: The teacher's objects in the image of a number, for distillation by objects; None for none.
        share: Part of each batch without labels; None for as many as come.
        samples: Images per epoch where it is not all of them: a control with fewer images and as many steps.
        trust_boxes: Whether a label counts as much as its quality says.
        arguments: Ultralytics arguments.
        description: Label of the progress bar.
        resume: Continue from the run folder's resume file.
        threads: CPU threads; None for all cores.
        key: Config key of the student for messages.
    """

    train: DetectionSet
    val: DetectionSet
    student: str
    imgsz: int
    seed: int
    folder: Path
    scale: Mapping[str, float] | None = None
    slice_from: str | None = None
    slice_by: str = "power"
    distillation: Distillation | None = None
    load_imgsz: int | None = None
    views: int | None = None
    augment_seed: int | None = None
    soft: Callable[[int], Any] | None = None
    share: float | None = None
    samples: int | None = None
    trust_boxes: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    description: str = "training"
    resume: bool = False
    threads: int | None = None
    key: str = "student"

    @property
    def teacher_imgsz(self) -> int | None:
        """Pixels the teacher sees, or None without a teacher."""
        return None if self.distillation is None else self.distillation.imgsz


def usable_cores() -> int:
    """Return how many cores this process may use: a container, `taskset` or its siblings can leave fewer than all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // ranks.local_size(), 1)
