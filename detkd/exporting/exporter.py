"""Export a detector and prove that the exported file is still the same detector."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from detkd.data.coco import to_coco
from detkd.data.records import DetectionSet, ImageRecord
from detkd.errors import ConfigError, DataError, ModelError
from detkd.evaluation.coco import evaluate_detections
from detkd.exporting.convert import FORMATS, CalibrationImages, convert
from detkd.exporting.parity import compare_raw
from detkd.inference.detector import Detector
from detkd.inference.images import read_image
from detkd.inference.results import detect_set
from detkd.io import PART
from detkd.models.cost import file_size_mb, measure
from detkd.progress import console

__all__ = ["ExportResult", "average_precision", "export_model", "export_table", "sample"]

RAW_IMAGES = 16
"""Raw outputs are compared on this many images: a wrong network differs on every one."""

_TOLERANCES: dict[str, tuple[float, float | None]] = {"fp32": (0.5, 1e-3), "half": (1.0, 5e-2), "int8": (2.0, None)}


@dataclass(frozen=True)
class ExportResult:
    """An exported file and how it compares with its original.

    Attributes:
        path: The `.onnx` file or OpenVINO folder.
        format: "onnx", "openvino" or "openvino_int8".
        head: Which head was exported.
        imgsz: Side of the square input in pixels.
        size_mb: On disk, in 10^6 bytes.
        raw_max_difference: Largest difference of raw outputs before NMS: of a score, or of a box side as a share of
            the image side.
        raw_tolerance: What was allowed; None for int8, where single anchors may move freely and AP judges.
        ap_before: AP of the original on the sample, points; None without labelled images.
        ap_after: AP of the exported file on the same images.
        ap_difference: After minus before.
        ap_tolerance: Points of AP that may be lost.
        images: Images of the sample.
        latency_before_ms: Median at batch 1 on the CPU, NMS counted.
        latency_ms: The same for the exported file, with the same number of threads.
        device: Where latency was measured.
    """

    path: Path
    format: str
    head: str
    imgsz: int
    size_mb: float
    raw_max_difference: float
    raw_tolerance: float | None
    ap_before: float | None
    ap_after: float | None
    ap_difference: float | None
    ap_tolerance: float
    images: int
    latency_before_ms: float
    latency_ms: float
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __rich__(self) -> Table:
        return export_table(self)


def average_precision(detector: Detector, dataset: DetectionSet) -> float | None:
    """Return COCO AP in points, None where nothing is labelled."""
    found = detect_set(detector, dataset)
    return evaluate_detections(to_coco(dataset), found, settings=detector.describe()).AP


def export_model(
    weights: str | Path,
    *,
    format: str,
    out: str | Path,
    imgsz: int | None = None,
    nms: bool | None = None,
    half: bool = False,
    name: str | None = None,
    calibration: DetectionSet | None = None,
    check: DetectionSet | None = None,
    images: int = 64,
    tolerance_ap: float | None = None,
    tolerance_raw: float | None = None,
    max_det: int = 300,
    evaluate: Callable[[Detector, DetectionSet], float | None] = average_precision,
) -> ExportResult:
    """Export a checkpoint, then compare the file with its original on the CPU.

    Raw outputs are compared on images of `check` (else of `calibration`, else on drawn noise), AP on `check`. A file
    that fails is kept as `<name>.rejected`, so that it can be looked into, and never replaces an earlier good one.

    Args:
        weights: `.pt`, run folder or official name.
        format: "onnx", "openvino" or "openvino_int8".
        out: Folder for the result.
        imgsz: Side of the square input in pixels; None takes that of the training.
        nms: None exports the head that needs NMS, False the NMS-free head of YOLO26.
        half: Store the weights in half precision; not with int8.
        name: File name without suffix; None takes that of the weights, plus `_nmsfree` for that head.
        calibration: Training images for int8.
        check: Labelled images the model has not been trained on.
        images: How many images, evenly spaced, to calibrate with and to check on.
        tolerance_ap: Points of AP that may be lost; None: 0.5, half 1, int8 2.
        tolerance_raw: Allowed difference of raw outputs, see `ExportResult`; None: 0.001, half 0.05. Not for int8.
        max_det: Detections the NMS-free head puts out.
        evaluate: Returns the AP of a detector on a data set in points.

    Raises:
        ConfigError: If an argument can't be used.
        ModelError: If the export fails or the file differs more than allowed.
        DataError: If `out` can't be written or an image can't be read.
    """
    if format not in FORMATS:
        raise ConfigError(f"format: unknown, got {format!r}; choose one of {', '.join(FORMATS)}")
    int8 = FORMATS[format][1] == 8
    if int8 and half:
        raise ConfigError("half: int8 files have their own precision; set half=false or format=openvino")
    if int8 and not (calibration and len(calibration)):
        raise ConfigError(f"data: {format} is calibrated on training images; name the data set, e.g. data=my.yaml")
    if images < 1:
        raise ConfigError(f"images: must be at least 1, got {images}")
    reference = Detector.load(weights, imgsz=imgsz, nms=nms, max_det=max_det, batch=1)
    if reference.path.suffix != ".pt":
        raise ModelError(f"model: {reference.path} is an exported file already; give the .pt it came from")
    folder = _writable(Path(out))
    stem = name or reference.path.stem + ("_nmsfree" if nms is False else "") + ("_fp16" if half else "")
    stem = stem.replace(".pt", "")  # Ultralytics would replace each of them, not only the last
    allowed_ap, allowed_raw = _TOLERANCES["int8" if int8 else "half" if half else "fp32"]
    allowed_ap = allowed_ap if tolerance_ap is None else tolerance_ap
    allowed_raw = None if int8 else allowed_raw if tolerance_raw is None else tolerance_raw
    chosen = sample(calibration, images) if calibration else None
    with tempfile.TemporaryDirectory(prefix="detkd-export-") as temporary:
        console.print(
            f"export {reference.path.name} to {format}, {reference.imgsz} px, {reference.head}", highlight=False
        )
        made = convert(
            reference.path,
            Path(temporary),
            name=stem,
            format=format,
            imgsz=reference.imgsz,
            nms=nms,
            half=half,
            max_det=max_det,
            calibration=CalibrationImages([r.path for r in chosen.records], reference.shape)
            if int8 and chosen
            else None,
        )
        exported = Detector.load(made, max_det=max_det, batch=1)
        labelled = sample(check, images) if check else None
        probes = _probes((labelled or chosen), reference.shape)
        raw = compare_raw(reference, exported, probes)
        before = evaluate(reference, labelled) if labelled else None
        after = evaluate(exported, labelled) if labelled else None
        cost_before, cost = measure(reference, probes[0]), measure(exported, probes[0])
        result = ExportResult(
            path=folder / made.name,
            format=format,
            head=reference.head,
            imgsz=reference.imgsz,
            size_mb=round(file_size_mb(made), 3),
            raw_max_difference=raw,
            raw_tolerance=allowed_raw,
            ap_before=before,
            ap_after=after,
            ap_difference=None if before is None or after is None else after - before,
            ap_tolerance=allowed_ap,
            images=len(labelled) if labelled else 0,
            latency_before_ms=cost_before.latency_ms,
            latency_ms=cost.latency_ms,
            device=cost.device,
        )
        problem = _problem(result)
        # OpenVINO keeps its file mapped; let go before it is moved.
        del exported
        target = result.path.with_name(f"{result.path.name}.rejected") if problem else result.path
        _install(made, target)
    if problem:
        raise ModelError(f"{problem}; the file is kept as {target}")
    return result


def export_table(result: ExportResult) -> Table:
    """Return original against exported file as a table."""
    table = Table(title=f"{result.path.name}: {result.head}, {result.imgsz} px, {result.size_mb:.1f} MB")
    for column in ("", "original", "exported", "difference", "allowed"):
        table.add_column(column, justify="left" if not column else "right")
    if result.ap_difference is not None:
        values = (f"{result.ap_before:.2f}", f"{result.ap_after:.2f}", f"{result.ap_difference:+.2f}")
        table.add_row(f"AP on {result.images} images (points)", *values, f"-{result.ap_tolerance:g}")
    allowed = "AP judges" if result.raw_tolerance is None else f"{result.raw_tolerance:g}"
    table.add_row("raw outputs (share of 1)", "", "", f"{result.raw_max_difference:.2g}", allowed)
    speed = result.latency_ms - result.latency_before_ms
    table.add_row(
        f"latency ms ({result.device})",
        f"{result.latency_before_ms:.1f}",
        f"{result.latency_ms:.1f}",
        f"{speed:+.1f}",
        "",
    )
    return table


def sample(dataset: DetectionSet, count: int) -> DetectionSet:
    """Return `count` images of a set, evenly spaced, always the same; all of them if there are no more."""
    records: Sequence[ImageRecord] = dataset.records
    if len(records) <= count:
        return dataset
    return replace(dataset, records=tuple(records[i * len(records) // count] for i in range(count)))


def _problem(result: ExportResult) -> str | None:
    raw, allowed = result.raw_max_difference, result.raw_tolerance
    if not np.isfinite(raw) or (allowed is not None and raw > allowed):
        limit = "finite and of the same shape" if allowed is None else f"at most {allowed:g}"
        return f"tolerance.raw: raw outputs of the exported file differ by {raw:.3g}, they must be {limit}"
    if result.ap_difference is not None and -result.ap_difference > result.ap_tolerance:
        return (
            f"tolerance.ap: the exported file has AP {result.ap_after:.2f} and the original {result.ap_before:.2f} on "
            f"{result.images} images, it may lose {result.ap_tolerance:g}; calibrate with more images or allow more"
        )
    return None


def _probes(dataset: DetectionSet | None, shape: tuple[int, int]) -> list[np.ndarray]:
    if dataset and len(dataset):
        return [read_image(record.path) for record in sample(dataset, RAW_IMAGES).records]
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (shape[0] // 8, shape[1] // 8, 3), dtype=np.uint8) for _ in range(4)]
    return [image.repeat(8, 0).repeat(8, 1) for image in small]


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as err:
        raise DataError(f"out: can't write to {folder} ({err.strerror or err}); choose a writable folder") from err


def _install(made: Path, target: Path) -> None:
    """Put a file or folder in its place in one step, replacing what is there."""
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=PART, dir=target.parent))
    try:
        fresh = staging / "new"
        shutil.copytree(made, fresh) if made.is_dir() else shutil.copyfile(made, fresh)
        if target.is_dir():
            target.rename(staging / "old")
        fresh.replace(target)
    except OSError as err:
        raise DataError(
            f"out: can't write {target} ({err.strerror or err}); make room or choose another folder with out=..."
        ) from err
    finally:
        shutil.rmtree(staging, ignore_errors=True)
