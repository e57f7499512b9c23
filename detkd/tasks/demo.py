"""`detkd demo`: the whole path on a drawn security-camera set, offline, in minutes."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Any

from detkd.errors import ConfigError
from detkd.evaluation.metrics import Metrics
from detkd.io import sha256, write_json
from detkd.progress import console
from detkd.report.model_card import card_for, write_card
from detkd.report.rows import row_dict
from detkd.runs import environment_record, finish_run
from detkd.tasks.common import get_data, report_set
from detkd.tasks.distill import distill_on, pictured, print_outcome
from detkd.tasks.results import DemoResult, DistillResult
from detkd.tasks.train import begin, keep_pictures, resumable

__all__ = ["PACKAGED_TEACHER", "demo"]

PACKAGED_TEACHER = "demo_teacher"
"""Value of `teacher.path` that stands for the teacher inside the package."""


def packaged_teacher() -> Path:
    """Return the teacher that ships with the package.

    Raises:
        ConfigError: If the installation lacks it.
    """
    path = Path(str(resources.files("detkd") / "assets" / f"{PACKAGED_TEACHER}.pt"))
    if not path.is_file():
        raise ConfigError(
            f"teacher: {path.name} is missing from this installation; reinstall detkd or give teacher=path.pt"
        )
    return path


def demo(config: dict[str, Any]) -> DemoResult:
    """Run `detkd demo`."""
    from detkd.exporting.exporter import export_model
    from detkd.models.weights import resolve

    started = time.monotonic()
    folder, config, resume = begin(config, "demo")
    wanted = config["teacher"]["path"]
    teacher = packaged_teacher() if wanted == PACKAGED_TEACHER else resolve(wanted, key="teacher")
    config = {**config, "teacher": {**config["teacher"], "path": str(teacher)}}
    console.rule("1/4 data")
    spec = get_data(config["data"], folder)
    reported = report_set(spec, str(config["checkpoint"]))
    console.rule("2/4 control and student")
    with resumable(folder):
        result = distill_on({**config, "control": True}, spec, folder, resume=resume)
    assert result.control is not None
    assert result.teacher is not None
    console.rule("3/4 pictures")
    keep_pictures(config, pictured(result), spec, folder)
    console.rule("4/4 export")
    exported = export_model(
        result.weights,
        format="onnx",
        imgsz=int(config["imgsz"]),
        nms=config.get("nms"),
        out=folder / "export",
        calibration=None,
        check=reported,
    )
    summary = _summary(config, result, folder)
    summary["export"] = exported.to_dict()
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(folder / "summary.json", summary)
    print_outcome(result, f"held-out cameras, {len(reported)} images (points)")
    finish_run(folder, gain=summary["gain"])
    write_card(card_for(folder, summary["export"]), folder / "export")
    console.print(f"pictures: {folder / 'pictures'}\nsummary: {folder / 'summary.json'}\nstudent: {result.weights}")
    console.print(f"exported: {exported.path}\npage: {folder / 'compare.html'}\nfinished in {summary['seconds']:.0f} s")
    return DemoResult(folder, summary)


def _summary(config: dict[str, Any], result: DistillResult, folder: Path) -> dict[str, Any]:
    """Return the table for scripts."""
    assert result.control is not None
    assert result.teacher is not None
    assert result.comparison is not None
    teacher_path = Path(config["teacher"]["path"])
    return {
        "schema": 1,
        "teacher": _entry(result.teacher.metrics, result.teacher_cost, teacher_path),
        "control": _entry(result.control.metrics, result.control.cost, result.control.weights),
        "distilled": _entry(result.metrics, result.cost, result.weights),
        "gain": result.gain,
        "verdict": result.comparison.verdict,
        "difference": row_dict(result.comparison.row("AP")),
        "matched": {
            key: {"control": result.control.outcome[key], "distilled": result.outcome[key]}
            for key in ("initial_hash", "batch_hash", "epochs", "seconds")
        },
        "seed": config["seed"],
        "config": config,
        "environment": environment_record(),
        "folder": str(folder),
    }


def _entry(metrics: Metrics, cost: dict[str, Any], weights: Path) -> dict[str, Any]:
    numbers = {k: v for k, v in metrics.to_dict().items() if k not in {"schema", "protocol"}}
    return {**numbers, **cost, "weights": str(weights), "sha256": sha256(weights)}
