"""`detkd evaluate`: COCO metrics of a model or of a results file made elsewhere, with intervals and a diagnosis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detkd.data.raw import finite_json
from detkd.diagnosis.slices import make_slices
from detkd.errors import ConfigError
from detkd.evaluation.records import read_records
from detkd.evaluation.side import Side
from detkd.evaluation.tables import metrics_table, per_class_table
from detkd.io import read_json, write_json, write_json_list
from detkd.progress import console, out, stages
from detkd.report.findings import find
from detkd.report.flat import flat_numbers
from detkd.report.single import evaluation_dict, evaluation_view
from detkd.runs import finish_run, new_folder, start_run
from detkd.statistics.study import study
from detkd.tasks.common import TRUTH_FILE, evaluate_weights
from detkd.tasks.compare import check_report, report_settings, slice_fields
from detkd.tasks.entries import Sources
from detkd.tasks.loggers import check_loggers, log_numbers
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
    loggers = check_loggers(options.get("loggers"))
    if model is not None and not config.get("gt") and (config.get("data") or {}).get("path") is None:
        raise ConfigError("data: missing; name the images to evaluate on, e.g. data=toy or data=path/to/data.yaml")
    folder = new_folder(config.get("out"), config.get("name") or "evaluate")
    start_run(folder, "evaluate", config)
    sources = Sources(config, folder, [detections or model])
    parts = make_slices(sources.truth, slice_fields(check_report(options, sources.truth)))
    cost: dict[str, Any] = {}
    if detections is not None:
        run = sources.results(Path(detections))
        record: dict[str, Any] = {"metrics": run.metrics.to_dict(), "cost": cost, "detections": str(detections)}
        _keep(Path(detections), folder / "detections.json")
        name = Path(detections).stem
    else:
        run, cost = evaluate_weights(str(model), sources.dataset, folder, settings=config, truth=sources.truth)
        record = read_json(folder / "metrics.json")
        name = Path(str(model)).name
    write_json(folder / TRUTH_FILE, finite_json(sources.labels), indent=None)  # what was skipped may hold NaN
    side = Side(name, "run", (run,), cost or None, str(model or detections))
    with stages() as report:
        result = study([side], [], slices=parts, settings=settings, progress=report)
        content = evaluation_dict(side, result, parts, find([side], progress=report))
    write_json(folder / "metrics.json", {**record, **content})
    log_numbers(flat_numbers({**record, **content}), folder, loggers, config=config)
    metrics = run.metrics
    finish_run(folder, AP=metrics.AP, AP50=metrics.AP50)
    out.print(metrics_table([(name, metrics, cost or None)]))
    out.print(per_class_table([(name, metrics, cost or None)]))
    out.print(evaluation_view(content))
    for warning in metrics.protocol.get("warnings", ()):
        console.print(f"[yellow]{warning}[/yellow]")
    console.print(f"results: {folder}")
    return EvaluateResult(folder, run, cost)


def _keep(detections: Path, file: Path) -> None:
    """Copy the detections into the run folder, record by record; NaN, which JSON does not have, becomes null."""
    content = read_records(detections)
    if isinstance(content, Iterator):
        write_json_list(file, (finite_json(record) for block in content for record in block))
    else:
        write_json(file, finite_json(content), indent=None)
