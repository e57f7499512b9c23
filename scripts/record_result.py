"""Condense a finished run or comparison to one small JSON that can be committed.

    python scripts/record_result.py runs/cctv_half results/cctv_half.json
    python scripts/record_result.py runs/compare results/cctv_nano_seeds.json

Holds the command, configuration, seed, versions, commit and machine, and the numbers of teacher, control and
student, or those of the comparison with their intervals. Absolute paths are replaced, so that the file reads the same
on every machine.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from detkd.io import read_json, write_json

_NUMBERS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100")


def numbers(folder: Path, stem: str = "") -> dict[str, Any]:
    """Return metrics per set and class, and the cost, of one `metrics.json`."""
    record = read_json(folder / f"{stem}metrics.json")
    metrics = record["metrics"]
    return {
        **{key: metrics[key] for key in _NUMBERS},
        "per_class": {
            name: {key: values[key] for key in ("AP", "AP50", "objects")}
            for name, values in metrics["per_class"].items()
        },
        "images": metrics["images"],
        "gt_sha256": metrics["protocol"]["gt_sha256"],
        "settings": {k: v for k, v in metrics["protocol"]["settings"].items() if k != "weights"},
        "engine": f"{metrics['protocol']['engine']} {metrics['protocol']['engine_version']}",
        "cost": record["cost"],
        "split": record["split"],
    }


def comparison(folder: Path) -> dict[str, Any]:
    """Return verdicts, sides, numbers and settings of a `compare.json`."""
    content = read_json(folder / "compare.json")
    kept = ("entries", "verdict", "control_verdict", "statistics", "protocol", "notes")
    rows = [row for row in content["rows"] if row["slice"] is None and row["metric"] in _NUMBERS]
    return {"kind": content["kind"], **{key: content[key] for key in kept}, "rows": rows}


def difference(folder: Path) -> dict[str, Any] | None:
    """Return verdict and interval of the difference in AP, None for runs from before there was any."""
    content = read_json(folder / "compare.json")
    if content["schema"] < 2:
        return None
    (row,) = [row for row in content["rows"] if row["key"] == "AP"]
    return {"verdict": content["verdict"], "AP": row, "statistics": content["statistics"]}


def collect(folder: Path) -> dict[str, Any]:
    """Return everything worth keeping of a run."""
    run = read_json(folder / "run.json")
    record: dict[str, Any] = {"schema": 1, "verb": run["verb"], "seed": run["seed"]}
    record["command"] = " ".join(run["command"])
    if run["verb"] == "compare":
        return {**record, **comparison(folder), "environment": run["environment"]}
    student = numbers(folder)
    if run["verb"] in ("distill", "demo"):
        control = folder / "control"
        record |= {"teacher": numbers(folder, "teacher_"), "control": numbers(control), "distilled": student}
        record["gain"] = {key: student[key] - record["control"][key] for key in ("AP", "AP50")}
        sides = (("control", control), ("distilled", folder))
        record["difference"] = difference(folder)
        record["outcome"] = {name: read_json(path / "outcome.json") for name, path in sides}
    else:
        record |= {"model": student, "outcome": read_json(folder / "outcome.json")}
    record["environment"] = run["environment"]
    record["config"] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return record


def without_paths(text: str) -> str:
    """Replace this machine's folders by names."""
    assets = os.environ.get("DETKD_ASSETS", "")
    places = {str(Path(assets).resolve()): "$DETKD_ASSETS", assets: "$DETKD_ASSETS", str(Path.cwd()): "."}
    for place, name in places.items():
        if place and place != ".":
            text = text.replace(place, name)
    return text


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    write_json(target, json.loads(without_paths(json.dumps(collect(source)))))
    print(f"{target} written")


if __name__ == "__main__":
    main()
