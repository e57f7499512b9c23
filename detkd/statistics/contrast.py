"""Differences of two sides with everything that is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkd.evaluation.metrics import CLASS_NAMES
from detkd.statistics.columns import Column
from detkd.statistics.intervals import MIN_LEAD, MIN_VALID, VISIBLE_SDS, gap_interval, spread
from detkd.statistics.multiple import benjamini_hochberg
from detkd.statistics.permutation import PValues
from detkd.statistics.records import Contrast, Resolved
from detkd.statistics.verdict import MIN_OBJECTS, judge

__all__ = ["Numbers", "contrasts_of", "number"]


@dataclass(frozen=True)
class Numbers:
    """The numbers of a side, columns as in `columns_of`, in points, NaN for n/a.

    Attributes:
        points: On the set as it is, float64 (C,).
        draws: In each draw, float64 (B, C).
    """

    points: np.ndarray
    draws: np.ndarray


def number(value: float) -> float | None:
    """Return None for NaN, which never leaves numpy."""
    return None if np.isnan(value) else float(value)


def contrasts_of(
    columns: Sequence[Column],
    before: Numbers,
    after: Numbers,
    teacher: Numbers | None,
    p: PValues,
    plan: Resolved,
) -> dict[str, Contrast]:
    """Compare two sides number by number.

    Args:
        columns: What the numbers are.
        before: Side that is compared with.
        after: Side that is judged.
        teacher: Side whose lead is to be closed, if there is one besides the two.
        p: From the permutation test, empty without one.
        plan: Level, margin, and what was drawn.
    """
    draws = after.draws - before.draws
    delta = after.points - before.points
    found = spread(draws, plan.level, delta, (-100.0, 100.0))
    raw = np.array([_p(column, p) for column in columns])
    adjusted, tests = _adjusted(columns, raw, found.valid)
    result = {}
    for c, column in enumerate(columns):
        low, high, sd = number(found.low[c]), number(found.high[c]), number(found.sd[c])
        p_adjusted = number(adjusted[c])
        deciding = number(raw[c]) if column.label is None else p_adjusted
        verdict, reason = judge(column, low, high, valid=found.valid[c], p=deciding, tests=tests, plan=plan)
        not_inferior = None
        if plan.margin is not None and low is not None and verdict != "not judged":
            not_inferior = low > -plan.margin
        gap = _gap(before, after, teacher, c, plan.level)
        result[column.key] = Contrast(
            key=column.key,
            before=number(before.points[c]),
            after=number(after.points[c]),
            delta=number(delta[c]),
            low=low,
            high=high,
            sd=sd,
            p=number(raw[c]),
            p_adjusted=p_adjusted,
            smallest_visible=None if sd is None else VISIBLE_SDS * sd,
            verdict=verdict,
            reason=reason,
            not_inferior=not_inferior,
            gap_closed=gap[0],
            gap_low=gap[1],
            gap_high=gap[2],
        )
    return result


def _p(column: Column, p: PValues) -> float:
    """Return the p value of a number: those of the whole set that the test was made for, NaN for all else."""
    if column.metric not in p or column.slice is not None:
        return float("nan")
    return float(p[column.metric][0 if column.label is None else 1 + column.label])


def _adjusted(columns: Sequence[Column], raw: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, int]:
    """Return p corrected over the classes of each metric that can get a verdict, and how many those are."""
    adjusted = np.full(len(columns), np.nan)
    tests = 0
    for metric in CLASS_NAMES:
        mine = [
            c
            for c, column in enumerate(columns)
            if column.metric == metric
            and column.label is not None
            and column.objects >= MIN_OBJECTS
            and valid[c] >= MIN_VALID
        ]
        adjusted[mine] = benjamini_hochberg(raw[mine])
        tests = len(mine)
    return adjusted, tests


def _gap(
    before: Numbers, after: Numbers, teacher: Numbers | None, c: int, level: float
) -> tuple[float | None, float | None, float | None]:
    """Return the share of the teacher's lead that was closed, with its interval."""
    if teacher is None:
        return None, None, None
    lead = teacher.points[c] - before.points[c]
    gain = after.points[c] - before.points[c]
    if np.isnan(lead) or np.isnan(gain) or lead < MIN_LEAD:
        return None, None, None
    low, high = gap_interval(after.draws[:, c] - before.draws[:, c], teacher.draws[:, c] - before.draws[:, c], level)
    return float(gain / lead), low, high
