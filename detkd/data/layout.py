"""Recognising what a path holds: format, data YAML, and the files of each split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from detkd.data.files import is_dir, is_file, list_images, load_yaml
from detkd.data.voc import voc_set_files
from detkd.errors import DataError

__all__ = ["Format", "coco_files", "find_format", "find_yaml", "split_name", "voc_files", "yolo_folder"]

Format = Literal["coco", "yolo", "voc"]
STANDARD = ("train", "val", "test")
_ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
_SPLIT_FOLDERS = (*STANDARD, "valid", "validation")


def find_format(path: Path) -> Format:
    """Return the format of a file or folder by what lies in it.

    Raises:
        DataError: If nothing known is there; says what was looked for.
    """
    if is_file(path):
        suffix = path.suffix.lower()
        if suffix == ".json":
            return "coco"
        if suffix in (".yaml", ".yml"):
            return "yolo"
        raise DataError(f"data.path: can't tell the format of {path}; give a .yaml, a COCO .json or a folder")
    if not is_dir(path):
        raise DataError(f"data.path: no such file or folder, got {path}; check the path")
    if any(_labels_folder(path).glob("*.json")) or _folder_files(path, "json"):
        return "coco"
    if _yamls(path):
        return "yolo"
    if any(_labels_folder(path).glob("*.xml")) or any(path.glob("*.xml")) or _folder_files(path, "xml"):
        return "voc"
    if is_dir(path / "labels") or any(is_dir(path / name / "labels") for name in _SPLIT_FOLDERS):
        return "yolo"
    if any(path.glob("*.json")):
        return "coco"
    raise DataError(
        f"data.path: no labels recognised in {path}; expected annotations/*.json (COCO), a data .yaml (YOLO) or "
        "Annotations/*.xml (VOC), or set data.format and data.train, data.val, data.test"
    )


def split_name(stem: str) -> str:
    """Return the split a label file's name stands for: instances_val2017 -> val, valid -> val, pool -> pool."""
    name = re.sub(r"^(instances|annotations?|person_keypoints|image_info|_annotations)[_.-]+", "", stem)
    plain = re.sub(r"[_.-]?(19|20)\d\d$", "", re.sub(r"[_.-](coco|annotations?|instances|labels)$", "", name)).lower()
    return _ALIASES.get(plain, plain or "all")


def coco_files(path: Path) -> dict[str, Path]:
    """Return the instances file of each split below a folder, or of a single file.

    Raises:
        DataError: If there are none, or two files for one split.
    """
    if is_file(path):
        name, folder = split_name(path.stem), path.parent.name
        if name in ("all", "annotations", "coco", "default"):  # exporters' fixed names say nothing
            name = _ALIASES.get(folder, folder) if folder in _SPLIT_FOLDERS else "all"
        return {name: path}
    files = sorted(_labels_folder(path).glob("*.json")) or sorted(path.glob("*.json"))
    if by_folder := _folder_files(path, "json"):
        return {name: found[0] for name, found in by_folder.items()}
    files = [file for file in files if file.stem.startswith("instances")] or files
    found: dict[str, Path] = {}
    for file in files:
        name = split_name(file.stem)
        if name in found:
            raise DataError(
                f"data.{name}: two files for this split, {found[name].name} and {file.name}; name one: data.{name}=FILE"
            )
        found[name] = file
    if not found:
        raise DataError(f"data.path: no COCO .json in {path}/annotations; set data.train=..., data.val=...")
    return {name: found[name] for name in (*STANDARD, *sorted(found)) if name in found}


def find_yaml(path: Path) -> Path | None:
    """Return the data YAML of a folder, None when it has none.

    Raises:
        DataError: If there are several and none has the usual name.
    """
    found = _yamls(path)
    usual = [file for file in found if file.stem in ("data", "dataset", path.name)] or found
    if len(usual) > 1 and usual == found:
        raise DataError(f"data.path: several data YAMLs in {path}: {[file.name for file in found]}; give one of them")
    return usual[0] if usual else None


def yolo_folder(path: Path) -> dict[str, Any]:
    """Return the content a data YAML would have for a folder of images and labels without one."""
    splits = {}
    for name in _SPLIT_FOLDERS:
        for place in (f"images/{name}", f"{name}/images"):
            if is_dir(path / place) and _ALIASES.get(name, name) not in splits:
                splits[_ALIASES.get(name, name)] = place
    if not splits:
        splits["all"] = "images" if is_dir(path / "images") else "."
    content: dict[str, Any] = {"path": str(path), **splits}
    for name in ("classes.txt", "labels/classes.txt", "obj.names"):
        if is_file(path / name):
            lines = (path / name).read_text(encoding="utf-8-sig", errors="replace").splitlines()
            content["names"] = [line.strip() for line in lines if line.strip()]
            break
    return content


def voc_files(path: Path, given: Mapping[str, Path]) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the XML files of each split, and remarks.

    Args:
        path: The data set's folder.
        given: ImageSets lists or folders of XML files the user named for splits.

    Raises:
        DataError: If there are no XML files.
    """
    labels = _labels_folder(path)
    labels = labels if any(labels.glob("*.xml")) else path
    if given:
        return {
            split: voc_set_files(place, labels, split) if is_file(place) else _xml_files(place, f"data.{split}")
            for split, place in given.items()
        }, []
    lists = {name: path / "ImageSets" / "Main" / f"{name}.txt" for name in (*STANDARD, "trainval")}
    lists = {name: file for name, file in lists.items() if is_file(file)}
    if "train" in lists:
        lists.pop("trainval", None)
    elif "trainval" in lists:
        lists["train"] = lists.pop("trainval")
    if lists:
        return {name: voc_set_files(file, labels, name) for name, file in lists.items()}, []
    if by_folder := _folder_files(path, "xml"):
        return by_folder, []
    files = _xml_files(labels, "data.path")
    bare = {image.stem for image in list_images(path)} - {file.stem for file in files}
    return {"all": files}, [f"all: {len(bare)} images without an XML file are not used"] if bare else []


def _xml_files(folder: Path, key: str) -> list[Path]:
    files = sorted(file for file in folder.glob("*.xml") if not file.name.startswith("."))
    if not files:
        raise DataError(f"{key}: no .xml label files in {folder}; check the path")
    return files


def _labels_folder(path: Path) -> Path:
    return next((path / name for name in ("annotations", "Annotations") if is_dir(path / name)), path / "annotations")


def _folder_files(path: Path, suffix: str) -> dict[str, list[Path]]:
    """Return label files that lie in folders named like splits (Roboflow's exports)."""
    found: dict[str, list[Path]] = {}
    for name in _SPLIT_FOLDERS:
        pattern = "*_annotations.coco.json" if suffix == "json" else f"*.{suffix}"
        if files := sorted(file for file in (path / name).glob(pattern) if not file.name.startswith(".")):
            found.setdefault(_ALIASES.get(name, name), files)
    return found


def _yamls(path: Path) -> list[Path]:
    found = []
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in (".yaml", ".yml") and is_file(file):
            try:
                content = load_yaml(file)
            except DataError:
                continue
            if isinstance(content, Mapping) and any(name in content for name in (*STANDARD, "names")):
                found.append(file)
    return found
