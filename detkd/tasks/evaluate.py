"""`detkd evaluate`: COCO metrics of a model or of a results file made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.data.coco import to_coco
from detkd.errors import ConfigError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.tables import metrics_table, per_class_table
from detkd.io import read_json, write_json
from detkd.progress import console, out
from detkd.runs import finish_run, new_folder, start_run
from detkd.tasks.common import evaluate_weights, get_data, named_split
from detkd.tasks.results import EvaluateResult

__all__ = ["evaluate"]


def evaluate(config: dict[str, Any]) -> EvaluateResult:
    """Run `detkd evaluate`."""
    model = (config.get("model") or {}).get("path")
    detections = config.get("detections")
    if (model is None) == (detections is None):
        raise ConfigError(
            "model: give either model=weights or detections=results.json; e.g. detkd evaluate model=best.pt data=toy"
        )
    folder = new_folder(config.get("out"), config.get("name") or "evaluate")
    start_run(folder, "evaluate", config)
    dataset = None
    if (config.get("data") or {}).get("path") is not None:
        spec = get_data(config["data"], folder)
        dataset = named_split(spec, config.get("split"))
    if detections is not None:
        truth = config.get("gt") or (None if dataset is None else to_coco(dataset))
        if truth is None:
            raise ConfigError("gt: missing; name the labels, e.g. gt=annotations/val.json, or data=... split=val")
        metrics = evaluate_detections(truth, Path(detections), engine=str(config["engine"]))
        cost: dict[str, Any] = {}
        write_json(folder / "metrics.json", {"metrics": metrics.to_dict(), "cost": cost, "detections": str(detections)})
        name = Path(detections).stem
    else:
        if dataset is None:
            raise ConfigError("data: missing; name the images to evaluate on, e.g. data=toy or data=path/to/data.yaml")
        metrics, cost = evaluate_weights(str(model), dataset, folder, settings=config)
        name = Path(str(model)).name
    finish_run(folder, AP=metrics.AP, AP50=metrics.AP50)
    out.print(metrics_table([(name, metrics, cost or None)]))
    out.print(per_class_table([(name, metrics, cost or None)]))
    for warning in metrics.protocol.get("warnings", ()):
        console.print(f"[yellow]{warning}[/yellow]")
    console.print(f"results: {folder}")
    return EvaluateResult(folder, metrics, cost)


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a `metrics.json` written by any verb."""
    record = read_json(path)
    if not isinstance(record, dict) or "metrics" not in record:
        raise ConfigError(f"{path}: is no metrics file of detkd; name a run folder or run detkd evaluate first")
    return record
