"""A comparison as files: CSV for spreadsheets, Markdown for a pull request, JSON for scripts, PNG for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detkd.evaluation.chart import draw_comparison
from detkd.evaluation.compare import Comparison, Row
from detkd.evaluation.metrics import plain
from detkd.evaluation.tables import COST_COLUMNS, cost_cells, format_points, signed_points
from detkd.io import atomic_path, write_json, write_text

__all__ = ["SCHEMA", "comparison_csv", "comparison_dict", "comparison_markdown", "csv_text", "write_comparison"]

SCHEMA = 1
"""Version of compare.json."""


def write_comparison(comparison: Comparison, folder: str | Path) -> dict[str, Path]:
    """Write compare.csv, compare.md, compare.json and compare.png into `folder`; return suffix to path."""
    target = Path(folder)
    paths = {
        "csv": write_text(target / "compare.csv", comparison_csv(comparison)),
        "md": write_text(target / "compare.md", comparison_markdown(comparison)),
        "json": write_json(target / "compare.json", comparison_dict(comparison)),
        "png": target / "compare.png",
    }
    with atomic_path(paths["png"]) as temporary:
        draw_comparison(comparison, temporary)
    return paths


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """Return plain JSON values: both sides with all their numbers, the rows and the notes."""
    teacher = comparison.teacher
    value: dict[str, Any] = plain(
        {
            "schema": SCHEMA,
            "before": comparison.before.to_dict(),
            "after": comparison.after.to_dict(),
            "teacher": teacher.to_dict() if teacher else None,
            "rows": [asdict(row) for row in comparison.rows],
            "notes": [asdict(note) for note in comparison.notes],
        }
    )
    return value


def csv_text(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def comparison_csv(comparison: Comparison) -> str:
    """Return one line per number: metric, class, objects, points of every side, difference, share of the gap closed."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["metric", "class", "objects", "before", "after", "difference", "teacher", "gap_closed"])
    for row in comparison.rows:
        numbers = (row.before, row.after, row.delta, row.teacher, row.gap_closed)
        cells = ["" if value is None else f"{value:.4f}" for value in numbers]
        writer.writerow([row.metric, csv_text(row.class_name or ""), row.objects, *cells])
    return stream.getvalue()


def comparison_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown: headline, tables, cost, notes, protocol."""
    before, after, teacher = comparison.before, comparison.after, comparison.teacher
    overall = [row for row in comparison.rows if row.class_name is None]
    classes = [row for row in comparison.rows if row.class_name is not None and row.metric in ("AP", "AP50")]
    headline = comparison.row("AP")
    parts = [
        f"# {_cell(before.name)} → {_cell(after.name)}",
        f"AP {format_points(headline.before)} → {format_points(headline.after)} "
        f"(**{signed_points(headline.delta)}** points)" + _gap(headline) + ".",
        *[f"> **Not alike:** {_cell(note.text)}" for note in comparison.notes if note.level == "differs"],
        "## Overall",
        _rows(comparison, overall, ["number", "objects"]),
        "## Per class",
        _rows(comparison, classes, ["class", "number", "objects"]),
    ]
    if any(entry.cost for entry in comparison.entries):
        lines = [[_cell(e.name), *map(_cell, cost_cells(e.cost))] for e in comparison.entries]
        parts += ["## Cost", _table(["detector", *COST_COLUMNS], lines), "Latency: median of batch 1, NMS counted."]
    rest = [note for note in comparison.notes if note.level != "differs"]
    parts += ["## Notes", "\n".join(f"- {_cell(note.text)}" for note in rest)]
    protocol = before.metrics.protocol
    parts += [
        "## Protocol",
        f"COCO AP x 100 on {before.metrics.images} images, {before.metrics.objects} objects, "
        f"{protocol.get('crowd', 0)} crowd regions; ground truth `{str(protocol.get('gt_sha256', ''))[:12]}`; "
        f"{protocol.get('engine')} {protocol.get('engine_version')}.",
        _table(
            ["role", "name", "source", "settings"],
            [
                [_cell(e.role), _cell(e.name), _cell(e.source), _cell(_settings(e.metrics.protocol))]
                for e in comparison.entries
            ],
        ),
    ]
    if teacher is not None:
        parts.append("Gap closed: difference / (teacher - before), given where the teacher is ahead.")
    return "\n\n".join(parts) + "\n"


def _gap(row: Row) -> str:
    return "" if row.gap_closed is None else f", {row.gap_closed:.0%} of the teacher's lead"


def _settings(protocol: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in (protocol.get("settings") or {}).items()) or "not known"


def _rows(comparison: Comparison, rows: Sequence[Row], first: list[str]) -> str:
    head = [*first, _cell(comparison.before.name), _cell(comparison.after.name), "difference"]
    if comparison.teacher:
        head += [_cell(comparison.teacher.name), "gap closed"]
    lines = []
    for row in rows:
        labels = {
            "number": row.metric.replace("_", " "),
            "class": _cell(row.class_name or ""),
            "objects": str(row.objects),
        }
        line = [labels[name] for name in first]
        line += [format_points(row.before), format_points(row.after), signed_points(row.delta)]
        if comparison.teacher:
            line += [format_points(row.teacher), "-" if row.gap_closed is None else f"{row.gap_closed:.0%}"]
        lines.append(line)
    return _table(head, lines, text_columns=sum(name != "objects" for name in first))


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int | None = None) -> str:
    count = len(head) if text_columns is None else text_columns
    rule = ["---" if index < count else "---:" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _cell(text: str) -> str:
    """Return text that stays one table cell: no pipes, line breaks, tags or Markdown of its own."""
    text = " ".join(str(text).split())
    for char in "\\`*_[]|":
        text = text.replace(char, f"\\{char}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
