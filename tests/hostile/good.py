"""The good input of each kind; a bad one is made from it by changing one thing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.sets import draw, write_voc, write_yolo

BOX = [8.0, 4.0, 16.0, 12.0]


def instances() -> dict[str, Any]:
    """COCO labels of two images with a car each."""
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (1, 2)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 3, "bbox": list(BOX), "area": 192.0, "iscrowd": 0} for n in (1, 2)
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 8, "name": "truck"}],
    }


def results() -> list[dict[str, Any]]:
    return [{"image_id": n, "category_id": 3, "bbox": list(BOX), "score": 0.5} for n in (1, 2)]


def save(path: Path, content: Any) -> Path:
    """Write bytes or text as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def coco(folder: Path, change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    """Write a COCO set into `set/`; `change` may edit the labels, or return other ones."""
    content = instances()
    other = change(content) if change else None
    for n in (1, 2):
        draw(folder / f"set/images/{n}.jpg")
    save(folder / "set/annotations/test.json", content if other is None else other)
    return folder / "set"


def yolo(folder: Path, label: str | bytes = "0 0.5 0.5 0.25 0.5\n", **keys: Any) -> Path:
    """Write a YOLO set of one image into `set/`; keys replace those of its data.yaml."""
    names = keys.pop("names", ("car", "truck"))
    file = write_yolo(folder / "set", {"test/a": "0 0.5 0.5 0.25 0.5\n"}, names=names, **keys)
    save(folder / "set/labels/test/a.txt", label)
    return file


def voc(folder: Path, xml: str | bytes | None, objects: str = "") -> Path:
    """Write a VOC set of one image into `set/`; `xml` replaces its label file."""
    write_voc(folder / "set", {"a": objects}, {"test": ["a"]})
    if xml is not None:
        save(folder / "set/Annotations/a.xml", xml)
    return folder / "set"


def weights(folder: Path) -> Path:
    """Return a copy of a tiny detector of the classes car and truck."""
    return Path(shutil.copy(_tiny("yolo26n.yaml"), folder / "model.pt"))


_MADE: dict[str, Path] = {}
STORE: list[Path] = []
"""Folder for what takes long to make and is made once."""


def _tiny(config: str) -> Path:
    from tests.inference.tiny import save as save_model
    from tests.inference.tiny import tiny_model

    if config not in _MADE:
        _MADE[config] = save_model(tiny_model(config, names=("car", "truck")), STORE[0] / f"{Path(config).stem}.pt")
    return _MADE[config]


def run_folder(folder: Path, **files: Any) -> Path:
    """Write what `detkd evaluate` leaves for `detkd compare` into `run/`; files replace parts, None removes them."""
    contents: dict[str, Any] = {
        "run.json": {"schema": 1, "verb": "evaluate", "status": "done"},
        "config.yaml": "seed: 0\n",
        "ground_truth.json": instances(),
        "detections.json": results(),
        "metrics.json": {"metrics": {"protocol": {"settings": {}}}, "cost": {}},
    }
    for name, content in contents.items():
        changed = files.get(name.replace(".", "_"), content)
        if changed is not None:
            save(folder / "run" / name, changed)
    return folder / "run"
