"""Where the teacher works while answers are stored: in this process, or elsewhere.

A work list is cut into batches, an asker turns batches into the bytes of one record per item, and whoever asked writes
them. An engine decides only where the asker runs. It gives the records back in the order of the items, so what is
written does not depend on the engine, and one writer is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Asker", "Engine", "LocalEngine", "batched"]

T = TypeVar("T")


class Asker(Protocol):
    """Asks a teacher.

    What `placed` returns is picklable and holds no network: that is loaded where the asker is first called.
    """

    def __call__(self, batches: Iterable[Sequence[Any]]) -> Iterator[bytes]:
        """Yield the record of each item of all batches, in their order; batches may be read ahead."""
        ...

    def placed(self, device: str) -> Asker:
        """Return one to be sent to other processes, whose network runs on `device` there ("cpu" or "0")."""
        ...


class Engine(Protocol):
    """Runs an asker over batches.

    Attributes:
        where: Where it works, for the user; empty for this process.
    """

    where: str

    def run(self, asker: Asker, batches: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        """Yield the record of each item of all batches, in their order, while later ones are worked on."""
        ...


class LocalEngine:
    """Asks in this process."""

    where = ""

    def run(self, asker: Asker, batches: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        """Yield the record of each item of all batches, in their order."""
        return asker(batches)


def batched(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut a work list into batches of `size`; the last one may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
