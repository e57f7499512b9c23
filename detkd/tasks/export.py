"""`detkd export`: ONNX or OpenVINO, checked against the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detkd.errors import ConfigError
from detkd.progress import console
from detkd.report.model_card import card_for, training_run, write_card
from detkd.runs import finish_run, new_folder, start_run
from detkd.tasks.common import get_data, split_of

if TYPE_CHECKING:
    from detkd.exporting.exporter import ExportResult

__all__ = ["export"]


def export(config: dict[str, Any]) -> ExportResult:
    """Run `detkd export`."""
    from detkd.exporting.exporter import export_model
    from detkd.models.weights import resolve

    if str(config["device"]) not in ("auto", "cpu"):
        raise ConfigError(f"device: exporting and its check run on the CPU, got {config['device']}; leave it out")
    weights = resolve(config["model"]["path"], key="model")
    folder = new_folder(config.get("out"), config.get("name") or "export")
    start_run(folder, "export", config)
    calibration = check = None
    if (config.get("data") or {}).get("path") is not None:
        spec = get_data(config["data"], folder)
        calibration = spec.splits.get("train")
        check = split_of(spec, "val", "test", "train", key="data")
    tolerance = config["tolerance"]
    result = export_model(
        weights,
        format=str(config["format"]),
        imgsz=config.get("imgsz"),
        nms=config.get("nms"),
        out=folder,
        calibration=calibration,
        check=check,
        images=int(config["images"]),
        tolerance_ap=tolerance.get("ap"),
        tolerance_raw=tolerance.get("raw"),
    )
    card = write_card(card_for(training_run(weights), result.to_dict(), config), folder)
    finish_run(folder, export=result.to_dict())
    console.print(result)
    console.print(f"model card: {card}")
    return result
