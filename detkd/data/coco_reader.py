"""Reading COCO instances JSON; nothing about its content is taken for granted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkd.data.files import absolute, is_file
from detkd.data.problems import Findings
from detkd.data.raw import RawBox, RawImage, RawSplit, as_float, as_integer, finite_json
from detkd.errors import DataError

__all__ = ["read_coco"]

_OWN = frozenset({"id", "file_name", "width", "height"})


def read_coco(
    content: Any,
    findings: Findings,
    *,
    split: str,
    label: str,
    folder: Path | None = None,
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> RawSplit:
    """Read the content of a COCO instances file.

    Args:
        content: The parsed JSON; nothing about it is taken for granted.
        findings: Receives records that can't be used.
        split: Name of the split.
        label: Name of the file, for messages.
        folder: Where the file lies; used to find the images.
        images: Folder of the images, when it is known.
        names: Classes to use and their order.

    Raises:
        DataError: If the structure isn't COCO's, or there are no images or classes at all.
    """
    if not isinstance(content, Mapping):
        raise DataError(
            f"data.{split}: {label} holds a {type(content).__name__}, not COCO's images, annotations and categories"
        )
    tables = {key: _table(content, key, label, split) for key in ("images", "annotations", "categories")}
    class_names, category_ids, index_of, known = _classes(tables["categories"], label, split, names)
    by_id = _images(tables["images"], findings, split, label)
    if not by_id:
        raise DataError(f"data.{split}: {label} lists no usable images{_why(findings)}; check the file")
    _place(list(by_id.values()), folder, images, split)
    if "annotations" not in content:
        findings.note(f"{split}: {label} has no annotations, all images count as background")
    _annotations(tables["annotations"], by_id, index_of, known, findings, split, label)
    return RawSplit(split, class_names, category_ids, list(by_id.values()))


def _table(content: Mapping[str, Any], key: str, label: str, split: str) -> list[Any]:
    value = content.get(key, [] if key == "annotations" else None)
    if not isinstance(value, list):
        got = "nothing" if value is None else f"a {type(value).__name__}"
        raise DataError(f"data.{split}: {label} must hold a list `{key}`, got {got}; is it a COCO instances file?")
    return value


def _classes(
    table: list[Any], label: str, split: str, wanted: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int, ...], dict[int, int], dict[int, str]]:
    """Return names, category ids, class index by category id, and the name of every category in the file."""
    known: dict[int, str] = {}
    taken: set[str] = set()
    for position, category in enumerate(table):
        number = as_integer(category.get("id")) if isinstance(category, Mapping) else None
        name = category.get("name") if isinstance(category, Mapping) else None
        if number is None or not isinstance(name, str | int) or not str(name).strip():
            raise DataError(
                f"data.{split}: {label}: categories[{position}] needs an integer id and a name, got {category!r:.80}"
            )
        if number in known or str(name) in taken:
            raise DataError(
                f"data.{split}: {label}: category id {number} or name {name!r} is used twice; make both unique"
            )
        known[number] = str(name)
        taken.add(str(name))
    if not known:
        raise DataError(f"data.{split}: {label} has no classes (`categories` is empty); name at least one")
    if wanted is None:
        return tuple(known.values()), tuple(known), {number: index for index, number in enumerate(known)}, known
    numbers = {name: number for number, name in known.items()}
    if missing := [name for name in wanted if name not in numbers]:
        raise DataError(f"data.names: {label} has no class {missing}, only {list(numbers)}; correct data.names")
    ids = tuple(numbers[name] for name in wanted)
    return tuple(wanted), ids, {number: index for index, number in enumerate(ids)}, known


def _images(table: list[Any], findings: Findings, split: str, label: str) -> dict[object, RawImage]:
    numbered = all(not isinstance(item, Mapping) or as_integer(item.get("id")) is not None for item in table)
    by_id: dict[object, RawImage] = {}
    for position, item in enumerate(table):
        where = f"{label}: images[{position}]"
        if not isinstance(item, Mapping):
            findings.add(split, where, "bad-record", f"must be an object with id and file_name, got {item!r:.60}")
            continue
        key = as_integer(item.get("id"))
        number: object = item.get("id") if key is None else key
        name = item.get("file_name")
        if not isinstance(number, int | str) or isinstance(number, bool) or not isinstance(name, str) or not name:
            findings.add(
                split, where, "bad-record", f"needs an id and a file_name, got {number!r:.40} and {name!r:.60}"
            )
            continue
        where = f"{label}: image {number} ({name})"
        if number in by_id:
            findings.add(
                split, where, "duplicate-image-id", f"image id {number} is already used by {by_id[number].path}"
            )
            continue
        if isinstance(number, int) and not 0 <= number < 2**53:
            findings.add(
                split, where, "bad-record", f"image id {number} must be from 0 to 2^53, which JSON readers agree on"
            )
            continue
        size = _size(item)
        if size == (0, 0):
            stated = f"{item.get('width')!r:.30} and {item.get('height')!r:.30}"
            findings.add(split, where, "bad-record", f"width and height must be positive integers, got {stated}")
            continue
        meta = {str(field): finite_json(value) for field, value in item.items() if field not in _OWN}
        if not numbered:  # names as ids: numbered here, the name kept
            meta["source_id"] = number
        by_id[number] = RawImage(Path(name), where, key if numbered else None, size, meta=meta)
    if not numbered:
        findings.note(f"{split}: {label} has image ids that aren't numbers; numbered from 1, see source_id")
        for number, image in enumerate(by_id.values(), 1):
            image.image_id = number
    return by_id


def _size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the stated size, None when there is none, (0, 0) when it is absurd."""
    if item.get("width") is None and item.get("height") is None:
        return None
    width, height = as_integer(item.get("width")), as_integer(item.get("height"))
    return (width, height) if width is not None and height is not None and width > 0 and height > 0 else (0, 0)


