"""Every number of a report under one flat key, as experiment trackers want them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from detkd.errors import DataError
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES

__all__ = ["flat_numbers"]

_COST = ("params", "gflops", "size_mb", "latency_ms", "latency_p95_ms")


def flat_numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report by key; what is n/a is left out, so no value is ever None or NaN.

    - metrics.json: `val/AP`, `val/AP/person`, `val/images`, `cost/latency_ms`; `val` stands for the split's name.
    - compare.json: `before/AP`, `after/AP/person`, `after/AP_low`, `after/AP_high`, `delta/AP`, `delta/AP_low`, `p/AP`,
      `gap_closed/AP`, `vs_control/AP`, `before/cost/latency_ms`, and for slices `slice/camera=gate/AP` (of `after`)
      with `..._before`, `..._delta`, `..._delta_low` and `..._delta_high`.
    - leaderboard.json: `NAME/AP`, `NAME/AP/person`, `NAME/AP_low`, `NAME/delta/AP`, `NAME/rank`, `NAME/cost/params`.

    AP and AR are in points, shares between 0 and 1, costs in their own units.

    Args:
        report: Content of one of the three files.

    Raises:
        DataError: If it is none of them.
    """
    if report.get("kind") == "comparison":
        pairs = _comparison(report)
    elif report.get("kind") == "leaderboard":
        pairs = _leaderboard(report)
    elif isinstance(report.get("metrics"), Mapping):
        pairs = _metrics(report)
    else:
        raise DataError(
            f"report: no report of detkd, got the keys {', '.join(map(str, report)) or 'none'}; give the content of "
            "metrics.json, compare.json or leaderboard.json"
        )
    return {
        key: float(value)
        for key, value in pairs
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _metrics(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    split, metrics = str(record.get("split") or "val"), record["metrics"]
    for key in (*METRIC_NAMES, "images", "objects", "detections"):
        yield f"{split}/{key}", metrics.get(key)
    for name, numbers in (metrics.get("per_class") or {}).items():
        for key in CLASS_NAMES:
            yield f"{split}/{key}/{name}", numbers.get(key)
    yield from _cost("", record.get("cost"))


def _cost(prefix: str, cost: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    for key in _COST:
        yield f"{prefix}cost/{key}", (cost or {}).get(key)


def _bounds(key: str, interval: Any) -> Iterator[tuple[str, Any]]:
    low, high = interval or (None, None)
    yield f"{key}_low", low
    yield f"{key}_high", high


def _comparison(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for row in report["rows"]:
        if part := row.get("slice"):
            key = f"slice/{part['field']}={part['value']}/{row['metric']}"
            yield key, row["values"].get("after")
            yield f"{key}_before", row["values"].get("before")
            yield f"{key}_delta", row.get("delta")
            yield from _bounds(f"{key}_delta", row.get("delta_interval"))
            continue
        key = row["key"]
        for role, value in row["values"].items():
            yield f"{role}/{key}", value
            yield from _bounds(f"{role}/{key}", (row.get("intervals") or {}).get(role))
        yield f"delta/{key}", row.get("delta")
        yield from _bounds(f"delta/{key}", row.get("delta_interval"))
        yield f"p/{key}", row.get("p")
        yield f"gap_closed/{key}", row.get("gap_closed")
        yield from _bounds(f"gap_closed/{key}", row.get("gap_interval"))
        if control := row.get("vs_control"):
            yield f"vs_control/{key}", control.get("delta")
            yield from _bounds(f"vs_control/{key}", control.get("interval"))
    for entry in report["entries"]:
        yield from _cost(f"{entry['role']}/", entry.get("cost"))


def _leaderboard(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for entry in report["entries"]:
        name = entry["name"]
        yield f"{name}/rank", entry.get("rank")
        for key in METRIC_NAMES:
            yield f"{name}/{key}", entry["metrics"].get(key)
            yield from _bounds(f"{name}/{key}", (entry.get("intervals") or {}).get(key))
        for key, other in (entry.get("against_reference") or {}).items():
            yield f"{name}/delta/{key}", other.get("delta")
            yield from _bounds(f"{name}/delta/{key}", other.get("interval"))
            yield f"{name}/p/{key}", other.get("p")
        yield from _cost(f"{name}/", entry.get("cost"))
    for row in report["per_class"]:
        for name, value in row["values"].items():
            yield f"{name}/AP/{row['class']}", value
