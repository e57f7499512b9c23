"""The numbers of one side in every draw of the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from detkd.evaluation.matching import Matches
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES
from detkd.evaluation.side import Run, Slice
from detkd.evaluation.weighted import WeightedScorer, overall
from detkd.statistics.columns import SLICE_METRICS
from detkd.statistics.subset import restrict_images

__all__ = ["Tick", "batches", "side_values"]

Tick = Callable[[int], None]
"""Called with the number of draws done since the last call."""

_BATCH = 200
"""Draws between two reports of progress; the scorer cuts them to fit the processor's cache."""


def batches(rows: int, size: int) -> list[slice]:
    """Cut `rows` rows into slices of at most `size`."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def side_values(
    runs: Sequence[Run], weights: np.ndarray, shares: np.ndarray, slices: Sequence[Slice] = (), tick: Tick | None = None
) -> np.ndarray:
    """Score one side under every draw: runs outside, images inside.

    Every run is scored once under each draw of the images; the side's number is the mean over the runs drawn with it.

    Args:
        runs: In the order of the columns of `shares`.
        weights: How often each image counts, unsigned integers (B, I).
        shares: Share of each run in each draw, float64 (B, R).
        slices: Parts of the set.
        tick: Called as the work goes on; the counts add up to R (1 + S) B.

    Returns:
        Numbers in points, columns as in `columns_of`, NaN where a draw has no such object, float64 (B, C).
    """
    total: np.ndarray | None = None
    for index, one in enumerate(runs):
        parts = [_whole(one.matches, weights, tick)]
        parts += [_part(restrict_images(one.matches, part.mask), weights[:, part.mask], tick) for part in slices]
        # A number that a draw does not have is missing from all runs alike, so NaN x 0 does no harm.
        values = np.concatenate(parts, axis=1) * shares[:, index, None]
        total = values if total is None else total + values
    assert total is not None  # a side has at least one run
    return total


def _whole(matches: Matches, weights: np.ndarray, tick: Tick | None) -> np.ndarray:
    """Return the 12 numbers and those of each class, (B, 12 + 4 K)."""
    scorer = WeightedScorer(matches)
    result = np.empty((len(weights), len(METRIC_NAMES) + len(CLASS_NAMES) * len(matches.names)))
    for rows in batches(len(weights), _BATCH):
        scores = scorer.score(weights[rows], METRIC_NAMES)
        per_class = np.stack([scores[metric] for metric in CLASS_NAMES], axis=2)
        result[rows, : len(METRIC_NAMES)] = np.stack([overall(scores[metric]) for metric in METRIC_NAMES], axis=1)
        result[rows, len(METRIC_NAMES) :] = per_class.reshape(len(per_class), -1)
        if tick is not None:
            tick(rows.stop - rows.start)
    return result


def _part(matches: Matches, weights: np.ndarray, tick: Tick | None) -> np.ndarray:
    """Return the numbers of one slice, (B, 2)."""
    scorer = WeightedScorer(matches)
    result = np.empty((len(weights), len(SLICE_METRICS)))
    for rows in batches(len(weights), _BATCH):
        scores = scorer.score(weights[rows], SLICE_METRICS)
        result[rows] = np.stack([overall(scores[metric]) for metric in SLICE_METRICS], axis=1)
        if tick is not None:
            tick(rows.stop - rows.start)
    return result
