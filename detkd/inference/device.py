"""Where a network runs."""

from __future__ import annotations

import re
from typing import Any

import torch

from detkd.errors import ConfigError

__all__ = ["torch_device"]


def torch_device(value: Any) -> torch.device:
    """Return the torch device behind a `device=` value; of several devices the first.

    Args:
        value: "cpu", 0, "0", "0,1", [0, 1], "cuda:1", "mps"; "auto" or None take the first GPU where there is one.

    Raises:
        ConfigError: If there is no such device on this machine.
    """
    if isinstance(value, torch.device):
        value = str(value)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if value is None or value in ("", "auto"):
        return torch.device("cuda:0" if gpus else "cpu")
    first = str(value[0] if isinstance(value, (list, tuple)) and value else value).split(",")[0].strip().lower()
    if first == "cpu":
        return torch.device("cpu")
    if first == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    found = re.fullmatch(r"(?:cuda:?)?(\d*)", first)
    index = int(found[1] or 0) if found else -1
    if 0 <= index < gpus:
        return torch.device(f"cuda:{index}")
    have = f"GPU {', '.join(map(str, range(gpus)))} and the CPU" if gpus else "no GPU that torch can use"
    raise ConfigError(f"device: can't run on {value!r}; this machine has {have}; use device={'0' if gpus else 'cpu'}")
