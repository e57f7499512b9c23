"""Looking at image files without changing them: real size, and whether they are complete."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
from PIL import Image, ImageFile

from detkd.errors import DataError
from detkd.progress import track

__all__ = ["ImageInfo", "Verify", "check_image", "check_images", "check_verify"]

Verify = Literal["header", "full"]
"""`header` reads the size and looks at both ends of the file, `full` decodes every pixel."""

_LIMIT = "DETKD_IMAGE_LIMIT_MP"
_LIMIT_MEGAPIXELS = 200
_RAISE = f"cut it into tiles, or set {_LIMIT} to as many megapixels as memory holds"

_ORIENTATION = 0x0112
_SHOW_PROGRESS_FROM = 3000
"""Fewer images are done before a bar could be read."""


class ImageInfo(NamedTuple):
    """What a look at an image file gave.

    Attributes:
        size: Width and height of the decoded image, camera rotation (EXIF) applied; (0, 0) when unusable.
        stored: Width and height as stored, before that rotation.
        problem: Slug of what is wrong, or "".
        detail: The same as half a sentence.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    problem: str = ""
    detail: str = ""


def check_verify(value: object) -> Verify:
    """Return `value` when it is a choice of `Verify`, else raise `DataError` naming the key."""
    for choice in get_args(Verify):
        if value == choice:
            return choice  # type: ignore[no-any-return]
    raise DataError(f"data.verify: must be header or full, got {value!r}; choose one of the two")


def check_image(path: Path, verify: Verify = "header") -> ImageInfo:
    """Look at one image file.

    The size is that of what `cv2.imread` returns, because that is what training and evaluation see: phones and cameras
    store JPEGs sideways with an EXIF note. A file whose end marker is missing is decoded to tell a truncated one (some
    rows would silently be grey) from one with harmless bytes at the end.
    """
    try:
        bytes_ = os.stat(path).st_size
        if bytes_ == 0:
            return _bad("empty-file", "the image file is empty (0 bytes)")
        with Image.open(path) as image:
            stored, kind = image.size, image.format or ""
            rotated = _rotated(image, kind)
            if verify == "full" or not _complete(path, kind, bytes_):
                image.load()
                return _decoded(path, stored)
        if rotated and kind not in ("JPEG", "MPO"):
            return _decoded(path, stored)  # whether OpenCV turns those depends on its version
        return ImageInfo((stored[1], stored[0]) if rotated else stored, stored)
    except (FileNotFoundError, NotADirectoryError):
        return _bad("missing-image", f"no image file {path}")
    except PermissionError:
        return _bad("broken-image", f"no permission to read {path}")
    except Image.DecompressionBombError:
        size = f"more than {_most_pixels() / 1e6:.0f} million pixels"
        return _bad("broken-image", f"{path} would decode to {size}, {_RAISE}")
    except Exception as err:  # decoders raise nearly anything on broken bytes
        if isinstance(err, ValueError | OSError) and not os.path.lexists(str(path).replace("\0", "")):
            return _bad("missing-image", f"no image file {str(path)!r}")
        return _bad("broken-image", f"{path} can't be decoded ({_one_line(err)})")


def check_images(paths: Sequence[Path], *, verify: Verify = "header", workers: int | None = None) -> list[ImageInfo]:
    """Look at many image files in parallel threads; the order is kept.

    Args:
        paths: Image files; the same path twice is looked at once.
        verify: How closely.
        workers: Threads; 2 per core, at most 16, by default (most of the time goes to waiting for the disk).
    """
    unique = list(dict.fromkeys(paths))
    threads = workers or min(16, 2 * (os.cpu_count() or 1))
    with _strict_decoder(), ThreadPoolExecutor(threads) as pool:
        results: Iterator[ImageInfo] = pool.map(lambda path: check_image(path, verify), unique)
        if len(unique) >= _SHOW_PROGRESS_FROM:
            results = track(results, "checking images", len(unique))
        info = dict(zip(unique, results, strict=True))
    return [info[path] for path in paths]


@contextmanager
def _strict_decoder() -> Iterator[None]:
    """Make PIL report truncated files even where another library told it not to."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = _most_pixels() // 2  # PIL warns from there and refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def _most_pixels() -> int:
    text = os.environ.get(_LIMIT, "")
    return 1_000_000 * (int(text) if text.isascii() and text.isdecimal() and int(text) else _LIMIT_MEGAPIXELS)


def _rotated(image: Image.Image, kind: str) -> bool:
    """Return whether width and height change places when the EXIF orientation is applied."""
    if kind == "TIFF" or (kind == "PNG" and "exif" not in image.info):
        return False  # PIL turns TIFF itself; for a PNG without the note, asking would decode the whole image
    return image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)


def _complete(path: Path, kind: str, bytes_: int) -> bool:
    """Return whether the file ends as its format demands; False when that can't be told cheaply."""
    with path.open("rb") as stream:
        if kind == "WEBP":
            return int.from_bytes(stream.read(8)[4:], "little") + 8 <= bytes_
        stream.seek(max(0, bytes_ - 12))
        tail = stream.read(12)
    if kind in ("JPEG", "MPO"):
        return tail.endswith(b"\xff\xd9")
    return kind == "PNG" and tail[4:8] == b"IEND"


def _decoded(path: Path, stored: tuple[int, int]) -> ImageInfo:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        return _bad("broken-image", f"{path} can't be decoded by OpenCV")
    size = (int(pixels.shape[1]), int(pixels.shape[0]))
    return ImageInfo(size, stored if stored != (0, 0) else size)


def _bad(problem: str, detail: str) -> ImageInfo:
    return ImageInfo((0, 0), (0, 0), problem, detail)


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())[:160] or type(err).__name__
