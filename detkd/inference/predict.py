"""Show what detectors find in images and videos, several detectors side by side."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from detkd.errors import DataError, ModelError
from detkd.inference.detector import Detections, Detector
from detkd.inference.draw import draw_boxes, side_by_side
from detkd.inference.sources import Frame, find_sources, read_frames
from detkd.io import atomic_path
from detkd.progress import track

__all__ = ["PredictResult", "default_titles", "predict"]


@dataclass(frozen=True)
class PredictResult:
    """What was written.

    Attributes:
        out: Folder with everything.
        json: File with all detections.
        files: Pictures and videos.
        images: Pictures looked at.
        frames: Video frames looked at.
        objects: Number of detections per model, by title.
        skipped: (path, reason) of files that could not be read.
    """

    out: Path
    json: Path
    files: tuple[Path, ...]
    images: int
    frames: int
    objects: dict[str, int]
    skipped: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self)
        return {**values, "out": str(self.out), "json": str(self.json), "files": [str(f) for f in self.files]}


def predict(
    detectors: Mapping[str, Detector] | Sequence[Detector],
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    draw: bool = True,
    progress: bool = True,
) -> PredictResult:
    """Run one or more detectors over images, folders, patterns or videos.

    Pictures go to `out/` under the names of their sources (.jpg), videos as .mp4, all detections to
    `out/predictions.json`. Memory does not grow with the number of pictures. Files that can't be read are skipped and
    listed in the result.

    Args:
        detectors: Title to detector, or just detectors; load them with `conf=0.25, multi_label=False`.
        source: What to look at, see `find_sources`.
        out: Folder to write to.
        draw: Write pictures and videos, not only the JSON.
        progress: Show a progress bar on stderr.

    Raises:
        DataError: If there is nothing to look at, nothing can be read, or `out` can't be written.
        ModelError: If no detector is given.
    """
    pairs = (
        detectors.items() if isinstance(detectors, Mapping) else zip(default_titles(detectors), detectors, strict=True)
    )
    named = dict(pairs)
    if not named:
        raise ModelError("model: no model given; name one, e.g. model=best.pt, or several: model=[a.pt,b.pt]")
    sources = find_sources(source)
    folder = Path(out)
    skipped: list[tuple[str, str]] = []
    files: list[Path] = []
    counts = {"images": 0, "frames": 0}
    objects = dict.fromkeys(named, 0)
    frames: Iterator[tuple[Frame, list[Detections]]] = _detect_all(list(named.values()), read_frames(sources, skipped))
    if progress:
        frames = track(frames, "predict", sources.frames)
    with ExitStack() as stack:
        report = stack.enter_context(_json_report(folder / "predictions.json", named))
        video: _Video | None = None
        for frame, found in frames:
            counts["images" if frame.index is None else "frames"] += 1
            for title, detections in zip(named, found, strict=True):
                objects[title] += len(detections)
            report.add(frame, found)
            if not draw:
                continue
            picture = _drawn(frame.image, named, found)
            if video is not None and video.source != frame.path:
                video.close()
                video = None
            if frame.index is None:
                files.append(_write_picture(folder / f"{frame.name}.jpg", picture))
            else:
                if video is None:
                    video = _Video(stack, frame.path, folder / frame.name, picture, frame.fps)
                    files.append(video.path)
                video.add(picture)
        if video is not None:
            video.close()
        if not counts["images"] and not counts["frames"]:
            raise DataError(f"source: nothing could be read; {skipped[0][1] if skipped else 'check the files'}")
        report.finish(skipped)
    return PredictResult(folder, report.path, tuple(files), counts["images"], counts["frames"], objects, tuple(skipped))


def default_titles(detectors: Sequence[Detector]) -> list[str]:
    """Return a title for each detector: as much of its path as tells it from the others."""
    for depth in (1, 2, 3):
        titles = ["/".join(d.path.with_suffix("").parts[-depth:]) for d in detectors]
        if len(set(titles)) == len(titles):
            return titles
    labels = [f"{title} {d.head} {d.runtime} {d.imgsz}" for title, d in zip(titles, detectors, strict=True)]
    return labels if len(set(labels)) == len(labels) else [f"{i + 1}: {label}" for i, label in enumerate(labels)]


def _detect_all(detectors: Sequence[Detector], frames: Iterator[Frame]) -> Iterator[tuple[Frame, list[Detections]]]:
    size = min(detector.batch for detector in detectors)
    while chunk := list(itertools.islice(frames, size)):
        columns = [list(detector.detect(frame.image for frame in chunk)) for detector in detectors]
        yield from zip(chunk, map(list, zip(*columns, strict=True)), strict=True)


def _drawn(image: np.ndarray, detectors: Mapping[str, Detector], found: Sequence[Detections]) -> np.ndarray:
    panes = [
        draw_boxes(image, d.boxes_xyxy, d.classes, d.scores, detector.names)
        for detector, d in zip(detectors.values(), found, strict=True)
    ]
    return panes[0] if len(panes) == 1 else side_by_side(panes, list(detectors))


def _write_picture(path: Path, picture: np.ndarray) -> Path:
    good, content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not good:
        raise DataError(f"out: can't encode {path} ({picture.shape[1]} x {picture.shape[0]} pixels)")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.tobytes())
    return path


class _NoEncoderError(Exception):
    """This OpenCV lacks the codec."""


class _Video:
    """A video file that gets its name only when it is complete: mp4, or avi where OpenCV has no mp4 encoder."""

    def __init__(self, stack: ExitStack, source: Path, stem: Path, first: np.ndarray, fps: float) -> None:
        self.source = source
        self._frames = 0
        self._size = (max(first.shape[1] // 2 * 2, 2), max(first.shape[0] // 2 * 2, 2))
        for suffix, codec in ((".mp4", "mp4v"), (".avi", "MJPG")):
            self.path = stem.parent / f"{stem.name}{suffix}"
            try:
                with ExitStack() as attempt:
                    temporary = attempt.enter_context(atomic_path(self.path))
                    attempt.push(partial(self._check, temporary))
                    fourcc = cv2.VideoWriter.fourcc(*codec)
                    self._writer = cv2.VideoWriter(str(temporary), fourcc, fps, self._size)
                    attempt.callback(self._writer.release)
                    if not self._writer.isOpened():
                        raise _NoEncoderError
                    self._resources = stack.enter_context(attempt.pop_all())
                    return
            except _NoEncoderError:
                continue
        raise DataError(f"out: this OpenCV can't encode videos, {stem} was not written; reinstall opencv-python")

    def add(self, picture: np.ndarray) -> None:
        """Append a frame; one of another size is scaled."""
        width, height = self._size
        if picture.shape[0] - height not in (0, 1) or picture.shape[1] - width not in (0, 1):
            picture = cv2.resize(picture, self._size)
        self._writer.write(np.ascontiguousarray(picture[:height, :width]))
        self._frames += 1

    def _check(self, file: Path, kind: type[BaseException] | None, *_: Any) -> None:
        """Refuse a file that the disk did not take: OpenCV's writer says nothing when it is full."""
        if kind is not None or not self._frames:
            return
        video = cv2.VideoCapture(str(file))
        there = video.get(cv2.CAP_PROP_FRAME_COUNT) if video.isOpened() else 0
        video.release()
        if there < 0.9 * self._frames - 1:  # some readers count by duration
            raise DataError(
                f"out: only {max(int(there), 0)} of {self._frames} frames of {self.path} reached the disk; make room, "
                "or choose another folder with out=..."
            )

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._resources.close()


