"""A teacher that has answered already: detections in a COCO results file, from any tool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from detkd.caching.objects import SoftObjects, no_objects
from detkd.data.records import ImageRecord
from detkd.errors import DataError
from detkd.evaluation.inputs import box_problem
from detkd.evaluation.records import read_records
from detkd.inference.fusion import merge_same_place
from detkd.io import sha256
from detkd.models.classmap import partial_class_map

__all__ = ["ListedTeacher"]

_FIX = "give COCO results: image_id, category_id, bbox [left, top, width, height], score"


class ListedTeacher:
    """Detections read from a file: a COCO results list, or a whole COCO file whose annotations have scores.

    Classes of a whole file have its own names; a list has category ids only, which are those of the data. Ids that the
    data does not have, and those that `class_map` names, are called by their number: `{"17": "car"}`.

    Images are recognised by file name where the file tells names, else by image id; the ids of a list may be file names
    without suffix. An image that the file does not mention is one without any object.

    Attributes:
        path: The file.
        names: Its classes.
        mapping: Its class indices per class of the data, empty where it does not know the class.
        looks: Always 1.
    """

    looks = 1

    def __init__(
        self,
        path: Path,
        data_names: Sequence[str],
        *,
        category_ids: Sequence[int],
        class_map: Mapping[str, str],
        conf: float,
    ) -> None:
        self.path, self.conf = path, conf
        content = read_records(path)
        files: dict[Any, str] = {}
        titles: dict[Any, str] = {
            i: name for i, name in zip(category_ids, data_names, strict=True) if str(i) not in class_map
        }
        if isinstance(content, Mapping):
            files = {entry.get("id"): str(entry.get("file_name")) for entry in _entries(content, "images", path)}
            titles = {entry.get("id"): str(entry.get("name")) for entry in _entries(content, "categories", path)}
            content = [_entries(content, "annotations", path)]
        elif not isinstance(content, Iterator):
            raise DataError(f"{path}: no list of detections, got {str(content)[:40]!r}; {_FIX}")
        self._keys: dict[Any, int] = {}
        categories: dict[Any, int] = {}
        rows: list[tuple[int, int, float, float, float, float, float]] = []
        named = bool(files)
        number = 0
        for block in content:
            for record in block:
                _check(record, path, number)
                key = files.get(record["image_id"], record["image_id"]) if files else record.get("file_name")
                named = named or key is not None
                image = self._keys.setdefault(record["image_id"] if key is None else key, len(self._keys))
                label = categories.setdefault(record["category_id"], len(categories))
                x, y, width, height = record["bbox"]
                rows.append((image, label, record["score"], x, y, x + width, y + height))
                number += 1
        for key in titles:
            categories.setdefault(key, len(categories))
        self.names = tuple(titles.get(key, str(key)) for key in categories)
        self.mapping = partial_class_map(self.names, data_names, class_map, source=str(path))
        self._numbers = not named and all(isinstance(key, int) for key in self._keys)
        if not self._numbers:
            self._keys = _by_name(self._keys)
        # Sorted by image, so that each image's detections are a slice.
        self._rows = np.asarray(sorted(rows, key=lambda row: row[0]), dtype=np.float64).reshape(-1, 7)
        self._targets = [[d for d, found in enumerate(self.mapping) if s in found] for s in range(len(self.names))]

    def knows(self, item: str | Path | ImageRecord) -> bool:
        """Return whether the file has a detection in an image."""
        return self._find(item) is not None

    def answer(self, item: str | Path | ImageRecord, size: tuple[int, int]) -> SoftObjects:
        """Return the objects of one image of `size` width and height in pixels, clipped to it."""
        image = self._find(item)
        if image is None:
            return no_objects(len(self.mapping))
        start, stop = np.searchsorted(self._rows[:, 0], [image, image + 1])
        rows = self._rows[start:stop]
        boxes = np.clip(rows[:, 3:], 0, np.array([*size, *size])).astype(np.float32)
        probs = np.zeros((len(rows), len(self.mapping)), np.float32)
        for index, label in enumerate(rows[:, 1].astype(int)):
            probs[index, self._targets[label]] = rows[index, 2]
        quality = probs.max(1, initial=0)
        usable = (quality > self.conf) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        return merge_same_place(SoftObjects(boxes, probs, quality).take(usable))

    def check_images(self, items: Iterable[str | Path | ImageRecord]) -> None:
        """Make sure that the file belongs to these images.

        Raises:
            DataError: If it has a detection in none of them.
        """
        listed = list(items)
        if listed and not any(self.knows(item) for item in listed):
            first = listed[0]
            wanted = f"{first.image_id} ({first.path.name})" if isinstance(first, ImageRecord) else PurePath(first).name
            have = next(iter(self._keys), "none")
            raise DataError(
                f"{self.path}: holds detections in none of the {len(listed)} images; its images are like {have!r}, "
                f"those asked about like {wanted}; give a file with the image ids or file names of these images"
            )

    def fingerprint(self) -> dict[str, Any]:
        """Return what its answers depend on, as JSON values."""
        return {"weights": sha256(self.path), "classes": list(self.names), "imgsz": None}

    def describe(self) -> dict[str, Any]:
        """Return its settings for people to read."""
        return {"weights": str(self.path), "runtime": "COCO results", "detections": len(self._rows)}

    def _find(self, item: str | Path | ImageRecord) -> int | None:
        path = item.path if isinstance(item, ImageRecord) else PurePath(item)
        if not self._numbers:
            # The longest form first: names in several folders can be alike.
            forms = ["/".join(path.parts[-depth:]) for depth in range(len(path.parts), 0, -1)]
            return next((self._keys[form] for form in (*forms, path.stem) if form in self._keys), None)
        if isinstance(item, ImageRecord):
            return self._keys.get(item.image_id)
        # As Ultralytics numbers images.
        return self._keys.get(int(path.stem)) if path.stem.isdecimal() else None


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[Mapping[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise DataError(f"{path}: no list of {key}; {_FIX}")
    return entries


def _check(record: Any, path: Path, number: int) -> None:
    """Raise `DataError` for a record that can't be used."""
    if not isinstance(record, Mapping):
        raise DataError(f"{path}: record {number}: not a record, got {str(record)[:40]!r}; {_FIX}")
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in record]
    if missing:
        raise DataError(f"{path}: record {number}: no {missing[0]}; {_FIX}")
    for key in ("image_id", "category_id"):
        if not isinstance(record[key], (int, str)):
            raise DataError(f"{path}: record {number}: {key} must be a number or a name, got {record[key]!r}; {_FIX}")
    if problem := box_problem(record["bbox"], flat=True):
        raise DataError(f"{path}: record {number}: {problem[0]}; {problem[1]}")
    score = record["score"]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise DataError(f"{path}: record {number}: score must be 0 to 1, got {score!r}; write the confidence")


def _by_name(keys: Mapping[Any, int]) -> dict[Any, int]:
    """Return image keys as they are looked up: whole name, base name and stem; forms that fit two images are out."""
    table: dict[Any, int] = {}
    twice: set[str] = set()
    for key, index in keys.items():
        path = PurePosixPath(str(key).replace("\\", "/"))
        for form in {str(path), path.name, path.stem}:
            if table.setdefault(form, index) != index:
                twice.add(form)
    return {form: index for form, index in table.items() if form not in twice}
