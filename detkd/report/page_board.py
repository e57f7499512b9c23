"""What the leaderboard's template asks for: ranks, the plane of cost and accuracy, and the heat table of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from detkd.report import charts
from detkd.report.charts import Scale, fit
from detkd.report.charts_curves import Dot, Line, Plane, plane_chart
from detkd.report.page_format import Path, flat, look_up, shown
from detkd.report.page_views import VERDICTS, slug

__all__ = ["COSTS", "Board", "pareto"]

COSTS = {"latency_ms": "latency, ms", "gflops": "GFLOPs", "params": "parameters"}
"""What may stand on the axis of the cost, the most useful first."""


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of (cost, value) points that no other beats in both, from cheap to dear."""
    best, kept = float("-inf"), []
    for name, (_, value) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if value > best:
            best = value
            kept.append(name)
    return kept


class Board:
    """Everything the template asks of a leaderboard.

    Args:
        report: The dictionary of leaderboard.json.
    """

    metrics = ("AP", "AP50", "AP75", "AR100")
    verdicts = VERDICTS
    slug = staticmethod(slug)
    axis = staticmethod(charts.axis)

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self.entries: list[Mapping[str, Any]] = report["entries"]

    def n(self, kind: str, *path: Path) -> Markup:
        """Return the number at a place of the report, given in steps or tuples of them; see `page_format.shown`."""
        return shown(self.report, kind, *flat(*path))

    def value(self, *path: Path) -> Any:
        """Return the value at a place of the report, None where there is none."""
        return look_up(self.report, flat(*path))

    @property
    def level(self) -> str:
        """What the intervals are called: "95% interval"."""
        level = self.value("statistics", "level")
        return "interval" if level is None else f"{level:.0%} interval"

    def scale(self, metric: str) -> Scale:
        """Return the axis that holds every entry's value and interval."""
        values = [entry["metrics"][metric] for entry in self.entries]
        ends = [end for entry in self.entries for end in (entry["intervals"].get(metric) or ())]
        return fit([*values, *ends], least=2.0)

    def mark(self, scale: Scale, index: int, metric: str) -> Markup:
        """Return the value of one entry with its interval; the reference has the shape of `before`."""
        entry = self.entries[index]
        style = "before" if entry["name"] == self.report["reference"] else "after"
        return charts.interval_row(scale, entry["metrics"][metric], entry["intervals"].get(metric), style)

    def cost_key(self) -> str | None:
        """Return the cost that most entries know, the most useful of equals; None where fewer than two know any."""
        known = {key: sum(bool((e["cost"] or {}).get(key)) for e in self.entries) for key in COSTS}
        best = max(known, key=lambda key: known[key])
        return best if known[best] >= 2 else None

    def unpriced(self) -> list[str]:
        """Return the names of entries that miss in the chart of costs."""
        key = self.cost_key()
        return [
            e["name"] for e in self.entries if key and (not (e["cost"] or {}).get(key) or e["metrics"]["AP"] is None)
        ]

    def front(self) -> list[str]:
        """Return the names on the Pareto front, cheap first."""
        return pareto(self._priced())

    def _priced(self) -> dict[str, tuple[float, float]]:
        key = self.cost_key()
        missing = set(self.unpriced())
        return {
            e["name"]: (e["cost"][key], e["metrics"]["AP"]) for e in self.entries if key and e["name"] not in missing
        }

    def cost_chart(self) -> Markup:
        """Return AP against cost with the front as steps; entries are labelled with their rank."""
        key, points, front = self.cost_key(), self._priced(), self.front()
        dear, ranks = max(x for x, _ in points.values()), {entry["name"]: entry["rank"] for entry in self.entries}
        plane = Plane(Scale(0.0, dear * 1.08), fit([y for _, y in points.values()], least=5.0), COSTS[str(key)], "AP")
        steps: list[tuple[float, float]] = []
        for name in front:
            steps += [(points[name][0], steps[-1][1]), points[name]] if steps else [points[name]]
        dots = [
            Dot("after" if name in front else "before", at, f"#{ranks[name]}", left=at[0] > dear * 0.9)
            for name, at in points.items()
        ]
        text = "Detectors on the line are beaten by none that is as cheap; numbers are ranks in the table."
        return plane_chart(
            plane, [Line("after thin", steps)], dots, name="cost", title="AP against cost", text=text, height=320
        )

    def heat(self, index: int, name: str) -> str:
        """Return how a class's AP compares with the best and worst of that class, as a class of colour 0 to 4."""
        values = [value for value in self.report["per_class"][index]["values"].values() if value is not None]
        value = self.report["per_class"][index]["values"].get(name)
        if value is None or not values or max(values) - min(values) < 1e-9:
            return "heat-none"
        return f"heat-{round(4 * (value - min(values)) / (max(values) - min(values)))}"
