"""The score from which a class's detections are right as often as one asks for.

Labels that a detector writes are only as good as the threshold they pass. A fixed one such as 0.5 means another share
of false labels for every detector and class; here the share is asked for, and the threshold follows from labelled
images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detkd.diagnosis.working_point import Sweep, sweep
from detkd.errors import ConfigError
from detkd.evaluation.matching import Matches

__all__ = ["ClassThreshold", "thresholds_for", "wilson_low"]

_Z = 1.959963984540054  # two-sided 95 %


@dataclass(frozen=True)
class ClassThreshold:
    """Where to cut the detections of one class, and what that gave on the labelled images.

    Attributes:
        threshold: A detection counts if its score is at least this; None where the precision is not reached.
        precision: Share of hits among the detections that pass, in [0, 1]; without a threshold the best there is with
            enough hits; None without detections.
        low: Lower end of the 95 % Wilson interval of `precision`. It knows how many detections there were, not that the
            threshold was chosen on them: with few objects the truth is rather below than above `precision`.
        recall: Share of the objects found there, in [0, 1]; None without objects.
        hits: Detections that pass and are right.
        false_alarms: Detections that pass and are not.
        objects: Labelled objects.
        reason: Why there is no threshold, a part of a sentence; empty where there is one.
    """

    threshold: float | None
    precision: float | None
    low: float | None
    recall: float | None
    hits: int
    false_alarms: int
    objects: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def thresholds_for(
    matches: Matches, names: Sequence[str], precision: float, *, min_hits: int
) -> dict[str, ClassThreshold]:
    """Find for each class the lowest score from which the share of right detections is at least `precision`.

    The share is that of all detections at or above the score, which is what a set of labels made with it consists of.
    It does not fall steadily with the score, so the lowest such score is taken, not the first from above at which it
    falls below: that would be the place of the first mistake.

    Args:
        matches: Detections on labelled images, matched at IoU 0.5 among others.
        names: Classes to look at, all among those of the matches.
        precision: Share asked for, in (0, 1].
        min_hits: Least number of right detections that must pass, at least 1: below it a precision is luck.

    Returns:
        Class name to threshold, in the order of `names`.

    Raises:
        ConfigError: If a value can't be used, or the matches don't know a class or IoU 0.5.
    """
    if isinstance(precision, bool) or not isinstance(precision, int | float) or not 0 < precision <= 1:
        raise ConfigError(
            f"precision: must be a share in (0, 1], got {precision!r}; 0.8 lets one label in five be wrong"
        )
    if isinstance(min_hits, bool) or not isinstance(min_hits, int) or min_hits < 1:
        raise ConfigError(f"min_hits: must be a whole number of at least 1, got {min_hits!r}; 10 is a fair choice")
    if unknown := [name for name in names if name not in matches.names]:
        raise ConfigError(f"names: no such class, got {unknown}; the matches have {list(matches.names)}")
    return {name: _cut(sweep(matches, matches.names.index(name)), precision, min_hits) for name in names}


def wilson_low(hits: int, total: int) -> float | None:
    """Return the lower end of the 95 % Wilson score interval of `hits / total`, None for nothing of nothing.

    References:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    if not total:
        return None
    share, square = hits / total, _Z * _Z / total
    spread = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, (share + square / 2 - spread) / (1 + square))


def _cut(curve: Sweep, precision: float, min_hits: int) -> ClassThreshold:
    total = curve.hits + curve.false
    enough = curve.hits >= min_hits
    share = curve.hits / np.maximum(total, 1)
    # A rounding error must not cost a class its threshold: 0.9 asked for, 9 of 10 right.
    passing = np.flatnonzero(enough & (curve.hits >= precision * total - 1e-9))
    if len(passing):
        index = int(passing[-1])
        return _numbers(curve, index, curve.threshold(index), "")
    if not len(total):
        return _numbers(curve, -1, None, "nothing was detected" if curve.objects else "there is no labelled object")
    if not enough.any():
        most = int(curve.hits[-1])
        reason = f"only {most} right detections of {curve.objects} labelled objects, {min_hits} are needed"
        return _numbers(curve, len(total) - 1, None, reason)
    best = float(share[enough].max())
    index = int(np.flatnonzero(enough & (share == best))[-1])
    return _numbers(curve, index, None, f"its precision reaches {best:.2f} at most")


def _numbers(curve: Sweep, index: int, threshold: float | None, reason: str) -> ClassThreshold:
    hits, false = (int(curve.hits[index]), int(curve.false[index])) if index >= 0 else (0, 0)
    total = hits + false
    return ClassThreshold(
        threshold,
        hits / total if total else None,
        wilson_low(hits, total),
        hits / curve.objects if curve.objects else None,
        hits,
        false,
        curve.objects,
        reason,
    )
