"""What one image costs on this machine: teacher, student, frames, records, memory. Everything runs detkd's own code."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import detkd.environment

import cv2
import numpy as np
import torch
from scale_stored import BATCH, CLASSES, best, held, names, stored_objects, stored_views, tables
from ultralytics.cfg import get_cfg

from detkd.caching.fingerprint import image_digests
from detkd.data.load import load_data
from detkd.data.records import DetectionSet
from detkd.models.teacher import LiveTeacher
from detkd.models.weights import build_detector
from detkd.progress import console
from detkd.training.dataset import RecordDataset
from detkd.training.views import student_grid

TEACHERS = ("n", "m", "x")
SIZES = (320, 640)
DRAWN = 32
BOXES = 7
"""Labelled boxes per image where memory is measured: the mean of COCO."""


def teachers() -> dict[str, dict[str, float]]:
    """Return seconds per image of each teacher at each size. Random weights: speed does not depend on them."""
    found: dict[str, dict[str, float]] = {}
    for size in TEACHERS:
        teacher = LiveTeacher(build_detector(f"yolo26{size}.yaml", names(), key="teacher"), names())
        for imgsz in SIZES:
            console.print(f"[dim]yolo26{size}, {imgsz} pixels[/dim]")
            batch = {"img": torch.rand(BATCH, 3, imgsz, imgsz)}
            grid = student_grid(imgsz, (8, 16, 32), torch.device("cpu"))
            small = {"img": batch["img"][:1]}
            teacher.answer(small, grid)
            seconds = best(partial(teacher.answer, batch, grid), 2) / BATCH
            found.setdefault(f"yolo26{size}", {})[str(imgsz)] = seconds
    return found


def dataset_of(train: DetectionSet, imgsz: int) -> RecordDataset:
    hyp = get_cfg(overrides={"imgsz": imgsz})
    return RecordDataset(
        train, seed=0, imgsz=imgsz, augment=True, hyp=hyp, rect=False, cache=None, stride=32, pad=0.0,
        batch_size=BATCH, classes=None, single_cls=False,
        data={"names": dict(enumerate(train.names)), "nc": len(train.names), "channels": 3},
    )  # fmt: skip


def draw(dataset: RecordDataset, views: Iterator[int]) -> None:
    """Make samples, new ones at each call."""
    view = next(views)
    for i in range(DRAWN):
        dataset[(view, i)]


def students(train: DetectionSet) -> dict[str, Any]:
    """Return seconds per image of a nano's training step and of making a sample, and the frames a sample reads."""
    steps, samples, reads = {}, {}, 0.0
    for imgsz in SIZES:
        console.print(f"[dim]student, {imgsz} pixels[/dim]")
        dataset = dataset_of(train, imgsz)
        batch = dataset.collate_fn([dataset[(0, i)] for i in range(BATCH)])
        batch["img"] = batch["img"].float() / 255
        student: Any = build_detector("yolo26n.yaml", train.names, key="student")
        student.args = get_cfg(overrides={"imgsz": imgsz})
        student.train()
        optimizer = torch.optim.SGD(student.parameters(), lr=1e-4)

        def step(student: Any = student, batch: Any = batch, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            student(batch)[0].sum().backward()
            optimizer.step()

        step()
        steps[str(imgsz)] = best(step) / BATCH
        with patch.object(dataset, "load_image", wraps=dataset.load_image) as read:
            samples[str(imgsz)] = best(partial(draw, dataset, itertools.count())) / DRAWN
            reads = read.call_count / (3 * DRAWN)
    return {"step_seconds": steps, "sample_seconds": samples, "frames_per_sample": reads}


def frames(train: DetectionSet) -> dict[str, Any]:
    """Return what reading, hashing and decoding a frame costs."""
    paths = [record.path for record in train.records]
    with tempfile.TemporaryDirectory() as scratch:
        memo = Path(scratch) / "images.json"
        hashing = best(lambda: (memo.unlink(missing_ok=True), image_digests(paths, memo))) / len(paths)
        image_digests(paths, memo)
        memo_bytes = memo.stat().st_size / len(paths)
    return {
        "images": len(paths),
        "bytes": sum(path.stat().st_size for path in paths) / len(paths),
        "width": float(np.mean([record.width for record in train.records])),
        "height": float(np.mean([record.height for record in train.records])),
        "decode_seconds": best(lambda: [cv2.imread(str(path)) for path in paths]) / len(paths),
        "digest_seconds": hashing,
        "digest_memo_bytes": memo_bytes,
    }


def linked_set(folder: Path, train: DetectionSet, count: int) -> Path:
    """Make a YOLO set of links to the real frames, with 7 boxes each."""
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, record in zip(range(count), itertools.cycle(train.records), strict=False):
        target = images / f"camera-{number % 50:03d}-{number:08d}{record.path.suffix}"
        target.symlink_to(record.path.resolve())
        rows = np.column_stack([rng.integers(CLASSES, size=BOXES), rng.uniform(0.3, 0.7, (BOXES, 2)),
                                rng.uniform(0.05, 0.3, (BOXES, 2))])  # fmt: skip
        text = "".join("{:.0f} {:.5f} {:.5f} {:.5f} {:.5f}\n".format(*row) for row in rows)
        (labels / f"{target.stem}.txt").write_text(text)
    source = folder / "data.yaml"
    source.write_text(f"path: {folder}\ntrain: images/train\nval: images/train\nnames: {names()}\n")
    return source


def data_in_memory(folder: Path, train: DetectionSet, counts: tuple[int, int] = (1000, 5000)) -> dict[str, float]:
    """Return seconds and bytes per image of loading a set, by the difference between a small one and a larger one."""
    console.print("[dim]data in memory[/dim]")
    rows = []
    for count in counts:
        source = linked_set(folder / str(count), train, count)
        load = lambda source=source: load_data(source, splits=["train"])  # noqa: E731
        seconds = best(load, 2)
        spec, now, peak = held(load)
        found = spec.splits["train"]
        dataset_of(found, 640)  # what is loaded and made once
        _, loader, _ = held(lambda found=found: dataset_of(found, 640))
        rows.append((seconds, now, peak, loader))
    seconds, now, peak, loader = ((b - a) / (counts[1] - counts[0]) for a, b in zip(*rows, strict=True))
    return {
        "images": counts[1], "boxes": BOXES, "load_seconds": seconds, "record_bytes": now, "record_peak_bytes": peak,
        "loader_bytes": loader,
    }  # fmt: skip


def measure(source: str) -> dict[str, Any]:
    """Measure everything; some minutes on one core.

    Args:
        source: A data set whose training images stand for the frames.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    train = load_data({"path": source, "leakage": "off"}, on_bad="skip").splits["train"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return {
            "source": train.records[0].path.resolve().parents[1].name,
            "threads": torch.get_num_threads(),
            "cores_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "batch": BATCH,
            "classes": CLASSES,
            "frames": frames(train),
            "memory": data_in_memory(folder / "data", train),
            "tables": tables(folder),
            "objects": stored_objects(folder),
            "views": stored_views(folder),
            "student": students(train),
            "teacher_seconds": teachers(),
        }
