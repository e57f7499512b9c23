"""Read and check COCO ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkd.errors import DataError
from detkd.evaluation.inputs import GroundTruth, OnBad, Problems, box_problem, check_on_bad, open_source

__all__ = ["load_truth"]

_LARGEST = 1e300
"""Square pixels; larger numbers overflow further on."""


def load_truth(gt: Mapping[str, Any] | str | Path | GroundTruth, *, on_bad: OnBad = "error") -> GroundTruth:
    """Return checked ground truth.

    Missing `area` is width x height, missing `iscrowd` is 0, `ignore` is not used (as in pycocotools, where `iscrowd`
    wins); annotation ids are not used at all.

    Args:
        gt: COCO instances as a dictionary or the path of a JSON file; checked ground truth is returned as it is.
        on_bad: "error" stops at the first unusable annotation, "skip" leaves it out with a warning.

    Raises:
        DataError: Names file, record and fix.
    """
    if isinstance(gt, GroundTruth):
        return gt
    source, content = open_source(gt, "gt")
    problems = Problems(source, check_on_bad(on_bad))
    if not isinstance(content, Mapping) or not {"images", "categories"} <= set(content):
        raise DataError(
            f"{source}: COCO ground truth needs `images`, `annotations` and `categories`; give an instances file as gt="
        )
    names, category_ids = _categories(source, content["categories"])
    images = _images(source, content["images"])
    return _annotations(problems, content.get("annotations") or [], names, category_ids, images)


def _categories(source: str, records: Any) -> tuple[tuple[str, ...], tuple[int | str, ...]]:
    if not isinstance(records, list) or not records:
        raise DataError(f"{source}: the class list (`categories`) is empty; name at least one class")
    for index, record in enumerate(records):
        if not isinstance(record, Mapping) or not _is_id(record.get("id")):
            raise DataError(
                f"{source}: categories[{index}]: no id that can be used, got {record!r:.80}; give every class an id (a "
                "whole number or a text) and a name"
            )
    # Ultralytics' own in-memory ground truth has ids only.
    names = [str(record.get("name", record["id"])) for record in records]
    ids = [record["id"] for record in records]
    for what, values in (("id", ids), ("name", names)):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise DataError(f"{source}: categories: {what} {value!r:.80} is there twice; make class {what}s unique")
    return tuple(names), tuple(ids)


def _images(source: str, records: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(records, list) or not records:
        raise DataError(f"{source}: no images; is it the annotation file of the right split?")
    seen: dict[Any, int] = {}
    for index, record in enumerate(records):
        if not isinstance(record, Mapping) or not _is_id(record.get("id")):
            raise DataError(f"{source}: images[{index}]: no usable id, got {record!r:.80}; ids are integers or strings")
        if record["id"] in seen:
            raise DataError(
                f"{source}: images[{index}]: duplicate image id {record['id']!r}, first in "
                f"images[{seen[record['id']]}]; give every image its own id"
            )
        seen[record["id"]] = index
    # Sorted, because equal scores are ranked in the order of images and pycocotools sorts ids.
    return tuple(sorted(records, key=lambda r: (isinstance(r["id"], str), r["id"])))


def _annotations(
    problems: Problems,
    records: Any,
    names: tuple[str, ...],
    category_ids: tuple[int | str, ...],
    images: tuple[Mapping[str, Any], ...],
) -> GroundTruth:
    if not isinstance(records, list):
        raise DataError(
            f"{problems.source}: `annotations` must be a list, got {type(records).__name__}; give COCO instances"
        )
    image_of = {record["id"]: index for index, record in enumerate(images)}
    label_of = {key: index for index, key in enumerate(category_ids)}
    rows: list[tuple[int, int, float, bool, float, float, float, float]] = []
    for index, record in enumerate(records):
        problem = _problem(record, image_of, label_of)
        if problem:
            problems.add(f"annotations[{index}]", *problem)
            continue
        x, y, w, h = (float(v) for v in record["bbox"])
        area = record.get("area")
        rows.append(
            (
                image_of[record["image_id"]],
                label_of[record["category_id"]],
                w * h if area is None else float(area),
                bool(record.get("iscrowd", 0)),
                x,
                y,
                w,
                h,
            )
        )
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 8)
    return GroundTruth(
        source=problems.source,
        names=names,
        category_ids=category_ids,
        images=images,
        image=table[:, 0].astype(np.int64),
        label=table[:, 1].astype(np.int64),
        boxes_xywh=np.ascontiguousarray(table[:, 4:]),
        areas=np.ascontiguousarray(table[:, 2]),
        crowd=table[:, 3].astype(bool),
        warnings=problems.warnings(),
    )


def _problem(record: Any, image_of: Mapping[Any, int], label_of: Mapping[Any, int]) -> tuple[str, str, str] | None:
    if not isinstance(record, Mapping):
        return (
            f"not a record, got {record!r:.80}",
            "every annotation is an object with image_id, category_id, bbox",
            "no fields",
        )
    for key in ("image_id", "category_id", "bbox"):
        if key not in record:
            return f"no {key}", "every annotation needs image_id, category_id and bbox", f"no {key}"
    if not _known(record["image_id"], image_of):
        return (
            f"unknown image_id {record['image_id']!r:.80}",
            "add the image or remove the annotation",
            "an unknown image_id",
        )
    if not _known(record["category_id"], label_of):
        known = ", ".join(map(str, list(label_of)[:12]))
        return f"unknown category_id {record['category_id']!r:.80}", f"known ids: {known}", "an unknown category_id"
    area = record.get("area")
    if area is not None and (not isinstance(area, (int, float)) or not 0 <= area < float("inf") or area > _LARGEST):
        return f"area must be a number >= 0, got {area!r:.80}", "remove the field to use width x height", "a bad area"
    return box_problem(record["bbox"])


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _known(key: Any, table: Mapping[Any, int]) -> bool:
    return isinstance(key, (int, float, str)) and key in table
