"""From labels as written to checked records: images looked at, boxes in pixels, inside the image, of positive area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detkd.data.images import ImageInfo, Verify, check_images
from detkd.data.problems import Findings
from detkd.data.raw import RawImage, RawSplit
from detkd.data.records import DetectionSet, ImageRecord

__all__ = ["build_set", "number_images"]

_CLIP_REMARK_FROM = 1.0
"""Pixels; less is rounding and not worth a line."""
_LEAST_SIDE = 1e-3
"""Pixels; a thinner box is a slip of the mouse or a rounding, and its area may round to 0."""


def build_set(
    raw: RawSplit, findings: Findings, *, verify: Verify | None = "header", workers: int | None = None
) -> DetectionSet:
    """Check one split and turn it into records.

    Args:
        raw: What a format's reader returned.
        findings: Receives what can't be used: those images or boxes are missing from the result.
        verify: How closely to look at the image files; None trusts the sizes the labels state.
        workers: Threads for the image files.
    """
    if verify is None:
        sizes = [image.size or (0, 0) for image in raw.images]
        infos = [ImageInfo(size, size) if size[0] > 0 and size[1] > 0 else _NO_SIZE for size in sizes]
    else:
        infos = check_images([image.path for image in raw.images], verify=verify, workers=workers)
    ids = number_images(raw.images)
    records = []
    for image, info, image_id in zip(raw.images, infos, ids, strict=True):
        problem, detail = _image_problem(image, info)
        if problem:
            findings.add(raw.split, image.where, problem, detail)
            continue
        records.append(_record(image, info, image_id, raw.split, findings))
    return DetectionSet(raw.split, raw.names, raw.category_ids, tuple(records))


def number_images(images: Sequence[RawImage]) -> list[int]:
    """Return an id for each image: the source's own; else the file stems where all are distinct numbers; else 1, 2, ...

    COCO's images are named by their ids, and detections made by other tools use the stem: keeping it lets them match.
    """
    own = [image.image_id for image in images]
    if all(number is not None for number in own):
        return [number for number in own if number is not None]
    stems = [image.path.stem for image in images]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= 15 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers) and min(numbers) > 0:
            return numbers
    return list(range(1, len(images) + 1))


_NO_SIZE = ImageInfo((0, 0), (0, 0), "missing-size", "the label file gives no width and height")


def _image_problem(image: RawImage, info: ImageInfo) -> tuple[str, str]:
    if info.problem:
        return info.problem, info.detail
    if image.size is None or image.size == info.size or image.normalised:
        return "", ""
    stated, found = (f"{size[0]}x{size[1]}" for size in (image.size, info.size))
    if image.size == info.stored:
        return "size-mismatch", (
            f"labels are for {stated}, but the file's EXIF note turns it to {found}; label the turned image"
        )
    return "size-mismatch", f"labels are for an image of {stated}, but {image.path.name} is {found}"


def _record(image: RawImage, info: ImageInfo, image_id: int, split: str, findings: Findings) -> ImageRecord:
    width, height = info.size
    corners = np.array([box.corners for box in image.boxes], dtype=np.float64).reshape(-1, 4)
    limit = np.array([width, height, width, height], dtype=np.float64)
    with np.errstate(all="ignore"):  # absurd numbers overflow; they are reported below
        if image.normalised:
            corners = corners * limit
        finite = np.all(np.isfinite(corners), axis=1)
        clipped = np.clip(np.nan_to_num(corners), 0.0, limit)
        positive = np.all(corners[:, 2:] - corners[:, :2] > _LEAST_SIDE, axis=1)
        inside = np.all(clipped[:, 2:] - clipped[:, :2] > _LEAST_SIDE, axis=1)
        moved = np.any((np.abs(corners - clipped) > _CLIP_REMARK_FROM), axis=1)
    usable = finite & positive & inside
    moved = moved & usable
    for index in np.flatnonzero(~usable):
        problem, detail = "box-outside", f"outside the image of {width}x{height}"
        if not finite[index]:
            problem, detail = "non-finite", "is not made of finite numbers"
        elif not positive[index]:
            problem, detail = "empty-box", "has no positive width and height"
        numbers = ", ".join(f"{value:.6g}" for value in corners[index])
        findings.add(split, image.boxes[index].where, problem, f"box x1, y1, x2, y2 = {numbers} {detail}")
    findings.count(split, "boxes reached over the image's edge and were clipped", int(moved.sum()))

    kept = [image.boxes[index] for index in np.flatnonzero(usable)]
    boxes, over = clipped[usable], moved[usable]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for row, box in enumerate(kept):
        # a clipped box keeps COCO's area only where that is the object's own (a mask), not the box's
        if box.area is not None and 0 < box.area < float("inf") and not (over[row] and box.area > areas[row]):
            areas[row] = box.area
    return ImageRecord(
        image_id=image_id,
        path=image.path,
        width=width,
        height=height,
        boxes_xyxy=boxes,
        classes=np.array([box.class_index for box in kept], dtype=np.int64),
        crowd=np.array([box.crowd for box in kept], dtype=bool),
        areas=areas,
        meta=image.meta,
    )
