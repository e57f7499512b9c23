"""What the page's templates ask for: rows in the order people need them, and the charts beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from detkd.report import charts
from detkd.report.charts import Scale, fit
from detkd.report.notes import same_network
from detkd.report.page_format import Path, flat, look_up, number_text, shown

__all__ = ["SIZE_ROWS", "VERDICTS", "Page", "deltas_scale", "slug"]

VERDICTS = {"improved": "▲", "regressed": "▼", "no visible difference": "≈", "not judged": "-"}
"""Verdicts with a sign for eyes that see no colours."""

SIZE_ROWS = {"AP": ("AP_small", "AP_medium", "AP_large"), "AR100": ("AR_small", "AR_medium", "AR_large")}
"""Which of the 12 numbers go with a metric of the switch."""

NOISY = 0.15
"""Latencies nearer than this share to those of the other side count as equal."""


def slug(verdict: str) -> str:
    """Return a verdict as the name of a CSS class."""
    return verdict.replace(" ", "-")


def _around(interval: Sequence[float] | None) -> list[float]:
    return list(interval) if interval else []


def _change(before: float | None, after: float | None) -> float | None:
    """Return how much more after is, as a share of before."""
    return after / before - 1 if before and after is not None else None


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the other's median latency lies well outside the latencies (p50 to p95) of one."""
    low, value = one["latency_ms"], other["latency_ms"]
    high = one.get("latency_p95_ms") or low
    return bool(value < low * (1 - NOISY) or value > high * (1 + NOISY))


def deltas_scale(rows: Iterable[Mapping[str, Any]]) -> Scale:
    """Return an axis for differences that holds 0 and every judged row.

    Rows that are not judged have intervals of tens of points, which would leave no room for the others; theirs end in
    an arrow instead.
    """
    given = list(rows)
    judged = [row for row in given if row["verdict"] != "not judged"] or given
    return fit([v for row in judged for v in (row["delta"], *_around(row["delta_interval"]))], zero=True)


