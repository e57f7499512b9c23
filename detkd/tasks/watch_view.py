"""A training run as a view for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from detkd.errors import DataError
from detkd.evaluation.tables import format_points, signed_points
from detkd.io import read_json
from detkd.quoting import quote
from detkd.tasks.watch_state import OVER, Part, remaining

__all__ = ["duration", "sparkline", "view"]

_QUIET = 10.0  # seconds without a sign of life that are worth a word
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLES = {
    "training": "green", "validation": "green", "evaluating": "green", "finished": "bold green",
    "waiting": "dim", "starting": "cyan", "silent": "yellow", "interrupted": "yellow", "failed": "bold red",
    "killed": "bold red",
}  # fmt: skip
_WORDS = {
    "waiting": "waiting for the control", "starting": "starting: loading data and weights",
    "evaluating": "trained, evaluating", "silent": "no sign of life", "killed": "killed: its process is gone",
}  # fmt: skip


def view(parts: Sequence[Part], width: int) -> RenderableType:
    """Return one panel per training.

    Args:
        parts: What `read_parts` returns.
        width: Columns of the terminal.
    """
    return Group(*(_panel(part, min(width, 110)) for part in parts))


def duration(seconds: float) -> str:
    """Return "12 s", "3 min 20 s", "2 h 05 min" or "3 d 4 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Return a curve of at most `width` characters; each is the mean of its share of the values.

    The highest twentieth is cut off: the first steps of a training would flatten the rest.
    """
    known = [value for value in values if value is not None]
    count = min(width, len(known))
    if count < 2:
        return ""
    edges = [index * len(known) // count for index in range(count + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), sorted(means)[math.ceil(0.95 * count) - 1]
    span = high - low
    if span <= 0:
        return _BLOCKS[3] * count
    return "".join(_BLOCKS[min(int((value - low) / span * 8), 7)] for value in means)


def _panel(part: Part, width: int) -> Panel:
    live = part.live
    lines: list[RenderableType] = []
    if live:
        lines.append(_bar(live, width - 4))
        lines.append(Text("  ".join(_facts(part)), style="dim"))
        if losses := live.get("losses"):
            lines.append(_losses(losses, part.history, width - 4))
        if known := live.get("validations"):
            lines.append(_validations(known, width - 4))
    elif part.status == "starting":
        lines.append(Text("the first step is still to come", style="dim"))
    lines += _endings(part)
    style = _STYLES.get(part.status, "")
    title = Text.assemble((part.name, "bold"), "  ", (_WORDS.get(part.status, part.status), style))
    return Panel(Group(*lines), title=title, title_align="left", width=width, border_style=style.replace("bold ", ""))


def _bar(live: Mapping[str, Any], width: int) -> Table:
    total = int(live["steps"]) * int(live["epochs"])
    done = int(live["done"])
    text = f"epoch {live['epoch']}/{live['epochs']}  step {live['step']}/{live['steps']}"
    share = f"{done / max(total, 1):.0%}"
    grid = Table.grid(padding=(0, 2))
    grid.add_row(text, ProgressBar(total=total, completed=done, width=max(width - len(text) - 10, 8)), share)
    return grid


def _facts(part: Part) -> list[str]:
    live = part.live
    facts = []
    left = remaining(live)
    if part.status in ("training", "validation") and left is not None:
        facts.append(f"eta {duration(left)}")
    if speed := live.get("step_seconds"):
        rate = int(live["batch"]) / float(speed)
        facts.append(f"{rate:.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s")
    if (memory := live.get("rss_mb")) is not None:
        facts.append(f"memory {memory / 1000:.1f} GB")
    if (gpu := live.get("gpu_mb")) is not None:
        facts.append(f"GPU {gpu / 1000:.1f} GB")
    if (lr := live.get("lr")) is not None:
        facts.append(f"lr {lr:.2g}")
    if part.status in OVER:
        facts.append(f"ran for {duration(max(float(live['updated']) - float(live['started']), 0.0))}")
    elif (quiet := part.now - float(live["updated"])) >= _QUIET:
        facts.append(f"last seen {duration(quiet)} ago")
    return facts


def _losses(losses: Mapping[str, Any], history: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Return the losses of the labels, then those of the teacher, each with its curve."""
    names = sorted(losses, key=lambda name: name.startswith("kd"))  # stable: the order is the trainer's own
    short = {name: name.removesuffix("_loss") for name in names}
    room = width - max(map(len, short.values())) - 2 * 9 - 6
    grid = Table.grid(padding=(0, 2))
    for index in range(4):
        grid.add_column(justify="right" if index in (1, 2) else "left", no_wrap=True)
    grid.add_row(*(Text(word, style="dim") for word in ("loss", "first", "now", "")))
    for name in names:
        values = [point["losses"].get(name) for point in history]
        first = next((value for value in values if value is not None), None)
        curve = Text(sparkline(values, max(room, 8)), style="magenta" if name.startswith("kd") else "cyan")
        grid.add_row(short[name], _short(first), Text(_short(losses[name]), style="bold"), curve)
    return grid


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _validations(known: Sequence[Sequence[Any]], width: int) -> Group:
    epoch, ap, ap50 = known[-1]
    best = max(known, key=lambda entry: -1.0 if entry[1] is None else entry[1])
    line = Text.assemble(
        "val AP ", (format_points(ap), "bold"), f"  AP50 {format_points(ap50)}  in epoch {epoch}",
        f"; best AP {format_points(best[1])} in epoch {best[0]}",
    )  # fmt: skip
    remark = "  by Ultralytics' own count"
    curve = sparkline([entry[1] for entry in known], min(width - len(remark), 60))
    return Group(line, Text.assemble((curve, "green"), (remark if curve else remark.strip(), "dim")))


def _endings(part: Part) -> list[RenderableType]:
    """Return the result, or what went wrong and how to go on."""
    record, live = part.record, part.live
    if part.status == "finished":
        numbers, split = _tested(part)
        words = [f"{key} {format_points(numbers[key])}" for key in ("AP", "AP50") if numbers.get(key) is not None]
        if record.get("gain") is not None:
            gain = signed_points(record["gain"])
            words[:1] = [f"{words[0]} ({gain} against its control)" if words else f"{gain} AP against its control"]
        return [Text((f"{split} " if numbers else "") + "  ".join(words), style="bold")] if words else []
    if part.status == "silent":
        since = part.now - float(live["updated"]) if live else None
        quiet = "it did not come to its first step" if since is None else f"nothing was written for {duration(since)}"
        return [Text(f"{quiet}: it was killed, or its machine is away", style="yellow")]
    lines: list[RenderableType] = []
    if live.get("error"):
        lines.append(Text(str(live["error"]), style="red"))
    if part.status in ("failed", "interrupted", "killed"):
        folder = _run_folder(part)
        lines.append(Text(f"go on with: detkd {part.verb} resume={quote(folder) if ' ' in folder else folder}"))
    return lines


def _tested(part: Part) -> tuple[Mapping[str, Any], str]:
    """Return what holds AP and AP50, run.json or, as a demo has none there, metrics.json; and the split."""
    try:
        content = read_json(part.folder / "metrics.json")
    except DataError:
        content = None
    content = content if isinstance(content, Mapping) else {}
    split = str(content.get("split") or "test")
    metrics = part.record if part.record.get("AP") is not None else content.get("metrics")
    return (metrics if isinstance(metrics, Mapping) and metrics.get("AP") is not None else {}), split


def _run_folder(part: Part) -> str:
    """Return the folder that `resume` takes: a control is continued by the run it belongs to."""
    return str(Path(part.folder).parent if part.name == "control" else part.folder)
