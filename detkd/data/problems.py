"""What was found wrong with the data, collected first and then either raised as one error or left out."""

from __future__ import annotations

from collections import Counter
from typing import Literal, get_args

from detkd.data.records import SkippedItem
from detkd.errors import DataError

__all__ = ["Findings", "OnBad", "check_on_bad"]

OnBad = Literal["error", "skip"]
"""`error` stops at unusable data, `skip` leaves it out and lists it."""


def check_on_bad(value: object) -> OnBad:
    """Return `value` when it is a choice of `OnBad`, else raise `DataError` naming the key."""
    for choice in get_args(OnBad):
        if value == choice:
            return choice  # type: ignore[no-any-return]
    raise DataError(f"data.on_bad: must be error or skip, got {value!r}; choose one of the two")


_LONGEST = 600
"""Letters of a part of a message; file names of others may have thousands."""


class Findings:
    """Problems (records that can't be used) and remarks (things worth a line in the summary).

    Problems are collected in both modes, so that an error can say how much else is wrong.
    """

    def __init__(self, on_bad: OnBad = "error") -> None:
        self.on_bad = on_bad
        self.items: list[SkippedItem] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._notes: list[str] = []

    def add(self, split: str, where: str, problem: str, detail: str) -> None:
        """Record something that can't be used."""
        self.items.append(SkippedItem(split, _printable(where), problem, _printable(detail)))

    def count(self, split: str, remark: str, amount: int = 1) -> None:
        """Count a harmless thing; `remark` reads after the number ("boxes clipped to the image")."""
        if amount:
            self._counts[split, remark] += amount

    def note(self, text: str) -> None:
        """Keep a one-line remark, once."""
        if text not in self._notes:
            self._notes.append(text)

    def forget(self, split: str) -> None:
        """Drop everything counted or found in a split that isn't used after all."""
        self.items = [item for item in self.items if item.split != split]
        self._counts = Counter({key: amount for key, amount in self._counts.items() if key[0] != split})

    def notes(self) -> tuple[str, ...]:
        """Return all remarks, counted ones first."""
        return (*(f"{split}: {amount} {remark}" for (split, remark), amount in self._counts.items()), *self._notes)

    def close(self) -> tuple[SkippedItem, ...]:
        """Return what is left out.

        Raises:
            DataError: Under `on_bad="error"`, naming the first problem and counting the others by kind.
        """
        if self.items and self.on_bad == "error":
            raise DataError(self.message())
        return tuple(self.items)

    def message(self) -> str:
        """Return the problems as one line."""
        first, others = self.items[0], len(self.items) - 1
        line = f"data: {first.where}: {first.detail} ({first.problem})"
        if others:
            kinds = Counter(item.problem for item in self.items[1:])
            listed = ", ".join(f"{kind} {amount}" for kind, amount in kinds.most_common(4))
            line += (
                f", and {others} more problem{'s' if others > 1 else ''} ({listed}{', ...' if len(kinds) > 4 else ''})"
            )
        return f"{line}; repair the data or set data.on_bad=skip to leave them out"


def _printable(text: str) -> str:
    # file names may hold line breaks or bytes that are no UTF-8; a message is one line and a report is UTF-8
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
