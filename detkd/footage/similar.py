"""How sharp and bright a picture is, and whether one nearly like it is known already."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["BLUR", "COLUMNS", "DARK", "ROWS", "SIMILAR", "Measures", "Thumbnails", "measure"]

COLUMNS, ROWS = 48, 36
"""Cells of a thumbnail. In a picture 640 pixels wide a cell is 13 pixels wide, less than most things worth finding."""

SIMILAR = 10.0
"""Grey levels. Frames of a standing scene differ by 2 to 5 in their worst cell (video noise, compression), pictures
that 26 fixed traffic cameras took minutes apart by 13 or more (the median is 105)."""

BLUR = 3.0
"""Variance of the Laplacian. The softest usable pictures tried have 6 (blood cells) and 9 (an empty road); blurred with
a sigma of 4 pixels of 640, most pictures fall below 3."""

DARK = 15.0
"""Mean grey level. The darkest usable pictures tried have 25, those of lit streets at night 44."""

_LONG_SIDE = 640
_POOL = 6  # cells joined in each direction for the quick comparison


@dataclass(frozen=True)
class Measures:
    """What is measured on one picture.

    Attributes:
        thumbnail: Mean grey level of each cell, (ROWS, COLUMNS) uint8.
        sharpness: Variance of the Laplacian, on the picture scaled down to at most 640 pixels.
        brightness: Mean grey level, 0..255.
    """

    thumbnail: np.ndarray
    sharpness: float
    brightness: float


def measure(image: np.ndarray) -> Measures:
    """Measure a picture, BGR (H, W, 3) uint8.

    Sharpness is comparable only at one size, so large pictures are scaled down first.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    scale = _LONG_SIDE / max(grey.shape)
    if scale < 1:
        size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return Measures(
        np.asarray(cv2.resize(grey, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)),
        round(float(cv2.Laplacian(grey, cv2.CV_32F).var()), 2),
        round(float(grey.mean()), 2),
    )


class Thumbnails:
    """Thumbnails to compare with.

    The difference of two pictures is that of their worst cell: a small thing that moved through a large still scene
    changes one cell a lot and the mean of all cells hardly at all. Means over groups of cells never differ by more
    than the worst cell, so comparing these first leaves few pictures to compare in full, with the same result.
    """

    def __init__(self) -> None:
        self._count = 0
        self._cells = np.zeros((64, ROWS, COLUMNS), np.uint8)
        self._pooled = np.zeros((64, (ROWS // _POOL) * (COLUMNS // _POOL)), np.float32)

    def __len__(self) -> int:
        return self._count

    @property
    def cells(self) -> np.ndarray:
        """All thumbnails in the order they came, (N, ROWS, COLUMNS) uint8."""
        return self._cells[: self._count]

    def add(self, thumbnail: np.ndarray) -> None:
        """Remember a thumbnail, (ROWS, COLUMNS) uint8."""
        if self._count == len(self._cells):
            self._cells = np.concatenate([self._cells, np.zeros_like(self._cells)])
            self._pooled = np.concatenate([self._pooled, np.zeros_like(self._pooled)])
        self._cells[self._count] = thumbnail
        self._pooled[self._count] = _pool(thumbnail)
        self._count += 1

    def near(self, thumbnail: np.ndarray, below: float) -> np.ndarray:
        """Return the numbers of all thumbnails that differ by less than `below` grey levels in every cell."""
        close = self.candidates(thumbnail, below)
        return close[self.differences(thumbnail, close).max(axis=1) < below] if len(close) else close

    def candidates(self, thumbnail: np.ndarray, below: float) -> np.ndarray:
        """Return the numbers of all thumbnails that differ by less than `below` in the mean of every group of cells."""
        gaps = np.abs(self._pooled[: self._count] - _pool(thumbnail)).max(axis=1, initial=0.0)
        # A little more than needed, since these means are rounded.
        return np.flatnonzero(gaps < below + 0.01)

    def differences(self, thumbnail: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return how far each cell is from that of some of the thumbnails, (len(numbers), ROWS * COLUMNS) int16."""
        other = self._cells[numbers].reshape(len(numbers), -1).astype(np.int16)
        gaps: np.ndarray = np.abs(other - thumbnail.reshape(-1).astype(np.int16))
        return gaps


def _pool(thumbnail: np.ndarray) -> np.ndarray:
    blocks = thumbnail.reshape(ROWS // _POOL, _POOL, COLUMNS // _POOL, _POOL)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32).reshape(-1))
