from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detkd.statistics.intervals import gap_interval, quantiles, spread

DRAWS = arrays(
    np.float64, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=st.floats(-50, 50) | st.just(np.nan)
)
BOUNDS = (-100.0, 100.0)


@given(draws=DRAWS, share=st.floats(0, 1))
def test_quantiles_are_numpys_over_the_draws_there_are(draws: np.ndarray, share: float) -> None:
    found = quantiles(draws, (share,))[0]
    for column, value in zip(draws.T, found, strict=True):
        known = column[~np.isnan(column)]
        if len(known):
            assert value == pytest.approx(np.quantile(known, share), abs=1e-9)
        else:
            assert np.isnan(value)


def test_spread_of_a_known_distribution() -> None:
    found = spread(np.random.default_rng(0).normal(3.0, 2.0, (20_000, 1)), 0.95, np.array([3.0]), BOUNDS)
    assert found.low[0] == pytest.approx(3 - 1.96 * 2, abs=0.1)
    assert found.high[0] == pytest.approx(3 + 1.96 * 2, abs=0.1)
    assert found.sd[0] == pytest.approx(2.0, rel=0.02)
    assert found.valid[0] == 1


def test_no_interval_where_more_than_one_draw_in_twenty_is_missing() -> None:
    draws = np.tile(np.arange(100.0)[:, None], (1, 3))
    draws[:5, 1] = np.nan
    draws[:6, 2] = np.nan
    found = spread(draws, 0.9, np.full(3, 50.0), BOUNDS)
    assert found.valid.tolist() == [1.0, 0.95, 0.94]
    assert np.isfinite(found.low).tolist() == [True, True, False]
    assert np.isfinite(found.sd).tolist() == [True, True, False]
    assert found.sd[1] == pytest.approx(np.std(np.arange(5.0, 100.0), ddof=1))


def test_an_interval_is_moved_where_the_draws_lie_off_the_value() -> None:
    draws = np.tile(np.random.default_rng(0).normal(50.0, 2.0, (5000, 1)), (1, 4))
    draws[:100] = np.nan
    percentiles = np.nanquantile(draws[:, 0], [0.025, 0.975])
    found = spread(draws, 0.95, np.array([49.6, 47.0, 98.0, np.nan]), (0.0, 100.0))
    shift = np.nanmean(draws[:, 0]) - np.array([47.0, 98.0])
    assert (found.low[0], found.high[0]) == pytest.approx(percentiles)  # a fifth of a standard deviation
    assert (found.low[1], found.high[1]) == pytest.approx(percentiles - shift[0])
    assert (found.low[2], found.high[2]) == pytest.approx((percentiles[0] - shift[1], 100.0))
    assert found.sd == pytest.approx(np.nanstd(draws[:, 0], ddof=1))


def test_gap_with_a_teacher_that_always_leads() -> None:
    rng = np.random.default_rng(0)
    lead = rng.normal(10, 1, 4000)
    gain = 0.6 * lead + rng.normal(0, 0.5, 4000)
    low, high = gap_interval(gain, lead, 0.95)
    assert low is not None
    assert high is not None
    assert (low, high) == pytest.approx(np.quantile(gain / lead, [0.025, 0.975]), abs=2e-3)


def test_gap_is_open_where_the_teacher_may_not_lead_at_all() -> None:
    gain = np.linspace(0.5, 1.5, 1000)
    lead = np.linspace(-0.2, 2.0, 1000)
    assert (lead <= 0).mean() > 0.05
    assert gap_interval(gain, lead, 0.95) == (None, None)


def test_few_draws_without_a_lead_open_the_end_they_are_on() -> None:
    gain, lead = np.ones(1000), np.full(1000, 2.0)
    lead[:40] = -0.1  # 4 % of the draws, all with a gain: more than the whole gap
    low, high = gap_interval(gain, lead, 0.95)
    assert low == 0.5
    assert high is None
    low, high = gap_interval(-gain, lead, 0.95)
    assert low is None
    assert high == -0.5
    lead[10:40] = 2.0  # 1 %: inside the tail that is cut anyway
    assert gap_interval(gain, lead, 0.95) == (0.5, 0.5)


def test_gap_without_draws() -> None:
    nothing = np.full(10, np.nan)
    assert gap_interval(nothing, nothing, 0.95) == (None, None)
