"""`fail_if='AP<-0.5'`: a comparison as a gate for CI."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from detkd.errors import ConfigError
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES
from detkd.report.comparison import Comparison

__all__ = ["FailIf", "Verdict", "parse_fail_if"]

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PER_CLASS = tuple(f"{kind}/CLASS" for kind in CLASS_NAMES)
# The last operator counts, so a class may be called "a<b".
_GRAMMAR = re.compile(r"\s*(?P<metric>.*\S)\s*(?P<op><=|>=|<|>)\s*(?P<limit>[^\s<>=]+)\s*", re.DOTALL)


class Verdict(NamedTuple):
    """Outcome of a gate; true when the comparison failed it."""

    failed: bool
    message: str

    def __bool__(self) -> bool:
        return self.failed


@dataclass(frozen=True)
class FailIf:
    """A condition on a difference.

    Attributes:
        metric: One of the 12 numbers, or a class number such as "AP/person".
        op: "<", "<=", ">" or ">=".
        limit: Points.
    """

    metric: str
    op: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{self.op}{self.limit:g}"

    def check_classes(self, names: Sequence[str]) -> None:
        """Make sure that the condition is about a class of the set, before anything is compared.

        Raises:
            ConfigError: If it is not (says the nearest).
        """
        kind, slash, name = self.metric.partition("/")
        if slash and name not in names:
            raise ConfigError(_unknown(self.metric, [*METRIC_NAMES, *(f"{kind}/{one}" for one in names)]))

    def check(self, comparison: Comparison) -> Verdict:
        """Say whether after - before may meet the condition, as far as this test set can tell.

        The bound of the interval that comes nearest to the condition is compared, so a gate such as AP<-0.5 passes when
        a loss of more than 0.5 points is excluded, not when the set was too small to see it.

        Raises:
            ConfigError: If the comparison has no such class, or the number is n/a: a gate that can't be checked must
                not pass silently.
        """
        keys = [row.key for row in comparison.rows]
        if self.metric not in keys:
            raise ConfigError(_unknown(self.metric, keys))
        contrast = comparison.row(self.metric).contrast
        if contrast.delta is None:
            raise ConfigError(f"fail_if: {self.metric} is n/a on this set (no such objects); choose another number")
        for side in (comparison.before, comparison.after):
            if not any(len(run.detections) for run in side.runs):
                return Verdict(True, f"fail_if {self}: failed, {side.name} has no detections: nothing was measured")
        text = f"{self.metric} after - before is {contrast.delta:+.2f} points"
        if contrast.low is None or contrast.high is None or contrast.verdict == "not judged":
            # Nothing is excluded where nothing is known.
            return Verdict(True, f"fail_if {self}: failed, {text}, but that is not judged: {contrast.reason}")
        down = self.op in ("<", "<=")
        value = contrast.low if down else contrast.high
        level = comparison.study.settings.level
        used = f", {level:.0%} interval {contrast.low:+.2f} to {contrast.high:+.2f}, "
        used += f"{'lower' if down else 'upper'} bound used"
        failed = _OPERATORS[self.op](value, self.limit)
        return Verdict(failed, f"fail_if {self}: {'failed' if failed else 'passed'}, {text}{used}")


def parse_fail_if(expression: str) -> FailIf:
    """Parse `METRIC OP POINTS`, a condition on the interval of after - before under which the comparison fails.

    Args:
        expression: Such as "AP<-0.5" or "AP50/person <= -1".

    Raises:
        ConfigError: If it does not parse or names an unknown metric (says the nearest).

    Example:
        >>> parse_fail_if("AP/traffic light < -0.5")
        FailIf(metric='AP/traffic light', op='<', limit=-0.5)
    """
    match = _GRAMMAR.fullmatch(str(expression))
    if match is None:
        raise ConfigError(
            f"fail_if: must be METRIC OP POINTS with OP one of < <= > >=, got {expression!r}; write fail_if='AP<-0.5'"
        )
    try:
        limit = float(match["limit"])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ConfigError(
            f"fail_if: the limit must be a number of points, got {match['limit']!r}; write fail_if='AP<-0.5'"
        )
    metric = match["metric"]
    kind, slash, name = metric.partition("/")
    if not (metric in METRIC_NAMES or (slash and name and kind in CLASS_NAMES)):
        raise ConfigError(_unknown(metric, [*METRIC_NAMES, *_PER_CLASS]))
    return FailIf(metric, match["op"], limit)


def _unknown(metric: str, known: list[str]) -> str:
    lower = {key.lower(): key for key in known}
    close = get_close_matches(metric.lower(), lower, n=1, cutoff=0.0)
    names = ", ".join([*METRIC_NAMES, *_PER_CLASS])
    return f"fail_if: unknown metric, got {metric!r}; did you mean {lower[close[0]]}? Known: {names}"
