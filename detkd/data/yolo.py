"""Ultralytics data YAML with one txt label file per image."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from detkd.data.files import absolute, is_dir, is_file, is_image, list_images, read_text
from detkd.data.problems import Findings
from detkd.data.raw import RawBox, RawImage, RawSplit, as_integer
from detkd.errors import DataError

__all__ = [
    "LabelLineError",
    "YoloRow",
    "class_names",
    "label_path",
    "parse_label_line",
    "pose_shape",
    "read_yolo",
    "split_entries",
]

_TOLERANCE = 0.01
"""How far coordinates may leave 0..1 before they are taken for something else; Ultralytics' own limit."""


_MOST_CLASSES = 100_000


class LabelLineError(ValueError):
    """A label line that can't be used: args are a slug and a sentence."""


class YoloRow(NamedTuple):
    """One label line: class number and corners x1, y1, x2, y2 as fractions of width and height."""

    class_index: int
    corners: tuple[float, float, float, float]


def parse_label_line(line: str, classes: int, pose: tuple[int, int] | None = None) -> YoloRow:
    """Read one label line.

    Five numbers are class, centre x, centre y, width, height; an odd number from 7 on is class and polygon (segments
    and oriented boxes), whose enclosing box is taken.

    Args:
        line: Text without the line break.
        classes: Number of classes.
        pose: `kpt_shape` of a pose set: rows with that many key points keep their box only.

    Raises:
        LabelLineError: With slug and sentence, if the line can't be used.
    """
    tokens = line.split()
    try:
        if "_" in line:
            raise ValueError("underscore in a number")
        values = [float(token) for token in tokens]
    except ValueError as err:
        raise LabelLineError("label-line", f"not a row of numbers: {line.strip()!r:.60}") from err
    if pose is not None and len(values) == 5 + pose[0] * pose[1]:
        values = values[:5]
    if not all(math.isfinite(value) for value in values):
        raise LabelLineError("non-finite", f"holds NaN or infinity: {line.strip()!r:.60}")
    if len(values) == 6:
        raise LabelLineError("label-line", "has 6 numbers, a prediction saved with its score? labels have 5")
    if len(values) < 5 or len(values) % 2 == 0:
        raise LabelLineError(
            "label-line",
            f"has {len(values)} numbers, needs 5 (class x y width height) or a polygon (class and 3 or more x y)",
        )
    number = as_integer(values[0])
    if number is None or not 0 <= number < classes:
        raise LabelLineError("unknown-class", f"class {values[0]:g} is not one of 0 to {classes - 1}")
    points = values[1:]
    if max(points) > 1 + _TOLERANCE:
        raise LabelLineError(
            "not-normalised", f"coordinate {max(points):g} is above 1: pixels? divide by width and height"
        )
    if len(values) == 5:
        x, y, width, height = points
        if width < 0 or height < 0:
            raise LabelLineError("empty-box", f"width {width:g} and height {height:g} must be positive")
        if min(x, y) < -_TOLERANCE:
            raise LabelLineError("box-outside", f"the centre ({x:g}, {y:g}) is outside the image")
        return YoloRow(number, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    if min(points) < -_TOLERANCE:
        raise LabelLineError("box-outside", f"polygon coordinate {min(points):g} is outside the image")
    return YoloRow(number, (min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2])))


def class_names(value: object, count: object = None, key: str = "data.names") -> tuple[str, ...]:
    """Return class names from a list, an index-to-name mapping, or their number (`nc`; as Ultralytics: class_0, ...).

    Raises:
        DataError: If there are none, an index is missing, or a name is used twice.
    """
    if value is None and (wanted := as_integer(count)) is not None:
        if wanted > _MOST_CLASSES:
            raise DataError(f"{key}: nc is {wanted:.3g}, more than {_MOST_CLASSES} classes; correct it, or name them")
        value = [f"class_{index}" for index in range(wanted)]
    if isinstance(value, Mapping):
        indices = {
            as_integer(int(k)) if isinstance(k, str) and k.isdecimal() and len(k) < 10 else as_integer(k): v
            for k, v in value.items()
        }
        if None in indices or sorted(index for index in indices if index is not None) != list(range(len(value))):
            raise DataError(
                f"{key}: indices must be 0 to {len(value) - 1} without gaps, got {list(value)!r:.80}; renumber them"
            )
        value = [indices[index] for index in range(len(indices))]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise DataError(f"{key}: must be a list of class names or a mapping of index to name, got {value!r:.60}")
    names = tuple(str(name).strip() if isinstance(name, str | int | float) else "" for name in value)
    if not names:
        raise DataError(f"{key}: there are no classes; name at least one")
    if "" in names:
        raise DataError(f"{key}: class {names.index('')} has no name, got {value[names.index('')]!r:.40}; give it one")
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise DataError(f"{key}: {twice!r:.80} used twice; give each class its own name")
    if (number := as_integer(count)) is not None and number != len(names):
        raise DataError(f"{key}: {len(names)} names but nc is {number}; make them agree")
    return names


