"""A comparison as one picture: dumbbells from before to after, the teacher beside them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkd.evaluation.tables import format_points, signed_points
from detkd.report.comparison import Comparison
from detkd.report.rows import Row
from detkd.report.tables import format_interval

__all__ = ["MAX_CLASSES", "draw_comparison"]

MAX_CLASSES = 24
"""Beyond this many classes, those whose AP changed most are drawn."""

_OVERALL = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
# Inches: width of a panel, height of a row, space above and below the panels.
_PANEL, _LINE, _TOP, _BOTTOM = 3.3, 0.42, 1.85, 0.75
_LEFT, _LABELS = 1.15, 1.55  # left edge of the first panel, room for labels left of the second
_COLUMNS = (("before", 0.62), ("after", 1.17), ("difference", 1.9), ("teacher", 2.5))  # right edges beside a panel
_Columns = tuple[tuple[str, float], ...]
_INK, _SOFT, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_BEFORE, _AFTER, _TEACHER = "#94a3b8", "#2563eb", "#d97706"
_UP, _DOWN = "#15803d", "#b91c1c"


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw overall numbers on the left and AP per class on the right; write a PNG to `path`.

    Args:
        comparison: What to draw.
        path: Where to write; the caller makes it atomic.
    """
    # Figure and canvas without pyplot: no window system, no state shared with the caller's own figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    overall = [comparison.row(key) for key in _OVERALL]
    classes = _classes(comparison)
    columns = _COLUMNS if comparison.teacher else _COLUMNS[:-1]
    step = _PANEL + columns[-1][1] + _LABELS  # from the left edge of one panel to the next
    width = _LEFT + step + _PANEL + columns[-1][1] + 0.2
    height = _TOP + _BOTTOM + _LINE * max(len(overall), len(classes))
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    total = sum(row.class_name is not None and row.metric == "AP" for row in comparison.rows)
    title = (
        "AP per class" if len(classes) == total else f"AP of the {len(classes)} of {total} classes that changed most"
    )
    panels = (
        (_LEFT, overall, [row.metric.replace("_", " ") for row in overall], "Overall"),
        (_LEFT + step, classes, [_short(row.class_name or "") for row in classes], title),
    )
    for left, rows, labels, heading in panels:
        inches = _LINE * len(rows)
        box = (left / width, (height - _TOP - inches) / height, _PANEL / width, inches / height)
        _panel(figure.add_axes(box), rows, labels, heading, columns)
    _heading(figure, comparison, width, height)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters the font lacks are drawn as boxes; the tables have them
        figure.savefig(path, format="png")


def _classes(comparison: Comparison) -> list[Row]:
    rows = [row for row in comparison.rows if row.class_name is not None and row.metric == "AP"]
    rows = [row for row in rows if row.objects] or rows
    if len(rows) > MAX_CLASSES:
        moved = sorted(rows, key=lambda row: -abs(row.delta or 0.0))[:MAX_CLASSES]
        rows = sorted(moved, key=lambda row: row.delta or 0.0)
    return rows


def _panel(axes: Any, rows: Sequence[Row], labels: Sequence[str], title: str, columns: _Columns) -> None:
    values = [v for row in rows for v in (row.before, row.after, row.teacher) if v is not None]
    limit = min(100.0, max([*values, 1.0]) * 1.08)
    axes.set_xlim(-0.015 * limit, limit)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title, loc="left", fontsize=12, color=_INK, pad=26, fontweight="bold")
    for text, inches in columns:
        _write(axes, 1 + inches / _PANEL, -0.8, text, ha="right", color=_SOFT, fontsize=8.5)
    # Labels are drawn by hand: tick labels would read a dollar sign in a class name as mathematics.
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, labelsize=9, labelcolor=_SOFT)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    for y, (row, label) in enumerate(zip(rows, labels, strict=True)):
        _write(axes, -0.03, y, label, ha="right", color=_INK, fontsize=10)
        _dumbbell(axes, y, row, columns)


def _dumbbell(axes: Any, y: int, row: Row, columns: _Columns) -> None:
    up = (row.delta or 0.0) >= 0
    if row.before is not None and row.after is not None:
        axes.plot([row.before, row.after], [y, y], color=_UP if up else _DOWN, linewidth=3, alpha=0.45, zorder=2)
    if row.teacher is not None:
        axes.plot(row.teacher, y, marker="D", markersize=6.5, markerfacecolor="white", color=_TEACHER, zorder=3)
    if row.before is not None:
        axes.plot(row.before, y, marker="o", markersize=8, color=_BEFORE, zorder=4)
    if row.after is not None:
        axes.plot(row.after, y, marker="o", markersize=9, color=_AFTER, zorder=5)
    color = _SOFT if row.delta is None or abs(row.delta) < 0.005 else _UP if up else _DOWN
    texts = (format_points(row.before), format_points(row.after), signed_points(row.delta), format_points(row.teacher))
    for (_, inches), text, ink in zip(columns, texts, (_SOFT, _AFTER, color, _TEACHER), strict=False):
        _write(axes, 1 + inches / _PANEL, y, text, ha="right", color=ink, fontsize=9.5)


def _write(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Write beside the panel: x in parts of its width, y in rows."""
    axes.text(x, y, text, va="center", transform=axes.get_yaxis_transform(), clip_on=False, parse_math=False, **style)


def _heading(figure: Any, comparison: Comparison, width: float, height: float) -> None:
    x = start = 0.25 / width
    row = comparison.row("AP")
    gap = "" if row.gap_closed is None else f", {row.gap_closed:.0%} of the teacher's lead"
    low, high = row.contrast.low, row.contrast.high
    bounds = "" if low is None else f", {comparison.study.settings.level:.0%} interval {format_interval(low, high)}"
    values = f"AP {format_points(row.before)} → {format_points(row.after)} ({signed_points(row.delta)} points"
    title = f"{values}{bounds}{gap})"
    figure.text(x, 1 - 0.4 / height, title, fontsize=13, fontweight="bold", color=_INK, parse_math=False)
    marks = [("●", _BEFORE, comparison.before), ("●", _AFTER, comparison.after)]
    if comparison.teacher:
        marks.append(("◇", _TEACHER, comparison.teacher))
    renderer = figure.canvas.get_renderer()
    for mark, color, entry in marks:
        for text, ink, size in ((mark, color, 13), (f" {_short(entry.name, 40)} ({entry.role})", _INK, 10.5)):
            drawn = figure.text(x, 1 - 0.78 / height, text, fontsize=size, color=ink, va="center", parse_math=False)
            x += drawn.get_window_extent(renderer).width / figure.bbox.width
        x += start
    metrics = comparison.before.runs[0].metrics
    runs = " and ".join(str(len(side.runs)) for side in comparison.sides[:2])
    foot = (
        f"COCO AP x 100, {metrics.images} images, {metrics.objects} objects. {runs} runs. {comparison.verdict['word']}."
    )
    figure.text(start, 0.16 / height, foot, fontsize=8.5, color=_SOFT)


def _short(text: str, limit: int = 16) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
