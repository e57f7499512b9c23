"""A comparison as files: a page for people, Markdown for a pull request, CSV, JSON for scripts, PNG for a slide."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detkd.io import atomic_path, write_json, write_text
from detkd.report.chart import draw_comparison
from detkd.report.comparison import Comparison
from detkd.report.leaderboard import CONTRASTED, Leaderboard
from detkd.report.markdown import comparison_markdown, leaderboard_markdown
from detkd.report.page import render_comparison, render_leaderboard

__all__ = ["comparison_csv", "csv_text", "leaderboard_csv", "write_comparison", "write_leaderboard"]


def write_comparison(comparison: Comparison, folder: str | Path) -> dict[str, Path]:
    """Write compare.html, .csv, .md, .json and .png into `folder`; return suffix to path."""
    target = Path(folder)
    content = comparison.to_dict()
    paths = {
        "html": write_text(target / "compare.html", render_comparison(content, comparison.gallery or None)),
        "csv": write_text(target / "compare.csv", comparison_csv(comparison)),
        "md": write_text(target / "compare.md", comparison_markdown(comparison)),
        "json": write_json(target / "compare.json", content),
        "png": target / "compare.png",
    }
    with atomic_path(paths["png"]) as temporary:
        draw_comparison(comparison, temporary)
    return paths


def write_leaderboard(board: Leaderboard, folder: str | Path) -> dict[str, Path]:
    """Write leaderboard.html, .csv, .md and .json into `folder`; return suffix to path."""
    target = Path(folder)
    content = board.to_dict()
    return {
        "html": write_text(target / "leaderboard.html", render_leaderboard(content)),
        "csv": write_text(target / "leaderboard.csv", leaderboard_csv(board)),
        "md": write_text(target / "leaderboard.md", leaderboard_markdown(board)),
        "json": write_json(target / "leaderboard.json", content),
    }


def csv_text(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def comparison_csv(comparison: Comparison) -> str:
    """Return one line per number: its name, every side's points, the difference with interval and what it is worth."""
    roles = [side.role for side in comparison.sides]
    head = ["metric", "class", "slice", "objects", "images", *roles, "difference", "low", "high", "p", "p_adjusted"]
    lines: list[list[Any]] = [[*head, "smallest_visible", "verdict", "gap_closed"]]
    for row in comparison.rows:
        contrast = row.contrast
        names = [csv_text(row.class_name or ""), csv_text(row.slice.key if row.slice else "")]
        values = [row.estimates[role].value for role in roles]
        tested = (contrast.delta, contrast.low, contrast.high, contrast.p, contrast.p_adjusted)
        numbers = [_number(value) for value in (*values, *tested, contrast.smallest_visible)]
        last = [contrast.verdict, _number(contrast.gap_closed)]
        lines.append([row.metric, *names, row.objects, row.images, *numbers, *last])
    return _csv(lines)


def leaderboard_csv(board: Leaderboard) -> str:
    """Return one line per detector: numbers, and the difference in AP from the reference with its interval."""
    head = ["rank", "name", *CONTRASTED, "AP_low", "AP_high", "difference", "low", "high", "p", "p_adjusted", "verdict"]
    lines: list[list[Any]] = [head]
    for place, side in enumerate(board.sides, start=1):
        estimate, contrast = board.study.estimates[side.name]["AP"], board.contrast(side.name)
        numbers = [side.number(key) for key in CONTRASTED]
        numbers += [estimate.low, estimate.high]
        numbers += [contrast.delta, contrast.low, contrast.high, contrast.p] if contrast else [None] * 4
        numbers.append(board.adjusted.get((side.name, "AP")))
        verdict = contrast.verdict if contrast else "reference"
        lines.append([place, csv_text(side.name), *map(_number, numbers), verdict])
    lines += [["", csv_text(name), *[""] * (len(head) - 3), f"failed: {reason}"] for name, reason in board.failed]
    return _csv(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _csv(lines: Iterable[Iterable[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()
