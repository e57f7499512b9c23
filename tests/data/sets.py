"""Small data sets on disk, in each format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 8, "name": "truck"}]


def draw(path: Path, size: tuple[int, int] = (64, 48), seed: int | None = None, **options: Any) -> Path:
    """Write a noise image; every path gets other pixels unless a seed is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(sum(path.as_posix().encode()) if seed is None else seed)
    mode = options.pop("mode", "RGB")
    pixels = generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def sideways() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def coco_content(count: int = 2, first: int = 1, **extra: Any) -> dict[str, Any]:
    images = [
        {"id": first + k, "file_name": f"{first + k}.jpg", "width": 64, "height": 48, **extra} for k in range(count)
    ]
    annotations = [
        {
            "id": 10 * first + k,
            "image_id": first + k,
            "category_id": 3,
            "bbox": [8.0, 4.0, 16.0, 12.0],
            "area": 100.0,
            "iscrowd": 0,
        }
        for k in range(count)
    ]
    return {"images": images, "annotations": annotations, "categories": [dict(item) for item in CATEGORIES]}


def write_coco(root: Path, **contents: dict[str, Any]) -> Path:
    """Write annotations/<split>.json and the images they list."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in contents.items():
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
        for item in content["images"]:
            if not (root / "images" / item["file_name"]).exists():
                draw(root / "images" / item["file_name"])
    return root


def coco(root: Path) -> Path:
    return write_coco(root, train=coco_content(3), val=coco_content(2, 11))


def write_yolo(root: Path, labels: dict[str, str | None], names: Any = ("car", "truck"), **keys: Any) -> Path:
    """Write images/<key>.jpg, labels/<key>.txt (None: no file) and data.yaml; keys look like train/a."""
    for key, text in labels.items():
        draw(root / "images" / f"{key}.jpg")
        if text is not None:
            (root / "labels" / key).parent.mkdir(parents=True, exist_ok=True)
            (root / "labels" / f"{key}.txt").write_text(text, encoding="utf-8")
    splits = {key.split("/")[0]: f"images/{key.split('/')[0]}" for key in labels}
    content = {"names": list(names) if isinstance(names, tuple) else names, **splits, **keys}
    content = {key: value for key, value in content.items() if value is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return root / "data.yaml"


def yolo(root: Path) -> Path:
    return write_yolo(
        root, {"train/a": "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.125 0.25\n", "train/b": "", "val/c": "1 0.5 0.5 0.5 0.5"}
    )


def voc_xml(name: str, objects: str, size: tuple[int, int] = (64, 48)) -> str:
    return (
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{objects}</annotation>"
    )


def voc_object(name: str = "car", box: tuple[Any, ...] = (5, 6, 20, 30), difficult: int = 0) -> str:
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def write_voc(root: Path, objects: dict[str, str], sets: dict[str, list[str]] | None = None) -> Path:
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for name, text in objects.items():
        draw(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(f"{name}.jpg", text), encoding="utf-8")
    for split, stems in (sets or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
    return root


def voc(root: Path) -> Path:
    objects = {
        "a": voc_object() + voc_object("truck", (1, 1, 10, 10)),
        "b": voc_object(difficult=1),
        "c": voc_object("person"),
    }
    return write_voc(root, objects, {"train": ["a", "b"], "val": ["c  1"]})


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return name, size, time and bytes of everything below a folder."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }
