"""Which of several processes this one is, as torchrun says in the environment."""

from __future__ import annotations

import os

__all__ = ["calm", "first", "forget", "launched", "local_rank", "local_size", "rank", "world_size"]

_NAMES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def launched() -> bool:
    """Whether torchrun (or another launcher that sets the same variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return the number of this process among all of the run; 0 without a launcher."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def world_size() -> int:
    """Return how many processes the run has; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if launched() else 1


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0


def local_size() -> int:
    """Return how many processes of the run this machine has."""
    return max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1) if launched() else 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def calm() -> None:
    """Hide what torch's C++ side has to say about gradients that all heads got; call before torch is imported."""
    if launched():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def forget() -> None:
    """Go on as a process of its own."""
    for name in _NAMES:
        os.environ.pop(name, None)
