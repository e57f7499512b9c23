"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from detkd.errors import printable
from detkd.evaluation.metrics import CLASS_NAMES, Metrics

__all__ = [
    "COST_COLUMNS",
    "cost_cells",
    "format_points",
    "metrics_table",
    "per_class_table",
    "signed_points",
]

COST_COLUMNS = ("parameters", "GFLOPs", "MB", "latency ms", "head")

Result = tuple[str, Metrics, Mapping[str, Any] | None]
"""Name, numbers, cost as `Cost.to_dict()` gives it or None."""


def format_points(value: float | None) -> str:
    """Return points with two decimals (more is noise of the file format), "n/a" for None."""
    return "n/a" if value is None else f"{value:.2f}"


def signed_points(value: float | None) -> str:
    """Return a difference in points with its sign, "n/a" for None."""
    if value is None:
        return "n/a"
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def cost_cells(cost: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the texts of `COST_COLUMNS`; "-" for what was not measured. Latency is the median, NMS counted."""
    values = cost or {}

    def show(key: str, pattern: str) -> str:
        value = values.get(key)
        return "-" if value is None else pattern.format(value)

    return (
        _count(values.get("params")),
        show("gflops", "{:.2f}"),
        show("size_mb", "{:.1f}"),
        show("latency_ms", "{:.1f}"),
        show("head", "{}"),
    )


def _count(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


def metrics_table(results: Iterable[Result], *, title: str = "COCO evaluation (points)", numbers: bool = True) -> Table:
    """Return one column per detector: AP, AP50, AP75, sizes and AR100, then cost where any is known.

    Detectors are columns because several of them then fit a terminal of 80 characters.

    Args:
        results: Name, numbers and cost (or None) of each detector; the head is named from the cost, else the protocol.
        title: Heading of the table.
        numbers: False leaves only the cost.
    """
    entries = list(results)
    with_cost = any(cost for _, _, cost in entries)
    table = Table(title=title, caption=_latency_caption(entries) if with_cost else None)
    table.add_column("")
    for name, _, _ in entries:
        table.add_column(_plain(name), justify="right")
    for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100") if numbers else ():
        table.add_row(key.replace("_", " "), *(format_points(getattr(metrics, key)) for _, metrics, _ in entries))
    table.add_section()
    costs = [list(cost_cells(cost)) for _, _, cost in entries]
    for cells, (_, metrics, _) in zip(costs, entries, strict=True):
        if cells[-1] == "-":
            cells[-1] = str((metrics.protocol.get("settings") or {}).get("head", "-"))
    for row, label in enumerate(COST_COLUMNS):
        if with_cost or label == "head":
            table.add_row(label, *(Text(cells[row]) for cells in costs))
    return table


def _latency_caption(rows: Sequence[Result]) -> str:
    devices = sorted({str(cost["device"]) for _, _, cost in rows if cost and cost.get("device")})
    return "latency: median of batch 1, NMS counted" + (f", on {', '.join(devices)}" if devices else "")


def per_class_table(results: Iterable[Result], *, title: str = "per class (points)") -> Table:
    """Return one line per class: labelled objects, images, then AP and AP50 of every detector (all four of one alone).

    Args:
        results: As for `metrics_table`; all on the same classes.
        title: Heading of the table.
    """
    entries = list(results)
    alone = len(entries) == 1
    empty = [name for name, one in entries[0][1].per_class.items() if not one.objects] if entries else []
    captions = [] if alone else ["AP / AP50"]
    captions += [f"{len(empty)} classes without objects left out"] if empty else []
    table = Table(title=title, caption="; ".join(captions) or None)
    table.add_column("class")
    table.add_column("objects", justify="right")
    if alone:
        table.add_column("images", justify="right")
    for column in CLASS_NAMES if alone else [name for name, _, _ in entries]:
        table.add_column(_plain(column), justify="right")
    for name, numbers in entries[0][1].per_class.items() if entries else ():
        if name in empty:
            continue
        if alone:
            cells = [str(numbers.images), *(format_points(getattr(numbers, key)) for key in CLASS_NAMES)]
        else:
            sides = [metrics.per_class[name] for _, metrics, _ in entries]
            cells = [f"{format_points(side.AP)} / {format_points(side.AP50)}" for side in sides]
        table.add_row(_plain(name), str(numbers.objects), *cells)
    return table


def _plain(text: str) -> Text:
    """Text that rich does not read as markup, whatever a class or file is called."""
    return Text(printable(text))
