from __future__ import annotations

import math

import numpy as np
import pytest

from detkd.diagnosis.precision import thresholds_for, wilson_low
from detkd.errors import ConfigError
from tests.diagnosis.scenes import BOX, ODD, random_run, scene

FAR = [400.0, 300.0, 50.0, 50.0]


def ladder(*outcomes: tuple[float, bool], objects: int = 10):
    """One cat per image; a detection is on its image's cat or far from it."""
    found = [(i, "cat", BOX if right else FAR, score) for i, (score, right) in enumerate(outcomes)]
    return scene([(i, "cat", BOX) for i in range(objects)], found, images=max(objects, len(outcomes))).matches


def test_by_hand():
    """From the top: right .9, wrong .8, right .7, right .6, wrong .5, wrong .4.

    Precision is 1, 1/2, 2/3, 3/4, 3/5, 3/6. 0.7 holds down to .6 although .8 was a mistake; halfway to .5 is .55.
    """
    matches = ladder((0.9, True), (0.8, False), (0.7, True), (0.6, True), (0.5, False), (0.4, False))
    cut = thresholds_for(matches, ["cat"], 0.7, min_hits=2)["cat"]
    assert (cut.threshold, cut.precision, cut.recall) == (0.55, 0.75, 0.3)
    assert (cut.hits, cut.false_alarms, cut.objects, cut.reason) == (3, 1, 10, "")
    assert cut.low == pytest.approx(wilson_low(3, 4))
    assert cut.to_dict()["threshold"] == 0.55


def test_exactly_the_precision_asked_for_is_enough():
    """0.9 * 10 is above 9 in floating point for some shares; 7 of 10 and 9 of 10 must pass at 0.7 and 0.9."""
    for right in (7, 9):
        rows = [(0.99 - i / 100, i < right) for i in range(10)]
        cut = thresholds_for(ladder(*rows), ["cat"], right / 10, min_hits=1)["cat"]
        assert (cut.hits, cut.false_alarms) == (right, 10 - right)


def test_too_few_hits_are_no_threshold():
    matches = ladder((0.9, True), (0.8, True))
    cut = thresholds_for(matches, ["cat"], 0.5, min_hits=3)["cat"]
    assert cut.threshold is None
    assert "only 2 right detections of 10 labelled objects, 3 are needed" in cut.reason
    assert (cut.hits, cut.precision) == (2, 1.0)


def test_a_precision_never_reached_names_the_best():
    matches = ladder((0.9, False), (0.8, True), (0.7, True), (0.6, False))
    cut = thresholds_for(matches, ["cat"], 0.9, min_hits=2)["cat"]
    assert cut.threshold is None
    assert cut.reason == "its precision reaches 0.67 at most"
    assert (cut.hits, cut.false_alarms) == (2, 1)


@pytest.mark.parametrize(
    ("case", "reason"),
    [("no detections", "nothing was detected"), ("nothing at all", "there is no labelled object")],
)
def test_nothing_there(case, reason):
    cut = thresholds_for(ODD[case].matches, ["cat"], 0.8, min_hits=1)["cat"]
    assert (cut.threshold, cut.precision, cut.low, cut.hits, cut.reason) == (None, None, None, 0, reason)


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("precision", [0.01, 0.5, 1.0])
def test_odd_sets(case, precision):
    run = ODD[case]
    for cut in thresholds_for(run.matches, run.truth.names, precision, min_hits=1).values():
        assert (cut.threshold is None) == bool(cut.reason)
        assert cut.threshold is None or (cut.precision is not None and cut.precision >= precision)


@pytest.mark.parametrize("precision", [0.3, 0.5, 0.7, 0.9])
def test_against_counting_again(precision):
    """Every threshold is tried by brute force: the one found passes, none with more detections does."""
    run = random_run(7, images=60, crowd=0.1)
    for name, cut in thresholds_for(run.matches, run.truth.names, precision, min_hits=3).items():
        label = run.truth.names.index(name)
        part = slice(*run.matches.offsets[label : label + 2])
        outcome, score = run.matches.outcome[0, 0, part], run.matches.score[part]
        shares = {}
        for limit in np.unique(score):
            passed = outcome[score >= limit]
            hits, false = int((passed == 1).sum()), int((passed == 0).sum())
            if hits >= 3 and hits / (hits + false) >= precision:
                shares[hits + false] = (hits, false)
        assert (cut.threshold is None) == (not shares)
        if shares:
            assert (cut.hits, cut.false_alarms) == shares[max(shares)]
            passed = outcome[score >= cut.threshold]
            assert ((passed == 1).sum(), (passed == 0).sum()) == (cut.hits, cut.false_alarms)


def test_wilson_by_hand():
    """z^2 = 3.8415. 8 of 10: (0.8 + 0.19207 - 1.96 sqrt(0.016 + 0.0096037)) / 1.38415 = 0.4902."""
    assert wilson_low(8, 10) == pytest.approx(0.4902, abs=5e-5)
    assert wilson_low(0, 5) == 0.0
    assert wilson_low(0, 0) is None
    assert wilson_low(10, 10) == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, math.nan, True, "0.8", None])
def test_a_precision_that_is_none(value):
    with pytest.raises(ConfigError, match="precision: must be a share"):
        thresholds_for(ladder((0.9, True)), ["cat"], value, min_hits=1)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_min_hits_that_is_none(value):
    with pytest.raises(ConfigError, match="min_hits: must be a whole number"):
        thresholds_for(ladder((0.9, True)), ["cat"], 0.8, min_hits=value)


def test_a_class_that_is_not_there():
    with pytest.raises(ConfigError, match=r"names: no such class, got \['bus'\]; the matches have"):
        thresholds_for(ladder((0.9, True)), ["cat", "bus"], 0.8, min_hits=1)
