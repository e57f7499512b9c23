"""One bad input, and what detkd must say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Make = Callable[[Path], "Sequence[str] | Callable[[], Any]"]


@dataclass(frozen=True)
class Case:
    """A row of the campaign.

    Attributes:
        kind: What sort of input it is, "COCO labels", say.
        name: What is wrong with it.
        make: Writes the input into an empty folder, which is also the current one, and returns what is typed behind
            `detkd`, or a function of the Python interface to call.
        says: Words of the message.
        counted: The bad part is left out and counted, and the command succeeds; otherwise it is refused.
        lines: Of the message; several problems stand one a line.
    """

    kind: str
    name: str
    make: Make
    says: str
    counted: bool = False
    lines: int = 1

    @property
    def id(self) -> str:
        return f"{self.kind}: {self.name}"
