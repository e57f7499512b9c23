"""The keys under `data` as one checked object."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from detkd.data.files import absolute, is_file, load_yaml
from detkd.data.images import Verify, check_verify
from detkd.data.problems import OnBad, check_on_bad
from detkd.data.split import SplitOptions, split_options
from detkd.data.yolo import class_names, split_entries
from detkd.errors import DataError

__all__ = ["Source", "SourceFormat", "parse_source"]

SourceFormat = Literal["auto", "coco", "yolo", "voc", "toy", "ultralytics"]
Leakage = Literal["warn", "error", "off"]

_KEYS = (
    "name", "format", "path", "folder", "images", "annotations", "train", "val", "test", "names", "on_bad", "verify",
    "leakage", "split",
)  # fmt: skip
_TOY_KEYS = ("size", "difficulty", "seed", "workers")
"""How the toy set is drawn; whoever draws it reads them."""


@dataclass(frozen=True)
class Source:
    """Where data comes from and how strictly it is read.

    Attributes:
        name: For tables and run folders.
        format: What `path` holds; `auto` finds out.
        path: Data YAML, COCO JSON or folder, absolute; for `ultralytics` the name of one of its data YAMLs.
        base: Folder that relative paths of the splits start from.
        images: Folder of the images where it can't be found from the labels.
        splits: Files or folders given for single splits, as written.
        names: Class list to use; None takes the source's.
        on_bad: What to do with unusable records.
        verify: How closely images are looked at.
        leakage: What to do when splits share scenes or images.
        split: How to make splits; None keeps the source's.
    """

    name: str
    format: SourceFormat
    path: Path
    base: Path
    images: Path | None = None
    splits: dict[str, list[str]] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    on_bad: OnBad = "error"
    verify: Verify = "header"
    leakage: Leakage = "warn"
    split: SplitOptions | None = None


def parse_source(source: str | Path | Mapping[str, Any], *, on_bad: object = None) -> Source:
    """Check what a user gave for `data`.

    Args:
        source: Path of a data YAML, COCO JSON or folder, or the keys of `conf/data/*.yaml`. A YAML that has a `format`
            key holds such keys itself; its relative paths start from its folder.
        on_bad: Used where the source doesn't say.

    Raises:
        DataError: If a key is unknown or its value can't be used; names the key.
    """
    root = Path.cwd()
    if isinstance(source, str | Path):
        source = {"path": str(source)}
    if not isinstance(source, Mapping):
        raise DataError(
            f"data: must be a path or a mapping, got a {type(source).__name__}; give the path of a data YAML or folder"
        )
    options = {str(key): value for key, value in source.items() if value is not None}
    _check_keys(options)
    path = _path(options, root)
    if options.get("format", "auto") == "auto" and path.suffix.lower() in (".yaml", ".yml") and is_file(path):
        inner = load_yaml(path)
        if isinstance(inner, Mapping) and "format" in inner:
            outer = {key: value for key, value in options.items() if key not in ("path", "folder", "format")}
            options = {"name": path.stem} | {str(k): v for k, v in inner.items() if v is not None} | outer
            _check_keys(options)
            root, path = path.parent, _path(options, path.parent)
    return _checked(options, path, root, on_bad)


def _checked(options: dict[str, Any], path: Path, root: Path, on_bad: object) -> Source:
    kind = _choice(options.get("format", "auto"), get_args(SourceFormat), "data.format")
    leakage = _choice(options.get("leakage", "warn"), get_args(Leakage), "data.leakage")
    named = options.get("annotations", {})
    if isinstance(named, str | Path):  # one file
        named = {"train": named}
    if not isinstance(named, Mapping):
        raise DataError(f"data.annotations: must be a mapping of split to file, got {named!r:.60}")
    splits: dict[str, Any] = {key: options[key] for key in ("train", "val", "test") if key in options}
    splits |= {str(key): value for key, value in named.items() if value is not None}
    images = options.get("images") if kind != "toy" else None  # for the toy set it is their number
    if images is not None and not isinstance(images, str | Path):
        raise DataError(f"data.images: must be the folder of the images, got {images!r:.60}")
    base = path if kind == "ultralytics" or not is_file(path) else path.parent
    return Source(
        name=str(
            options.get("name") or (path.parent.name if path.stem in ("data", "dataset") else path.stem) or "data"
        ),
        format=kind,
        path=Path(str(options.get("path", path))) if kind == "ultralytics" else path,
        base=base,
        images=None if images is None else absolute(images, base if (base / images).is_dir() else root),
        splits={key: split_entries(value, f"data.{key}") for key, value in splits.items()},
        names=class_names(options["names"]) if "names" in options else None,
        on_bad=check_on_bad(options.get("on_bad", on_bad if on_bad is not None else "error")),
        verify=check_verify(options.get("verify", "header")),
        leakage=leakage,
        split=split_options(options.get("split")),
    )


def _path(options: Mapping[str, Any], root: Path) -> Path:
    value = options.get("path", options.get("folder"))
    if value is None and any(key in options for key in ("train", "val", "test", "annotations")):
        return root  # every split is named on its own
    if not isinstance(value, str | Path) or not str(value).strip():
        got = "nothing" if value is None else repr(value)
        raise DataError(f"data.path: must be a data YAML, COCO JSON or folder, got {got:.60}; set data.path=...")
    return absolute(value, root)


def _check_keys(options: Mapping[str, Any]) -> None:
    allowed = _KEYS + (_TOY_KEYS if options.get("format") == "toy" else ())
    for key in options:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f"did you mean data.{near[0]}?" if near else f"the keys are {', '.join(allowed)}"
            raise DataError(f"data.{key}: no such key; {hint}")


def _choice(value: object, choices: Sequence[str], key: str) -> Any:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"did you mean {near[0]}?" if near else "choose one of those"
        raise DataError(f"{key}: must be one of {', '.join(choices)}, got {value!r:.40}; {hint}")
    return value
