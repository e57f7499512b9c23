"""How much of the difference between `yolo val` and COCO AP our reconciliation explains, on real detections.

    DETKD_ASSETS=folder python scripts/bench/yolo_val.py results/yolo_val.json

Runs Ultralytics' own validator on coco_mini with `save_json`, with and without `rect`, and puts the numbers it prints
beside what `detkd.diagnosis.yolo_val.reconcile` makes of the JSON it wrote, and beside COCO's.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import detkd.environment

from rich.table import Table
from ultralytics import YOLO

from detkd.diagnosis.yolo_val import reconcile
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from detkd.io import read_json, write_json
from detkd.progress import console, out
from detkd.runs import environment_record

SIZE = 640
WEIGHTS = ("yolo26n", "yolov8n")


def yolo_set(gt: dict[str, Any], images: Path, folder: Path) -> Path:
    """Write COCO labels as Ultralytics wants them, crowd regions left out as its own converter does."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    index = {category["id"]: number for number, category in enumerate(gt["categories"])}
    for record in gt["images"]:
        (folder / "images" / record["file_name"]).symlink_to(images / record["file_name"])
        width, height = record["width"], record["height"]
        lines = []
        for one in gt["annotations"]:
            if one["image_id"] == record["id"] and not one["iscrowd"]:
                x, y, w, h = one["bbox"]
                box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines.append(" ".join([str(index[one["category_id"]]), *(f"{value:.8f}" for value in box)]))
        (folder / "labels" / Path(record["file_name"]).with_suffix(".txt")).write_text("\n".join(lines))
    names = {number: category["name"] for number, category in enumerate(gt["categories"])}
    content = {"path": str(folder), "train": "images", "val": "images", "names": names}
    (folder / "data.yaml").write_text(json.dumps(content))  # JSON is YAML
    return folder / "data.yaml"


def main() -> None:
    assets = Path(os.environ["DETKD_ASSETS"])
    labels = assets / "data" / "coco_mini" / "annotations" / "val.json"
    truth = load_truth(labels)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = yolo_set(read_json(labels), assets / "data" / "coco_mini" / "images", folder)
        for name in WEIGHTS:
            for rect in (True, False):
                console.print(f"yolo val {name} rect={rect}")
                run_name = f"{name}-{rect}"
                box = (
                    YOLO(assets / "weights" / f"{name}.pt")
                    .val(data=data, imgsz=SIZE, batch=8, device="cpu", workers=0, save_json=True, plots=False,
                         rect=rect, project=str(folder / "runs"), name=run_name, verbose=False)
                    .box
                )  # fmt: skip
                run = make_run(truth, next((folder / "runs").rglob(f"{run_name}/predictions.json")))
                found = reconcile(run)
                rows.append(
                    {
                        "weights": name,
                        "rect": rect,
                        "printed": {"AP": 100 * box.map, "AP50": 100 * box.map50},
                        "reconciled": {key: found[key] for key in ("AP", "AP50")},
                        "coco": {"AP": run.metrics.AP, "AP50": run.metrics.AP50},
                        "parts": [{key: part[key] for key in ("name", "AP", "AP50")} for part in found["parts"]],
                    }
                )
    table = Table("weights", "rect", "yolo val", "reconciled", "COCO", title="AP / AP50, points")
    for row in rows:
        cells = [f"{row[key]['AP']:.2f} / {row[key]['AP50']:.2f}" for key in ("printed", "reconciled", "coco")]
        table.add_row(row["weights"], str(row["rect"]), *cells)
    out.print(table)
    if len(sys.argv) > 1:
        record = {"schema": 1, "set": "coco_mini val", "images": len(truth.images), "imgsz": SIZE, "rows": rows}
        write_json(sys.argv[1], {**record, "environment": environment_record()})


if __name__ == "__main__":
    main()
