"""`detkd predict`: see what one or several models see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detkd.errors import ConfigError
from detkd.progress import console
from detkd.runs import finish_run, new_folder, start_run
from detkd.tasks.arguments import pick_device

if TYPE_CHECKING:
    from detkd.inference.predict import PredictResult

__all__ = ["predict"]


def predict(config: dict[str, Any]) -> PredictResult:
    """Run `detkd predict`."""
    from detkd.inference.detector import Detector
    from detkd.inference.predict import predict as run_predict
    from detkd.models.weights import checkpoint_imgsz, resolve

    model = config["model"]["path"]
    if config.get("source") is None:
        raise ConfigError("source: missing; name an image, folder, pattern or video, e.g. source=data/samples/images")
    paths = [resolve(str(value), key="model") for value in (model if isinstance(model, list) else [model])]
    detectors = [
        Detector.load(
            path,
            device=pick_device(config["device"]),
            imgsz=int(config.get("imgsz") or checkpoint_imgsz(path)),
            nms=config.get("nms"),
            conf=float(config["conf"]),
            iou=float(config["iou"]),
            max_det=int(config["max_det"]),
            batch=int(config["batch"]),
            multi_label=False,
        )
        for path in paths
    ]
    folder = new_folder(config.get("out"), "predict")
    start_run(folder, "predict", config)
    result = run_predict(detectors, config["source"], folder)
    finish_run(folder, result=result.to_dict())
    found = ", ".join(f"{title}: {count}" for title, count in result.objects.items())
    console.print(f"{result.images} images, {result.frames} frames; objects found: {found}")
    for path, reason in result.skipped:
        console.print(f"[yellow]skipped {path}: {reason}[/yellow]")
    console.print(f"pictures: {folder}")
    return result