class Page:
    """Everything a template asks of a comparison.

    Args:
        report: The dictionary of compare.json.
        gallery: Its pictures, or None.
    """

    metrics = ("AP", "AP50", "AP75", "AR100")
    verdicts = VERDICTS
    slug = staticmethod(slug)
    share_bar = staticmethod(charts.share_bar)
    axis = staticmethod(charts.axis)

    def __init__(self, report: Mapping[str, Any], gallery: Mapping[str, Any] | None) -> None:
        self.report = report
        self.gallery = gallery or {}
        self.entries: dict[str, Mapping[str, Any]] = {entry["role"]: entry for entry in report["entries"]}
        self.places = {entry["role"]: index for index, entry in enumerate(report["entries"])}
        self.rows: list[Mapping[str, Any]] = report["rows"]
        self.index = {row["key"]: index for index, row in enumerate(self.rows)}
        self.overall = [i for i, row in enumerate(self.rows) if row["class"] is None and row["slice"] is None]
        self.diagnosis: Mapping[str, Any] = (report.get("diagnosis") or {}).get("entries") or {}
        self.pair: Mapping[str, Any] = (report.get("diagnosis") or {}).get("pair") or {}
        self.diagnosed = [role for role, entry in self.entries.items() if self.diagnosis.get(entry["name"])]

    def n(self, kind: str, *path: Path) -> Markup:
        """Return the number at a place of the report, given in steps or tuples of them; see `page_format.shown`."""
        return shown(self.report, kind, *flat(*path))

    def value(self, *path: Path) -> Any:
        """Return the value at a place of the report, None where there is none."""
        return look_up(self.report, flat(*path))

    def found(self, role: str, *path: str | int) -> tuple[str | int, ...]:
        """Return the place of something in the diagnosis of one side."""
        return ("diagnosis", "entries", self.entries[role]["name"], *path)

    def alike(self, places: Sequence[Path], key: str) -> bool:
        """Return whether several places hold the same value under `key`."""
        return len({str(self.value(place, key)) for place in places}) == 1

    def known(self, places: Sequence[Path], key: str) -> bool:
        """Return whether any of several places holds a value under `key`."""
        return any(self.value(place, key) is not None for place in places)

    def unseen(self, index: int) -> bool:
        """Return whether a row shows no difference, which is where it matters how large one it could have missed."""
        row = self.rows[index]
        return row["verdict"] == "no visible difference" and row["smallest_visible"] is not None

    def despite(self, index: int) -> bool:
        """Return whether a row has no visible difference although its interval excludes 0."""
        low, high = self.rows[index]["delta_interval"] or (None, None)
        if low is None or high is None or low <= 0 <= high:
            return False
        return bool(self.rows[index]["verdict"] == "no visible difference")

    @property
    def level(self) -> str:
        """What the intervals are called: "95% interval"."""
        level = self.value("statistics", "level")
        return "interval" if level is None else f"{level:.0%} interval"

    def sides_chart(self) -> tuple[Scale, list[tuple[str, Markup]]]:
        """Return the axis and one row per side with its AP and interval."""
        row = self.rows[self.index["AP"]]
        around = {role: _around(row["intervals"].get(role)) for role in self.entries}
        scale = fit([v for role in self.entries for v in (row["values"].get(role), *around[role])], least=2.0)
        marks = [
            (role, charts.interval_row(scale, row["values"].get(role), around[role] or None, role, height=38))
            for role in self.entries
        ]
        return scale, marks

    def delta_chart(self) -> tuple[Scale, list[tuple[str, Markup]]]:
        """Return the axis and rows for after - before and, with a control, after - control."""
        row = self.rows[self.index["AP"]]
        given = [("before", row["delta"], row["delta_interval"], row["verdict"])]
        if "vs_control" in row:
            other = row["vs_control"]
            given.append(("control", other["delta"], other["interval"], other["verdict"]))
        scale = fit([v for _, value, around, _ in given for v in (value, *_around(around))], zero=True)
        marks = [
            (role, charts.interval_row(scale, value, around, slug(verdict), zero=True, height=38))
            for role, value, around, verdict in given
        ]
        return scale, marks

    def delta_mark(self, scale: Scale, index: int) -> Markup:
        """Return the difference of one row with its interval."""
        row = self.rows[index]
        return charts.interval_row(scale, row["delta"], row["delta_interval"], slug(row["verdict"]), zero=True, count=3)

    def scale_of(self, indices: Iterable[int]) -> Scale:
        """Return the axis for the differences of some rows."""
        return deltas_scale([self.rows[index] for index in indices])

    def classes(self, metric: str) -> list[int]:
        """Return the rows of all classes for one metric: regressions first, those that can't be judged last."""
        rows = [i for i, row in enumerate(self.rows) if row["class"] is not None and row["metric"] == metric]
        return sorted(rows, key=self._urgency)

    def slices(self, metric: str) -> dict[str, list[int]]:
        """Return the rows of the slices for one metric by field, regressions first."""
        fields: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            if row["slice"] is not None and row["metric"] == metric:
                fields.setdefault(row["slice"]["field"], []).append(index)
        return {field: sorted(rows, key=self._urgency) for field, rows in fields.items()}

    def sizes(self, metric: str) -> list[int]:
        """Return the rows by object size that go with one metric, small first."""
        return [self.index[key] for key in SIZE_ROWS.get(metric, ()) if key in self.index]

    def _urgency(self, index: int) -> tuple[int, float]:
        row = self.rows[index]
        group = {"regressed": 0, "not judged": 2}.get(row["verdict"], 1)
        return (3, 0.0) if row["delta"] is None else (group, row["delta"])

    def moved(self, *indices: int) -> dict[str, int]:
        """Return how many rows got each verdict, in the order of `VERDICTS`, those of none left out."""
        counts = {verdict: sum(self.rows[i]["verdict"] == verdict for i in indices) for verdict in VERDICTS}
        return {verdict: count for verdict, count in counts.items() if count}

    def same_cost(self) -> str:
        """Return in words whether before and after cost the same, "" where a cost is not known."""
        before, after = (self.entries[role]["cost"] if role in self.entries else None for role in ("before", "after"))
        if not before or not after:
            return ""
        words = []
        for key, name, near in (("params", "parameters", 1e-3), ("gflops", "GFLOPs", 1e-3), ("size_mb", "file", 0.02)):
            change = _change(before.get(key), after.get(key))
            if change is not None and abs(change) > near:
                words.append(f"{name} {number_text(100 * change, '+0')} %")
        slower = _change(before.get("latency_ms"), after.get("latency_ms"))
        noise = ""
        if slower is not None and (_apart(before, after) or _apart(after, before)):
            if not words and same_network(before, after):
                noise = "; that the latencies differ is noise of the measurement"
            else:
                words.append(f"latency {number_text(100 * slower, '+0')} %")
        said = f"Not the same cost to run: {', '.join(words)}" if words else f"Same cost to run{noise}"
        longer = _change(before.get("train_seconds"), after.get("train_seconds"))
        if longer is not None and abs(longer) > 0.02:
            said += f"; {abs(longer):.0%}".replace("%", " %") + f" {'longer' if longer > 0 else 'shorter'} to train"
        return f"{said}."

    def options(self, key: str, field: str | None = None) -> dict[str, int]:
        """Return the values that the gallery's objects have, with how many have each, most first."""
        counts: dict[str, int] = {}
        for item in self.gallery.get("objects", ()):
            value = item["fields"].get(field) if field is not None else item.get(key)
            if value is not None:
                counts[str(value)] = counts.get(str(value), 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    @property
    def fields(self) -> list[str]:
        """Fields of the image records by which the gallery's objects can be filtered: those with several values."""
        names = {name: None for item in self.gallery.get("objects", ()) for name in item["fields"]}
        return [name for name in names if len(self.options("fields", name)) > 1]

    def threshold_advice(self) -> str:
        """Return by how much to move the score threshold when the model is replaced, "" where it is not known."""
        limits = [
            self.value(*self.found(role, "working_point", "threshold")) if role in self.diagnosed else None
            for role in ("before", "after")
        ]
        if limits[0] is None or limits[1] is None:
            return ""
        if abs(limits[0] - limits[1]) < 0.005:
            return f"Keep your threshold: both sides work best at {limits[0]:.2f}."
        return f"Move your threshold from {limits[0]:.2f} to {limits[1]:.2f}."
