"""Read and check detections: COCO results lists, also as Ultralytics' `save_json` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from detkd.errors import DataError
from detkd.evaluation.inputs import (
    Detections,
    GroundTruth,
    OnBad,
    Problems,
    box_problem,
    check_on_bad,
    chunks,
)
from detkd.evaluation.mapping import read_categories, read_images
from detkd.evaluation.records import read_records

__all__ = ["load_detections"]

_FLAT = 1e-6
"""Pixels that a width or height of 0 becomes. Tools that clip at the image's edge and round write such boxes."""

_LARGEST = 1 << 1023
"""Whole numbers from here on have no floating point value."""

_FIELDS = ("image_id", "category_id", "bbox", "score")


class _Columns(NamedTuple):
    """Records as columns; images and categories as codes into lists of the distinct keys found."""

    number: np.ndarray
    image: np.ndarray
    label: np.ndarray
    values: np.ndarray  # (N, 5): score, left, top, width, height
    image_keys: list[tuple[Any, Any]]  # (image_id, file_name or None)
    label_keys: list[Any]


def load_detections(
    detections: Iterable[Mapping[str, Any]] | str | Path | Detections, truth: GroundTruth, *, on_bad: OnBad = "error"
) -> Detections:
    """Return checked detections on the images of `truth`.

    An empty list is fine. Image ids may be the ground truth's ids (also as strings) or file names without suffix.
    Category ids are the ground truth's, or class index + 1 in files that name images by file, as Ultralytics does.

    Args:
        detections: COCO results as any iterable of records, or the path of a JSON file; a stream is read once.
        truth: The ground truth they belong to.
        on_bad: "error" stops at the first unusable record, "skip" leaves it out with a warning.

    Raises:
        DataError: Names file, record (counted from 0) and fix.
    """
    if isinstance(detections, Detections):
        return detections
    source, content = "detections", cast(Any, detections)
    if isinstance(detections, (str, Path)):
        source, content = str(detections), read_records(detections)
    problems = Problems(source, check_on_bad(on_bad))
    in_blocks = content is not detections and isinstance(content, Iterator)
    if isinstance(content, Mapping):
        content = content.get("annotations")
    if content is None or isinstance(content, str) or not isinstance(content, Iterable):
        raise DataError(f"{source}: detections must be a list of records with {', '.join(_FIELDS)}; give COCO results")
    columns = _columns(content if in_blocks else chunks(content), problems)
    image_map, image_reading, notes = read_images(columns.image_keys, truth, source)
    by_file = image_reading == "file name"
    image = image_map[columns.image]
    label_map, label_reading, more = read_categories(
        columns.label_keys, columns.label, image, columns.values[:, 0], truth, source, by_file=by_file
    )
    label = label_map[columns.label]
    keep = (image >= 0) & (label >= 0)
    flat = np.flatnonzero((columns.values[:, 3:] == 0).any(axis=1))
    if len(flat):
        # A box without area on a crowd region would be 0 / 0 to an engine.
        columns.values[:, 3:] = np.maximum(columns.values[:, 3:], _FLAT)
        text = f"{len(flat)} boxes have no width or no height, first record {columns.number[flat[0]]}"
        more = (*more, f"{source}: {text}; such boxes can match no object and count as false alarms")
    for row in np.flatnonzero(~keep):
        where = f"record {columns.number[row]}"
        if image[row] < 0:
            key, name = columns.image_keys[columns.image[row]]
            named = f" (file_name {name!r})" if name else ""
            problems.add(
                where,
                f"unknown image_id {key!r}{named}, not in {truth.source}",
                "use the ground truth's image ids, or its file names without suffix",
                "an unknown image_id",
            )
        else:
            problems.add(where, *_unknown_category(columns.label_keys[columns.label[row]], columns.label_keys, truth))
    return Detections(
        source=source,
        image=image[keep],
        label=label[keep],
        boxes_xywh=np.ascontiguousarray(columns.values[keep, 1:]),
        scores=np.ascontiguousarray(columns.values[keep, 0]),
        reading={"image_id": image_reading, "category_id": label_reading},
        warnings=(*problems.warnings(), *notes, *more),
    )


