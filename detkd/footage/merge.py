"""Labels made by a teacher as files that others read: YOLO's, and COCO's together with the labelled data."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detkd.data.coco import to_coco
from detkd.data.records import DataSpec, ImageRecord
from detkd.data.yolo import label_path
from detkd.io import PART, write_json, write_text

__all__ = ["write_merged", "write_yolo"]

_NOTE = """# Made by detkd pseudolabel. train: boxes drawn by a teacher; their scores are in annotations.json.
"""
_SPLITS = ("train", "val", "test")


def write_merged(
    labelled: DataSpec,
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    category_ids: Sequence[int],
) -> dict[str, Path]:
    """Write train.json, val.json and test.json: the labelled splits, and behind those of train the teacher's images.

    The labelled data are read, never written. File names are absolute: images of several places are in one file.

    Args:
        labelled: Data with labels of people; splits other than train, val and test are left out.
        images: COCO image records whose ids none of the labelled images has.
        annotations: Their COCO annotations.
        folder: Where to.
        category_ids: Category id of each class in `annotations`.

    Returns:
        Split to file.
    """
    paths = {}
    for split in _SPLITS:
        dataset = labelled.splits.get(split)
        content: dict[str, Any] = (
            to_coco(dataset) if dataset is not None else {"images": [], "annotations": [], "categories": []}
        )
        if split == "train":
            own = category_ids if dataset is None else dataset.category_ids
            to_own = dict(zip(category_ids, own, strict=True))
            content["info"] = {"description": "train split and images labelled by a teacher (those with a score)"}
            content["images"] += images
            content["annotations"] += [{**one, "category_id": to_own[one["category_id"]]} for one in annotations]
            pairs = zip(own, labelled.names, strict=True)
            content["categories"] = [{"id": number, "name": name} for number, name in pairs]
        elif dataset is None:
            continue
        paths[split] = write_json(folder / f"{split}.json", content, indent=None)
    return paths


def write_yolo(records: Iterable[ImageRecord], labelled: DataSpec, folder: Path) -> Path:
    """Write a label file per image, lists of the images, and data.yaml; return the latter.

    YOLO's readers look for a label file beside the image: the last folder `images` of its path becomes `labels`. So
    images that are not in `folder/images` get a link there, else labels of people beside them would be read. Nor have
    the files a place for scores: a sixth number is refused. The labelled val split is added the same way, since
    Ultralytics asks for one and a teacher's boxes are nothing to be judged by.

    Args:
        records: Images with boxes of a teacher.
        labelled: Data with labels of people.
        folder: The set's folder; `images`, `labels`, `train.txt`, `val.txt` and `data.yaml` are written into it.
    """
    content: dict[str, Any] = {"train": "train.txt"}
    written = _write_split(records, folder, "train", "linked")
    if "val" in labelled.splits:
        content["val"] = "val.txt"
        written |= _write_split(labelled.splits["val"].records, folder, "val", "val")
    # Those of an earlier run whose images were rejected since: a reader of the folder would take them.
    for stale in set((folder / "labels").rglob("*.txt")) - written:
        stale.unlink(missing_ok=True)
    content["names"] = dict(enumerate(labelled.names))
    return write_text(folder / "data.yaml", _NOTE + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _write_split(records: Iterable[ImageRecord], folder: Path, split: str, place: str) -> set[Path]:
    """Write links, label files and the list of one split; return the label files."""
    names, written = [], set()
    for record in records:
        image = _inside(record, folder, place)
        names.append(f"./{image.relative_to(folder).as_posix()}")
        label = label_path(image)
        write_text(label, "".join(f"{line}\n" for line in _lines(record)))
        written.add(label)
    kept = {folder / name for name in names}
    for old in (folder / "images" / place).glob("*"):
        if old.is_symlink() and old not in kept:  # without its label the image would pass for background
            old.unlink()
    write_text(folder / f"{split}.txt", "".join(f"{name}\n" for name in names))
    return written


def _inside(record: ImageRecord, folder: Path, place: str) -> Path:
    """Return where the image is inside the folder; put a link there if it lies elsewhere."""
    own = folder / "images"
    if record.path.is_relative_to(own) and label_path(record.path).is_relative_to(folder / "labels"):
        return record.path
    link = own / place / f"{record.image_id}{record.path.suffix}"
    if not (link.is_symlink() and Path(os.readlink(link)) == record.path):
        link.parent.mkdir(parents=True, exist_ok=True)
        # Not atomic_path: it sets the mode of what it renames, which through a link is the user's image.
        temporary = link.with_name(f".{link.stem}-{secrets.token_hex(4)}{PART}{link.suffix}")
        try:
            temporary.symlink_to(record.path)
        except OSError:  # a file system without links
            shutil.copyfile(record.path, temporary)
        temporary.replace(link)
    return link


def _lines(record: ImageRecord) -> Iterator[str]:
    size = (record.width, record.height)
    for (x1, y1, x2, y2), index, crowd in zip(
        record.boxes_xyxy.tolist(), record.classes.tolist(), record.crowd.tolist(), strict=True
    ):
        if not crowd:
            numbers = ((x1 + x2) / 2 / size[0], (y1 + y2) / 2 / size[1], (x2 - x1) / size[0], (y2 - y1) / size[1])
            yield " ".join((str(index), *(f"{value:.7g}" for value in numbers)))
