"""What the student is shown: the training set and its batches, the same for training and for building a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import detkd.environment

import numpy as np
import torch
from torch.nn import functional
from ultralytics.cfg import get_cfg
from ultralytics.data.build import InfiniteDataLoader, seed_worker

from detkd import ranks
from detkd.data.unlabelled import by_people
from detkd.training import group
from detkd.training.dataset import RecordDataset
from detkd.training.plan import TrainPlan, usable_cores
from detkd.training.sampler import EpochSampler, ViewPlan

__all__ = ["data_facts", "make_set", "resized", "training_arguments", "training_loader", "view_plan"]


def data_facts(plan: TrainPlan) -> dict[str, Any]:
    """Describe the records to Ultralytics; no file is looked at."""
    names = plan.train.names
    return {
        "train": plan.train.split,
        "val": plan.val.split,
        "names": dict(enumerate(names)),
        "nc": len(names),
        "channels": 3,
    }


def training_arguments(plan: TrainPlan) -> Any:
    """Return Ultralytics' arguments of a plan, as its trainer holds them."""
    return get_cfg(overrides=plan.arguments)


def view_plan(plan: TrainPlan, views: int) -> ViewPlan:
    """Return which stored view each epoch of a run shows.

    Ultralytics stops mixing images in the last `close_mosaic` epochs. Those need views of their own, unless nothing is
    mixed before either.
    """
    args = training_arguments(plan)
    epochs = int(args.epochs)
    mixes = any(float(getattr(args, name, 0.0) or 0.0) > 0 for name in ("mosaic", "mixup", "cutmix", "copy_paste"))
    return ViewPlan(views=views, closing=min(int(args.close_mosaic or 0), epochs) if mixes else 0, epochs=epochs)


def make_set(plan: TrainPlan, args: Any, *, stride: int, training: bool, batch: int | None = None) -> RecordDataset:
    """Build Ultralytics' data set over the records of a plan.

    Args:
        plan: The run.
        args: Ultralytics' arguments.
        stride: Coarsest stride of the student in pixels.
        training: The training split with augmentation, or the validation split as it is.
        batch: Images per batch.
    """
    return RecordDataset(
        plan.train if training else plan.val,
        seed=plan.seed,
        augment_seed=plan.augment_seed if training else None,
        soft=plan.soft if training else None,
        imgsz=(plan.load_imgsz or plan.imgsz) if training else plan.imgsz,
        batch_size=batch,
        augment=training,
        hyp=args,
        rect=not training,
        cache=args.cache or None,
        single_cls=args.single_cls,
        stride=max(stride, 32),
        pad=0.0 if training else 0.5,
        classes=args.classes,
        data=data_facts(plan),
        fraction=args.fraction if training else 1.0,
    )


def training_loader(plan: TrainPlan, dataset: RecordDataset, batch: int, workers: int, *, pin: bool) -> Any:
    """Return the loader of a training; the order of its images follows from seed and epoch alone.

    Args:
        plan: The run.
        dataset: From `make_set`.
        batch: Images per batch of this process.
        workers: Processes that load images, at most.
        pin: Whether the batches go to a GPU.
    """
    sampler = EpochSampler(
        len(dataset),
        seed=plan.seed,
        rank=ranks.rank(),
        world_size=group.size(),
        views=None if plan.views is None else view_plan(plan, plan.views),
        groups=np.array([by_people(record) for record in dataset.records]) if plan.share is not None else None,
        share=plan.share,
        batch=batch,
        epoch_size=plan.samples,
    )
    workers = min(usable_cores(), workers)
    return InfiniteDataLoader(
        dataset=dataset,
        batch_size=min(batch, max(len(dataset), plan.samples or 0)),
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
        collate_fn=dataset.collate_fn,
        worker_init_fn=seed_worker,
        # Of its own: a loader draws a number whenever it starts, and a resumed run starts it at other times.
        generator=torch.Generator().manual_seed(plan.seed),
        drop_last=False,
    )


def loader_workers(plan: TrainPlan) -> int:
    """Return how many processes load images."""
    return min(usable_cores(), int(plan.arguments.get("workers", 8)))


def resized(batch: dict[str, Any], plan: TrainPlan) -> dict[str, Any]:
    """Reduce images that were loaded larger than the student sees them; the teacher keeps the large ones if it wants.

    Args:
        batch: `img` in 0..1, (B, 3, H, W).
        plan: The run.
    """
    if plan.load_imgsz and plan.load_imgsz != plan.imgsz:
        if plan.teacher_imgsz == plan.load_imgsz:
            batch["img_teacher"] = batch["img"]
        batch["img"] = functional.interpolate(batch["img"], size=(plan.imgsz, plan.imgsz), mode="area")
    return batch


def moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch to a device and scale its images to 0..1, as Ultralytics' trainer does."""
    out = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    return {**out, "img": out["img"].float() / 255}
