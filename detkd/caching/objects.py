"""What teachers found in an image, and its form on disk: some 25 bytes per object."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from detkd.errors import DataError, ShapeError

__all__ = ["SoftObjects", "decode_objects", "empty_record", "encode_objects", "no_objects", "object_bytes"]

_HEADER = struct.Struct("<HB")
"""Number of objects, classes stored per object. Also an image without any object has it, so no record is empty."""

_STEPS = 65535
"""Steps along each side of the image that corners are rounded to: below a tenth of a pixel up to 6500 pixels."""


@dataclass(frozen=True)
class SoftObjects:
    """Objects of one image with what the teachers think they are, best first.

    Attributes:
        boxes_xyxy: Pixels of the original image, inside it, float32 (N, 4).
        probs: Probability of each class of the data, float32 (N, C); rows need not add up to 1.
        quality: How far the object is to be trusted, 0..1, float32 (N,): the score, lowered where only some of the
            answers that were merged saw the object.
    """

    boxes_xyxy: np.ndarray
    probs: np.ndarray
    quality: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.quality)
        if self.boxes_xyxy.shape != (count, 4) or self.probs.ndim != 2 or len(self.probs) != count:
            shapes = [list(np.shape(part)) for part in (self.boxes_xyxy, self.probs, self.quality)]
            raise ShapeError(f"soft objects: need boxes (N, 4), probs (N, C), quality (N,), got {shapes}")

    def __len__(self) -> int:
        return len(self.quality)

    @property
    def classes(self) -> np.ndarray:
        """Most probable class of each object, int64 (N,)."""
        return np.asarray(self.probs.argmax(1) if len(self) else np.zeros(0), dtype=np.int64)

    def take(self, index: np.ndarray) -> SoftObjects:
        """Return the objects of an index or mask, in its order."""
        return SoftObjects(self.boxes_xyxy[index], self.probs[index], self.quality[index])


def no_objects(num_classes: int) -> SoftObjects:
    """Return the answer for an image in which nothing was found."""
    return SoftObjects(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0, num_classes), (0,))))


def object_bytes(classes: int, num_classes: int) -> int:
    """Return the bytes one stored object takes; an image takes three more."""
    return 9 + min(classes, num_classes, 255) * (1 + _id_type(num_classes).itemsize)


def empty_record() -> bytes:
    """Return the record of an image in which nothing was found: a header, so that it differs from a missing record."""
    return _HEADER.pack(0, 0)


def encode_objects(objects: SoftObjects, *, size: tuple[int, int], classes: int, max_objects: int) -> bytes:
    """Pack the objects of one image.

    Corners are rounded to 1/65535 of the image's side, probabilities and quality to 1/255. A box keeps an area, however
    thin it is.

    Args:
        objects: Any order; the best `max_objects` are kept, best first.
        size: Width and height of the image in pixels.
        classes: Classes kept per object, the most probable first; the others count as impossible when read.
        max_objects: Most objects to keep, at most 65535.

    Raises:
        DataError: If a number is not finite or the image has no area.
    """
    check = (objects.boxes_xyxy, objects.probs, objects.quality)
    if not all(np.isfinite(part).all() for part in check):
        raise DataError(
            "cache: a teacher's answer holds NaN or infinity; check the weights (did its training diverge?)"
        )
    sides = _sides(size)
    best = np.argsort(-objects.quality, kind="stable")[: min(max_objects, _STEPS)]
    if not len(best):
        return empty_record()
    num_classes = objects.probs.shape[1]
    kept = min(classes, num_classes, 255)
    probs = objects.probs[best]
    ids = np.argsort(-probs, axis=1, kind="stable")[:, :kept]
    corners = np.rint(np.clip(objects.boxes_xyxy[best].astype(np.float64) / sides, 0, 1) * _STEPS)
    low = np.minimum(corners[:, :2], _STEPS - 1)
    boxes = np.concatenate([low, np.maximum(corners[:, 2:], low + 1)], 1)
    columns = (
        boxes.astype("<u2"),
        ids.astype(_id_type(num_classes)),
        _to_bytes(np.take_along_axis(probs, ids, 1)),
        _to_bytes(objects.quality[best]),
    )
    return _HEADER.pack(len(best), kept) + b"".join(column.tobytes() for column in columns)


def decode_objects(payload: bytes | memoryview, *, size: tuple[int, int], num_classes: int) -> SoftObjects:
    """Unpack what `encode_objects` packed.

    Args:
        payload: One record.
        size: Width and height of the image in pixels.
        num_classes: Classes of the data, as when it was packed.

    Raises:
        DataError: If the record can't be one of these classes.
    """
    if len(payload) < _HEADER.size:
        raise _damaged(len(payload), num_classes)
    count, kept = _HEADER.unpack_from(payload)
    if kept > num_classes or len(payload) != _HEADER.size + count * object_bytes(kept, num_classes):
        raise _damaged(len(payload), num_classes)
    if not count:
        return no_objects(num_classes)
    kind = _id_type(num_classes)
    boxes, start = _column(payload, _HEADER.size, np.dtype("<u2"), (count, 4))
    ids, start = _column(payload, start, kind, (count, kept))
    stored, start = _column(payload, start, np.dtype(np.uint8), (count, kept))
    quality, _ = _column(payload, start, np.dtype(np.uint8), (count,))
    if ids.max(initial=0) >= num_classes:
        raise _damaged(len(payload), num_classes)
    probs = np.zeros((count, num_classes), np.float32)
    np.put_along_axis(probs, ids.astype(np.int64), stored.astype(np.float32) / 255, 1)
    corners = boxes.astype(np.float64) / _STEPS * _sides(size)
    return SoftObjects(corners.astype(np.float32), probs, quality.astype(np.float32) / 255)


def _column(payload: bytes | memoryview, start: int, kind: np.dtype, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Return one column of a record and where the next begins."""
    count = int(np.prod(shape))
    return np.frombuffer(payload, kind, count, start).reshape(shape), start + count * kind.itemsize


def _id_type(num_classes: int) -> np.dtype:
    return np.dtype(np.uint8 if num_classes <= 256 else "<u2")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


def _sides(size: tuple[int, int]) -> np.ndarray:
    width, height = size
    if width <= 0 or height <= 0:
        raise DataError(f"cache: an image must have an area, got {width} x {height} pixels; check its record")
    return np.array([width, height, width, height], dtype=np.float64)


def _damaged(length: int, num_classes: int) -> DataError:
    return DataError(
        f"cache: a record of {length} bytes holds no objects of {num_classes} classes; "
        "is the cache of other classes? build it anew"
    )
