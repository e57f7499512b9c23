"""What is written while training: plain students for everybody, and a separate file for resuming.

`best.pt` and `last.pt` hold an ordinary Ultralytics detector at every save. The resume file holds state dicts, numbers
and random states only, so that it loads with torch's weights-only unpickler.
"""

from __future__ import annotations

import random
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import detkd.environment

import numpy as np
import torch
import ultralytics
from torch import nn

from detkd.errors import ConfigError, ModelError
from detkd.io import atomic_path

__all__ = [
    "RESUME_FILE",
    "check_epochs",
    "load_state",
    "random_state",
    "restore_random_state",
    "save_plain",
    "save_state",
]

RESUME_FILE = "resume.pt"
"""Name of the resume file in a run folder."""


def save_plain(model: nn.Module, path: str | Path, *, train_args: dict[str, Any], metrics: dict[str, Any]) -> Path:
    """Write a student as `ultralytics.YOLO(path)` expects it: half precision, no optimizer, no wrapper, no teacher."""
    student: Any = deepcopy(model)
    student.criterion = None
    student = student.half().to(memory_format=torch.contiguous_format)
    for parameter in student.parameters():
        parameter.requires_grad = False
    for value in student.state_dict().values():
        if value.is_floating_point():
            torch.nan_to_num_(value)
    checkpoint = {
        "epoch": -1,
        "best_fitness": None,
        "model": student,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": train_args,
        "train_metrics": metrics,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0",
    }
    _save(checkpoint, path)
    return Path(path)


def random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's generators as plain data."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write a resume file, whole or not at all."""
    _save(state, path)


def _save(content: dict[str, Any], path: str | Path) -> None:
    # A stream of our own: where the disk is full torch's says no more than "iostream error".
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a resume file without executing anything in it.

    Raises:
        ModelError: If it is missing, damaged or not such a file.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"resume: no {file.name} in {file.parent}; the run was not interrupted after its first epoch")
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:
        raise ModelError(f"resume: {file} is damaged ({type(err).__name__}); start the run anew") from err
    return state


def check_epochs(state: dict[str, Any], epochs: int) -> None:
    """Refuse another number of epochs: learning rate, augmentation and head weights depend on it from the start.

    Raises:
        ConfigError: Naming both numbers.
    """
    if state["epochs"] != epochs:
        raise ConfigError(f"epochs: the run was planned for {state['epochs']}, got {epochs}; resume it unchanged")
