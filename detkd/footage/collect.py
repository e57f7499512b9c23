"""The first stage of learning from footage: choose pictures worth a teacher's answer."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detkd.errors import ConfigError, DataError
from detkd.footage.collection import Collection, Item, load_collection
from detkd.footage.frames import Picture, sample_video
from detkd.footage.sheet import contact_sheet
from detkd.footage.similar import BLUR, DARK, SIMILAR, measure
from detkd.footage.stage import FRAMES, Stage, cannot_write
from detkd.inference.images import read_image
from detkd.inference.sources import VIDEO_SUFFIXES, Sources, find_sources
from detkd.io import atomic_path
from detkd.progress import track

__all__ = ["Collection", "Item", "collect", "contact_sheet", "load_collection"]

_FRAME_NAME = re.compile(r"\d{9,}\.jpg")
_QUALITY = 95


def collect(
    source: str | Path | Sequence[str | Path],
    *,
    folder: str | Path,
    every: float = 1.0,
    similar: float = SIMILAR,
    blur: float = BLUR,
    dark: float = DARK,
    limit: int | None = None,
    skipped: list[dict[str, str]] | None = None,
) -> Collection:
    """Collect pictures from images and videos, without near-duplicates, blurred and dark ones.

    Images stay where they are; those in the output folder itself are no sources. Video frames are written to
    `folder`/images/<video>/<milliseconds>.jpg. What was kept is written to `folder`/collect.json: with the same
    settings and unchanged sources a second call returns it at once, or goes on after the last finished file if the
    first was interrupted. Otherwise everything is collected anew, and the reason is printed and noted.

    Args:
        source: A file, a folder (with its subfolders), a pattern, or a list of these.
        folder: Where to write.
        every: Seconds of video between two pictures; 0 looks at every frame.
        similar: Grey levels: a picture is dropped if no cell of its 48x36 thumbnail differs as much from that of one
            picture kept before, whatever its source; 0 keeps all.
        blur: Smallest variance of the Laplacian; 0 keeps all.
        dark: Smallest mean grey level; 0 keeps all.
        limit: Keep at most so many, evenly spread over what was collected.
        skipped: What can't be read is appended here too.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If there is no source, nothing is left of it, or something can't be written.
    """
    settings = {"every": every, "similar": similar, "blur": blur, "dark": dark, "limit": limit}
    _check(settings)
    target = Path(folder).expanduser().resolve()
    sources = _sources(source, target)
    stage = Stage(target, settings, _listing_digest(sources))
    if not stage.resume():
        for _ in track(_work(stage, sources), "collect", _frames(sources, stage.done)):
            pass
        _finish(stage)
    if skipped is not None:
        skipped.extend(stage.result.skipped)
    return stage.result


def _sources(source: str | Path | Sequence[str | Path], folder: Path) -> Sources:
    """Find the sources, each once, without what earlier calls wrote to the output folder."""
    found = find_sources(source)
    kept: dict[Path, tuple[Path, str]] = {}
    for path, name in found.items:
        resolved = path.resolve()
        if not resolved.is_relative_to(folder):
            kept.setdefault(resolved, (path, name))  # a folder and a pattern may lead to the same file
    if not kept:
        raise DataError(f"out: all of the footage lies in the output folder {folder}; choose another one")
    return found if len(kept) == len(found.items) else Sources(tuple(kept.values()), None)


def _frames(sources: Sources, done: int) -> int | None:
    """Return how many frames the files from number `done` on have, None if they don't say."""
    if not done and sources.frames is not None:
        return sources.frames
    rest = [path for path, _ in sources.items[done:]]
    return find_sources(rest).frames if rest else 0


def _work(stage: Stage, sources: Sources) -> Iterator[None]:
    """Go through the files that are left; yields once per frame."""
    for path, name in sources.items[stage.done :]:
        video = path.suffix.lower() in VIDEO_SUFFIXES
        frames = stage.folder / FRAMES / name if video else None
        if frames is not None:
            for old in frames.glob("*.jpg"):  # of an interrupted call
                if _FRAME_NAME.fullmatch(old.name):
                    old.unlink()
        for picture in _pictures(path, stage, video=video):
            if picture is not None:
                _judge(stage, picture, path, frames)
            yield
        stage.file_finished(video=video)


def _pictures(path: Path, stage: Stage, *, video: bool) -> Iterator[Picture | None]:
    """Yield the pictures of a file, None for a frame that is passed over; say so if it can't be read."""
    try:
        if video:
            yield from sample_video(path, stage.settings["every"], stage.result.notes)
        else:
            yield Picture(read_image(path), None)
    except DataError as err:
        stage.result.skipped.append({"file": str(path.resolve()), "reason": str(err)})


def _judge(stage: Stage, picture: Picture, path: Path, frames: Path | None) -> None:
    """Keep a picture or drop it; a kept frame of a video is written to the folder `frames`."""
    measures, settings = measure(picture.image), stage.settings
    if measures.brightness < settings["dark"]:
        stage.dropped["dark"] += 1
    elif measures.sharpness < settings["blur"]:
        stage.dropped["blur"] += 1
    elif len(stage.kept.near(measures.thumbnail, settings["similar"])):
        stage.dropped["similar"] += 1
    else:
        height, width = picture.image.shape[:2]
        file = path.resolve()
        source, time_s = str(file.parent), picture.time_s
        if frames is not None and time_s is not None:
            source, time_s = str(file), round(time_s, 3)
            file = _write_frame(picture.image, frames / f"{round(time_s * 1000):09d}.jpg")
        stage.kept.add(measures.thumbnail)
        stage.result.items.append(Item(file, source, time_s, width, height, measures.sharpness, measures.brightness))


def _finish(stage: Stage) -> None:
    """Thin out to the limit and write the stage file.

    Raises:
        DataError: If nothing is left.
    """
    items, limit = stage.result.items, stage.settings["limit"]
    if not items:
        stage.remove()
        raise DataError(_nothing_left(stage))
    gone: list[Item] = []
    if limit is not None and len(items) > limit:
        chosen = set(np.linspace(0, len(items) - 1, limit).round().astype(int).tolist())
        gone = [item for number, item in enumerate(items) if number not in chosen]
        stage.dropped["limit"] += len(gone)
        items[:] = [item for number, item in enumerate(items) if number in chosen]
    stage.save(complete=True)
    for item in gone:  # only now: an interruption before would have left a stage file that names them
        stage.remove_frame(item.file)


def _nothing_left(stage: Stage) -> str:
    counts = [f"{count} {_WORDS[reason]}" for reason, count in sorted(stage.dropped.items())]
    if skipped := stage.result.skipped:
        counts.append(f"{len(skipped)} unreadable ({skipped[0]['reason']})")
    lower = " and ".join(f"{key} (now {stage.settings[key]:g})" for key in ("blur", "dark") if stage.dropped[key])
    return f"source: no picture is left, {', '.join(counts)}; {'lower ' + lower if lower else 'give other footage'}"


_WORDS = {"dark": "too dark", "blur": "too blurred"}


def _write_frame(image: np.ndarray, file: Path) -> Path:
    good, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not good:
        raise DataError(f"{file.name}: this frame can't be written as JPEG")
    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(content.tobytes())
    except OSError as err:
        raise cannot_write(file, err) from err
    return file


def _listing_digest(sources: Sources) -> str:
    """Return a digest of which files there are, in which order, and of their sizes and times of change."""
    digest = hashlib.blake2b(digest_size=16)
    for path, name in sources.items:
        state = path.stat()
        digest.update(f"{path.resolve()}\0{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _check(settings: dict[str, Any]) -> None:
    for key in ("every", "similar", "blur", "dark"):
        value = settings[key]
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{key}: must be 0 or more, got {value}; see the documentation for what it means")
    if (limit := settings["limit"]) is not None and limit < 1:
        raise ConfigError(f"limit: must be 1 or more, got {limit}; leave it out to keep all pictures")
