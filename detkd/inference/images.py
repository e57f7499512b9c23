"""Read pictures and put them on the network's canvas."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from detkd.errors import DataError

__all__ = ["PAD_VALUE", "Placement", "decode_image", "letterbox", "read_image"]

PAD_VALUE = 114
"""Grey around a letterboxed image, as in training."""


class Placement(NamedTuple):
    """Where an image lies on the canvas it was letterboxed to.

    Attributes:
        left: Empty columns before the image, pixels of the canvas.
        top: Empty rows above the image.
        gain_x: Canvas pixels per image pixel, horizontally; rounding makes it differ a little from `gain_y`.
        gain_y: The same vertically.
        width: Of the original image.
        height: Of the original image.
    """

    left: int
    top: int
    gain_x: float
    gain_y: float
    width: int
    height: int

    def restore(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Return boxes (N, 4) given in canvas pixels in pixels of the original image, clipped to it."""
        boxes = boxes_xyxy - np.array([self.left, self.top] * 2, dtype=boxes_xyxy.dtype)
        boxes /= np.array([self.gain_x, self.gain_y] * 2, dtype=boxes_xyxy.dtype)
        limits = np.array([self.width, self.height] * 2, dtype=boxes_xyxy.dtype)
        clipped: np.ndarray = np.clip(boxes, 0, limits)
        return clipped


def letterbox(image: np.ndarray, shape: tuple[int, int], *, stretch: bool = False) -> tuple[np.ndarray, Placement]:
    """Scale an image to fit and centre it on a grey canvas, as Ultralytics' predictor and its deployed models do.

    Ultralytics' `val` rounds the shorter side up instead of to the nearest pixel, so that its boxes may differ by a
    fraction of a pixel for image shapes that don't divide evenly.

    Args:
        image: BGR, (H, W, 3) uint8.
        shape: Height and width of the canvas.
        stretch: Fill the canvas and give up the aspect ratio, as RT-DETR was trained.

    Returns:
        The canvas, (height, width, 3) uint8, and where the image lies on it.
    """
    height, width = image.shape[:2]
    gain = min(shape[0] / height, shape[1] / width)
    new_width, new_height = max(round(width * gain), 1), max(round(height * gain), 1)
    if stretch:
        new_height, new_width = shape
    # The small offset makes an odd remainder put its extra pixel on the right and the bottom.
    left, top = round((shape[1] - new_width) / 2 - 0.1), round((shape[0] - new_height) / 2 - 0.1)
    canvas = np.full((*shape, 3), PAD_VALUE, dtype=np.uint8)
    if (new_width, new_height) != (width, height):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    canvas[top : top + new_height, left : left + new_width] = image
    return canvas, Placement(left, top, new_width / width, new_height / height, width, height)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as BGR, (H, W, 3) uint8, turned as its EXIF data says.

    Raises:
        DataError: If the file is missing or no image that OpenCV can read.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as err:
        raise DataError(f"{path}: can't be read ({err.strerror or err}); check the path") from err
    return decode_image(content, path)


def decode_image(content: bytes | np.ndarray, name: str | Path) -> np.ndarray:
    """Decode the bytes of an image file as `read_image` does.

    Args:
        content: The file's bytes, as they are or uint8 (N,).
        name: Of the file, for the message.

    Raises:
        DataError: If OpenCV can't read them.
    """
    data = np.frombuffer(content, dtype=np.uint8) if isinstance(content, bytes) else content
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise DataError(f"{name}: not an image that can be read (empty, cut off or another format); replace it")
    return np.asarray(image)
