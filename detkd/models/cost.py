"""What a detector costs to run: the other half of every comparison."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import detkd.environment

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils.torch_utils import get_flops

from detkd.models.weights import quiet

__all__ = ["Cost", "Measurable", "count_gflops", "count_parameters", "file_size_mb", "measure", "measure_latency"]


@dataclass(frozen=True)
class Cost:
    """Cost of a detector as it is deployed.

    Attributes:
        params: Parameters of the deployed network: batch normalisation folded, only the head that answers. Ultralytics
            prints more for a checkpoint in training, which has both heads. None for exported files.
        gflops: Billions of floating point operations (a multiply-add is two) of one forward pass at `imgsz`, without
            NMS; None for exported files.
        size_mb: File or folder on disk, in 10^6 bytes; a checkpoint also holds what it was trained with.
        latency_ms: Median milliseconds from a letterboxed image in memory to final boxes at batch 1, NMS (or the top-k
            of the NMS-free head) counted, reading and letterboxing not.
        latency_p95_ms: 95th percentile of the same.
        device: Where it was measured, with the number of CPU threads.
        head: Which head answered.
        imgsz: Side of the input in pixels.
        runtime: PyTorch, ONNX Runtime or OpenVINO.
        runs: Number of timed passes.
        conf: Least score that NMS was given; measuring AP uses a far lower one, deployment does not.
    """

    params: int | None
    gflops: float | None
    size_mb: float
    latency_ms: float
    latency_p95_ms: float
    device: str
    head: str
    imgsz: int
    runtime: str
    runs: int
    conf: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class Measurable(Protocol):
    """What `measure` needs of a detector; `detkd.inference.detector.Detector` has it."""

    path: Path
    head: str

    @property
    def network(self) -> nn.Module | None:
        """The network as deployed, or None for exported files."""
        ...

    @property
    def imgsz(self) -> int:
        """Side of the input in pixels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    @property
    def runtime(self) -> str:
        """What runs it."""
        ...

    def prepare(self, images: Sequence[np.ndarray]) -> tuple[Tensor, Any]:
        """Letterbox images and move them to the device."""
        ...

    def raw(self, pixels: Tensor) -> Tensor:
        """Run the network."""
        ...

    def select(self, raw: Tensor, *, conf: float | None = None, multi_label: bool | None = None) -> list[Tensor]:
        """Apply NMS."""
        ...


def measure(
    detector: Measurable, image: np.ndarray | None = None, *, runs: int = 50, warmup: int = 5, conf: float = 0.25
) -> Cost:
    """Measure a detector on one image; takes at most about ten seconds.

    Args:
        detector: A loaded detector, with the device it is to be measured on.
        image: BGR, (H, W, 3) uint8; None draws a street-like one, since NMS takes longer the more there is to see.
        runs: Timed passes.
        warmup: Passes before.
        conf: Least score, as in deployment.
    """
    times = measure_latency(detector, _scene() if image is None else image, runs=runs, warmup=warmup, conf=conf)
    network = detector.network
    threads = torch.get_num_threads()
    place = f"CPU, {threads} thread{'s' * (threads > 1)}" if detector.device.type == "cpu" else _gpu(detector.device)
    return Cost(
        params=None if network is None else count_parameters(network),
        gflops=None if network is None else count_gflops(network, detector.imgsz),
        size_mb=round(file_size_mb(detector.path), 3),
        latency_ms=round(statistics.median(times), 3),
        latency_p95_ms=round(float(np.percentile(times, 95)), 3),
        device=place,
        head=detector.head,
        imgsz=detector.imgsz,
        runtime=detector.runtime,
        runs=len(times),
        conf=conf,
    )


def measure_latency(
    detector: Measurable, image: np.ndarray, *, runs: int, warmup: int, conf: float, limit: float = 10.0
) -> list[float]:
    """Return milliseconds per pass at batch 1, NMS counted; fewer than `runs` once `limit` seconds are over."""
    pixels, _ = detector.prepare([image])
    gpu = detector.device.type == "cuda"
    times: list[float] = []
    stop = time.perf_counter() + limit
    for step in range(warmup + runs):
        if gpu:
            torch.cuda.synchronize(detector.device)
        start = time.perf_counter()
        detector.select(detector.raw(pixels), conf=conf, multi_label=False)
        if gpu:
            torch.cuda.synchronize(detector.device)
        end = time.perf_counter()
        if step >= warmup or end > stop:
            times.append((end - start) * 1e3)
        if end > stop:
            break
    return times


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters of a network as it is."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_gflops(network: nn.Module, imgsz: int) -> float | None:
    """Return the GFLOPs of one forward pass at `imgsz`, by Ultralytics' counter, or None where it can't count."""
    # The counter leaves its own buffers on the modules.
    with quiet():
        gflops = float(get_flops(deepcopy(network).float(), imgsz))
    return round(gflops, 3) if gflops > 0 else None


def file_size_mb(path: Path) -> float:
    """Return the size of a file, or of all files in a folder, in 10^6 bytes."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def _gpu(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _scene() -> np.ndarray:
    """Return a picture with some structure, always the same."""
    rng = np.random.default_rng(0)
    image = np.asarray(cv2.resize(rng.integers(40, 200, (9, 16, 3), dtype=np.uint8), (1280, 720)))
    for _ in range(24):
        x, y = int(rng.integers(0, 1180)), int(rng.integers(200, 640))
        colour = [int(c) for c in rng.integers(0, 255, 3)]
        cv2.rectangle(image, (x, y), (x + int(rng.integers(20, 160)), y + int(rng.integers(20, 120))), colour, -1)
    return image
