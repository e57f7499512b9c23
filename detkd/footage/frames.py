"""Pictures of a video at even times, whatever its frame rate does."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detkd.errors import DataError

__all__ = ["Clock", "Picture", "describe_pace", "sample_video"]

_ASSUMED_FPS = 25.0  # where neither the frames nor the file say anything
_SLACK = 0.0005  # seconds; files store times in whole milliseconds or coarser


@dataclass(frozen=True)
class Picture:
    """One picture to judge.

    Attributes:
        image: BGR, (H, W, 3) uint8.
        time_s: Seconds since the first frame of the video, None for an image.
    """

    image: np.ndarray
    time_s: float | None


class Clock:
    """Times of a video's frames, from 0 and made to increase.

    Some files have no times, or times that jump back (joined recordings); such a frame is put one usual gap after the
    one before.

    Args:
        fps: What the file says; values that can't be are replaced by 25.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps if 0 < fps < 1000 else _ASSUMED_FPS
        self.repaired = 0
        self.times = array("d")
        self._first = 0.0

    def tick(self, stamp_ms: float) -> float:
        """Return the time of the next frame in seconds, from its stamp in milliseconds."""
        if not self.times:
            self._first = stamp_ms / 1000 if math.isfinite(stamp_ms) else 0.0
            time_s = 0.0
        else:
            time_s = stamp_ms / 1000 - self._first
            if not self.times[-1] < time_s < math.inf:  # nor not a number
                time_s = self.times[-1] + 1 / self.fps
                self.repaired += 1
        self.times.append(time_s)
        return time_s


def describe_pace(times: Sequence[float]) -> str | None:
    """Say whether the frame rate varies, in a few words; None if it doesn't.

    Lost frames now and then are no variable frame rate: more than 5 % of the gaps between frames must be a quarter
    off the median.

    Args:
        times: Seconds, increasing.
    """
    gaps = np.diff(np.asarray(times, dtype=np.float64))
    if len(gaps) < 4:
        return None
    usual = float(np.median(gaps))
    if np.mean(np.abs(gaps - usual) > max(0.25 * usual, 0.002)) <= 0.05:
        return None
    return f"variable frame rate ({gaps.min() * 1000:.0f} to {gaps.max() * 1000:.0f} ms between frames)"


def sample_video(path: Path, every: float, notes: list[str]) -> Iterator[Picture | None]:
    """Read through a video; for each of its frames yield a picture, or None for one that is passed over.

    Frames are chosen by their times, not by counting: the first one at or after 0, `every`, 2 `every`, ... seconds
    from the start.

    Args:
        path: The video.
        every: Seconds between pictures; 0 takes all frames.
        notes: What is odd about the video is appended here, once it has been read.

    Raises:
        DataError: If no frame can be decoded.
    """
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise DataError(f"{path}: not a video that can be read (empty, cut off or another format); replace it")
        clock = Clock(float(video.get(cv2.CAP_PROP_FPS)))
        promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        due = broken = decoded = 0
        while video.grab():
            time_s = clock.tick(float(video.get(cv2.CAP_PROP_POS_MSEC)))
            if every > 0 and time_s + _SLACK < due * every:
                yield None
                continue
            good, image = video.retrieve()
            if not good or image is None:
                broken += 1
                yield None
                continue
            decoded += 1
            if every > 0:
                due = math.floor((time_s + _SLACK) / every) + 1
            yield Picture(np.asarray(image), time_s)
        if not decoded:
            raise DataError(f"{path}: no frame of this video can be decoded; convert it to mp4 (H.264)")
        notes += [f"{path.name}: {line}" for line in _oddities(clock, promised, broken)]
    finally:
        video.release()


def _oddities(clock: Clock, promised: int, broken: int) -> list[str]:
    lines = []
    count = len(clock.times)
    if clock.repaired:
        lines.append(f"{clock.repaired} of {count} frames have no usable time; {clock.fps:g} frames per second assumed")
    elif pace := describe_pace(clock.times):
        lines.append(f"{pace}; sampled by time")
    if broken:
        lines.append(f"{broken} frames can't be decoded")
    # Counts in headers are estimates in some containers, so a few frames less mean nothing.
    if count < 0.95 * promised - 2:
        lines.append(f"ends after {count} of {promised} frames; is the file complete?")
    return lines
