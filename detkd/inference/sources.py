"""What `detkd predict` looks at: images, folders, patterns and videos."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detkd.errors import DataError
from detkd.inference.images import read_image

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Frame", "Sources", "find_sources", "read_frames"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})


@dataclass(frozen=True)
class Sources:
    """Files to look at.

    Attributes:
        items: Path of each image or video, and its name in the output folder (relative, without suffix, unique).
        frames: Expected number of pictures, or None where a video does not say.
    """

    items: tuple[tuple[Path, str], ...]
    frames: int | None


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        image: BGR, (H, W, 3) uint8.
        path: File it came from.
        name: Its name in the output folder, without suffix.
        index: Number of the frame within its video, from 0, or None for an image.
        fps: Frames per second of the video, 0 for an image.
    """

    image: np.ndarray
    path: Path
    name: str
    index: int | None = None
    fps: float = 0.0


def find_sources(source: str | Path | Sequence[str | Path]) -> Sources:
    """Find the images and videos behind a file, a folder (with its subfolders), a pattern, or a list of these.

    Raises:
        DataError: If something does not exist, or there is nothing to look at.
    """
    wanted = [source] if isinstance(source, (str, Path)) else list(source)
    pairs: list[tuple[Path, str]] = []
    for entry in wanted:
        pairs += _expand(entry)
    if not pairs:
        raise DataError(f"source: no images or videos in {_shown(wanted)}; known: {_suffixes()}")
    taken: dict[str, int] = {}
    items = []
    for path, name in dict.fromkeys(pairs):
        taken[name] = taken.get(name, 0) + 1
        items.append((path, name if taken[name] == 1 else f"{name}-{taken[name]}"))
    counts = [_count_frames(path) for path, _ in items]
    return Sources(tuple(items), sum(counts) if all(counts) else None)


def read_frames(sources: Sources, skipped: list[tuple[str, str]]) -> Iterator[Frame]:
    """Read picture after picture; what can't be read is appended to `skipped` as (path, reason)."""
    for path, name in sources.items:
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            try:
                yield Frame(read_image(path), path, name)
            except DataError as err:
                skipped.append((str(path), str(err)))
            continue
        video = cv2.VideoCapture(str(path))
        try:
            fps = float(video.get(cv2.CAP_PROP_FPS)) if video.isOpened() else 0.0
            index = 0
            while True:
                good, image = video.read()
                if not good:
                    break
                yield Frame(np.asarray(image), path, name, index, fps if 0 < fps < 1000 else 25.0)
                index += 1
            if index == 0:
                skipped.append((str(path), f"{path}: no frame of this video can be decoded; convert it to mp4"))
        finally:
            video.release()


def _expand(entry: str | Path) -> list[tuple[Path, str]]:
    text = str(entry)
    path = Path(text).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES)
        return [(p, p.relative_to(path).with_suffix("").as_posix()) for p in found if p.is_file()]
    if path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            raise DataError(f"source: {path} is neither an image nor a video; known: {_suffixes()}")
        return [(path, path.stem)]
    if glob.has_magic(text):
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        return [(p, p.stem) for p in files if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    raise DataError(
        f"source: no such file or folder {text}; give an image, a video, a folder or a pattern like 'cam*/*.jpg'"
    )


def _count_frames(path: Path) -> int:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return 1
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    video.release()
    return max(count, 0)


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))


def _shown(entries: Sequence[str | Path]) -> str:
    return ", ".join(map(str, entries[:3])) + (" ..." if len(entries) > 3 else "") if entries else "an empty list"
