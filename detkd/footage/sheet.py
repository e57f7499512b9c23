"""One picture of many pictures, to see at a glance what was collected."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detkd.errors import DataError
from detkd.footage.collection import Collection, Item
from detkd.inference.images import read_image
from detkd.io import atomic_path

__all__ = ["contact_sheet"]

_TILE = (256, 168)  # width and height of a picture, pixels
_CAPTION = 34
_GAP = 8
_LETTER = 11


def contact_sheet(collection: Collection, path: str | Path, *, columns: int = 6, most: int = 60) -> Path:
    """Write a JPEG with the collected pictures and, below each, where and when it is from and how sharp and bright.

    Args:
        collection: The pictures.
        path: File to write.
        columns: Pictures in a row.
        most: Of a larger collection, this many are shown, evenly spread.

    Returns:
        The path.

    Raises:
        DataError: If there is nothing to show, or the file can't be written.
    """
    if not collection.items:
        raise DataError("contact sheet: no pictures were collected; collect some first")
    chosen = np.unique(np.linspace(0, len(collection) - 1, min(most, len(collection))).round().astype(int))
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    width, height = _TILE[0] + _GAP, _TILE[1] + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    font = _font(_LETTER)
    for place, number in enumerate(chosen):
        item = collection.items[number]
        left, top = _GAP + place % columns * width, _GAP + place // columns * height
        tile = _tile(item)
        sheet.paste(tile, (left + (_TILE[0] - tile.width) // 2, top + (_TILE[1] - tile.height) // 2))
        for line, text in enumerate(_captions(item)):
            draw.text((left, top + _TILE[1] + 2 + 15 * line), _shortened(text, font), font=font, fill=(225, 225, 225))
    with atomic_path(path) as temporary:
        sheet.save(temporary, "JPEG", quality=88)
    return Path(path)


def _tile(item: Item) -> Image.Image:
    try:
        image = read_image(item.file)
    except DataError:  # moved away since; a grey tile says so
        return Image.new("RGB", _TILE, (90, 90, 90))
    scale = min(_TILE[0] / image.shape[1], _TILE[1] / image.shape[0])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return Image.fromarray(np.ascontiguousarray(small[..., ::-1]))


def _captions(item: Item) -> tuple[str, str]:
    name = item.file.name
    if item.time_s is not None:
        minutes, seconds = divmod(item.time_s, 60)
        name = f"{Path(item.source).name} {int(minutes)}:{seconds:05.2f}"
    return name, f"{item.width}x{item.height}  sharp {item.sharpness:.0f}  bright {item.brightness:.0f}"


def _shortened(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Return the text, or its end (which tells files of one camera apart) where it is too long for a tile."""
    kept = text
    while len(kept) > 1 and font.getlength(kept if kept == text else "…" + kept) > _TILE[0]:
        kept = kept[1:]
    return kept if kept == text else "…" + kept


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib ships this font, so letters outside ASCII work on every machine.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
