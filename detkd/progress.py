"""Progress bars and consoles. Results go to stdout, everything about how it is going to stderr."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from detkd.errors import printable

__all__ = ["NotedProgress", "console", "hushed", "new_progress", "out", "stages", "track"]

T = TypeVar("T")

_STYLED = re.compile(r"\[(dim|yellow|red|green|bold)\](.*?)\[/\1\](.*)", re.DOTALL)


class _Console(Console):
    """Prints texts as they are: a name with brackets is no markup. A style may open a line: `[dim]...[/dim]`."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; arguments as for `rich.console.Console.print`."""
        super().print(*(_styled(one) if isinstance(one, str) else one for one in objects), **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text of a table's cell or title."""
        return super().render_str(printable(text), **options)


def _styled(line: str) -> str | Text:
    """Return a line with the style that it opens with."""
    found = _STYLED.match(line)
    if found is None:
        return line
    style, words, rest = found.groups()
    if line.endswith(f"[/{style}]"):  # a name in it may hold the same mark
        words, rest = line[len(style) + 2 : -len(style) - 3], ""
    return Text.assemble((printable(words), style), printable(rest))


console = _Console(stderr=True)
out = _Console()


class NotedProgress(Progress):
    """A progress display with a line of text below its bars.

    Attributes:
        line: The text; nothing is shown while it is empty.
    """

    line = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bars, then the line."""
        yield from super().get_renderables()
        if self.line:
            yield Text(self.line, style="dim")


def new_progress() -> NotedProgress:
    """Return a progress display with elapsed and remaining time."""
    return NotedProgress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        console=console,
    )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar and an estimate of the time left.

    Args:
        items: What to iterate over.
        description: Short label in front of the bar.
        total: Number of items, when `items` has no length.
    """
    size = total if total is not None else len(items) if isinstance(items, Sized) else None
    with new_progress() as progress:
        task = progress.add_task(description, total=size)
        for item in items:
            yield item
            progress.advance(task)


@contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Print nothing inside, where something has been said already or another process says it."""
    before = console.quiet, out.quiet
    console.quiet, out.quiet = (quiet or before[0]), (quiet or before[1])
    try:
        yield
    finally:
        console.quiet, out.quiet = before


@contextmanager
def stages(show: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function `(label, done, total)` that keeps one bar per label, for work that reports how far it is."""
    if not show:
        yield lambda label, done, total: None
        return
    tasks = {}
    with new_progress() as progress:

        def report(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(label, total=total)
            progress.update(tasks[label], completed=done, total=total)

        yield report
