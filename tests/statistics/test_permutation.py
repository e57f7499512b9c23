from __future__ import annotations

import numpy as np
import pytest

from detkd.evaluation.metrics import CLASS_NAMES
from detkd.evaluation.weighted import WeightedScorer, overall
from detkd.statistics.draws import swaps, units_of
from detkd.statistics.permutation import count_extremes, further_permutations, permutation_test
from tests.statistics.populations import make_pair

ONE_CLASS = (1.0,)
ALL = np.ones(4, dtype=bool)


def test_p_is_uniform_where_the_sides_do_not_differ() -> None:
    units = units_of([{}] * 40)
    p = []
    for seed in range(200):
        before, after = make_pair(np.random.default_rng([5, seed]), 40, ONE_CLASS)
        p.append(permutation_test([before], [after], units, 39, seed, tested=ALL[:1])["AP"][0])
    p = np.sort(p)
    # Kolmogorov and Smirnov's 1 % limit for 200 values is 0.115; p lives on a grid of 1/40.
    assert np.abs(p - (np.arange(200) + 1) / 200).max() < 0.115 + 1 / 40
    assert 0.01 <= (p <= 0.05).mean() <= 0.1


def test_a_clear_difference_reaches_the_floor_and_no_further() -> None:
    units = units_of([{}] * 150)
    before, after = make_pair(np.random.default_rng(0), 150, skills=(0.0, 1.5))
    p = permutation_test([before], [after], units, 99, 0, tested=ALL)
    assert p["AP"][0] == p["AP50"][0] == 1 / 100
    same = permutation_test([before], [before], units, 99, 0, tested=ALL)
    assert same["AP"].tolist() == [1.0] * 5


def test_order_of_the_sides_does_not_matter() -> None:
    units = units_of([{}] * 60)
    before, after = make_pair(np.random.default_rng(2), 60, skills=(0.0, 0.2))
    one = permutation_test([before], [after], units, 50, 1, tested=~ALL)
    other = permutation_test([after], [before], units, 50, 1, tested=~ALL)
    for metric in CLASS_NAMES:
        assert one[metric] == pytest.approx(other[metric])


def test_counts_are_those_of_mixed_detectors_scored_one_by_one() -> None:
    before, after = make_pair(np.random.default_rng(3), 30, skills=(0.0, 0.3))
    table = swaps(units_of([{}] * 30), 20, 4)
    counts, exists = count_extremes([before], [after], table)
    scorer = WeightedScorer(before, after)

    def difference(swap: np.ndarray) -> float:
        sides = [scorer.score(np.stack([first, ~first])[None].astype(int), ("AP",))["AP"] for first in (~swap, swap)]
        return float(overall(sides[1])[0] - overall(sides[0])[0])

    observed = difference(np.zeros(30, dtype=bool))
    alone = [
        float(overall(WeightedScorer(m).score(np.ones((1, 30), dtype=int), ("AP",))["AP"])[0]) for m in (before, after)
    ]
    assert observed == pytest.approx(alone[1] - alone[0])
    assert counts["AP"][0] == sum(abs(difference(row)) >= abs(observed) - 1e-9 for row in table)
    assert exists["AP"].all()


def test_images_of_a_group_change_sides_together() -> None:
    """Two groups can be swapped in two ways that differ; both keep or mirror the observed difference only together."""
    units = units_of([{"video": n % 2} for n in range(40)], "video")
    before, after = make_pair(np.random.default_rng(0), 40, skills=(0.0, 2.0))
    p = permutation_test([before], [after], units, 400, 0, tested=~ALL)
    assert p["AP"][0] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_no_p_is_below_what_all_arrangements_give(seed: int) -> None:
    """Of the 32 ways to swap 5 images, 2 give the observed difference; chance alone must not bring p below 2/32."""
    before, after = make_pair(np.random.default_rng(0), 5, ONE_CLASS, skills=(-2.0, 3.0))
    p = permutation_test([before], [after], units_of([{}] * 5), 60, seed, tested=ALL[:1])["AP"]
    assert (p >= 2 / 32).all()
    assert p[0] == pytest.approx(2 / 32, abs=0.08)


def test_several_runs_are_averaged() -> None:
    units = units_of([{}] * 50)
    one, two, three, four = make_pair(np.random.default_rng(8), 50, skills=(0.0, 0.1, 0.3, 0.4))
    twice = permutation_test([one, one], [three, three], units, 60, 0, tested=~ALL)
    once = permutation_test([one], [three], units, 60, 0, tested=~ALL)
    cycled = permutation_test([one], [three, three], units, 60, 0, tested=~ALL)
    assert twice["AP"] == pytest.approx(once["AP"])
    assert cycled["AP"] == pytest.approx(once["AP"])
    both = permutation_test([one, two], [three, four], units, 60, 0, tested=~ALL)
    assert 0 < both["AP"][0] <= 1


def test_classes_no_permutation_reached_get_enough_of_them() -> None:
    assert further_permutations(1000, tests=80, unreached=1, alpha=0.05) == 2200
    assert further_permutations(1000, tests=80, unreached=10, alpha=0.05) == 0
    assert further_permutations(1000, tests=80, unreached=0, alpha=0.05) == 0
    assert further_permutations(5000, tests=80, unreached=1, alpha=0.05) == 0


def test_one_class_of_many_can_pass_the_correction() -> None:
    """With 20 swaps and four classes, one of which differs, p >= 1/21 would be 0.19 after the correction."""
    before, better = make_pair(np.random.default_rng(4), 80, skills=(0.0, 2.5))
    edge = int(before.offsets[1])
    cut = int(better.offsets[1])
    joined = {
        name: np.concatenate([getattr(better, name)[..., :cut], getattr(before, name)[..., edge:]], axis=-1)
        for name in ("detection", "image", "rank", "score", "outcome", "target")
    }
    after = type(before)(**{**vars(before), **joined, "offsets": np.append(0, before.offsets[1:] + cut - edge)})
    units = units_of([{}] * 80)
    p = permutation_test([before], [after], units, 20, 0, tested=ALL)
    assert p["AP"][1] == pytest.approx(1 / (1 + 160))
    assert (p["AP"][2:] == 1).all()
    untested = permutation_test([before], [after], units, 20, 0, tested=~ALL)
    assert untested["AP"][1] == pytest.approx(1 / 21)