def split_entries(value: object, key: str) -> list[str]:
    """Return a split's folders or list files; the value is one path or a list of paths."""
    entries = [value] if isinstance(value, str | Path) else value
    if (
        not isinstance(entries, Sequence)
        or not entries
        or not all(isinstance(e, str | Path) and str(e) for e in entries)
    ):
        raise DataError(f"{key}: must be a folder, a .txt list of images or a list of those, got {value!r:.60}")
    return [str(entry) for entry in entries]


def label_path(image: Path) -> Path:
    """Return where the label of an image is: the last folder `images` becomes `labels`, the suffix `.txt`."""
    text = str(image)
    head, found, tail = text.rpartition(f"{os.sep}images{os.sep}")
    swapped = f"{head}{os.sep}labels{os.sep}{tail}" if found else text
    return Path(os.path.splitext(swapped)[0] + ".txt")


def read_yolo(
    entries: Sequence[str],
    findings: Findings,
    *,
    split: str,
    names: tuple[str, ...],
    roots: Sequence[Path],
    pose: tuple[int, int] | None = None,
) -> RawSplit:
    """Read one split: find its images, then their label files.

    Args:
        entries: Folders, image files or list files.
        findings: Receives lines that can't be used. An image without label file is background, and counted.
        split: Name of the split.
        names: Class names.
        roots: Folders a relative entry may start from, the likeliest first.
        pose: `kpt_shape` of a pose set.

    Raises:
        DataError: If an entry doesn't exist or there are no images.
    """
    paths: list[Path] = []
    for entry in entries:
        paths += _images(entry, roots, split)
    paths = sorted(dict.fromkeys(paths))
    if not paths:
        raise DataError(f"data.{split}: no images in {', '.join(entries)}; check the path and the file types")
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(_label_text, paths))
    images = []
    for path, (label, text, problem) in zip(paths, texts, strict=True):
        if problem:
            findings.add(split, str(label), "label-file", problem)
            continue
        image = _labelled(path, label, text or "", findings, split, len(names), pose)
        image.labelled = text is not None
        findings.count(split, "images have no label file and count as background", int(text is None))
        images.append(image)
    return RawSplit(split, names, tuple(range(1, len(names) + 1)), images)


def _labelled(
    path: Path, label: Path, text: str, findings: Findings, split: str, classes: int, pose: tuple[int, int] | None
) -> RawImage:
    image = RawImage(path, str(path), normalised=True)
    seen: set[YoloRow] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{label}:{number}"
        try:
            row = parse_label_line(line, classes, pose)
        except LabelLineError as err:
            findings.add(split, where, *err.args)
            continue
        if row in seen:
            findings.count(split, "label lines are repeated and count once")
            continue
        seen.add(row)
        image.boxes.append(RawBox(where, row.class_index, row.corners))
    return image


def _label_text(image: Path) -> tuple[Path, str | None, str]:
    """Return label path, its text (None without a file), and what is wrong with it."""
    label = label_path(image)
    if not is_file(label):  # the image folder may be a link into a data set with its labels beside it
        try:
            real = label_path(Path(os.path.realpath(image)))
        except (OSError, ValueError):  # no file system accepts the name
            return label, None, ""
        if not is_file(real):
            return label, None, ""
        label = real
    try:
        return label, read_text(label), ""
    except DataError as err:
        return label, None, str(err).removeprefix("data.path: ")


def _images(entry: str, roots: Sequence[Path], split: str) -> list[Path]:
    tried = [absolute(entry, root) for root in roots]
    if entry.startswith("../"):  # written by exporters that mean the YAML's own folder
        tried += [absolute(entry[3:], root) for root in roots]
    for place in tried:
        if is_dir(place):
            return list_images(place)
        if is_file(place):
            return [place] if is_image(place.name) else _listed(place, roots, split)
    raise DataError(
        f"data.{split}: no such folder or file, got {entry}; looked for {', '.join(dict.fromkeys(map(str, tried)))}"
    )


def _listed(file: Path, roots: Sequence[Path], split: str) -> list[Path]:
    found = []
    for line in read_text(file, f"data.{split}").splitlines():
        name = line.strip()
        if not name:
            continue
        if not is_image(name):
            raise DataError(f"data.{split}: {file} must list one image a line, got {name!r:.60}; correct the file")
        places = [absolute(name, root) for root in (file.parent, *roots, Path.cwd())]
        found.append(next((place for place in places if is_file(place)), places[0]))
    return found


def pose_shape(value: Any) -> tuple[int, int] | None:
    """Return `kpt_shape` of a data YAML when it is one."""
    if isinstance(value, list | tuple) and len(value) == 2:
        points, size = as_integer(value[0]), as_integer(value[1])
        if points is not None and size in (2, 3) and points > 0:
            return points, size
    return None
