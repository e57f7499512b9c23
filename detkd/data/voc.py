"""Pascal VOC XML: one file per image, in the devkit's layout or beside the images."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from detkd.data.files import is_dir, is_file, is_image, read_text
from detkd.data.problems import Findings
from detkd.data.raw import RawBox, RawImage, RawSplit
from detkd.errors import DataError

__all__ = ["VocLabel", "VocObject", "parse_voc", "read_voc"]


@dataclass(frozen=True)
class VocObject:
    """One `<object>`: its class name, corners as written (NaN where unreadable) and whether it is marked difficult."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocLabel:
    """One XML file. `problem` says why it can't be used; `size` is None where the file states none."""

    path: Path
    filename: str = ""
    size: tuple[int, int] | None = None
    objects: tuple[VocObject, ...] = field(default=())
    problem: tuple[str, str] | None = None


def parse_voc(path: Path) -> VocLabel:
    """Read one XML file; what is wrong with it ends up in `problem`, it never raises."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except FileNotFoundError:
        return VocLabel(path, problem=("missing-label", f"no label file {path}"))
    except ElementTree.ParseError as err:
        return VocLabel(path, problem=("label-file", f"isn't complete XML ({err})"))
    except (OSError, ValueError, LookupError, RecursionError) as err:  # unreadable, or an unknown encoding
        return VocLabel(path, problem=("label-file", f"can't be read ({err})"))
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    size = (int(width), int(height)) if 0 < width < 1e9 and 0 < height < 1e9 else None
    objects = tuple(_object(node) for node in root.findall("object"))
    return VocLabel(path, (root.findtext("filename") or "").strip(), size, objects)


def read_voc(
    files: Mapping[str, Sequence[Path]],
    findings: Findings,
    *,
    names: tuple[str, ...] | None = None,
    images: Path | None = None,
    wanted: Sequence[str] | None = None,
) -> dict[str, RawSplit]:
    """Read the splits of a VOC data set.

    The devkit counts pixels from 1, many tools from 0: when any corner of the set is below 1 it counts from 0. Objects
    marked difficult are kept like crowd regions: ignored in evaluation, never trained on.

    Args:
        files: XML files of each split.
        findings: Receives records that can't be used.
        names: Classes and their order; by default all names found, sorted (the devkit's own order).
        images: Folder of the images; by default JPEGImages or images beside the XML folder, or the XML folder.
        wanted: Splits to return; the class list always comes from all.

    Raises:
        DataError: If there are no classes at all.
    """
    with ThreadPoolExecutor(8) as pool:
        labels = {split: list(pool.map(parse_voc, paths)) for split, paths in files.items()}
    every = [item for group in labels.values() for label in group for item in label.objects]
    found = sorted({item.name for item in every if item.name})
    if not found and names is None:
        problem = next((label for group in labels.values() for label in group if label.problem), None)
        why = f" ({problem.path}: {problem.problem[1]})" if problem and problem.problem else ""
        raise DataError(f"data.names: no labelled object in the XML files{why}, so no classes; set data.names=[...]")
    classes = names or tuple(found)
    origin = 0.0 if any(corner < 1 for item in every for corner in item.corners) else 1.0
    if origin:
        findings.note("VOC corners count from 1 (no corner is below 1) and were moved to 0")
    folders = _Folders(images)
    return {
        split: RawSplit(
            split,
            classes,
            tuple(range(1, len(classes) + 1)),
            [
                image
                for label in group
                if (image := _image(label, split, classes, origin, folders, findings)) is not None
            ],
        )
        for split, group in labels.items()
        if wanted is None or split in wanted
    }


def _image(
    label: VocLabel, split: str, classes: tuple[str, ...], origin: float, folders: _Folders, findings: Findings
) -> RawImage | None:
    where = str(label.path)
    if label.problem:
        findings.add(split, where, *label.problem)
        return None
    image = RawImage(folders.find(label), where, size=label.size)
    seen: set[VocObject] = set()
    for number, item in enumerate(label.objects, 1):
        place = f"{where}: object {number}"
        if item.name not in classes:
            known = f"{', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
            findings.add(split, place, "unknown-class", f"class {item.name!r:.40} is none of {known}")
            continue
        if item in seen:
            findings.count(split, "objects are repeated and count once")
            continue
        seen.add(item)
        x1, y1, x2, y2 = item.corners
        findings.count(split, "objects marked difficult are ignored in evaluation and training", int(item.difficult))
        # the far corner is inclusive where counting starts at 1: 1..10 covers ten pixels
        image.boxes.append(RawBox(place, classes.index(item.name), (x1 - origin, y1 - origin, x2, y2), item.difficult))
    return image


class _Folders:
    """Finds the image of a label file; every folder is listed once."""

    def __init__(self, images: Path | None) -> None:
        self.images = images
        self._listed: dict[Path, dict[str, Path]] = {}

    def find(self, label: VocLabel) -> Path:
        """Return the image with the label's stem, else the one its `<filename>` names, else where it should be."""
        top = label.path.parent.parent
        own = [top / name for name in ("JPEGImages", "images", "Images")] + [label.path.parent]
        folders = [self.images] if self.images is not None else own
        for folder in folders:
            if found := self._list(folder).get(label.path.stem):
                return found
        name = re.split(r"[\\/]", label.filename)[-1] or f"{label.path.stem}.jpg"
        return next((folder / name for folder in folders if is_file(folder / name)), _first_dir(folders) / name)

    def _list(self, folder: Path) -> dict[str, Path]:
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    images = sorted(entry.name for entry in entries if is_image(entry.name))
            except OSError:
                images = []
            self._listed[folder] = {os.path.splitext(name)[0]: folder / name for name in images}
        return self._listed[folder]


def voc_set_files(listing: Path, annotations: Path, split: str) -> list[Path]:
    """Return the XML files that an ImageSets list names (one image id per line, a 1 or -1 behind it is ignored)."""
    files = []
    for line in read_text(listing, f"data.{split}").splitlines():
        name = line.strip()
        if not name:
            continue
        file = annotations / f"{name}.xml"
        if not is_file(file) and (match := re.fullmatch(r"(.+?)\s+[-+]?[01]", name)):
            file = annotations / f"{match[1]}.xml"
        files.append(file)
    return list(dict.fromkeys(files))


def _first_dir(folders: Sequence[Path]) -> Path:
    return next((folder for folder in folders if is_dir(folder)), folders[0])


def _object(node: ElementTree.Element) -> VocObject:
    x1, y1, x2, y2 = (_number(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    difficult = _number(node.findtext("difficult")) == 1
    return VocObject((node.findtext("name") or "").strip(), (x1, y1, x2, y2), difficult)


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan
