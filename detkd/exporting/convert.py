"""Write a checkpoint as ONNX or OpenVINO through Ultralytics' exporter, without its side effects.

Nothing is written beside the user's weights, no label cache is made or read for calibration, nothing is installed, and
nobody is told about it (the OpenVINO tools and Ultralytics would send usage statistics).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import detkd.environment

import numpy as np
import torch
from torch import Tensor
from ultralytics.engine.exporter import Exporter

from detkd.errors import ModelError
from detkd.inference.images import letterbox, read_image
from detkd.models.weights import load_detector, quiet

__all__ = ["FORMATS", "CalibrationImages", "convert"]

FORMATS: dict[str, tuple[str, int | None]] = {
    "onnx": ("onnx", None),
    "openvino": ("openvino", None),
    "openvino_int8": ("openvino", 8),
}
"""Our format to Ultralytics' `format` and `quantize`."""


class CalibrationImages:
    """Letterboxed images in the form that Ultralytics' exporter calibrates with, one at a time."""

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int]) -> None:
        self._paths = list(paths)
        self._shape = shape

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for path in self._paths:
            canvas, _ = letterbox(read_image(path), self._shape)
            pixels = np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1))
            yield {"img": torch.from_numpy(pixels)[None]}  # RGB, (1, 3, H, W) uint8


class _Exporter(Exporter):
    """Ultralytics' exporter with our calibration images and without callbacks."""

    calibration: CalibrationImages | None = None

    def get_int8_calibration_dataloader(self, prefix: str = "") -> CalibrationImages | None:
        return self.calibration

    def run_callbacks(self, event: str) -> None:
        """Do nothing: the only callbacks report usage."""


def convert(
    weights: Path,
    folder: Path,
    *,
    name: str,
    format: str,
    imgsz: int,
    nms: bool | None,
    half: bool,
    max_det: int,
    calibration: CalibrationImages | None,
) -> Path:
    """Export a `.pt` into `folder` and return the file or folder that was made.

    The network is static: batch 1, a square of `imgsz`. Class names and size go into the metadata.

    Args:
        weights: Checkpoint.
        folder: An empty folder.
        name: File name without suffix.
        format: A key of `FORMATS`.
        imgsz: Side of the input in pixels.
        nms: False takes the NMS-free head, anything else the one that needs NMS.
        half: Store weights in half precision.
        max_det: Detections that the NMS-free head puts out.
        calibration: Images for int8.

    Raises:
        ModelError: If the exporter fails.
    """
    kind, bits = FORMATS[format]
    model: Any = load_detector(weights, key="model")
    # The exporter derives the name of its result from this path and writes there.
    model.pt_path = str(folder / f"{name}.pt")
    overrides: dict[str, Any] = {
        "mode": "export",
        "format": kind,
        "imgsz": imgsz,
        "batch": 1,
        "device": "cpu",
        "nms": False if nms is False else None,
        "max_det": max_det,
        "quantize": bits or (16 if half else None),
        "verbose": False,
    }
    if calibration is not None:
        overrides["data"] = f"{len(calibration)} images"
    try:
        with _undisturbed():
            if bits == 8:
                import nncf  # here, because it takes seconds

                nncf.set_log_level(logging.ERROR)  # its progress bars stay
            exporter = _Exporter(overrides=overrides)
            exporter.calibration = calibration
            made = Path(exporter(model))
    except Exception as err:  # every tool behind the exporter has exceptions of its own
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
        raise ModelError(f"format: export to {format} failed ({reason}); try another format") from err
    return made


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep tools quiet: no warnings about their own insides, no chatter on stdout, no usage statistics."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        with quiet(50), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
