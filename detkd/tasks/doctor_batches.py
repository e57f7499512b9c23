"""Images, batches and memory for `detkd doctor`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from detkd.data.records import DetectionSet
from detkd.training.plan import TrainPlan
from detkd.training.views import Phases, seen_batches

__all__ = ["load_batches", "peak_memory", "sample"]


def sample(dataset: DetectionSet, count: int, *, seed: int) -> DetectionSet:
    """Return some images of a split in their order, those with labelled objects first of all.

    Args:
        dataset: The split.
        count: Images to keep.
        seed: Decides which.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()

    def useful(number: int) -> bool:
        record = dataset.records[number]
        return bool(record.labelled and record.taught and (~record.crowd).any())

    chosen = sorted(sorted(order, key=lambda number: not useful(number))[:count])
    return replace(dataset, records=tuple(dataset.records[number] for number in chosen))


def load_batches(plan: TrainPlan, sizes: Sequence[int], *, stride: int) -> tuple[list[dict[str, Any]], float]:
    """Load batches of the training images as a run shows them, in this process; images repeat where there are few.

    Args:
        plan: The run.
        sizes: Images of each batch.
        stride: The student's coarsest stride.

    Returns:
        The batches on the CPU, and the seconds that one image took.
    """
    phases = Phases(1, 0, 1)
    batches, seconds, first = [], 0.0, 0
    for size in sizes:
        keys = [((first + number) % len(plan.train), 0) for number in range(size)]
        first += size
        part = replace(plan, arguments={**plan.arguments, "batch": size, "cache": False})
        started = time.perf_counter()
        batches += list(seen_batches(part, keys, phases, stride=stride, device=torch.device("cpu")))
        seconds += time.perf_counter() - started
    return batches, seconds / max(sum(sizes), 1)


def peak_memory(device: torch.device) -> tuple[int | None, int | None]:
    """Return the most memory in use so far and how much there is, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
    try:
        import os
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024), os.sysconf("SC_PAGE_SIZE") * os.sysconf(
            "SC_PHYS_PAGES"
        )
    except (ImportError, OSError, ValueError):  # no such module or name outside of Unix
        return None, None
