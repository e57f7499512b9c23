"""Ask teachers about clean images and pack their objects: what `detkd.caching.engine` runs for caches of objects."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from detkd.caching.fingerprint import differences
from detkd.caching.objects import SoftObjects, encode_objects
from detkd.data.records import ImageRecord
from detkd.errors import ModelError

__all__ = ["ObjectAsker", "Shot"]


class Shot(NamedTuple):
    """What has to be known of an image to ask about it; small, as it goes to other machines.

    Attributes:
        path: The file.
        image_id: As in the data, for teachers that know images by number.
        width: Pixels.
        height: Pixels.
    """

    path: str
    image_id: int
    width: int
    height: int

    @classmethod
    def of(cls, record: ImageRecord) -> Shot:
        """Return what is to be known of a record."""
        return cls(str(record.path), record.image_id, record.width, record.height)

    def record(self) -> ImageRecord:
        """Return a record without labels."""
        return ImageRecord(
            self.image_id, Path(self.path), self.width, self.height, np.zeros((0, 4)), np.zeros(0, np.int64),
            np.zeros(0, bool), np.zeros(0), labelled=False,
        )  # fmt: skip


class _Answers(Protocol):
    def answer(self, items: Iterable[ImageRecord]) -> Iterator[SoftObjects]: ...

    def fingerprint(self) -> dict[str, Any]: ...

    def reloader(self, device: str) -> Callable[[], _Answers]: ...


class ObjectAsker:
    """Turns shots into records of `detkd.caching.objects`; see `detkd.caching.engine.Asker`.

    Args:
        teachers: Who is asked; None loads them at the first call.
        classes: Classes kept per object.
        max_objects: Objects kept per image.
        load: Loads the teachers where there are none.
        wanted: Fingerprint that loaded teachers must have.
    """

    def __init__(
        self,
        teachers: _Answers | None,
        *,
        classes: int,
        max_objects: int,
        load: Callable[[], _Answers] | None = None,
        wanted: dict[str, Any] | None = None,
    ) -> None:
        self._teachers = teachers
        self._packing: dict[str, Any] = {"classes": classes, "max_objects": max_objects}
        self._load, self._wanted = load, wanted

    def placed(self, device: str) -> ObjectAsker:
        """Return one without teachers that loads them itself."""
        assert self._teachers is not None
        load, wanted = self._teachers.reloader(device), self._teachers.fingerprint()
        return ObjectAsker(None, load=load, wanted=wanted, **self._packing)

    def __call__(self, batches: Iterable[Sequence[Shot]]) -> Iterator[bytes]:
        """Yield the record of each image; only the batches in work are in memory.

        Raises:
            DataError: If an image can't be read.
            ModelError: If the teachers here are not those that were asked for.
        """
        if self._teachers is None:
            self._teachers = self._loaded()
        shown: deque[tuple[int, int]] = deque()

        def records() -> Iterator[ImageRecord]:
            for batch in batches:
                for shot in batch:
                    shown.append((shot.width, shot.height))
                    yield shot.record()

        for objects in self._teachers.answer(records()):
            yield encode_objects(objects, size=shown.popleft(), **self._packing)

    def _loaded(self) -> _Answers:
        assert self._load is not None
        teachers = self._load()
        if self._wanted is not None and (others := differences(self._wanted, teachers.fingerprint())):
            name, there, here = others[0]
            raise ModelError(
                f"teacher: {socket.gethostname()} has another one, its {name} is {here}, got {there} here; all "
                "machines of a cluster must find the same files under the same paths"
            )
        return teachers
