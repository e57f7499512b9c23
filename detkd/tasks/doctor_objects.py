"""What a cache of objects would hold, asked for image by image, so that `detkd doctor` needs no cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detkd.data.records import DataSpec, DetectionSet
from detkd.tasks.cache_objects import ObjectWork

__all__ = ["AskedObjects"]


class AskedObjects:
    """Stands for the stored objects of `cache=instances`; every image is asked about once, when it is first shown.

    Args:
        config: A resolved configuration with `cache=instances`.
        spec: The data as the run sees it.

    Attributes:
        source: Makes the teacher that reads the objects of a batch.
        seconds: What the asking took so far.

    Raises:
        DetkdError: As the cache itself would.
    """

    def __init__(self, config: Mapping[str, Any], spec: DataSpec) -> None:
        train = spec.splits["train"]
        one = replace(spec, splits={**spec.splits, "train": first_image(train)})
        with TemporaryDirectory() as folder:  # the digest of an image would be noted down where caches are
            node = {**config["cache"], "path": str(Path(folder))}
            self._work = ObjectWork({**config, "cache": node}, one)
        self._work.teachers.check_images(train.records)
        self._records = train.records
        self._known: dict[int, Any] = {}
        self.source: Callable[[tuple[str, ...]], Any] = self._work.source(None)  # type: ignore[arg-type]  # reads no store
        self.seconds = 0.0

    def __call__(self, index: int) -> Any:
        """Return the objects of training image `index`."""
        if index not in self._known:
            started = time.perf_counter()
            (self._known[index],) = self._work.teachers.answer([self._records[index]])
            self.seconds += time.perf_counter() - started
        return self._known[index]


def first_image(dataset: DetectionSet) -> DetectionSet:
    """Return the split with its first image alone: no more is needed to open the teachers."""
    return replace(dataset, records=dataset.records[:1])
