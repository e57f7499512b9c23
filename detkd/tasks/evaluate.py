"""`detkd evaluate`: COCO metrics of a model or of a results file made elsewhere, with intervals and a diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.data.coco import to_coco
from detkd.diagnosis.slices import make_slices
from detkd.errors import ConfigError
from detkd.evaluation.side import Side, make_run
from detkd.evaluation.tables import metrics_table, per_class_table
from detkd.evaluation.truth import load_truth
from detkd.io import read_json, write_json
from detkd.progress import console, out, stages
from detkd.report.findings import find
from detkd.report.single import evaluation_dict, evaluation_view
from detkd.runs import finish_run, new_folder, start_run
from detkd.statistics.study import study
from detkd.tasks.common import evaluate_weights, get_data, named_split
from detkd.tasks.compare import report_settings
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
    options = config.get("report") or {}
    settings = report_settings(options)
    folder = new_folder(config.get("out"), config.get("name") or "evaluate")
    start_run(folder, "evaluate", config)
    dataset = None
    if (config.get("data") or {}).get("path") is not None:
        spec = get_data(config["data"], folder)
        dataset = named_split(spec, config.get("split"))
    cost: dict[str, Any] = {}
    if detections is not None:
        labels = config.get("gt") or (None if dataset is None else to_coco(dataset))
        if labels is None:
            raise ConfigError("gt: missing; name the labels, e.g. gt=annotations/val.json, or data=... split=val")
        truth = load_truth(labels, on_bad=config["on_bad"])
        run = make_run(
            truth,
            Path(detections),
            source=str(detections),
            engine=str(config["engine"]),
            on_bad=config["on_bad"],
        )
        record: dict[str, Any] = {"metrics": run.metrics.to_dict(), "cost": cost, "detections": str(detections)}
        name = Path(detections).stem
    else:
        if dataset is None:
            raise ConfigError("data: missing; name the images to evaluate on, e.g. data=toy or data=path/to/data.yaml")
        run, cost = evaluate_weights(str(model), dataset, folder, settings=config)
        record = read_json(folder / "metrics.json")
        name = Path(str(model)).name
    side = Side(name, "run", (run,), cost or None, str(model or detections))
    parts = make_slices(run.truth, options.get("slices"))
    with stages() as report:
        result = study([side], [], slices=parts, settings=settings, progress=report)
        content = evaluation_dict(side, result, parts, find([side], progress=report))
    write_json(folder / "metrics.json", {**record, **content})
    metrics = run.metrics
    finish_run(folder, AP=metrics.AP, AP50=metrics.AP50)
    out.print(metrics_table([(name, metrics, cost or None)]))
    out.print(per_class_table([(name, metrics, cost or None)]))
    out.print(evaluation_view(content))
    for warning in metrics.protocol.get("warnings", ()):
        console.print(f"[yellow]{warning}[/yellow]")
    console.print(f"results: {folder}")
    return EvaluateResult(folder, run, cost)
