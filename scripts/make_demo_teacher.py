"""Make the teacher that ships with the package: `python scripts/make_demo_teacher.py` (about ten minutes on 2 cores).

Needs the COCO-pretrained nano, which Ultralytics downloads, or its path as the first argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import detkd
from detkd.io import atomic_path, write_json
from detkd.models.weights import load_detector
from detkd.runs import environment_record


def main() -> None:
    repo = Path(__file__).resolve().parents[1]
    model = sys.argv[1] if len(sys.argv) > 1 else "yolo26n"
    result = detkd.train(experiment="demo_teacher", model=model)
    network = load_detector(result.weights, key="model").half()
    network.args = {"task": "detect", "imgsz": result.metrics.protocol["settings"]["imgsz"]}
    network.criterion = None
    network.__dict__.pop("pt_path", None)
    # Only what a teacher needs: no paths, no optimizer, no arguments of the run.
    checkpoint = {"model": network, "ema": None, "train_args": network.args, "epoch": -1, "license": "AGPL-3.0"}
    target = repo / "detkd" / "assets" / "demo_teacher.pt"
    with atomic_path(target) as temporary:
        torch.save(checkpoint, temporary)
    protocol = result.metrics.protocol
    settings = {key: value for key, value in protocol["settings"].items() if key != "weights"}
    record = {
        "command": "python scripts/make_demo_teacher.py",
        "metrics": {**result.metrics.to_dict(), "protocol": {**protocol, "settings": settings}},
        "outcome": result.outcome,
        "environment": environment_record(),
        "size_mb": target.stat().st_size / 1e6,
    }
    write_json(repo / "results" / "demo_teacher.json", record)
    print(f"{target}: {record['size_mb']:.2f} MB, AP {result.metrics.AP:.2f}, AP50 {result.metrics.AP50:.2f}")


if __name__ == "__main__":
    main()
