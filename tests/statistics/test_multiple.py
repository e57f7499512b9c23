from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkd.statistics.multiple import benjamini_hochberg

P = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20).map(np.array)


def test_by_hand() -> None:
    """Sorted .01 .02 .03 .04 .50 of 5: p n / i is .05 .05 .05 .05 .50; .005 and .009 of 3 with .6: .0135 .0135 .6."""
    assert benjamini_hochberg(np.array([0.04, 0.01, 0.50, 0.03, 0.02])) == pytest.approx([0.05, 0.05, 0.5, 0.05, 0.05])
    assert benjamini_hochberg(np.array([0.6, 0.009, 0.005])) == pytest.approx([0.6, 0.0135, 0.0135])


def test_tests_not_made_do_not_count() -> None:
    found = benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    assert found[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(found[1])
    assert len(benjamini_hochberg(np.zeros(0))) == 0


@given(p=P)
def test_adjusted_values_keep_the_order_and_never_fall(p: np.ndarray) -> None:
    adjusted = benjamini_hochberg(p)
    assert (adjusted >= p - 1e-12).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    assert adjusted.max() == pytest.approx(p.max())


@given(p=P, level=st.floats(0.01, 0.3))
def test_calls_are_those_of_the_step_up_rule(p: np.ndarray, level: float) -> None:
    """Benjamini and Hochberg's own words: the largest i with p_(i) <= i q / n, and all before it."""
    ordered = np.sort(p)
    passing = np.flatnonzero(ordered * len(p) / np.arange(1, len(p) + 1) <= level)
    calls = 0 if not len(passing) else int(passing[-1]) + 1
    assert int((benjamini_hochberg(p) <= level).sum()) == calls
