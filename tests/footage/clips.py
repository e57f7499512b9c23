"""Small videos and pictures to collect from."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 240


def scene(seed: int = 0) -> np.ndarray:
    """A still scene with some texture, BGR (HEIGHT, WIDTH, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(40, 216, (12, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST))


def with_object(image: np.ndarray, left: int, top: int, size: int = 10) -> np.ndarray:
    changed = image.copy()
    changed[top : top + size, left : left + size] = 255 - changed[top : top + size, left : left + size]
    return changed


def write_clip(path: Path, frames: int, picture: Callable[[int], np.ndarray], fps: float = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (WIDTH, HEIGHT))
    assert video.isOpened()
    for index in range(frames):
        video.write(picture(index))
    video.release()
    return path


def write_image(path: Path, image: np.ndarray, quality: int = 95) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else [])
    return path


def vary_pace(path: Path, shares: Sequence[tuple[int, float]]) -> None:
    """Give an mp4 of constant pace other times: (frames, gap as a multiple of the old one) pairs.

    The table of gaps (`stts`) is replaced and the boxes around it grow; the pictures lie before it in the files that
    OpenCV writes, so that nothing points behind it.
    """
    content = bytearray(path.read_bytes())
    start, chain = 0, []
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        while content[start + 4 : start + 8] != name:
            start += struct.unpack(">I", content[start : start + 4])[0]
        chain.append(start)
        start += 8
    table = chain[-1]
    size, _, _, entries, count, gap = struct.unpack(">I4sIIII", content[table : table + 24])
    assert (size, entries, count) == (24, 1, sum(frames for frames, _ in shares))
    rows = b"".join(struct.pack(">II", frames, round(gap * factor)) for frames, factor in shares)
    content[table : table + 24] = struct.pack(">I4sII", 16 + len(rows), b"stts", 0, len(shares)) + rows
    for box in chain[:-1]:
        old = struct.unpack(">I", content[box : box + 4])[0]
        content[box : box + 4] = struct.pack(">I", old + len(rows) - 8)
    path.write_bytes(content)