def _place(images: list[RawImage], folder: Path | None, root: str | Path | None, split: str) -> None:
    """Turn file names into absolute paths: below `root`, else below the likely folder that holds most of a sample."""
    roots = [absolute(root)] if root is not None else _likely_roots(folder or absolute("."), split)
    sample = images[:: max(1, len(images) // 16)]
    best = max(roots, key=lambda base: sum(is_file(base / image.path) for image in sample))
    for image in images:
        direct = absolute(image.path, best)
        if "\\" in str(image.path) and not is_file(direct):  # written on Windows
            direct = absolute(str(image.path).replace("\\", "/"), best)
        image.path = direct


def _likely_roots(folder: Path, split: str) -> list[Path]:
    top = folder.parent
    names = [
        "images",
        ".",
        split,
        f"images/{split}",
        f"{split}2017",
        f"images/{split}2017",
        f"{split}2014",
        "JPEGImages",
    ]
    if split == "val":
        names += ["valid", "images/valid"]
    return [folder, *(top / name for name in names), *(folder / name for name in names if name != ".")]


def _annotations(
    table: list[Any],
    by_id: dict[object, RawImage],
    index_of: dict[int, int],
    known: dict[int, str],
    findings: Findings,
    split: str,
    label: str,
) -> None:
    seen: set[object] = set()
    for position, item in enumerate(table):
        where = f"{label}: annotations[{position}]"
        if not isinstance(item, Mapping):
            findings.add(split, where, "bad-record", f"must be an object, got {item!r:.60}")
            continue
        number = item.get("id")
        if isinstance(number, int | str):
            where = f"{label}: annotation {number}"
            if number in seen:
                findings.add(split, where, "duplicate-annotation-id", f"annotation id {number} is used twice")
                continue
            seen.add(number)
        owner = item.get("image_id")
        image = by_id.get(owner) if isinstance(owner, int | float | str) and not isinstance(owner, bool) else None
        if image is None:
            findings.add(split, where, "unknown-image", f"image_id {owner!r:.40} is not among the usable images")
            continue
        where = f"{where} ({image.where.removeprefix(label + ': ')})"
        category = as_integer(item.get("category_id"))
        if category is None or category not in index_of:
            name = f" ({known[category]}, not in data.names)" if category in known else ""
            findings.add(
                split,
                where,
                "unknown-class",
                f"category_id {item.get('category_id')!r:.40}{name} is no class of this set",
            )
            continue
        bbox = item.get("bbox")
        if not isinstance(bbox, list | tuple) or len(bbox) != 4:
            findings.add(split, where, "bad-record", f"bbox must be [x, y, width, height], got {bbox!r:.60}")
            continue
        x, y, width, height = (as_float(value) for value in bbox)
        area = as_float(item.get("area"))
        crowd = as_integer(item.get("iscrowd", 0)) not in (0, None)
        corners = (x, y, x + width, y + height)
        image.boxes.append(RawBox(where, index_of[category], corners, crowd, None if math.isnan(area) else area))


def _why(findings: Findings) -> str:
    return f" ({findings.items[0].where}: {findings.items[0].detail})" if findings.items else ""
