from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkd.errors import ConfigError
from detkd.statistics.draws import bootstrap_weights, paired_runs, run_shares, smallest_p, swaps, units_of

VIDEOS = [{"id": n, "video": "abbccc"[n]} for n in range(6)]


def test_single_images_keep_multiplicities() -> None:
    weights = bootstrap_weights(units_of([{}] * 500), 400, seed=3)
    assert weights.shape == (400, 500)
    assert (weights.sum(axis=1) == 500).all()
    # A count is binomial with mean 1 and variance 1 - 1 / I; without multiplicities its variance would be 0.23.
    assert weights.var() == pytest.approx(1 - 1 / 500, abs=0.02)
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 500) ** 500, abs=0.005)


def test_groups_are_drawn_as_a_whole() -> None:
    units = units_of(VIDEOS, "video")
    assert units.count == 3
    weights = bootstrap_weights(units, 50, seed=0).astype(int)
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 3:] == weights[:, 3:4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    table = swaps(units, 50, seed=0)
    assert (table[:, 3:] == table[:, 3:4]).all()
    assert 0.3 < table.mean() < 0.7


def test_draws_depend_on_the_seed_alone() -> None:
    units = units_of([{}] * 40)
    assert np.array_equal(bootstrap_weights(units, 30, 5), bootstrap_weights(units, 30, 5))
    assert np.array_equal(bootstrap_weights(units, 10, 5), bootstrap_weights(units, 30, 5)[:10])
    assert not np.array_equal(bootstrap_weights(units, 30, 5), bootstrap_weights(units, 30, 6))
    assert np.array_equal(swaps(units, 10, 5), swaps(units, 30, 5)[:10])
    assert not np.array_equal(swaps(units, 30, 5), swaps(units, 30, 5, batch=1))


def test_an_image_without_the_field_is_a_group_of_its_own() -> None:
    units = units_of([*VIDEOS, {"id": 7}, {"id": 8, "video": None}], "video")
    assert units.count == 5
    assert len(set(units.of_image[-2:])) == 2
    assert any("2 images have no field 'video'" in note for note in units.notes)


def test_few_groups_are_said_to_be_unreliable() -> None:
    assert any("only 3 groups of 'video'" in note for note in units_of(VIDEOS, "video").notes)
    many = [{"video": n // 2} for n in range(40)]
    assert units_of(many, "video").notes == ()


def test_a_field_that_cannot_be_used() -> None:
    with pytest.raises(
        ConfigError, match=r"^report\.group_by: no image record has the field 'scene'; choose one of id, video"
    ):
        units_of(VIDEOS, "scene")
    with pytest.raises(ConfigError, match=r"^report\.group_by: all images have video=a"):
        units_of([{"video": "a"}] * 4, "video")


def test_smallest_p() -> None:
    assert [smallest_p(units) for units in (1, 2, 5, 6)] == [1, 0.5, 0.0625, 0.03125]
    assert smallest_p(100_000) == 0


def test_runs_belong_together_by_seed() -> None:
    assert paired_runs((1, 2, 3), (3, 1, 2))
    assert not paired_runs((1, 2), (1, 2, 3))
    assert not paired_runs((1, 2), (1, 3))
    assert not paired_runs((None, 2), (None, 2))
    assert not paired_runs((2, 2), (2, 2))


@given(runs=st.integers(1, 6), stream=st.integers(0, 3))
def test_shares_add_up_to_one(runs: int, stream: int) -> None:
    shares = run_shares(runs, 40, 0, stream)
    assert shares.shape == (40, runs)
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert (shares >= 0).all()


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_the_variance_of_a_mean_of_runs_is_right_on_average(runs: int) -> None:
    """Drawing R - 1 of R gives s^2 / R, the textbook estimate; drawing R would give (R - 1) / R of it."""
    values = np.random.default_rng(0).normal(30, 2, runs)
    means = run_shares(runs, 40_000, 1) @ values
    assert means.var() == pytest.approx(values.var(ddof=1) / runs, rel=0.05)
    assert means.mean() == pytest.approx(values.mean(), abs=0.05)
