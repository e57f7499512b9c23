"""Progress bars and consoles. Results go to stdout, everything about how it is going to stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "new_progress", "out", "track"]

T = TypeVar("T")

console = Console(stderr=True)
out = Console()


def new_progress() -> Progress:
    """Return a progress display with elapsed and remaining time."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar and an estimate of the time left.

    Args:
        items: What to iterate over.
        description: Short label in front of the bar.
        total: Number of items, when `items` has no length.
    """
    size = total if total is not None else len(items) if hasattr(items, "__len__") else None
    with new_progress() as progress:
        task = progress.add_task(description, total=size, note="")
        for item in items:
            yield item
            progress.advance(task)