class _Report:
    """Writes the detections of one picture after the other, so that long videos need no memory."""

    def __init__(self, path: Path, stream: IO[str], detectors: Mapping[str, Detector]) -> None:
        self.path = path
        self._stream = stream
        self._detectors = detectors
        self._separator = ""
        models = {title: {**d.describe(), "names": list(d.names)} for title, d in detectors.items()}
        stream.write(f'{{\n"schema": 1,\n"models": {_json(models)},\n"pictures": [')

    def add(self, frame: Frame, found: Sequence[Detections]) -> None:
        height, width = frame.image.shape[:2]
        record: dict[str, Any] = {"file": str(frame.path), "width": width, "height": height}
        if frame.index is not None:
            record |= {"frame": frame.index, "time": round(frame.index / frame.fps, 4)}
        record["detections"] = {
            title: _records(d, detector.names)
            for (title, detector), d in zip(self._detectors.items(), found, strict=True)
        }
        self._stream.write(f"{self._separator}\n{_json(record)}")
        self._separator = ","

    def finish(self, skipped: Sequence[tuple[str, str]]) -> None:
        listed = [{"file": path, "reason": reason} for path, reason in skipped]
        self._stream.write(f'\n],\n"skipped": {_json(listed)}\n}}\n')


@contextmanager
def _json_report(path: Path, detectors: Mapping[str, Detector]) -> Iterator[_Report]:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yield _Report(path, stream, detectors)


def _records(found: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
    return [
        {"class": names[index], "score": round(score, 5), "box_xyxy": [round(v, 2) for v in box]}
        for box, score, index in rows
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
