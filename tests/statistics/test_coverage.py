"""How often intervals hold the truth, on sets whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detkd.evaluation.matching import Matches
from detkd.evaluation.weighted import WeightedScorer, overall
from detkd.statistics.draws import bootstrap_weights, units_of
from detkd.statistics.intervals import spread
from tests.statistics.populations import make_pair

METRICS = ("AP", "AP50", "AP75")
SKILLS = (0.0, 0.3)


def scores(matches: Matches, weights: np.ndarray) -> np.ndarray:
    found = WeightedScorer(matches).score(weights, METRICS)
    return np.stack([overall(found[metric]) for metric in METRICS], axis=1)


@pytest.mark.slow
def test_the_interval_of_a_difference_holds_the_truth() -> None:
    """400 sets of 500 images: at least 92 % less two standard errors, for a nominal 95 %."""
    sets, images, resamples = 400, 500, 200
    huge = np.ones((1, 50_000), dtype=np.uint8)
    worlds = [make_pair(np.random.default_rng([1, n]), huge.size, skills=SKILLS) for n in range(6)]
    truth = np.mean([scores(after, huge) - scores(before, huge) for before, after in worlds], axis=0)[0]
    assert (truth > 1).all()

    units = units_of([{}] * images)
    held = np.zeros(len(METRICS))
    estimates, deviations = [], []
    for seed in range(sets):
        before, after = make_pair(np.random.default_rng([2, seed]), images, skills=SKILLS)
        weights = np.concatenate([np.ones((1, images), dtype=np.uint8), bootstrap_weights(units, resamples, seed)])
        differences = scores(after, weights) - scores(before, weights)
        found = spread(differences[1:], 0.95, differences[0], (-100.0, 100.0))
        held += (found.low <= truth) & (truth <= found.high)
        estimates.append(differences[0])
        deviations.append(found.sd)
    share = held / sets
    print(
        f"coverage {dict(zip(METRICS, share.round(4).tolist(), strict=True))}, truth {truth.round(2)}, bias {(np.mean(estimates, axis=0) - truth).round(3)}"
    )
    print(f"mean SD {np.mean(deviations, axis=0).round(3)}, SD of the estimates {np.std(estimates, axis=0).round(3)}")
    assert (share >= 0.92 - 2 * math.sqrt(0.92 * 0.08 / sets)).all(), share
    # The bootstrap must not reach that by being far too wide.
    assert np.mean(deviations, axis=0) == pytest.approx(np.std(estimates, axis=0), rel=0.2)
