"""Detectors small enough for unit tests, with random weights and answers that are not all alike."""

from __future__ import annotations

from pathlib import Path

import detkd.environment

import cv2
import numpy as np
import torch
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

NAMES = ("person", "car", "truck", "bicycle")


def tiny_model(config: str = "yolo26n.yaml", names: tuple[str, ...] = NAMES, seed: int = 0) -> DetectionModel:
    cfg = yaml_model_load(config)
    cfg.update(scale="n", scales={"n": [0.33, 0.125, 256]})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DetectionModel(cfg, nc=len(names), verbose=False)
        for module in model.modules():  # fresh statistics would leave nothing for fusing to get wrong
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        head = model.model[-1]
        for part in ("cv3", "one2one_cv3"):
            for branch in getattr(head, part, None) or ():
                branch[-1].weight.data.normal_(0, 0.5)
                branch[-1].bias.data.fill_(-2.0)  # scores around 0.1 instead of 1e-5
    model.names = dict(enumerate(names))
    return model.eval()


def save(model: torch.nn.Module, path: Path) -> Path:
    torch.save({"model": model, "ema": None, "train_args": {"task": "detect"}, "epoch": -1}, path)
    return path


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A noisy picture with a few rectangles."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        x, y = int(rng.integers(0, width - 8)), int(rng.integers(0, height - 8))
        colour = [int(c) for c in rng.integers(0, 255, 3)]
        cv2.rectangle(image, (x, y), (x + int(rng.integers(6, 40)), y + int(rng.integers(6, 40))), colour, -1)
    return image