def _columns(blocks: Iterable[list[Any]], problems: Problems) -> _Columns:
    images: dict[tuple[Any, Any], int] = {}
    labels: dict[Any, int] = {}
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    start = 0
    for block in blocks:
        good = _plain(block)
        numbers = np.arange(start, start + len(block))
        if good is None:
            usable = []
            for index, record in enumerate(block):
                problem = _problem(record)
                if problem:
                    problems.add(f"record {start + index}", *problem)
                else:
                    usable.append(index)
            numbers = numbers[usable]
            good = _split([block[index] for index in usable])
        start += len(block)
        image_keys, label_keys, values = good
        parts.append((numbers, _codes(image_keys, images), _codes(label_keys, labels), values))
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return _Columns(none, none, none, np.zeros((0, 5)), [], [])
    number, image, label, values = (np.concatenate([part[column] for part in parts]) for column in range(4))
    return _Columns(number, image, label, values, list(images), list(labels))


_Block = tuple[list[tuple[Any, Any]], list[Any], np.ndarray]


def _split(records: list[Any]) -> _Block:
    """Return usable records as image keys, category ids and numbers (N, 5)."""
    values = np.empty((len(records), 5))
    values[:, 0] = [record["score"] for record in records]
    coordinates = chain.from_iterable(record["bbox"] for record in records)
    values[:, 1:] = np.fromiter(coordinates, np.float64, 4 * len(records)).reshape(-1, 4)
    images = [(record["image_id"], record.get("file_name")) for record in records]
    return images, [record["category_id"] for record in records], values


def _plain(block: list[Any]) -> _Block | None:
    """Return a block as `_split` does, or None if any record of it needs a closer look.

    It asks what `_problem` asks, of all records at once.
    """
    if set(map(type, block)) != {dict}:
        return None
    try:
        boxes = [record["bbox"] for record in block]
        kinds = {*map(type, chain.from_iterable(boxes)), *(type(record["score"]) for record in block)}
        if set(map(len, boxes)) != {4} or not kinds <= {int, float}:
            return None
        images, labels, values = _split(block)
        hash((*images, *labels))
    except (KeyError, TypeError, OverflowError):
        return None
    return (images, labels, values) if np.isfinite(values).all() and values[:, 3:].min() >= 0 else None


def _codes(keys: list[Any], known: dict[Any, int]) -> np.ndarray:
    """Number the keys in the order of their first appearance, going on from those in `known`."""
    for key in dict.fromkeys(keys):
        known.setdefault(key, len(known))
    return np.fromiter(map(known.__getitem__, keys), np.int64, len(keys))


def _problem(record: Any) -> tuple[str, str, str] | None:
    """Return (what, fix, kind) for an unusable record. The first lines are the common case, kept cheap."""
    try:
        score = record["score"]
        x, y, w, h = record["bbox"]
        hash((record["image_id"], record["category_id"], record.get("file_name")))
        finite = isfinite(score) and isfinite(x) and isfinite(y) and isfinite(w) and isfinite(h)
        if finite and w >= 0 and h >= 0 and not isinstance(score, bool):
            return None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        pass
    if not isinstance(record, Mapping):
        fix = f"every detection is an object with {', '.join(_FIELDS)}"
        return f"not a record, got {record!r:.80}", fix, "no fields"
    for key in _FIELDS:
        if key not in record:
            return f"no {key}", f"every detection needs {', '.join(_FIELDS)}", f"no {key}"
    score = record["score"]
    number = hasattr(score, "__float__") and not isinstance(score, (bool, str))
    if not number or (isinstance(score, int) and abs(score) >= _LARGEST):
        what = f"score must be a number, got {score!r:.80}"
        return what, "write the detector's confidence", "a score that is no number"
    if not np.isfinite(float(score)):
        return (
            f"score is {float(score)}",
            "find out where the detector breaks (training diverged?)",
            "a non-finite score",
        )
    return box_problem(record["bbox"], flat=True) or (
        "unusable ids or numbers",
        "ids are integers or strings",
        "unusable ids",
    )


def _unknown_category(key: Any, keys: list[Any], truth: GroundTruth) -> tuple[str, str, str]:
    count = len(truth.names)
    known = ", ".join(f"{i} {n}" for i, n in list(zip(truth.category_ids, truth.names, strict=True))[:12])
    more = ", ..." if count > 12 else ""
    fix = f"{truth.source} has {known}{more}"
    if all(isinstance(k, int) and 0 <= k < count for k in keys):
        fix += "; these look like class indices from 0, write the category ids instead"
    elif all(isinstance(k, int) and 1 <= k <= count for k in keys):
        fix += "; these look like class indices + 1, write the category ids instead"
    return f"unknown category_id {key!r}", fix, "an unknown category_id"
