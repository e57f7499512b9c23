"""Which image and which class a detection means, when the file does not say it in the ground truth's own ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from detkd.errors import DataError
from detkd.evaluation.inputs import GroundTruth

__all__ = ["read_categories", "read_images"]


def read_images(
    keys: list[tuple[Any, Any]], truth: GroundTruth, source: str
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Map distinct (image_id, file_name) pairs to images.

    A file is read in one way as a whole: the first of file_name, id, id as text, id as file name that knows every key,
    else the one that knows most. File names come first because Ultralytics writes the number in the file name as
    image_id, which can be the id of another image.

    Returns:
        Index into the truth's images per key or -1, int64; the reading ("id" or "file name"); warnings.

    Raises:
        DataError: If no key is known: that is the ground truth of another set, not a few bad records.
    """
    ids: dict[Any, int] = {record["id"]: index for index, record in enumerate(truth.images)}
    texts = {str(key): index for key, index in ids.items()}
    files = _file_table(truth)
    readings: list[tuple[str, list[int]]] = []
    if keys and all(isinstance(name, str) for _, name in keys):
        readings.append(("file name", [_find_file(name, files) for _, name in keys]))
    readings.append(("id", [ids.get(key, -1) for key, _ in keys]))
    readings.append(("id", [texts.get(str(key), -1) for key, _ in keys]))
    readings.append(("file name", [_find_file(key, files) for key, _ in keys]))
    best, mapped = max(readings, key=lambda reading: sum(index >= 0 for index in reading[1]))
    if keys and max(mapped) < 0:
        first = next(key if name is None else name for key, name in keys)
        raise DataError(
            f"{source}: none of its {len(keys)} images is in {truth.source} (unknown image_id {first!r}); give the "
            "ground truth of these images, with its own image ids or file names"
        )
    notes: tuple[str, ...] = ()
    complete = {name: found for name, found in reversed(readings) if -1 not in found}
    if len(complete) == 2 and complete["id"] != complete["file name"]:
        notes = (f"{source}: image ids fit the ground truth both as ids and as file names; read as {best}",)
    return np.asarray(mapped, dtype=np.int64).reshape(-1), best, notes


def _file_table(truth: GroundTruth) -> dict[Any, int]:
    """File name, base name, stem and number in the stem of each image; names of two images are left out."""
    table: dict[Any, int] = {}
    twice: set[Any] = set()
    for index, record in enumerate(truth.images):
        name = record.get("file_name")
        if not isinstance(name, str):
            continue
        path = PurePosixPath(name.replace("\\", "/"))
        forms: set[Any] = {name, path.name, path.stem}
        if path.stem.isdecimal():
            forms.add(int(path.stem))
        for form in forms:
            if table.setdefault(form, index) != index:
                twice.add(form)
    return {form: index for form, index in table.items() if form not in twice}


def _find_file(key: Any, files: Mapping[Any, int]) -> int:
    if not isinstance(key, str):
        return files.get(key, -1)
    path = PurePosixPath(key.replace("\\", "/"))
    return next((files[form] for form in (key, path.name, path.stem) if form in files), -1)


def read_categories(
    keys: list[Any],
    label: np.ndarray,
    image: np.ndarray,
    scores: np.ndarray,
    truth: GroundTruth,
    source: str,
    *,
    by_file: bool,
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Map distinct category ids to classes.

    Ids are the ground truth's, unless the file names its images (Ultralytics) and only class index + 1 makes sense, or
    makes more sense: more of the total score on classes that are labelled in their image.

    Args:
        keys: Distinct category ids.
        label: Index into `keys` of each detection.
        image: Image of each detection, -1 for unknown ones.
        scores: Confidence of each detection.
        truth: The ground truth.
        source: For warnings.
        by_file: Whether images were recognised by file name.

    Returns:
        Class index per key or -1, int64; the reading ("id" or "class index + 1"); warnings.
    """
    ids: dict[Any, int] = {key: index for index, key in enumerate(truth.category_ids)}
    texts = {str(key): index for key, index in ids.items()}
    exact = np.asarray([ids.get(key, texts.get(str(key), -1)) for key in keys], dtype=np.int64)
    count = len(truth.names)
    whole = [isinstance(key, (int, np.integer)) and 1 <= key <= count for key in keys]
    if not keys or not all(whole):
        return exact, "id", ()
    shifted = np.asarray([int(key) - 1 for key in keys], dtype=np.int64)
    if (exact == shifted).all():
        return exact, "id", ()
    by_id, by_index = (_agreement(mapped[label], image, scores, truth) for mapped in (exact, shifted))
    if by_file and ((exact < 0).any() or by_index > by_id):
        return shifted, "class index + 1", ()
    if (exact >= 0).all() and by_index > by_id + 0.2:
        warning = (
            f"{source}: category ids fit the labels better as class index + 1 (classes labelled in the image get "
            f"{by_index:.0%} of the score) than as ids ({by_id:.0%}); write the ground truth's category ids"
        )
        return exact, "id", (warning,)
    return exact, "id", ()


def _agreement(label: np.ndarray, image: np.ndarray, scores: np.ndarray, truth: GroundTruth) -> float:
    """Share of the total score on classes that are labelled in the image."""
    weights = np.clip(scores, 0.0, None)
    count = len(truth.names)
    labelled = np.unique(truth.image * count + truth.label)
    hit = (label >= 0) & (image >= 0) & np.isin(image * count + label, labelled)
    total = float(weights.sum())
    return float(weights[hit].sum()) / total if total > 0 else 0.0
