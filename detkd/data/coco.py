"""Detection sets as COCO instances, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkd.data.build import build_set
from detkd.data.coco_reader import read_coco
from detkd.data.files import absolute, load_json
from detkd.data.images import Verify
from detkd.data.problems import Findings, check_on_bad
from detkd.data.records import DetectionSet

__all__ = ["from_coco", "to_coco"]


def to_coco(dataset: DetectionSet) -> dict[str, Any]:
    """Return a detection set as COCO instances.

    Image ids and category ids are the set's own, annotation ids count from 1 (pycocotools misreads 0), `file_name` is
    the absolute path, further fields of an image are kept.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        own = {"id": record.image_id, "file_name": str(record.path), "width": record.width, "height": record.height}
        images.append({**{key: value for key, value in record.meta.items() if key not in own}, **own})
        rows = zip(
            record.boxes_xyxy.tolist(),
            record.classes.tolist(),
            record.crowd.tolist(),
            record.areas.tolist(),
            strict=True,
        )
        for (x1, y1, x2, y2), index, crowd, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.image_id,
                    "category_id": dataset.category_ids[index],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    pairs = zip(dataset.category_ids, dataset.names, strict=True)
    return {
        "info": {"description": f"{dataset.split} split"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in pairs],
    }


def from_coco(
    content: Mapping[str, Any] | str | Path,
    *,
    split: str = "train",
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
    on_bad: str = "error",
    verify: Verify | None = "header",
) -> DetectionSet:
    """Read one COCO instances file, or its content.

    Args:
        content: Path of the JSON file, or what it holds.
        split: Name of the split.
        images: Folder that relative file names start from; by default found near the JSON file.
        names: Classes to use and their order; by default all categories in the file's order.
        on_bad: What to do with records that can't be used.
        verify: How closely to look at the image files; None doesn't open them and trusts the stated sizes.

    Raises:
        DataError: If the content isn't COCO, or holds unusable records under `on_bad="error"`.
    """
    findings = Findings(check_on_bad(on_bad))
    if isinstance(content, str | Path):
        file = absolute(content)
        raw = read_coco(
            load_json(file), findings, split=split, label=file.name, folder=file.parent, images=images, names=names
        )
    else:
        raw = read_coco(content, findings, split=split, label="COCO content", images=images, names=names)
    dataset = build_set(raw, findings, verify=verify)
    findings.close()
    return dataset
