"""The first stage of learning from footage: choose pictures worth a teacher's answer."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detkd.errors import ConfigError, DataError
from detkd.footage.collection import Collection, Item, load_collection
from detkd.footage.frames import Picture, sample_video
from detkd.footage.remote import RemoteImage, fetched, find_remote
from detkd.footage.sheet import contact_sheet
from detkd.footage.similar import BLUR, DARK, SIMILAR, Measures, measure
from detkd.footage.stage import FRAMES, Stage, cannot_write
from detkd.inference.images import decode_image, read_image
from detkd.inference.sources import VIDEO_SUFFIXES, find_sources
from detkd.io import atomic_path, is_url
from detkd.progress import track

__all__ = ["Collection", "Item", "collect", "contact_sheet", "load_collection"]

_FRAME_NAME = re.compile(r"\d{9,}\.jpg")
_QUALITY = 95

Source = Path | RemoteImage


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
    `folder`/images/<video>/<milliseconds>.jpg, and images of object storage that are kept, byte by byte, to
    `folder`/images/fetched. What was kept is written to `folder`/collect.json: with the same settings and unchanged
    sources a second call returns it at once, or goes on after the last finished file if the first was interrupted.
    Otherwise everything is collected anew, and the reason is printed and noted.

    Args:
        source: A file, a folder (with its subfolders), a pattern, or a list of these. Of addresses that fsspec opens
            (s3://bucket/folder) the images.
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
    if is_url(folder):
        raise ConfigError(f"out: must be a local or shared folder, got {folder}; copy it to object storage afterwards")
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


def _sources(source: str | Path | Sequence[str | Path], folder: Path) -> list[tuple[Source, str]]:
    """Find the sources, each once, without what earlier calls wrote to the output folder; local ones come first."""
    wanted = [source] if isinstance(source, (str, Path)) else list(source)
    urls = [str(entry) for entry in wanted if is_url(entry)]
    local = [entry for entry in wanted if not is_url(entry)]
    kept: dict[Path, tuple[Source, str]] = {}
    for path, name in find_sources(local).items if local or not urls else ():
        resolved = path.resolve()
        if not resolved.is_relative_to(folder):
            kept.setdefault(resolved, (path, name))  # a folder and a pattern may lead to the same file
    remote = {image.url: (image, name) for url in urls for image, name in find_remote(url)}
    if not kept and not remote:
        raise DataError(f"out: all of the footage lies in the output folder {folder}; choose another one")
    return [*kept.values(), *remote.values()]


def _frames(sources: Sequence[tuple[Source, str]], done: int) -> int | None:
    """Return how many frames the files from number `done` on have, None if they don't say."""
    rest = [path for path, _ in sources[done:]]
    local = [path for path in rest if isinstance(path, Path)]
    frames = find_sources(local).frames if local else 0
    return None if frames is None else frames + len(rest) - len(local)


def _work(stage: Stage, sources: Sequence[tuple[Source, str]]) -> Iterator[None]:
    """Go through the files that are left; yields once per frame."""
    for path, name, fetch in fetched(sources[stage.done :]):
        video = path.suffix.lower() in VIDEO_SUFFIXES
        frames = stage.folder / FRAMES / name if video else None
        if frames is not None:
            for old in frames.glob("*.jpg"):  # of an interrupted call
                if _FRAME_NAME.fullmatch(old.name):
                    old.unlink()
        if isinstance(path, RemoteImage):
            _judge_remote(stage, path, fetch)
            yield
        else:
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


def _judge_remote(stage: Stage, image: RemoteImage, fetch: Callable[[], bytes]) -> None:
    """Keep an image of object storage, in the folder of frames, or drop it; say so if it can't be read."""
    try:
        content = fetch()
        pixels = decode_image(content, image.url)
    except DataError as err:
        stage.result.skipped.append({"file": image.url, "reason": str(err)})
        return
    if (measures := _measured(stage, pixels)) is not None:
        file = _write(content, stage.folder / FRAMES / image.place)
        _keep(stage, file, image.folder, None, pixels, measures)


def _judge(stage: Stage, picture: Picture, path: Path, frames: Path | None) -> None:
    """Keep a picture or drop it; a kept frame of a video is written to the folder `frames`."""
    if (measures := _measured(stage, picture.image)) is None:
        return
    file = path.resolve()
    source, time_s = str(file.parent), picture.time_s
    if frames is not None and time_s is not None:
        source, time_s = str(file), round(time_s, 3)
        file = _write_frame(picture.image, frames / f"{round(time_s * 1000):09d}.jpg")
    _keep(stage, file, source, time_s, picture.image, measures)


def _measured(stage: Stage, image: np.ndarray) -> Measures | None:
    """Return the measures of a picture to keep; count one that is not, and return None."""
    measures, settings = measure(image), stage.settings
    if measures.brightness < settings["dark"]:
        stage.dropped["dark"] += 1
    elif measures.sharpness < settings["blur"]:
        stage.dropped["blur"] += 1
    elif len(stage.kept.near(measures.thumbnail, settings["similar"])):
        stage.dropped["similar"] += 1
    else:
        return measures
    return None


def _keep(stage: Stage, file: Path, source: str, time_s: float | None, image: np.ndarray, measures: Measures) -> None:
    height, width = image.shape[:2]
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
    return _write(content.tobytes(), file)


def _write(content: bytes, file: Path) -> Path:
    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
    except OSError as err:
        raise cannot_write(file, err) from err
    return file


def _listing_digest(sources: Sequence[tuple[Source, str]]) -> str:
    """Return a digest of which files there are, in which order, and of their sizes and times of change."""
    digest = hashlib.blake2b(digest_size=16)
    for path, name in sources:
        if isinstance(path, RemoteImage):
            digest.update(f"{path.url}\0{name}\0{path.stamp}\n".encode())
            continue
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
