"""What runs a network: PyTorch, ONNX Runtime or OpenVINO behind one call.

Exported files carry class names and input size in their metadata, so nothing else is needed to use them.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from detkd.errors import ModelError
from detkd.inference.rtdetr import RTDETR_HEAD, check_nms, query_rows, query_vectors
from detkd.models.head import has_one2many, has_one2one
from detkd.models.weights import detect_head, is_rtdetr, load_detector, model_names, quiet, resolve

__all__ = ["Backend", "OnnxBackend", "OpenVinoBackend", "TorchBackend", "open_backend"]


class Backend(Protocol):
    """A detector that maps images to what its head puts out, before NMS.

    Attributes:
        runtime: Name for tables.
        names: Class names in index order.
        one2one: Whether the deployed head is an NMS-free one.
        stretch: Whether images fill the whole input, whatever their aspect ratio (RT-DETR).
        shape: Fixed height and width of the input, or None for any multiple of `stride`.
        batch: Fixed number of images per call, or None.
        stride: Coarsest stride in pixels.
        trained_imgsz: Side of the square input in training, or None where the file does not say.
        device: Where inputs are wanted and outputs come from.
        network: The PyTorch module as it is deployed, or None for exported files.
    """

    runtime: str
    names: tuple[str, ...]
    one2one: bool
    stretch: bool
    shape: tuple[int, int] | None
    batch: int | None
    stride: int
    trained_imgsz: int | None
    device: torch.device
    network: nn.Module | None

    def __call__(self, images: Tensor) -> Tensor:
        """Run RGB images in 0..1, (B, 3, H, W).

        Returns:
            (B, 4 + C, A) with centre x, centre y, width, height in pixels and class scores; from the NMS-free head
            (B, K, 6) with x1, y1, x2, y2, score, class, best first.
        """
        ...

    def vectors(self, images: Tensor) -> Tensor | None:
        """Run an NMS-free head that can say more than one class per box.

        Returns:
            (B, 4 + C, K) with centre x, centre y, width, height in pixels and all class scores of each query, or None
            where `__call__` tells all there is.
        """
        ...


class TorchBackend:
    """A checkpoint, fused as it would be deployed: batch normalisation folded, only the chosen head kept."""

    runtime: str = "PyTorch"
    shape: tuple[int, int] | None = None
    batch: int | None = None

    def __init__(self, path: Path, *, device: torch.device, nms: bool | None, half: bool, max_det: int) -> None:
        if half and device.type == "cpu":
            raise ModelError("half: half precision needs a GPU for a .pt model, got device=cpu; set half=false")
        model: Any = load_detector(path, key="model", rtdetr=True)
        self.stretch = is_rtdetr(model)
        if self.stretch:
            check_nms(nms, path)
        else:
            head: Any = detect_head(model, key="model", source=str(path))
            if nms is False and not has_one2one(head):
                raise ModelError(f"nms: {path} has no NMS-free head (YOLO26 has one), got nms=false; use nms=null")
            if nms is True and not has_one2many(head):
                raise ModelError(f"nms: {path} has only its NMS-free head, got nms=true; use nms=false")
            model.end2end = nms is False
            head.max_det = max_det
        with quiet():
            model = model.fuse(verbose=False)
        model = model.half() if half else model.float()
        # What Ultralytics does on the same hardware; timings would not compare otherwise.
        channels_last = device.type == "cuda" or (device.type == "cpu" and torch.backends.mkldnn.is_available())
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network: nn.Module | None = model.to(device).to(memory_format=layout).eval().requires_grad_(False)
        self.names = model_names(model)
        self.one2one = self.stretch or bool(model.end2end)
        self.stride = max(int(model.stride.max()), 32)
        size = model.args.get("imgsz")
        self.trained_imgsz: int | None = max(size) if isinstance(size, (list, tuple)) else size
        self.device = device
        self._model = model
        self._dtype = torch.float16 if half else torch.float32

    def __call__(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            outputs = self._model(images.to(self.device, self._dtype))
        result: Tensor = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        return query_rows(result, images) if self.stretch else result

    def vectors(self, images: Tensor) -> Tensor | None:
        if not self.stretch:
            return None
        with torch.inference_mode():
            _, (boxes, logits, *_) = self._model(images.to(self.device, self._dtype))
        return query_vectors(boxes[-1], logits[-1], images)


class _Exported:
    """What exported files have in common: everything about them is in their metadata."""

    network: nn.Module | None = None
    device: torch.device = torch.device("cpu")
    trained_imgsz: int | None = None

    def __init__(self, path: Path, metadata: Mapping[str, Any], nms: bool | None, half: bool) -> None:
        entries = {key: _literal(value) for key, value in metadata.items()}
        if half:
            raise ModelError("half: an exported file has its own precision; set half=false")
        if not isinstance(entries.get("names"), (dict, list)) or not entries["names"]:
            raise ModelError(f"model: {path} has no class names in its metadata; export it with detkd or Ultralytics")
        if entries.get("task", "detect") != "detect":
            raise ModelError(f"model: {path} is a model for {entries['task']}, not a detector; choose another file")
        arguments: dict[str, Any] = entries["args"] if isinstance(entries.get("args"), dict) else {}
        if arguments.get("nms"):
            raise ModelError(
                f"model: {path} has NMS built in with thresholds of its own, so no AP can be measured; "
                "export it again with nms=null or nms=false"
            )
        names = entries["names"]
        labels = [names[i] for i in sorted(names)] if isinstance(names, dict) else names
        self.names: tuple[str, ...] = tuple(map(str, labels))
        self.stretch = entries.get("head") == RTDETR_HEAD
        if self.stretch:
            check_nms(nms, path)
        self.one2one = self.stretch or bool(entries.get("end2end", False))
        if nms is not None and nms is self.one2one:
            raise ModelError(
                f"nms: {path} was exported with {'its NMS-free head' if self.one2one else 'the head that needs NMS'}, "
                f"got nms={str(nms).lower()}; leave nms=null for exported files, or export again"
            )
        size = entries.get("imgsz", 640)
        dynamic = bool(arguments.get("dynamic"))
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        self.shape: tuple[int, int] | None = None if dynamic else (int(height), int(width))
        self.batch: int | None = None if dynamic else int(entries.get("batch", 1))
        self.stride = int(entries.get("stride", 32))

    def vectors(self, images: Tensor) -> Tensor | None:
        return None

    def _rows(self, raw: Tensor, images: Tensor) -> Tensor:
        return query_rows(raw, images) if self.stretch else raw


class OnnxBackend(_Exported):
    """An ONNX file in ONNX Runtime; on the GPU only where the installed runtime supports it."""

    runtime: str = "ONNX Runtime"

    def __init__(self, path: Path, *, device: torch.device, nms: bool | None, half: bool) -> None:
        import onnxruntime

        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type != "cpu":
            if device.type != "cuda" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise ModelError(
                    f"device: the installed onnxruntime can't use {device}; run ONNX files with device=cpu"
                )
            providers = [("CUDAExecutionProvider", {"device_id": device.index or 0}), *providers]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as err:  # the runtime's exceptions have no public base class
            raise ModelError(
                f"model: {path} is no ONNX file that can be loaded ({_first_line(err)}); export it again"
            ) from err
        super().__init__(path, self._session.get_modelmeta().custom_metadata_map, nms, half)
        first = self._session.get_inputs()[0]
        self._input = first.name
        self._dtype = np.float16 if "float16" in first.type else np.float32

    def __call__(self, images: Tensor) -> Tensor:
        outputs = self._session.run(None, {self._input: images.cpu().numpy().astype(self._dtype, copy=False)})
        return self._rows(torch.from_numpy(outputs[0]).float(), images)


class OpenVinoBackend(_Exported):
    """An OpenVINO folder on the CPU, computed in float32 (int8 where the file says so) whatever the CPU prefers."""

    runtime: str = "OpenVINO"

    def __init__(self, path: Path, *, device: torch.device, nms: bool | None, half: bool) -> None:
        if device.type != "cpu":
            raise ModelError(f"device: OpenVINO files run on the CPU here, got {device}; use device=cpu")
        import openvino

        file = next(iter(sorted(path.glob("*.xml"))), None)
        if file is None:
            raise ModelError(f"model: {path} holds no OpenVINO model (*.xml); export it again")
        sidecar = path / "metadata.yaml"
        metadata = yaml.safe_load(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
        super().__init__(path, metadata or {}, nms, half)
        # Some CPUs would silently compute in bfloat16 and give other numbers than their neighbours.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
        except Exception as err:
            raise ModelError(
                f"model: {path} can't be loaded by OpenVINO ({_first_line(err)}); export it again"
            ) from err

    def __call__(self, images: Tensor) -> Tensor:
        outputs = self._compiled(images.cpu().numpy().astype(np.float32, copy=False))
        # The runtime reuses its buffer for the next image.
        return self._rows(torch.from_numpy(np.array(outputs[0], dtype=np.float32)), images)


def open_backend(
    weights: str | Path, *, device: torch.device, nms: bool | None, half: bool, max_det: int
) -> tuple[Path, Backend]:
    """Open a `.pt`, `.onnx` or OpenVINO folder.

    Returns:
        The path that was found behind `weights` and what runs it.

    Raises:
        ModelError: If it is missing, damaged, refused by the allow-list, no detector, or can't run as asked.
    """
    folder = Path(weights).expanduser()
    path = folder if folder.is_dir() and any(folder.glob("*.xml")) else resolve(weights, key="model")
    if path.is_dir():
        return path, OpenVinoBackend(path, device=device, nms=nms, half=half)
    if path.suffix == ".onnx":
        return path, OnnxBackend(path, device=device, nms=nms, half=half)
    if path.suffix == ".xml":
        return path.parent, OpenVinoBackend(path.parent, device=device, nms=nms, half=half)
    if path.suffix != ".pt":
        raise ModelError(f"model: can't run {path}; give a .pt, a .onnx or an OpenVINO folder")
    return path, TorchBackend(path, device=device, nms=nms, half=half, max_det=max_det)


def _literal(value: Any) -> Any:
    """Metadata of ONNX files is text; what is no Python literal stays text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(value)
    return value


def _first_line(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
