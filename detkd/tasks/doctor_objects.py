"""What a cache of objects would hold, asked for image by image, so that `detkd doctor` needs no cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from detkd.data.records import DataSpec
from detkd.progress import console
from detkd.tasks.cache_objects import ObjectWork

__all__ = ["AskedObjects"]


class AskedObjects(ObjectWork):
    """Stands for the stored objects of `cache=instances`; every image is asked about once, when it is first shown.

    Args:
        config: A resolved configuration with `cache=instances`.
        spec: The data as the run sees it.

    Attributes:
        seconds: What the asking took so far.

    Raises:
        DetkdError: If a teacher can't be loaded, or its file of results belongs to other images.
    """

    def __init__(self, config: Mapping[str, Any], spec: DataSpec) -> None:
        # Not the parent's: for the fingerprint of a cache it reads every image.
        self.config = config
        self.spec = spec
        self.records = spec.splits["train"].records
        self.seconds = 0.0
        self._known: dict[int, Any] = {}
        for note in self.teachers.notes():
            console.print(f"note: {note}", highlight=False)
        self.teachers.check_images(self.records)

    def __call__(self, index: int) -> Any:
        """Return the objects of training image `index`."""
        if index not in self._known:
            started = time.perf_counter()
            (self._known[index],) = self.teachers.answer([self.records[index]])
            self.seconds += time.perf_counter() - started
        return self._known[index]

    @property
    def teacher(self) -> Callable[[tuple[str, ...]], Any]:
        """Makes the teacher that reads the objects of a batch; no store is needed for it."""
        return self.source(None)  # type: ignore[arg-type]
