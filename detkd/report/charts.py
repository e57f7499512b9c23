"""Charts as SVG: marks on an axis, one row each.

Positions along an axis are percentages, so a chart is as wide as its place and its strokes and letters keep their size.
A row's numbers stand beside it in the table; these marks are therefore hidden from screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["Scale", "axis", "bar_row", "fit", "interval_row", "share_bar", "ticks"]

Interval = Sequence[float] | None


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high`, in the units of the data."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return the place of a value in percent of the width, held within the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    def holds(self, value: float) -> bool:
        """Return whether a value lies on the axis."""
        return self.low <= value <= self.high


def fit(values: Iterable[float | None], *, zero: bool = False, least: float = 1.0) -> Scale:
    """Return an axis that holds all values with a little air.

    Args:
        values: None is skipped.
        zero: Whether 0 belongs to the axis.
        least: Shortest axis, so that a difference of nothing does not look like one.
    """
    known = [value for value in values if value is not None] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    air = 0.06 * (high - low)
    return Scale(low - air, high + air)


def ticks(scale: Scale, count: int = 5) -> list[float]:
    """Return about `count` round numbers on an axis."""
    raw = (scale.high - scale.low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [round(index * step, 10) + 0.0 for index in range(first, last + 1)]


def tick_text(value: float, *, signed: bool = False) -> str:
    """Return a tick's label without needless zeros."""
    text = f"{value:+g}" if signed and value else f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}")


def axis(scale: Scale, *, signed: bool = False, count: int = 5) -> Markup:
    """Return the labels of an axis, to stand above or below its rows."""
    labels = "".join(
        f'<text x="{scale.at(value)}%" y="12" text-anchor="middle">{tick_text(value, signed=signed)}</text>'
        for value in ticks(scale, count)
    )
    return Markup(f'<svg class="axis" height="16" aria-hidden="true">{labels}</svg>')


def grid(scale: Scale, height: int, *, zero: bool = False, count: int = 5) -> str:
    """Return the lines of an axis through one row, the one at 0 stronger."""
    lines = [
        f'<line class="{"zero" if zero and value == 0 else "grid"}" x1="{x}%" x2="{x}%" y1="0" y2="{height}"/>'
        for value, x in ((value, scale.at(value)) for value in ticks(scale, count))
    ]
    return "".join(lines)


def interval_row(
    scale: Scale,
    value: float | None,
    around: Interval,
    style: str,
    *,
    zero: bool = False,
    height: int = 26,
    count: int = 5,
) -> Markup:
    """Return a value as a dot with its interval as whiskers.

    Args:
        scale: Axis of the chart.
        value: The dot; None leaves the row without marks.
        around: Low and high end, None without an interval.
        style: Class of the marks: a role or a verdict. Each role has its own shape, for eyes that see no colours.
        zero: Whether the line at 0 is drawn stronger.
        height: In pixels.
        count: About how many lines the axis has.
    """
    middle, parts = height / 2, [grid(scale, height, zero=zero, count=count)]
    if value is not None and around is not None:
        low, high = around
        parts.append(
            f'<line class="whisker" x1="{scale.at(low)}%" x2="{scale.at(high)}%" y1="{middle}" y2="{middle}"/>'
        )
        for end in (low, high):
            x = scale.at(end)
            if scale.holds(end):
                parts.append(f'<line class="whisker" x1="{x}%" x2="{x}%" y1="{middle - 4}" y2="{middle + 4}"/>')
            else:  # it goes on beyond the axis
                parts.append(f'<svg x="{x}%" y="{middle}" overflow="visible">{_arrow(end > scale.high)}</svg>')
    if value is not None and scale.holds(value):
        parts.append(f'<svg x="{scale.at(value)}%" y="{middle}" overflow="visible">{_shape(style)}</svg>')
    return Markup(f'<svg class="mark {style}" height="{height}" aria-hidden="true">{"".join(parts)}</svg>')


def _arrow(right: bool) -> str:
    return f'<path class="arrow" d="{"M-5-5 0 0-5 5" if right else "M5-5 0 0 5 5"}"/>'


def _shape(style: str) -> str:
    return {
        "before": '<circle class="dot hollow" r="5"/>',
        "teacher": '<path class="dot" d="M0-7 7 0 0 7-7 0Z"/>',
        "control": '<rect class="dot" x="-5" y="-5" width="10" height="10"/>',
    }.get(style, '<circle class="dot" r="5.5"/>')


def bar_row(scale: Scale, values: Mapping[str, float | None], *, thick: int = 9) -> Markup:
    """Return one bar per role from 0, above each other."""
    height = len(values) * (thick + 3) + 5
    parts = [grid(scale, height)]
    for index, (role, value) in enumerate(values.items()):
        if value is not None:
            start, end = sorted((scale.at(0.0), scale.at(value)))
            y = 4 + index * (thick + 3)
            parts.append(
                f'<rect class="bar {role}" x="{start}%" y="{y}" width="{round(end - start, 2)}%" height="{thick}" '
                'rx="2"/>'
            )
    return Markup(f'<svg class="mark" height="{height}" aria-hidden="true">{"".join(parts)}</svg>')


def share_bar(parts: Mapping[str, float], *, height: int = 22) -> Markup:
    """Return counts as parts of one bar, in the order given; the keys are the parts' classes."""
    total, start, drawn = sum(parts.values()) or 1.0, 0.0, []
    for style, count in parts.items():
        width = 100 * count / total
        drawn.append(f'<rect class="part {style}" x="{start:.2f}%" width="{width:.2f}%" height="{height}"/>')
        start += width
    return Markup(f'<svg class="mark" height="{height}" aria-hidden="true">{"".join(drawn)}</svg>')
