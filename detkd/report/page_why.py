"""Charts and rows of the page's third question: why the two sides differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from detkd.report import charts
from detkd.report.charts import Scale, fit
from detkd.report.charts_curves import Dot, Line, Plane, plane_chart
from detkd.report.page_views import Page

__all__ = ["ERROR_TERMS", "UNIT", "Why"]

ERROR_TERMS = {
    "Cls": "right place, wrong class",
    "Loc": "right class, box too far off",
    "Both": "wrong class and box off",
    "Dupe": "second box on an object already found",
    "Bkg": "nothing there",
    "Miss": "object not found at all",
}
"""TIDE's error types (Bolya et al. 2020) in words."""

UNIT = Scale(0.0, 1.0)
_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Why:
    """The charts of the third section.

    Args:
        page: The comparison; its methods find the numbers.
    """

    terms = ERROR_TERMS

    def __init__(self, page: Page) -> None:
        self.page = page
        self.roles = [role for role in ("before", "after") if role in page.diagnosed]

    def _get(self, role: str, *path: str | int) -> Any:
        return self.page.value(*self.page.found(role, *path))

    def error_scale(self) -> Scale:
        """Return the axis of the error bars, in points of AP50."""
        values = [self._get(role, "errors", "terms", term) for role in self.roles for term in ERROR_TERMS]
        return Scale(0.0, max([1.0, *(value for value in values if value is not None)]) * 1.05)

    def error_bars(self, scale: Scale, term: str) -> Markup:
        """Return what one type of error costs each side."""
        return charts.bar_row(scale, {role: self._get(role, "errors", "terms", term) for role in self.roles})

    def change(self, *path: str | int) -> float | None:
        """Return after - before of a number of the diagnosis, None where a side has none."""
        values = [self._get(role, *path) for role in ("before", "after") if role in self.roles]
        return None if len(values) < 2 or None in values else values[1] - values[0]

    def reliability(self) -> Markup:
        """Return how often detections are right against how sure they are, for both sides."""
        lines = []
        for role in self.roles:
            bins = self._get(role, "calibration", "bins") or ()
            points = [
                (one["confidence"], one["accuracy"]) for one in bins if one["count"] and one["accuracy"] is not None
            ]
            lines.append(Line(role, points, dots=True))
        plane = Plane(UNIT, UNIT, "score", "share that is right", _FIFTHS, diagonal=True)
        text = "On the diagonal a score of 0.7 means right in 70% of cases; above it the detector is too modest."
        return plane_chart(plane, lines, name="reliability", title="Reliability of the scores", text=text)

    def precision_recall(self) -> Markup:
        """Return precision against recall over all classes, for every side that has curves."""
        lines, dots = [], []
        for role in reversed(self.page.diagnosed):
            points = [(recall, precision) for recall, precision, _ in self._get(role, "curves", "all") or ()]
            lines.append(Line(role, points))
            best = self._get(role, "working_point")
            if best and best["recall"] is not None and best["precision"] is not None:
                dots.append(Dot(role, (best["recall"], best["precision"])))
        plane = Plane(UNIT, UNIT, "recall", "precision", _FIFTHS)
        text = "Precision against recall at IoU 0.5; each dot is the working point with the best F1."
        return plane_chart(plane, lines, dots, name="pr", title="Precision and recall", text=text, height=300)

    def by_iou(self) -> Markup:
        """Return AP against the IoU a box must reach, for every side."""
        lines: list[Line] = []
        for role in reversed(self.page.diagnosed):
            rows = self._get(role, "by_iou") or ()
            lines.append(Line(role, [(row["iou"], row["AP"]) for row in rows if row["AP"] is not None], dots=True))
        heights = [y for line in lines for _, y in line.points]
        scale = fit([*heights, 0.0], least=10.0) if heights else Scale(0.0, 100.0)
        plane = Plane(
            Scale(0.49, 0.96), Scale(0.0, scale.high), "IoU a box must reach", "AP", (0.5, 0.6, 0.7, 0.8, 0.9)
        )
        text = "A gap on the left means more objects found, a gap on the right only means tighter boxes."
        return plane_chart(plane, lines, name="iou", title="AP by IoU threshold", text=text, height=250)

    def alarm_rows(self) -> list[tuple[int, float]]:
        """Return the recalls at which false alarms are given, with their place in the list."""
        rows: Sequence[dict[str, Any]] = self._get(self.roles[0], "false_per_image") or () if self.roles else ()
        return [(index, row["recall"]) for index, row in enumerate(rows)]

    def point_classes(self) -> list[str]:
        """Return the classes that have a working point on any side."""
        names = {name: None for role in self.roles for name in self._get(role, "working_point", "per_class") or ()}
        return list(names)
