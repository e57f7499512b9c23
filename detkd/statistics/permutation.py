"""Paired permutation test: would the difference be as large if the two sides' answers were mixed up at random?

Fisher-Pitman: where the sides do not differ, it is chance which of an image's two answers bears which name, so names
are exchanged image by image (or group by group) and the difference is computed anew (Fisher, "The Design of
Experiments", 1935; Pitman 1937; recommended beside an interval by Bestgen, LREC 2022). The observed arrangement is one
of the possible ones, hence p = (1 + count) / (1 + n) (Phipson and Smyth, arXiv 1603.05766).

With K classes the smallest p of n permutations may be too large to survive the correction: at n = 1,000 and one class
of 80, 80 / 1,001 is above 0.05. Classes that no permutation has reached get more of them. This stays valid: p can only
be low if all permutations together are counted. With few units chance could bring p below the smallest value that all
arrangements together give, 2 / 2^U; it is then that value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detkd.evaluation.matching import Matches
from detkd.evaluation.metrics import CLASS_NAMES
from detkd.evaluation.weighted import WeightedScorer, overall
from detkd.statistics.draws import Units, smallest_p, swaps
from detkd.statistics.resample import Tick, batches
from detkd.statistics.subset import restrict_classes

__all__ = ["PValues", "count_extremes", "further_permutations", "permutation_test"]

PValues = dict[str, np.ndarray]
"""Metric to p values, float64 (1 + K,): overall, then each class; NaN where there is no number."""

_BATCH = 100
_ROUND = 1000
_SAME = 1e-9


def permutation_test(
    before: Sequence[Matches],
    after: Sequence[Matches],
    units: Units,
    permutations: int,
    seed: int,
    *,
    tested: np.ndarray,
    alpha: float = 0.05,
    tick: Tick | None = None,
) -> PValues:
    """Return two-sided p values for AP, AP50, AP75 and AR100, overall and per class.

    Args:
        before: Matches of the runs of one side; runs that belong together stand at the same place.
        after: Of the other side. With unequal numbers of runs the shorter list is gone through again.
        units: What changes sides together.
        permutations: At least 1.
        seed: Of the study.
        tested: Classes that will be corrected for one another, bool (K,).
        alpha: Level the adjusted p is held against.
        tick: Called with the permutations done in the first round.
    """
    counts, exists = count_extremes(before, after, swaps(units, permutations, seed), tick)
    floor = smallest_p(units.count)
    found = {metric: np.maximum((1 + counts[metric]) / (1 + permutations), floor) for metric in CLASS_NAMES}
    p = {metric: np.where(exists[metric], found[metric], np.nan) for metric in CLASS_NAMES}
    unreached = {metric: (counts[metric][1:] == 0) & exists[metric][1:] & tested for metric in CLASS_NAMES}
    further = {m: further_permutations(permutations, int(tested.sum()), int(unreached[m].sum()), alpha) for m in p}
    extra = max(further.values())
    if not extra:
        return p
    again = np.flatnonzero(np.any([unreached[metric] for metric in CLASS_NAMES if further[metric]], axis=0))
    more = {metric: np.zeros(len(again), dtype=np.int64) for metric in CLASS_NAMES}
    first, second = ([restrict_classes(matches, again.tolist()) for matches in side] for side in (before, after))
    for number, rows in enumerate(batches(extra, _ROUND), start=1):
        reached, _ = count_extremes(first, second, swaps(units, rows.stop - rows.start, seed, batch=number))
        for metric in CLASS_NAMES:
            more[metric] += reached[metric][1:]
    for metric in CLASS_NAMES:
        mine = unreached[metric][again]
        p[metric][1 + again[mine]] = np.maximum((1 + more[metric][mine]) / (1 + permutations + extra), floor)
    return p


def further_permutations(permutations: int, tests: int, unreached: int, alpha: float) -> int:
    """Return how many more are needed so that `unreached` of `tests` classes can pass the correction; 0 if they can.

    Args:
        permutations: How many were made.
        tests: Classes corrected for one another.
        unreached: Those whose difference no permutation has reached.
        alpha: Level of the adjusted p; half of it is aimed at.
    """
    if unreached == 0 or tests / unreached / (1 + permutations) <= alpha / 2:
        return 0
    return max(math.ceil(2 * tests / alpha) - permutations, 0)


def count_extremes(
    before: Sequence[Matches], after: Sequence[Matches], table: np.ndarray, tick: Tick | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Count the permutations whose difference is at least the observed one, in absolute value.

    Args:
        before: Matches of the runs of one side.
        after: Of the other side.
        table: Which images change sides, bool (n, I).
        tick: Called with the permutations done.

    Returns:
        Per metric the counts, int64 (1 + K,), and where there is a number at all, bool (1 + K,).
    """
    scorers = _pairs(before, after)
    observed = _differences(scorers, np.zeros((1, table.shape[1]), dtype=bool))
    limit = {metric: np.abs(values[0]) - _SAME for metric, values in observed.items()}
    counts = {metric: np.zeros(values.shape[1], dtype=np.int64) for metric, values in observed.items()}
    for rows in batches(len(table), _BATCH):
        for metric, values in _differences(scorers, table[rows]).items():
            counts[metric] += (np.abs(values) >= limit[metric]).sum(axis=0)
        if tick is not None:
            tick(rows.stop - rows.start)
    return counts, {metric: ~np.isnan(values) for metric, values in limit.items()}


def _pairs(before: Sequence[Matches], after: Sequence[Matches]) -> list[WeightedScorer]:
    count = max(len(before), len(after))
    return [WeightedScorer(before[n % len(before)], after[n % len(after)]) for n in range(count)]


def _differences(scorers: Sequence[WeightedScorer], table: np.ndarray) -> dict[str, np.ndarray]:
    """Return after minus before when the images in `table` have changed sides, per metric (n, 1 + K)."""
    first = np.stack([~table, table], axis=1)  # which images each detector answers for the first side
    weights = np.concatenate([first, ~first])
    total = {metric: np.zeros(0) for metric in CLASS_NAMES}
    for scorer in scorers:
        scores = scorer.score(weights, CLASS_NAMES)
        for metric, per_class in scores.items():
            values = np.concatenate([overall(per_class)[:, None], per_class], axis=1)
            difference = (values[len(table) :] - values[: len(table)]) / len(scorers)
            total[metric] = total[metric] + difference if total[metric].size else difference
    return total
