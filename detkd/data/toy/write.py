"""Draws a whole set to disk: images, COCO JSON, YOLO labels and an Ultralytics data YAML, split by camera."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detkd.data.toy.crowd import DIFFICULTIES, TOY_NAMES
from detkd.data.toy.frame import draw_frame
from detkd.data.toy.scenes import CAMERAS, SPLITS
from detkd.errors import DataError
from detkd.io import write_json, write_text
from detkd.progress import track

__all__ = ["VERSION", "draw_part", "draw_toy", "plan_toy"]

VERSION = 1  # raise whenever the same arguments give other pixels or labels
STAMP = "toy.json"
Job = tuple[str, str, int]  # split, camera, index


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


def draw_part(folder: Path, jobs: Sequence[Job], arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Draw frames into `folder/images` and `folder/labels`; yields one record per frame."""
    width, height = arguments["size"]
    for split, camera, index in jobs:
        frame = draw_frame(camera, index, arguments["seed"], size=(width, height), difficulty=arguments["difficulty"])
        name = f"{camera}_{index:05d}"
        ok, code = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, frame.meta["quality"]])
        if not ok:
            raise DataError(f"data: OpenCV can't encode {name}.jpg; check the installation of opencv")
        (folder / "images" / f"{name}.jpg").write_bytes(code.tobytes())
        low, high = frame.boxes[:, :2], frame.boxes[:, 2:]
        rows = np.concatenate([(low + high) / 2, high - low], axis=1) / np.array([width, height, width, height])
        lines = [
            f"{kind} {' '.join(f'{value:.6f}' for value in row)}\n"
            for kind, row in zip(frame.classes.tolist(), rows.tolist(), strict=True)
        ]
        (folder / "labels" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        yield {
            "split": split, "name": name, "boxes": frame.boxes.tolist(), "classes": frame.classes.tolist(),
            "meta": frame.meta,
        }  # fmt: skip


def _run_workers(folder: Path, jobs: list[Job], arguments: dict[str, Any], workers: int) -> list[dict[str, Any]]:
    """Draw in several processes. Plain child processes: no fork of a threaded parent, no need for a main guard."""
    package_root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")])}
    parts = [jobs[len(jobs) * part // workers : len(jobs) * (part + 1) // workers] for part in range(workers)]
    children = []
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        try:
            for part in parts:
                child = subprocess.Popen(
                    [sys.executable, "-m", "detkd.data.toy.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=errors, text=True, encoding="utf-8", env=environment,
                )  # fmt: skip
                children.append(child)
                assert child.stdin is not None
                child.stdin.write(json.dumps({"folder": str(folder), "jobs": part, "arguments": arguments}))
                child.stdin.close()

            def results() -> Iterator[dict[str, Any]]:
                # Children are read in turn: each writes a record per image, and a full pipe only makes it wait.
                for child in children:
                    assert child.stdout is not None
                    for line in child.stdout:
                        yield json.loads(line)

            records.extend(track(results(), "drawing the toy set", total=len(jobs)))
            codes = [child.wait() for child in children]
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        if any(codes):
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"exit status {codes}"])[-1]
            raise DataError(f"data: drawing the toy set failed ({last}); try workers=1")
    return records


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


def draw_toy(
    folder: str | Path, *, images: int | Mapping[str, int] = 600, size: int | tuple[int, int] = (320, 192),
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
    width, height = (size, 2 * round(size * 0.3)) if isinstance(size, int) else size
    if width < 96 or height < 64 or width > 1920 or height > 1920 or width % 2 or height % 2:
        raise DataError(f"data.size: must be even, 96x64 to 1920x1920, got {width}x{height}; try 320x192")
    if difficulty not in DIFFICULTIES:
        raise DataError(f"data.difficulty: unknown, got {difficulty!r}; choose from {', '.join(DIFFICULTIES)}")
    if seed < 0:
        raise DataError(f"data.seed: must be 0 or more, got {seed}")
    jobs = plan_toy(images, chosen)
    arguments: dict[str, Any] = {"size": [width, height], "difficulty": difficulty, "seed": seed}
    stamp = {
        "version": VERSION, **arguments, "images": dict(images) if isinstance(images, Mapping) else images,
        "splits": {split: list(cameras) for split, cameras in chosen.items()},
    }  # fmt: skip
    if _complete(target, stamp, jobs):
        return target
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / STAMP).is_file())):
        raise DataError(f"data.path: {target} holds something other than a toy set; choose a new or empty folder")
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as err:
        raise DataError(f"data.path: can't write {target} ({err.strerror}); choose a writable folder") from err
    try:
        draft.chmod(0o755)
        for name in ("images", "labels"):
            (draft / name).mkdir()
        if workers > 1 and len(jobs) >= 64:
            records = _run_workers(draft, jobs, arguments, min(workers, len(jobs) // 32))
        else:
            records = list(track(draw_part(draft, jobs, arguments), "drawing the toy set", total=len(jobs)))
        _finish(draft, records, chosen, stamp)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    except OSError as err:
        raise DataError(f"data.path: can't write {target} ({err.strerror}); choose a writable folder") from err
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target
