"""One reader per format: from a checked source to raw splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detkd.data.coco_reader import read_coco
from detkd.data.files import absolute, is_dir, is_file, load_json, load_yaml
from detkd.data.layout import STANDARD, coco_files, find_format, find_yaml, voc_files, yolo_folder
from detkd.data.problems import Findings
from detkd.data.raw import RawSplit
from detkd.data.source import Source
from detkd.data.voc import read_voc
from detkd.data.yolo import class_names, label_path, pose_shape, read_yolo, split_entries
from detkd.errors import DataError

__all__ = ["Resolver", "choose_splits", "read_source"]

Resolver = Callable[[str], "str | Path | Mapping[str, Any]"]
"""Turns the name of an Ultralytics data YAML (coco128.yaml) into a local YAML or its content with absolute paths."""


def read_source(
    source: Source, findings: Findings, *, splits: Sequence[str] | None = None, resolver: Resolver | None = None
) -> dict[str, RawSplit]:
    """Read the label files of a source; no image is opened.

    Args:
        source: Where and what.
        findings: Receives records that can't be used.
        splits: Splits to read; by default train, val and test, or whatever there is when none has such a name.
        resolver: Finds or downloads data known to Ultralytics.

    Raises:
        DataError: If the format isn't recognised, a file is missing, a split isn't there, or class lists differ.
    """
    kind = source.format
    if kind == "ultralytics":
        return _read_yolo(source, _resolved(source, resolver), None, findings, splits)
    if kind == "toy" and not is_dir(source.path / "annotations"):
        raise DataError(f"data.folder: the toy set isn't drawn in {source.path}; draw it first or correct the folder")
    if kind == "auto":
        kind = "coco" if _all_json(source) else find_format(source.path)
    if not (is_dir(source.path) or is_file(source.path)):
        raise DataError(f"data.path: no such file or folder, got {source.path}; check the path")
    if kind == "voc":
        return _read_voc(source, findings, splits)
    if kind == "yolo":
        file = source.path if is_file(source.path) else find_yaml(source.path)
        content = load_yaml(file) if file is not None else yolo_folder(source.path)
        return _read_yolo(source, content, file, findings, splits)
    return _read_coco(source, findings, splits)


def choose_splits(available: Sequence[str], wanted: Sequence[str] | None, findings: Findings) -> list[str]:
    """Return the splits to load.

    Raises:
        DataError: If a wanted one isn't there.
    """
    if wanted is not None:
        for split in wanted:
            if split not in available:
                raise DataError(
                    f"data.{split}: the data has no split {split!r}, only {', '.join(available)}; name its files"
                )
        return list(wanted)
    standard = [split for split in STANDARD if split in available]
    if standard and (others := [split for split in available if split not in standard]):
        findings.note(f"not loaded: {', '.join(others)} (only train, val and test are, unless named)")
    return standard or list(available)


def _read_coco(source: Source, findings: Findings, splits: Sequence[str] | None) -> dict[str, RawSplit]:
    files = {split: _one_file(source, split) for split in source.splits} or coco_files(source.path)
    raws: dict[str, RawSplit] = {}
    for split in choose_splits(list(files), splits, findings):
        file = files[split]
        raws[split] = read_coco(
            load_json(file, f"data.{split}"),
            findings,
            split=split,
            label=file.name,
            folder=file.parent,
            images=source.images,
            names=source.names,
        )
    first = next(iter(raws.values()))
    for raw in raws.values():
        _align(first, raw)
    return raws


def _read_voc(source: Source, findings: Findings, splits: Sequence[str] | None) -> dict[str, RawSplit]:
    given = {split: _one_file(source, split) for split in source.splits}
    files, remarks = voc_files(source.path, given)
    for remark in remarks:
        findings.note(remark)
    wanted = choose_splits(list(files), splits, findings)
    raws = read_voc(files, findings, names=source.names, images=source.images, wanted=wanted)
    for split, raw in raws.items():
        if not files[split]:
            raise DataError(f"data.{split}: the list names no images; check the file")
        if not raw.images and not findings.items:
            raise DataError(f"data.{split}: no usable XML file; check the folder")
    return {split: raws[split] for split in wanted}


def _read_yolo(
    source: Source, content: Any, file: Path | None, findings: Findings, splits: Sequence[str] | None
) -> dict[str, RawSplit]:
    label = str(file or source.path)
    if not isinstance(content, Mapping):
        raise DataError(
            f"data.path: {label} holds a {type(content).__name__}, not the keys train, val and names of a data YAML"
        )
    content = {str(key): value for key, value in content.items()}
    for alias in ("validation", "valid"):
        if alias in content:
            content.setdefault("val", content[alias])
    stated = {key: content[key] for key in (*STANDARD, "all") if content.get(key)}
    given: dict[str, Any] = {**stated, **source.splits}
    if not given:
        raise DataError(f"data.train: {label} names no train, val or test images; add them to the file")
    names = _yolo_names(source, content, label)
    folder = file.parent if file is not None else source.base
    root = str(content.get("path") or ".")
    roots = list(dict.fromkeys([absolute(root, folder), absolute(root), folder]))
    pose = pose_shape(content.get("kpt_shape"))
    raws = {}
    for split in choose_splits(list(given), splits, findings):
        entries = split_entries(given[split], f"data.{split}")
        places = [source.base, *roots] if split in source.splits else roots
        raws[split] = read_yolo(entries, findings, split=split, names=names, roots=places, pose=pose)
    labelled = [split for split, raw in raws.items() if any(image.labelled for image in raw.images)]
    if splits is None and labelled:  # public test sets come without labels: nothing can be measured on them
        for split in [split for split in raws if split not in labelled]:
            findings.note(f"{split} is not used: none of its {len(raws.pop(split).images)} images has a label file")
            findings.forget(split)
    images = [image for raw in raws.values() for image in raw.images]
    if images and not labelled:
        where = label_path(images[0].path)
        raise DataError(
            f"data.path: none of {len(images)} images has a label file (looked for {where}); check the labels folder"
        )
    return raws


def _yolo_names(source: Source, content: Mapping[str, Any], label: str) -> tuple[str, ...]:
    if content.get("names") is None and content.get("nc") is None:
        if source.names is None:
            raise DataError(f"data.names: {label} names no classes; add names to it or set data.names=[...]")
        return source.names
    names = class_names(content.get("names"), content.get("nc"), f"data.names: {label}")
    if source.names is None or source.names == names:
        return names
    if content.get("names") is None and len(names) == len(source.names):
        return source.names
    # label files hold indices: another order would silently swap classes
    raise DataError(
        f"data.names: got {list(source.names)!r:.80}, but {label} says {list(names)!r:.80}; remove data.names"
    )


def _align(first: RawSplit, other: RawSplit) -> None:
    """Bring a split's classes into the order of the first one."""
    if (first.names, first.category_ids) == (other.names, other.category_ids):
        return
    mine, theirs = (dict(zip(raw.names, raw.category_ids, strict=True)) for raw in (first, other))
    if mine != theirs:
        unequal = [
            f"{name} (id {theirs.get(name, 'none')} and {mine.get(name, 'none')})" for name in {**mine, **theirs}
        ]
        unequal = [
            text for name, text in zip({**mine, **theirs}, unequal, strict=True) if mine.get(name) != theirs.get(name)
        ]
        raise DataError(
            f"data.{other.split}: class lists of {other.split} and {first.split} differ: {', '.join(unequal[:5])}"
            f"{', ...' if len(unequal) > 5 else ''}; make them equal, or set data.names=[...] to the classes they share"
        )
    order = [first.names.index(name) for name in other.names]
    for image in other.images:
        image.boxes = [box._replace(class_index=order[box.class_index]) for box in image.boxes]
    other.names, other.category_ids = first.names, first.category_ids


def _resolved(source: Source, resolver: Resolver | None) -> Any:
    name = str(source.path)
    if resolver is None:
        raise DataError(
            f"data.path: {name} is found or downloaded through Ultralytics, which isn't at hand here; give a local path"
        )
    found = resolver(name)
    return found if isinstance(found, Mapping) else _with_root(Path(found))


def _with_root(file: Path) -> Any:
    content = load_yaml(file)
    if isinstance(content, Mapping):
        return {**content, "path": str(absolute(str(content.get("path") or "."), file.parent))}
    return content


def _one_file(source: Source, split: str) -> Path:
    entries = source.splits[split]
    if len(entries) != 1:
        raise DataError(f"data.{split}: must be one file for this format, got {len(entries)}")
    places = [absolute(entries[0], root) for root in (source.base, source.base / "annotations", None)]
    found = next((place for place in places if is_file(place) or is_dir(place)), None)
    if found is None:
        raise DataError(
            f"data.{split}: no such file, got {entries[0]}; looked for {', '.join(map(str, dict.fromkeys(places)))}"
        )
    return found


def _all_json(source: Source) -> bool:
    entries = [entry for group in source.splits.values() for entry in group]
    return bool(entries) and all(entry.lower().endswith(".json") for entry in entries)
