"""A comparison as Markdown, short enough for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from detkd.evaluation.metrics import METRIC_NAMES
from detkd.evaluation.side import Side
from detkd.evaluation.tables import COST_COLUMNS, cost_cells, format_points, signed_points
from detkd.report.comparison import Comparison
from detkd.report.leaderboard import Leaderboard
from detkd.report.notes import Note
from detkd.report.rows import Row
from detkd.report.tables import format_interval, headline

__all__ = ["comparison_markdown", "leaderboard_markdown"]


def comparison_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown: verdict, tables with the worst first, cost, notes, protocol."""
    row = comparison.row("AP")
    first, *rest = headline(comparison)
    classes = [row for row in comparison.rows if row.class_name is not None and row.metric == "AP"]
    slices = [row for row in comparison.rows if row.slice is not None and row.metric == "AP"]
    parts = [
        f"# {_cell(comparison.before.name)} → {_cell(comparison.after.name)}: {comparison.verdict['word']}",
        f"AP {format_points(row.before)} → {format_points(row.after)} (**{signed_points(row.delta)}** points). "
        f"{_cell(first)}",
        "\n".join(f"- {_cell(line)}" for line in rest),
        *[f"> **Not alike:** {_cell(note.text)}" for note in comparison.notes if note.level == "differs"],
        "## Overall",
        _rows(comparison, [comparison.row(key) for key in METRIC_NAMES], "number"),
        "## Per class (AP, regressions first)",
        _rows(comparison, _worst_first(classes), "class"),
    ]
    if slices:
        parts += ["## Per slice (AP, regressions first)", _rows(comparison, _worst_first(slices), "slice")]
    parts += _cost(comparison.sides)
    parts += _notes(comparison.notes, comparison.study.notes)
    parts += ["## Protocol", _protocol(comparison), f"Rule: {_cell(comparison.verdict['rule'])}"]
    return "\n\n".join(parts) + "\n"


def leaderboard_markdown(board: Leaderboard) -> str:
    """Return the ranking as Markdown."""
    level = f"{board.study.settings.level:.0%} interval"
    head = ["", "detector", "AP", level, "AP50", "difference", level, "p adjusted", "verdict"]
    lines = []
    for place, side in enumerate(board.sides, start=1):
        estimate, contrast = board.study.estimates[side.name]["AP"], board.contrast(side.name)
        own = "-" if estimate.low is None else f"{estimate.low:.1f} to {estimate.high:.1f}"
        line = [str(place), _cell(side.name), format_points(side.number("AP")), own]
        line.append(format_points(side.number("AP50")))
        if contrast is None:
            line += ["-", "-", "-", "reference"]
        else:
            adjusted = board.adjusted[side.name, "AP"]
            line += [signed_points(contrast.delta), format_interval(contrast.low, contrast.high)]
            line += ["-" if adjusted is None else f"{adjusted:.3g}", contrast.verdict]
        lines.append(line)
    lines += [["-", _cell(name), *["-"] * 6, _cell(f"failed: {reason}")] for name, reason in board.failed]
    parts = [f"# {len(board.sides)} detectors against {_cell(board.reference.name)}", _table(head, lines)]
    return "\n\n".join([*parts, *_cost(board.sides), *_notes(board.notes, board.study.notes)]) + "\n"


def _worst_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.delta is None, row.delta or 0.0))


def _cost(sides: Sequence[Side]) -> list[str]:
    if not any(side.cost for side in sides):
        return []
    lines = [[_cell(side.name), *map(_cell, cost_cells(side.cost))] for side in sides]
    return ["## Cost", _table(["detector", *COST_COLUMNS], lines), "Latency: median of batch 1, NMS counted."]


def _notes(notes: Sequence[Note], about_statistics: Sequence[str]) -> list[str]:
    rest = [*(note.text for note in notes if note.level != "differs"), *about_statistics]
    return ["## Notes", "\n".join(f"- {_cell(text)}" for text in rest)] if rest else []


def _protocol(comparison: Comparison) -> str:
    run, settings = comparison.before.runs[0], comparison.study.settings
    protocol = run.metrics.protocol
    lines = [
        [_cell(side.role), _cell(side.name), _cell(", ".join(run.source for run in side.runs)), _cell(_settings(side))]
        for side in comparison.sides
    ]
    groups = f" of {settings.group_by}" if settings.group_by else ""
    return (
        f"COCO AP x 100 on {len(run.truth.images)} images, {protocol['objects']} objects, {protocol['crowd']} crowd "
        f"regions; ground truth `{run.truth.sha256[:12]}`; {protocol['engine']} {protocol['engine_version']}; "
        f"{settings.resamples} resamples of {'groups' if groups else 'images'}{groups}, seed {settings.seed}.\n\n"
    ) + _table(["role", "name", "source", "settings"], lines)


def _settings(side: Side) -> str:
    return ", ".join(f"{key}={value}" for key, value in side.settings.items()) or "not known"


def _rows(comparison: Comparison, rows: Iterable[Row], first: str) -> str:
    others = [side for side in comparison.sides if side.role in ("control", "teacher")]
    level = f"{comparison.study.settings.level:.0%} interval"
    head: list[Any] = [first, "objects", _cell(comparison.before.name), _cell(comparison.after.name), "difference"]
    head += [level, "verdict", *(_cell(side.name) for side in others)]
    if comparison.teacher:
        head.append("gap closed")
    lines = []
    for row in rows:
        names = {"number": row.metric.replace("_", " "), "class": row.class_name, "slice": row.slice and row.slice.key}
        contrast = row.contrast
        line = [_cell(names[first] or ""), str(row.objects), format_points(row.before), format_points(row.after)]
        line += [signed_points(row.delta), format_interval(contrast.low, contrast.high), contrast.verdict]
        line += [format_points(row.estimates[side.role].value) for side in others]
        if comparison.teacher:
            line.append("-" if row.gap_closed is None else f"{row.gap_closed:.0%}")
        lines.append(line)
    return _table(head, lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    words = {"", "number", "class", "slice", "detector", "verdict", "role", "name", "source", "settings", "head"}
    rule = ["---" if name in words else "---:" for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _cell(text: str) -> str:
    """Return text that stays one table cell: no pipes, line breaks, tags or Markdown of its own."""
    text = " ".join(str(text).split())
    for char in "\\`*_[]|":
        text = text.replace(char, f"\\{char}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
