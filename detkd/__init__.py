"""detkd: make small object detectors good by distillation, and say honestly what it bought.

Every verb of the command line is a function here. Arguments are the keys one would type, dots as a dictionary:

    import detkd
    result = detkd.distill(teacher="yolo26x", student="yolo26n", data="toy", epochs=20, options={"trainer.lr0": 0.001})
    print(result.metrics.AP, result.weights)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detkd.exporting.exporter import ExportResult
    from detkd.inference.predict import PredictResult
    from detkd.tasks.cache import CacheResult
    from detkd.tasks.doctor import DoctorResult
    from detkd.tasks.pseudolabel import PseudolabelResult
    from detkd.tasks.results import (
        CompareResult,
        DemoResult,
        DistillResult,
        EvaluateResult,
        TrainResult,
    )

__all__ = [
    "__version__",
    "cache",
    "compare",
    "demo",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "predict",
    "pseudolabel",
    "train",
]

__version__ = "0.1.0"


def _run(verb: str, options: Mapping[str, Any] | None, keys: Mapping[str, Any]) -> Any:
    # Imported here: `import detkd` must not cost the seconds that torch takes.
    import os

    from detkd.config import from_arguments

    config = from_arguments(verb, {**keys, **(options or {})})
    if config.get("trust"):
        os.environ["DETKD_TRUST"] = "1"  # read when Ultralytics is imported, by the next line
    from detkd import api
    from detkd.runs import fail_runs

    try:
        return getattr(api, verb)(config)
    except BaseException as err:  # a session goes on; another process may take up the run
        fail_runs(str(err) if isinstance(err, Exception) else None)
        raise


def train(*, options: Mapping[str, Any] | None = None, **keys: Any) -> TrainResult:
    """Train a plain detector: `detkd.train(model="yolo26n", data="toy", epochs=20)`."""
    result: TrainResult = _run("train", options, keys)
    return result


def distill(*, options: Mapping[str, Any] | None = None, **keys: Any) -> DistillResult:
    """Distil a student: `detkd.distill(teacher="yolo26x", student="yolo26n", data="toy", control=True)`."""
    result: DistillResult = _run("distill", options, {**keys, "dry_run": False})
    return result


def doctor(*, options: Mapping[str, Any] | None = None, **keys: Any) -> DoctorResult:
    """Check a distillation before it runs: `detkd.doctor(teacher="yolo26x", student="yolo26n", data="toy")`."""
    result: DoctorResult = _run("doctor", options, keys)
    return result


def evaluate(*, options: Mapping[str, Any] | None = None, **keys: Any) -> EvaluateResult:
    """Evaluate a model (`model=`, `data=`) or a results file (`detections=`, `gt=`)."""
    result: EvaluateResult = _run("evaluate", options, keys)
    return result


def compare(*, options: Mapping[str, Any] | None = None, **keys: Any) -> CompareResult:
    """Compare two models, run folders or results files: `detkd.compare(before=..., after=...)`."""
    result: CompareResult = _run("compare", options, keys)
    return result


def export(*, options: Mapping[str, Any] | None = None, **keys: Any) -> ExportResult:
    """Export and check a detector: `detkd.export(model=..., format="onnx")`."""
    result: ExportResult = _run("export", options, keys)
    return result


def predict(*, options: Mapping[str, Any] | None = None, **keys: Any) -> PredictResult:
    """Draw the boxes of one or several models: `detkd.predict(model=..., source="video.mp4")`."""
    result: PredictResult = _run("predict", options, keys)
    return result


def cache(action: str, *, options: Mapping[str, Any] | None = None, **keys: Any) -> CacheResult:
    """Build, list, verify or prune caches: `detkd.cache("build", teacher=..., student=..., data=...)`."""
    result: CacheResult = _run("cache", options, {"action": action, **keys})
    return result


def pseudolabel(*, options: Mapping[str, Any] | None = None, **keys: Any) -> PseudolabelResult:
    """Label footage with a teacher: `detkd.pseudolabel(teacher=..., data=..., source="street.mp4")`."""
    result: PseudolabelResult = _run("pseudolabel", options, keys)
    return result


def demo(*, options: Mapping[str, Any] | None = None, **keys: Any) -> DemoResult:
    """Run the demo: `detkd.demo(seed=0)`."""
    result: DemoResult = _run("demo", options, keys)
    return result
