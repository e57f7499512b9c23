"""Draw detections so that a person can judge them at a glance."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["class_colour", "draw_boxes", "label_place", "side_by_side"]

Colour = tuple[int, int, int]

# Told apart by most colour-blind people too, readable on day and night pictures (RGB).
_PALETTE: tuple[Colour, ...] = (
    (255, 176, 0),
    (64, 156, 255),
    (255, 64, 129),
    (0, 214, 143),
    (178, 102, 255),
    (255, 112, 67),
    (38, 224, 224),
    (214, 230, 60),
    (255, 153, 204),
    (161, 136, 127),
)
_TITLE_BACKGROUND = (32, 32, 32)


def class_colour(index: int) -> Colour:
    """Return a class's colour as BGR: ten fixed ones, then evenly spread hues."""
    if index < len(_PALETTE):
        red, green, blue = _PALETTE[index]
        return blue, green, red
    hue = int((index * 0.618034 % 1) * 180)
    pixel = cv2.cvtColor(np.array([[[hue, 170 + index % 2 * 60, 250]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(pixel[0]), int(pixel[1]), int(pixel[2])


def draw_boxes(
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray | None,
    names: Sequence[str],
) -> np.ndarray:
    """Draw boxes with class and score on a copy of an image; lines and letters grow with the picture.

    Args:
        image: BGR, (H, W, 3) uint8; not changed.
        boxes_xyxy: Pixels, (N, 4).
        classes: Index into `names`, (N,).
        scores: 0..1, (N,), or None for labels without a score.
        names: Class names.

    Returns:
        A new image of the same shape.
    """
    canvas = np.ascontiguousarray(image).copy()
    side = (canvas.shape[0] * canvas.shape[1]) ** 0.5
    line = max(1, round(side / 360))
    letter = int(min(max(side / 48, 9), 36))
    # Best last, so that nothing covers it; labels after all boxes for the same reason.
    order = np.arange(len(boxes_xyxy)) if scores is None else np.argsort(scores, kind="stable")
    for i in order:
        x1, y1, x2, y2 = (round(float(v)) for v in boxes_xyxy[i])
        # A dark rim keeps bright boxes visible on bright ground.
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (24, 24, 24), line + 2)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_colour(int(classes[i])), line)
    margin, taken, labels = max(2, letter // 5), np.zeros((0, 4), np.int64), []
    for i in order[::-1]:  # the best chooses its place first, and is drawn last
        index = int(classes[i])
        text = names[index] if scores is None else f"{names[index]} {float(scores[i]):.2f}"
        mask = _text_mask(text, letter)
        size = (mask.shape[1] + 2 * margin, mask.shape[0] + 2 * margin)
        left, top = label_place([round(float(v)) for v in boxes_xyxy[i]], size, canvas.shape, taken, line)
        taken = np.vstack([taken, [left, top, left + size[0], top + size[1]]])
        labels.append((mask, left, top, class_colour(index)))
    for mask, left, top, colour in reversed(labels):
        _put_label(canvas, mask, left, top, colour, margin)
    return canvas


def label_place(
    box: Sequence[int], size: tuple[int, int], shape: Sequence[int], taken: np.ndarray, line: int = 1
) -> tuple[int, int]:
    """Return where the label of a box covers other labels least: above it, below it, or inside, at its left or right.

    Args:
        box: Of the object, x1, y1, x2, y2, in pixels.
        size: Width and height of the label.
        shape: Height and width of the picture; the label stays inside where it fits.
        taken: Labels that are there already, x1, y1, x2, y2, int (N, 4).
        line: Width of the box's lines.

    Returns:
        Left and upper edge of the label.
    """
    x1, y1, x2, y2 = box
    width, height = size
    right = max(shape[1] - width, 0)
    rows = [y1 - height, y2, max(y1, 0), y2 - height]
    rows = [row for row in rows if 0 <= row <= shape[0] - height] or [max(y1, 0)]
    columns = [min(max(column, 0), right) for column in (x1 - line // 2, x2 + line // 2 - width)]
    places = [(left, top) for left in columns for top in rows]

    def covered(place: tuple[int, int]) -> int:
        low = np.maximum(taken[:, :2], place)
        high = np.minimum(taken[:, 2:], np.add(place, size))
        return int(np.clip(high - low, 0, None).prod(1).sum())

    return min(places, key=covered)  # the first of equals


def side_by_side(images: Sequence[np.ndarray], titles: Sequence[str], *, max_width: int = 3840) -> np.ndarray:
    """Put pictures of the same scene next to each other, each with a title above.

    Args:
        images: BGR, (H, W, 3) uint8; scaled to the height of the first.
        titles: One per picture.
        max_width: The result is scaled down to about this many pixels; its sides are even (video encoders want it).

    Returns:
        One BGR picture.
    """
    height = images[0].shape[0]
    panes = [_scaled(image, height / image.shape[0]) for image in images]
    total = sum(pane.shape[1] for pane in panes)
    gap = max(2, round(height / 200)) if len(panes) > 1 else 0
    if total > max_width:
        panes = [_scaled(pane, max_width / total) for pane in panes]
    letter = int(min(max(panes[0].shape[0] / 22, 13), 44))
    titled = [
        np.vstack([_title(pane.shape[1], title, letter), pane]) for pane, title in zip(panes, titles, strict=True)
    ]
    parts = [titled[0]]
    for pane in titled[1:]:
        tall = parts[0].shape[0]
        fitted = pane if pane.shape[0] == tall else cv2.resize(pane, (pane.shape[1], tall))
        parts += [np.full((tall, gap, 3), 255, np.uint8), fitted]
    picture = np.hstack(parts)
    odd_bottom, odd_right = picture.shape[0] % 2, picture.shape[1] % 2
    return np.asarray(cv2.copyMakeBorder(picture, 0, odd_bottom, 0, odd_right, cv2.BORDER_REPLICATE))


def _scaled(image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1:
        return image
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR))


def _title(width: int, text: str, letter: int) -> np.ndarray:
    bar = np.full((round(letter * 1.8), width, 3), _TITLE_BACKGROUND, np.uint8)
    while letter > 8 and _text_mask(text, letter).shape[1] > width - letter:
        letter -= 1
    mask = _text_mask(text, letter)[:, : max(width - 4, 1)]
    top = max((bar.shape[0] - mask.shape[0]) // 2, 0)
    _blend(bar, mask[: bar.shape[0]], min(letter // 2, max(width - mask.shape[1], 0)), top, (240, 240, 240))
    return bar


def _put_label(canvas: np.ndarray, mask: np.ndarray, left: int, top: int, colour: Colour, margin: int) -> None:
    height, width = mask.shape[0] + 2 * margin, mask.shape[1] + 2 * margin
    cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), colour, -1)
    blue, green, red = colour
    dark = 0.114 * blue + 0.587 * green + 0.299 * red > 140
    _blend(canvas, mask, left + margin, top + margin, (16, 16, 16) if dark else (255, 255, 255))


def _blend(canvas: np.ndarray, mask: np.ndarray, left: int, top: int, colour: Colour) -> None:
    height, width = min(mask.shape[0], canvas.shape[0] - top), min(mask.shape[1], canvas.shape[1] - left)
    if height <= 0 or width <= 0:
        return
    region = canvas[top : top + height, left : left + width]
    alpha = mask[:height, :width, None].astype(np.float32) / 255
    region[:] = (region * (1 - alpha) + np.array(colour, np.float32) * alpha).round().astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib ships this font, so letters outside ASCII work on every machine.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), size)


@functools.lru_cache(maxsize=2048)
def _text_mask(text: str, size: int) -> np.ndarray:
    """Return a text's opacity, 0..255, (height, width); the same height for all texts of one size."""
    font = _font(size)
    ascent, descent = font.getmetrics()
    picture = Image.new("L", (max(int(font.getlength(text)) + 1, 1), ascent + descent))
    ImageDraw.Draw(picture).text((0, 0), text, font=font, fill=255)
    return np.asarray(picture)
