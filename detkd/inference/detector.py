"""One detector for everything: evaluation, prediction, export checks and the demo."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detkd.environment

import numpy as np
import torch
import torchvision  # noqa: F401  (Ultralytics' NMS uses its kernel only if somebody has imported it)
from torch import Tensor, nn
from ultralytics.utils.nms import non_max_suppression

from detkd.errors import ConfigError
from detkd.inference.backends import Backend, open_backend
from detkd.inference.device import torch_device
from detkd.inference.images import Placement, letterbox, read_image

__all__ = ["Detections", "Detector"]

HEADS = {False: "one2many+nms", True: "one2one (NMS-free)"}


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Attributes:
        boxes_xyxy: Pixels of the original image, clipped to it, float32 (N, 4).
        scores: 0..1, float32 (N,).
        classes: Index into the detector's names, int64 (N,).
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """Runs a detector on images of any size; use `Detector.load`.

    Images are letterboxed to a fixed square (never to a rectangle per batch), so that a checkpoint and its exported
    file see the same pixels.

    Attributes:
        path: File or folder the detector came from.
        names: Class names in index order.
        head: Which head answers: "one2many+nms" or "one2one (NMS-free)".
        shape: Height and width of the network's input.
    """

    def __init__(
        self,
        backend: Backend,
        path: Path,
        shape: tuple[int, int],
        *,
        batch: int,
        conf: float,
        iou: float,
        max_det: int,
        multi_label: bool,
    ) -> None:
        self.path = path
        self.names = backend.names
        self.head = HEADS[backend.one2one]
        self.shape = shape
        self.batch, self.conf, self.iou, self.max_det, self.multi_label = batch, conf, iou, max_det, multi_label
        self._backend = backend

    @classmethod
    def load(
        cls,
        weights: str | Path,
        *,
        device: Any = "cpu",
        imgsz: int | None = 640,
        batch: int = 8,
        conf: float = 0.001,
        iou: float = 0.7,
        max_det: int = 300,
        nms: bool | None = None,
        half: bool = False,
        multi_label: bool = True,
    ) -> Detector:
        """Load a `.pt`, a `.onnx` or an OpenVINO folder.

        The defaults are those of Ultralytics' `val`, which suit measuring AP; for looking at pictures use a higher
        `conf` and `multi_label=False`.

        Args:
            weights: Path, run folder or official name.
            device: "cpu", 0, "cuda:0", ...; "auto" takes the first GPU where there is one.
            imgsz: Side of the square input in pixels; None takes the one of the training. A file exported with a fixed
                size keeps its own.
            batch: Images per forward pass; a file exported with a fixed batch keeps its own.
            conf: Least score of a detection, 0..1.
            iou: Overlap above which NMS drops the weaker box of the same class, 0..1.
            max_det: Most detections per image.
            nms: None takes the head that needs NMS (of an exported file: the one it has), False the NMS-free head of
                YOLO26.
            half: Half precision, on a GPU.
            multi_label: Whether one box may count for several classes; the NMS-free head always allows it.

        Raises:
            ModelError: If the model can't be loaded or has no such head.
            ConfigError: If an argument or the device can't be used.
        """
        _check_range("conf", conf, 0, 1)
        _check_range("iou", iou, 0, 1)
        _check_range("max_det", max_det, 1, None)
        _check_range("batch", batch, 1, None)
        path, backend = open_backend(weights, device=torch_device(device), nms=nms, half=half, max_det=max_det)
        shape = backend.shape
        if shape is None:
            imgsz = (backend.trained_imgsz or 640) if imgsz is None else imgsz
            _check_range("imgsz", imgsz, backend.stride, None)
            if imgsz % backend.stride:
                nearest = -(-imgsz // backend.stride) * backend.stride
                raise ConfigError(f"imgsz: must be a multiple of {backend.stride}, got {imgsz}; use imgsz={nearest}")
            shape = (int(imgsz), int(imgsz))
        return cls(backend, path, shape, batch=batch, conf=conf, iou=iou, max_det=max_det, multi_label=multi_label)

    def at(self, factor: float) -> Detector:
        """Return the same network for inputs of `factor` times the size, rounded to the nearest size it can take.

        Raises:
            ConfigError: If the file was exported with a fixed input size.
        """
        stride = self._backend.stride
        height, width = (max(round(side * factor / stride), 1) * stride for side in self.shape)
        if (height, width) != self.shape and self._backend.shape is not None:
            raise ConfigError(
                f"scales: {self.path} takes only its own input size of {self.imgsz} pixels, got scale {factor:g}; "
                "use scales=[1.0], or export it again with dynamic=true"
            )
        limits: dict[str, Any] = {"conf": self.conf, "iou": self.iou, "max_det": self.max_det}
        return Detector(
            self._backend, self.path, (height, width), batch=self.batch, multi_label=self.multi_label, **limits
        )

    @property
    def imgsz(self) -> int:
        """Longer side of the network's input in pixels."""
        return max(self.shape)

    @property
    def nms_free(self) -> bool:
        """Whether the head puts out each object once."""
        return self._backend.one2one

    @property
    def step(self) -> int:
        """Images per call of the network."""
        return self._backend.batch or self.batch

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._backend.device

    @property
    def network(self) -> nn.Module | None:
        """The PyTorch network as deployed (fused, one head), or None for exported files."""
        return self._backend.network

    @property
    def runtime(self) -> str:
        """What runs the network: PyTorch, ONNX Runtime or OpenVINO."""
        return self._backend.runtime

    def describe(self) -> dict[str, Any]:
        """Return the settings a result depends on, for the protocol of an evaluation."""
        return {
            "weights": str(self.path),
            "runtime": self.runtime,
            "device": str(self.device),
            "head": self.head,
            "imgsz": self.shape[0] if self.shape[0] == self.shape[1] else list(self.shape),
            "letterbox": "stretched" if self._backend.stretch else "square",
            "conf": self.conf,
            "iou": None if self._backend.one2one else self.iou,
            "max_det": self.max_det,
            "multi_label": True if self._backend.one2one else self.multi_label,
        }

    def detect(
        self, images: Iterable[str | Path | np.ndarray], *, classes: Sequence[int] | None = None
    ) -> Iterator[Detections]:
        """Detect objects in images, one result per image, in their order.

        Images are read as they are needed and at most `batch` of them are in memory.

        Args:
            images: Paths, or BGR arrays (H, W, 3) uint8.
            classes: Class indices to look for; others don't use up `max_det` of the head with NMS. None looks for all.

        Raises:
            DataError: If an image can't be read.
        """
        stream = iter(images)
        while chunk := list(itertools.islice(stream, self.step)):
            pixels, placements = self.prepare([i if isinstance(i, np.ndarray) else read_image(i) for i in chunk])
            for rows, placement in zip(self.select(self.raw(pixels), classes=classes), placements, strict=True):
                found = rows.cpu().numpy()
                yield Detections(placement.restore(found[:, :4]), found[:, 4], found[:, 5].astype(np.int64))

    def prepare(self, images: Sequence[np.ndarray]) -> tuple[Tensor, list[Placement]]:
        """Letterbox BGR images; return RGB in 0..1, (B, 3, H, W) float32 on the device, and where the images lie."""
        pairs = [letterbox(image, self.shape, stretch=self._backend.stretch) for image in images]
        stack = torch.from_numpy(np.stack([canvas for canvas, _ in pairs])).to(self.device)
        pixels = stack.permute(0, 3, 1, 2).flip(1).contiguous().float() / 255
        return pixels, [placement for _, placement in pairs]

    def raw(self, pixels: Tensor) -> Tensor:
        """Run the network; see `Backend.__call__` for what comes out. Short batches of fixed-batch files are padded."""
        return self._backend(self._padded(pixels))[: len(pixels)]

    def dense(self, pixels: Tensor) -> Tensor:
        """Run the network for all it says about the classes of each box.

        Returns:
            (B, 4 + C, A) with centre x, centre y, width, height in canvas pixels and class scores. Of an NMS-free head
            that puts out one class per row, each row is a column here, with 0 for the other classes.
        """
        if not self.nms_free:
            return self.raw(pixels)
        vectors = self._backend.vectors(self._padded(pixels))
        if vectors is not None:
            return vectors[: len(pixels)]
        rows = self.raw(pixels).float()
        low, high = rows[..., :2], rows[..., 2:4]
        chosen = torch.nn.functional.one_hot(rows[..., 5].long(), len(self.names))
        return torch.cat([(low + high) / 2, high - low, rows[..., 4:5] * chosen], -1).transpose(1, 2)

    def _padded(self, pixels: Tensor) -> Tensor:
        missing = (self._backend.batch or 0) - len(pixels)
        return pixels if missing <= 0 else torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])

    def select(
        self,
        raw: Tensor,
        *,
        classes: Sequence[int] | None = None,
        conf: float | None = None,
        multi_label: bool | None = None,
    ) -> list[Tensor]:
        """Turn raw outputs into rows of x1, y1, x2, y2, score, class in canvas pixels, (N, 6) per image, best first."""
        selected: list[Tensor] = non_max_suppression(
            raw,
            self.conf if conf is None else conf,
            self.iou,
            classes=None if classes is None else list(classes),
            multi_label=self.multi_label if multi_label is None else multi_label,
            max_det=self.max_det,
            # By default images are silently left out when NMS takes long on a busy machine.
            max_time_img=1e9,
            nc=0 if self._backend.one2one else len(self.names),
            end2end=self._backend.one2one,
        )
        return [rows[:, :6].float() for rows in selected]


def _check_range(key: str, value: Any, low: float, high: float | None) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value < low or (high is not None and value > high):
        wanted = f"between {low} and {high}" if high is not None else f"at least {low}"
        raise ConfigError(f"{key}: must be {wanted}, got {value!r}; change {key}=")
