"""Comparisons as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detkd.evaluation.side import Side
from detkd.evaluation.tables import format_points, metrics_table, signed_points
from detkd.report.comparison import Comparison
from detkd.report.leaderboard import Leaderboard
from detkd.report.notes import Note
from detkd.report.rows import Row

__all__ = ["comparison_view", "format_interval", "headline", "leaderboard_view"]

_COLORS = {"improved": "green", "regressed": "red"}
MAX_CLASSES = 12
"""Beyond this many judged classes, the terminal shows those whose AP changed most; the files have all."""


def format_interval(low: float | None, high: float | None) -> str:
    """Return "+1.2 to +3.4", "-" without an interval."""
    return "-" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"


def headline(comparison: Comparison) -> list[str]:
    """Return the verdict, what distillation itself added, and what the number of runs allows to say."""
    verdict, control = comparison.verdict, comparison.control_verdict
    lines = [verdict["sentence"]]
    if verdict["not_inferior"]:
        lines.append(verdict["not_inferior"])
    if control is not None:
        lines.append(f"Against the control: {control['sentence']}")
    contrast = comparison.row("AP").contrast
    if contrast.gap_closed is not None and comparison.teacher is not None:
        bounds = ""
        if contrast.gap_low is not None and contrast.gap_high is not None:
            level = comparison.study.settings.level
            bounds = f" ({level:.0%} interval {contrast.gap_low:.0%} to {contrast.gap_high:.0%})"
        share = f"{contrast.gap_closed:.0%}{bounds}"
        lines.append(f"Share of the lead of {comparison.teacher.name} that was closed: {share}.")
    return [*lines, verdict["seeds"]]


def comparison_view(comparison: Comparison) -> RenderableType:
    """Return the comparison as tables (overall, per class, per slice, cost) with verdict and notes below."""
    overall = [r for r in comparison.rows if r.class_name is None and r.slice is None]
    classes = [r for r in comparison.rows if r.class_name is not None and r.metric == "AP"]
    judged = [r for r in classes if r.contrast.verdict != "not judged"]
    shown = sorted(judged, key=lambda r: -abs(r.delta or 0.0))[:MAX_CLASSES]
    left = len(classes) - len(shown)
    title = "per class (AP, points, regressions first)"
    if left:
        title += f"\n{left} more, {len(classes) - len(judged)} of them not judged: see the page"
    verdict = _verdict(comparison)
    parts: list[RenderableType] = [*verdict, _side_table(comparison, overall, "overall (points)")]
    if shown:
        parts.append(_side_table(comparison, sorted(shown, key=lambda r: r.delta or 0.0), title))
    slices = [r for r in comparison.rows if r.slice is not None and r.metric == "AP"]
    if slices:
        parts.append(_side_table(comparison, slices, "per slice (AP, points)", others=False))
    if any(side.cost for side in comparison.sides):
        priced = [(str(_heading(s)), s.runs[0].metrics, s.cost) for s in comparison.sides]
        parts.append(metrics_table(priced, title="cost", numbers=False))
    return Group(*parts, *_notes(comparison.notes, comparison.study.notes), *verdict)


def _verdict(comparison: Comparison) -> list[Text]:
    first, *rest = headline(comparison)
    unlike = [Text(f"not alike: {n.text}", style="bold red") for n in comparison.notes if n.level == "differs"]
    style = f"bold {_COLORS.get(comparison.verdict['word'], '')}".strip()
    return [Text(first, style=style), *unlike, *(Text(line) for line in rest)]


def _notes(notes: Sequence[Note], about_statistics: Sequence[str]) -> list[Text]:
    styles = {"differs": ("not alike: ", "bold red"), "warning": ("warning: ", "yellow"), "info": ("", "dim")}
    given = [*notes, *(Note("info", text) for text in about_statistics)]
    return [Text(styles[note.level][0] + note.text, style=styles[note.level][1]) for note in given]


def _side_table(comparison: Comparison, rows: Sequence[Row], title: str, *, others: bool = True) -> Table:
    level = f"{comparison.study.settings.level:.0%}"
    table = Table(title=title)
    labels = [row.class_name or (row.slice.key if row.slice else row.metric.replace("_", " ")) for row in rows]
    table.add_column("", min_width=min(14, max(map(len, labels), default=0)), overflow="fold")
    table.add_column("objects", justify="right")
    beside = [side for side in comparison.sides if others and side.role in ("control", "teacher")]
    for side in comparison.sides[:2]:
        table.add_column(_heading(side), justify="right")
    table.add_column("diff", justify="right")
    table.add_column(f"{level} interval", justify="right", no_wrap=True)
    for side in beside:
        table.add_column(_heading(side), justify="right")
    for row, label in zip(rows, labels, strict=True):
        style = _COLORS.get(row.contrast.verdict, "")
        cells = [format_points(row.before), format_points(row.after)]
        interval = format_interval(row.contrast.low, row.contrast.high)
        table.add_row(
            Text(label),
            str(row.objects),
            *cells,
            Text(signed_points(row.delta), style=style),
            Text(interval, style=style),
            *(format_points(row.estimates[side.role].value) for side in beside),
        )
    return table


def _heading(side: Side) -> Text:
    """A long name would be cut where it differs from the other; the role never is."""
    return Text(side.name if len(side.name) <= 12 else side.role)


def leaderboard_view(board: Leaderboard) -> RenderableType:
    """Return the ranking as a table with its notes below."""
    level = f"{board.study.settings.level:.0%}"
    table = Table(title=f"leaderboard (points), reference: {board.reference.name}")
    for name in ("", "detector", "AP", f"{level} interval", "AP50", "difference", f"{level} interval", "verdict"):
        table.add_column(name, justify="left" if name in ("detector", "verdict") else "right")
    for place, side in enumerate(board.sides, start=1):
        estimate, contrast = board.study.estimates[side.name]["AP"], board.contrast(side.name)
        own = "-" if estimate.low is None else f"{estimate.low:.1f} to {estimate.high:.1f}"
        cells: list[str | Text] = ["-", "-", "reference"]
        if contrast is not None:
            style = _COLORS.get(contrast.verdict, "")
            interval = format_interval(contrast.low, contrast.high)
            cells = [Text(signed_points(contrast.delta), style=style), interval, Text(contrast.verdict, style=style)]
        numbers = [format_points(side.number("AP")), own, format_points(side.number("AP50"))]
        table.add_row(str(place), Text(side.name), *numbers, *cells)
    for name, reason in board.failed:
        table.add_row("-", Text(name), *["-"] * 5, Text(f"failed: {reason}", style="red"))
    return Group(table, *_notes(board.notes, board.study.notes))
