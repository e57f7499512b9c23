"""Draws a whole set to disk: images, COCO JSON, YOLO labels and an Ultralytics data YAML, split by camera."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from detkd.data.toy.crowd import DIFFICULTIES, TOY_NAMES
from detkd.data.toy.parts import Job, draw_part, run_workers
from detkd.data.toy.scenes import CAMERAS, SPLITS
from detkd.errors import DataError
from detkd.io import write_json, write_text
from detkd.progress import track

__all__ = ["VERSION", "draw_toy", "plan_toy"]

VERSION = 1  # raise whenever the same arguments give other pixels or labels
STAMP = "toy.json"


def plan_toy(images: int | Mapping[str, int], splits: Mapping[str, Sequence[str]]) -> list[Job]:
    """Return which frames are drawn: every split's share is spread evenly over its cameras.

    Args:
        images: Images in all, shared out by number of cameras, or images per split.
        splits: Cameras of each split; no camera may be in two.

    Raises:
        DataError: If a split, camera or number can't be used.
    """
    owner: dict[str, str] = {}
    for split, cameras in splits.items():
        if not cameras:
            raise DataError(f"data.splits: split {split!r} has no camera; name at least one or leave the split out")
        for camera in cameras:
            if camera not in CAMERAS:
                raise DataError(f"data.splits: no such toy camera, got {camera!r}; choose from {', '.join(CAMERAS)}")
            if camera in owner:
                raise DataError(f"data.splits: camera {camera!r} is in {owner[camera]!r} and {split!r}; keep it in one")
            owner[camera] = split
    if isinstance(images, Mapping):
        unknown = sorted(set(images) ^ set(splits))
        if unknown:
            raise DataError(f"data.images: splits don't match, got {', '.join(unknown)}; give one number per split")
        counts = dict(images)
    else:
        total, left, counts = len(owner), images, {}
        for split, cameras in splits.items():
            counts[split] = round(left * len(cameras) / total) if total else 0
            left, total = left - counts[split], total - len(cameras)
    for split, count in counts.items():
        if count < 1:
            raise DataError(f"data.images: split {split!r} would be empty, got {images}; ask for more images")
    return [
        (split, camera, index)
        for split, cameras in splits.items()
        for number, camera in enumerate(cameras)
        for index in range(counts[split] // len(cameras) + (number < counts[split] % len(cameras)))
    ]


def _coco(records: list[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        extra = {key: record["meta"][key] for key in ("camera", "light", "weather", "time")}
        images.append(
            {"id": number, "file_name": f"{record['name']}.jpg", "width": size[0], "height": size[1], **extra}
        )
        rows = zip(record["boxes"], record["classes"], record["meta"]["visibility"], strict=True)
        for (x0, y0, x1, y1), kind, share in rows:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1,
                 "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "visibility": share}
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(TOY_NAMES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _finish(
    folder: Path, records: list[dict[str, Any]], splits: Mapping[str, Sequence[str]], stamp: dict[str, Any]
) -> None:
    width, height = stamp["size"]
    lines = ["# Drawn by detkd.data.toy; see toy.json for the arguments.\n"]
    for split in splits:
        chosen = [record for record in records if record["split"] == split]
        write_json(folder / "annotations" / f"{split}.json", _coco(chosen, (width, height)), indent=None)
        write_text(folder / f"{split}.txt", "".join(f"./images/{record['name']}.jpg\n" for record in chosen))
        lines.append(f"{split}: {split}.txt\n")
    lines.append("names:\n" + "".join(f"  {number}: {name}\n" for number, name in enumerate(TOY_NAMES)))
    write_text(folder / "toy.yaml", "".join(lines))
    write_json(folder / STAMP, stamp)


def _complete(folder: Path, stamp: dict[str, Any], jobs: list[Job]) -> bool:
    try:
        if json.loads((folder / STAMP).read_text(encoding="utf-8")) != stamp:
            return False
    except (OSError, ValueError):
        return False
    names = [f"{camera}_{index:05d}" for _, camera, index in jobs]
    return all(
        (folder / "images" / f"{name}.jpg").is_file() and (folder / "labels" / f"{name}.txt").is_file()
        for name in names
    ) and all((folder / "annotations" / f"{split}.json").is_file() for split in {job[0] for job in jobs})


def _check_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, 2 * round(size * 0.3)) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(side % 2 or not 64 <= side <= 1920 for side in sides):
        raise DataError(f"data.size: must be even and 64 to 1920 pixels, got {size}; try 320 or [320, 192]")
    return sides[0], sides[1]


def _check_replaceable(target: Path) -> None:
    """Refuse to replace anything but a drawn set: its folder holds nothing that was not written here."""
    if target.is_dir():
        entries = {entry.name for entry in target.iterdir()}
        own = {"images", "labels", "annotations", "toy.yaml", "labels.cache", STAMP}
        strange = sorted(name for name in entries - own if not name.endswith(".txt"))
        if not entries or (STAMP in entries and not strange):
            return
        found = strange[0] if strange else f"no {STAMP}"
        raise DataError(f"data.path: {target} is no toy set or holds more than one ({found}); choose a new folder")
    if target.exists():
        raise DataError(f"data.path: {target} is a file; choose a new folder")


def _swap(draft: Path, target: Path) -> None:
    """Put a finished set in place; the old one goes only when the new one is there."""
    old = draft.with_name(f"{draft.name}-old")
    if target.exists():
        target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def draw_toy(
    folder: str | Path, *, images: int | Mapping[str, int] = 600, size: int | Sequence[int] = (320, 192),
    difficulty: str = "normal", seed: int = 0, splits: Mapping[str, Sequence[str]] | None = None,
    workers: int | None = None,
) -> Path:  # fmt: skip
    """Draw a toy set, unless the folder already holds it.

    A folder drawn with other arguments is replaced as a whole; a folder with anything else in it is left alone.

    Args:
        folder: Where the set goes. It gets `images/`, `labels/`, `annotations/`, `toy.yaml`, one list of images
            per split and `toy.json`, which records how it was drawn.
        images: Images in all, or images per split.
        size: Width and height in pixels, or the width alone (the height is then 3/5 of it). Even numbers.
        difficulty: "easy", "normal" or "hard".
        seed: Everything follows from it.
        splits: Cameras of each split; None takes `SPLITS`.
        workers: Processes; None takes one per core. The result doesn't depend on it.

    Returns:
        The folder.

    Raises:
        DataError: If an argument can't be used or the folder holds something else.
    """
    target = Path(folder).absolute()
    chosen = {split: tuple(cameras) for split, cameras in (SPLITS if splits is None else splits).items()}
    width, height = _check_size(size)
    if difficulty not in DIFFICULTIES:
        raise DataError(f"data.difficulty: unknown, got {difficulty!r}; choose from {', '.join(DIFFICULTIES)}")
    if seed < 0:
        raise DataError(f"data.seed: must be 0 or more, got {seed}; leave it at 0 or choose another number")
    jobs = plan_toy(images, chosen)
    arguments: dict[str, Any] = {"size": [width, height], "difficulty": difficulty, "seed": seed}
    stamp = {
        "version": VERSION, **arguments, "images": dict(images) if isinstance(images, Mapping) else images,
        "splits": {split: list(cameras) for split, cameras in chosen.items()},
    }  # fmt: skip
    if _complete(target, stamp, jobs):
        return target
    _check_replaceable(target)
    if workers is not None and workers < 1:
        raise DataError(f"data.workers: must be 1 or more, got {workers}; leave it out for one per core")
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Runs of a sweep ask for the same set at the same time: one draws it, the others wait.
        lock = target.parent / f".{target.name}.lock"
        try:
            with FileLock(lock):
                if not _complete(target, stamp, jobs):
                    _draw(target, jobs, arguments, workers, chosen, stamp)
        finally:
            lock.unlink(missing_ok=True)  # whoever waits for it finds the set complete
    except OSError as err:
        raise DataError(f"data.path: can't write {target} ({err.strerror}); choose a writable folder") from err
    return target


def _draw(
    target: Path,
    jobs: list[Job],
    arguments: dict[str, Any],
    workers: int,
    chosen: Mapping[str, Sequence[str]],
    stamp: dict[str, Any],
) -> None:
    """Draw the set beside its place and move it there when it is whole."""
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        draft.chmod(0o755)
        for name in ("images", "labels"):
            (draft / name).mkdir()
        if workers > 1 and len(jobs) >= 64:
            records = run_workers(draft, jobs, arguments, min(workers, len(jobs) // 32))
        else:
            records = list(track(draw_part(draft, jobs, arguments), "drawing the toy set", total=len(jobs)))
        _finish(draft, records, chosen, stamp)
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
