"""Charts as SVG: curves and points in a plane, each with a title and a description for screen readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from detkd.report.charts import Scale, tick_text, ticks

__all__ = ["Dot", "Line", "Plane", "plane_chart", "polyline"]

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve: its class (a role), its points, and whether each point gets a dot."""

    style: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class Dot:
    """A single point with an optional label beside it."""

    style: str
    at: Point
    label: str = ""
    left: bool = False


@dataclass(frozen=True)
class Plane:
    """Two axes with their names and, where they are not the round numbers, their ticks."""

    x: Scale
    y: Scale
    x_name: str
    y_name: str
    x_ticks: Sequence[float] | None = None
    diagonal: bool = False


def polyline(plane: Plane, points: Sequence[Point]) -> str:
    """Return points as SVG coordinates in a box of 100 x 100, y upwards."""
    return " ".join(f"{plane.x.at(x):g},{round(100 - plane.y.at(y), 2):g}" for x, y in points)


def plane_chart(
    plane: Plane,
    lines: Sequence[Line],
    dots: Sequence[Dot] = (),
    *,
    name: str,
    title: str,
    text: str,
    height: int = 230,
) -> Markup:
    """Return curves and points in a plane.

    The curves stand in a box that is stretched to the chart's width with strokes that are not; letters and dots stand
    outside that box at percentages, so they are never distorted.

    Args:
        plane: The axes.
        lines: Curves, later ones on top.
        dots: Single points, on top of the curves.
        name: Unique name of the chart on the page; the curves' elements get it in `data-chart`.
        title: Said by screen readers.
        text: What there is to see, in words.
        height: In pixels.
    """
    y_ticks = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{y}%" y2="{y}%"/>'
        f'<text class="tick" x="-7" y="{y}%" dy="4" text-anchor="end">{tick_text(value)}</text>'
        for value, y in ((value, round(100 - plane.y.at(value), 2)) for value in ticks(plane.y, 5))
    )
    places = ticks(plane.x, 5) if plane.x_ticks is None else plane.x_ticks
    x_ticks = "".join(
        f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>'
        f'<svg x="{x}%" y="100%" overflow="visible">'
        f'<text class="tick" y="16" text-anchor="middle">{tick_text(value)}</text></svg>'
        for value, x in ((value, plane.x.at(value)) for value in places)
    )
    diagonal = '<polyline class="diagonal" points="0,100 100,0"/>' if plane.diagonal else ""
    curves = "".join(
        f'<polyline class="curve {line.style}" points="{polyline(plane, line.points)}"/>' for line in lines
    )
    marks = "".join(
        f'<circle class="dot {line.style}{" hollow" if line.style == "before" else ""}" '
        f'cx="{plane.x.at(x)}%" cy="{round(100 - plane.y.at(y), 2)}%" r="3.5"/>'
        for line in lines
        if line.dots
        for x, y in line.points
    )
    return Markup(
        f'<div class="plane" data-chart="{escape(name)}"><svg width="100%" height="{height}" role="img" '
        f'aria-labelledby="{name}-title {name}-text"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-text">{escape(text)}</desc>{y_ticks}{x_ticks}'
        f'<svg class="box" viewBox="0 0 100 100" preserveAspectRatio="none" overflow="visible">{diagonal}{curves}</svg>'
        f"{marks}{''.join(_dot(plane, dot) for dot in dots)}</svg>"
        f'<p class="x-name" aria-hidden="true">{escape(plane.x_name)}</p>'
        f'<p class="y-name" aria-hidden="true">{escape(plane.y_name)}</p></div>'
    )


def _dot(plane: Plane, dot: Dot) -> str:
    x, y = plane.x.at(dot.at[0]), round(100 - plane.y.at(dot.at[1]), 2)
    side = ("-9", "end") if dot.left else ("9", "start")
    label = f'<text class="label" x="{side[0]}" y="4" text-anchor="{side[1]}">{escape(dot.label)}</text>'
    return (
        f'<svg x="{x}%" y="{y}%" overflow="visible"><circle class="dot {dot.style}" r="6"/>'
        f"{label if dot.label else ''}</svg>"
    )
