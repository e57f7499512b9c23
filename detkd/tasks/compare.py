"""`detkd compare`: two models, run folders or results files side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkd.data.coco import to_coco
from detkd.data.records import DetectionSet
from detkd.errors import ConfigError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.compare import Entry, compare
from detkd.evaluation.fail_if import check_fail_if, parse_fail_if
from detkd.evaluation.metrics import Metrics
from detkd.progress import console, out
from detkd.runs import finish_run, new_folder, start_run
from detkd.tasks.common import evaluate_weights, get_data, named_split
from detkd.tasks.evaluate import read_metrics
from detkd.tasks.results import CompareResult

__all__ = ["compare_models"]


def compare_models(config: dict[str, Any]) -> CompareResult:
    """Run `detkd compare`; the result says whether `fail_if` holds."""
    for key in ("before", "after"):
        if config.get(key) is None:
            raise ConfigError(f"{key}: missing; name weights, a run folder or a results JSON, e.g. {key}=runs/train")
    condition = config.get("fail_if")
    if condition is not None:
        parse_fail_if(str(condition))
    folder = new_folder(config.get("out"), config.get("name") or "compare")
    start_run(folder, "compare", config)
    dataset = None
    if (config.get("data") or {}).get("path") is not None:
        spec = get_data(config["data"], folder)
        dataset = named_split(spec, config.get("split"))
    before, after = (_entry(role, config[role], config, dataset, folder) for role in ("before", "after"))
    teacher = _entry("teacher", config["teacher"], config, dataset, folder) if config.get("teacher") else None
    comparison = compare(before, after, teacher)
    written = comparison.write(folder)
    out.print(comparison)
    console.print("written: " + ", ".join(path.name for path in written.values()) + f" in {folder}")
    verdict = check_fail_if(comparison, str(condition)) if condition is not None else None
    if verdict is not None:
        out.print(verdict.message)
    failed = bool(verdict)
    finish_run(folder, failed=failed, delta_AP=comparison.row("AP").delta)
    return CompareResult(folder, comparison, failed)


def _entry(role: str, value: Any, config: Mapping[str, Any], dataset: DetectionSet | None, folder: Path) -> Entry:
    """Evaluate or read one side."""
    path = Path(str(value)).expanduser()
    metrics_file = path / "metrics.json"
    if path.is_dir() and metrics_file.is_file() and dataset is None and config.get("gt") is None:
        record = read_metrics(metrics_file)
        return Entry(
            _name(path, role), role, Metrics.from_dict(record["metrics"]), record.get("cost") or None, str(path)
        )
    if path.suffix == ".json" or (path.is_dir() and (path / "detections.json").is_file()):
        results = path if path.suffix == ".json" else path / "detections.json"
        truth = config.get("gt") or (None if dataset is None else to_coco(dataset))
        if truth is None:
            raise ConfigError(f"gt: missing, needed for {role}={value}; name the labels, e.g. gt=annotations/val.json")
        cost = read_metrics(metrics_file).get("cost") if path.is_dir() and metrics_file.is_file() else None
        return Entry(
            _name(path, role), role, evaluate_detections(truth, results, engine=config["engine"]), cost, str(path)
        )
    if dataset is None:
        raise ConfigError(f"data: missing, needed to run {role}={value}; name the images, e.g. data=path/to/data.yaml")
    metrics, cost = evaluate_weights(str(value), dataset, folder, settings=config, stem=f"{role}_", key=role)
    return Entry(_name(path, role), role, metrics, cost, str(path))


def _name(path: Path, role: str) -> str:
    """Return a short name: the run for `runs/x/weights/last.pt`, else the file's own."""
    if path.name in {"last.pt", "best.pt"} and path.parent.name == "weights":
        return path.parent.parent.name
    return path.stem or role
