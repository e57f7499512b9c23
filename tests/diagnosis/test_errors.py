from __future__ import annotations

import numpy as np
import pytest

from detkd.diagnosis.errors import TERMS, error_types, errors
from tests.diagnosis.scenes import BOX, ODD, hotcoco_of, random_run, scene, shifted

FAR = [400.0, 300.0, 50.0, 50.0]


def of(run):
    return errors(run.truth, run.detections, run.matches)


def kinds(run):
    """Names of the types, in the order of the detections."""
    types = error_types(run.truth, run.detections, run.matches)
    names = {-2: "-", -1: "hit", **dict(enumerate(TERMS))}
    return [names[int(types.kind[n])] for n in np.argsort(run.matches.detection)]


def theirs(run):
    """What hotcoco says: base, costs and counts."""
    return hotcoco_of(run).tide_errors(pos_thr=0.5, bg_thr=0.1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("cat", BOX, 0.9)], ["hit"]),
        ([("cat", shifted(50), 0.9)], ["Loc"]),  # IoU 1/3
        ([("dog", shifted(10), 0.9)], ["Cls"]),
        ([("dog", shifted(50), 0.9)], ["Both"]),
        ([("cat", FAR, 0.9)], ["Bkg"]),
        ([("cat", shifted(90), 0.9)], ["Bkg"]),  # IoU 1/19
        ([("cat", shifted(5), 0.9), ("cat", BOX, 0.8)], ["hit", "Dupe"]),
        ([("cat", BOX, 0.9), ("cat", shifted(50), 0.8)], ["hit", "Loc"]),  # of an object already found
    ],
)
def test_types_by_hand(found, expected):
    run = scene([(0, "cat", BOX)], [(0, *detection) for detection in found])
    assert kinds(run) == expected


def test_a_bad_place_goes_before_a_wrong_class():
    run = scene([(0, "cat", BOX), (0, "dog", shifted(50))], [(0, "cat", shifted(50), 0.9)])
    assert kinds(run) == ["Loc"]


def test_detections_on_crowds_are_no_errors():
    run = scene([(0, "cat", BOX, True), (0, "cat", FAR)], [(0, "cat", BOX, 0.9), (0, "dog", BOX, 0.8)])
    assert kinds(run) == ["-", "Bkg"]


def test_costs_by_hand():
    """1 cat badly placed at .9, another found at .5: precision is 1/2 up to recall 0.5, so AP50 is 51 x 0.5 / 101.

    Placed well, both are hits: 100. The cat aimed at is not missed. Without the false alarm precision is 1 up to
    recall 0.5: 51/101. With one object only, it is found at 1/2.
    """
    run = scene([(0, "cat", BOX), (1, "cat", FAR)], [(0, "cat", shifted(50), 0.9), (1, "cat", FAR, 0.5)], images=2)
    result = of(run)
    base = 100 * 51 * 0.5 / 101
    assert result["AP50"] == pytest.approx(base, abs=1e-9)
    assert result["terms"] == pytest.approx(
        {"Cls": 0, "Loc": 100 - base, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 0}, abs=1e-9
    )
    assert result["FalsePos"] == pytest.approx(100 * 51 / 101 - base, abs=1e-9)
    assert result["FalseNeg"] == pytest.approx(50 - base, abs=1e-9)
    assert result["counts"] == {"Cls": 0, "Loc": 1, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 0}


def test_a_wrong_class_costs_both_classes():
    """The cat is called a dog with more score than the real dog: cats have AP 0, dogs 50. Mended, both have 100."""
    run = scene([(0, "cat", BOX), (0, "dog", FAR)], [(0, "dog", BOX, 0.9), (0, "dog", FAR, 0.5)])
    result = of(run)
    assert result["AP50"] == pytest.approx(25)
    assert result["terms"]["Cls"] == pytest.approx(75)
    assert result["counts"]["Miss"] == 0


def test_only_one_error_per_object_is_mended():
    """Two badly placed boxes on one cat: the better score becomes the hit, the other goes. AP50 is 100 then."""
    run = scene([(0, "cat", BOX)], [(0, "cat", shifted(45), 0.6), (0, "cat", shifted(50), 0.9)])
    types = error_types(run.truth, run.detections, run.matches)
    assert types.mended[np.argsort(run.matches.detection)].tolist() == [False, True]
    assert of(run)["terms"]["Loc"] == pytest.approx(100)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("decimals", [2, 6])
def test_equals_hotcoco_without_crowds(seed, decimals):
    run = random_run(seed, decimals=decimals)
    ours, other = of(run), theirs(run)
    assert ours["counts"] == other["counts"]
    assert ours["AP50"] == pytest.approx(100 * other["ap_base"], abs=1e-9)
    costs = {**ours["terms"], "FP": ours["FalsePos"], "FN": ours["FalseNeg"]}
    assert costs == pytest.approx({key: 100 * value for key, value in other["delta_ap"].items()}, abs=1e-6)


def test_hotcoco_takes_a_crowd_region_for_an_object():
    """30 % of the detection is on a crowd region of its class: too little to be forgiven, so a false alarm.

    hotcoco says badly placed and mends it. We say background, as the paper does: there is no object to place it on.
    """
    wide = [80.0, 10.0, 100.0, 100.0]
    run = scene([(0, "cat", BOX, True), (0, "cat", FAR)], [(0, "cat", wide, 0.9), (0, "cat", FAR, 0.5)])
    assert kinds(run) == ["Bkg", "hit"]
    assert theirs(run)["counts"]["Loc"] == 1


@pytest.mark.parametrize("seed", range(10))
def test_with_crowds_what_does_not_depend_on_them_equals_hotcoco(seed):
    run = random_run(seed, crowd=0.1, decimals=6)
    ours, other = of(run), theirs(run)
    assert ours["AP50"] == pytest.approx(run.metrics.AP50, abs=1e-9)
    assert ours["AP50"] == pytest.approx(100 * other["ap_base"], abs=1e-9)
    for key, name in (("FalsePos", "FP"), ("FalseNeg", "FN")):
        assert ours[key] == pytest.approx(100 * other["delta_ap"][name], abs=1e-6)
    assert ours["counts"]["Dupe"] == other["counts"]["Dupe"]


@pytest.mark.parametrize("seed", range(10))
def test_every_detection_and_object_has_one_type(seed):
    run = random_run(seed, crowd=0.1)
    types, result = error_types(run.truth, run.detections, run.matches), of(run)
    outcome = run.matches.outcome[0, 0]
    assert sum(result["counts"][term] for term in TERMS[:-1]) == int((outcome == 0).sum())
    assert int(types.lost.sum()) == len(run.matches.object_row) - int((outcome == 1).sum())
    assert not (types.missed & ~types.lost).any()
    assert min(result["terms"].values()) >= 0
    assert result["FalsePos"] >= max(result["terms"][term] for term in ("Both", "Dupe", "Bkg"))
    assert result["FalseNeg"] >= result["terms"]["Miss"] - 1e-9


def test_nothing_found_at_all_costs_everything():
    result = of(ODD["no detections"])
    assert (result["AP50"], result["terms"]["Miss"], result["FalseNeg"]) == (0.0, 100.0, 100.0)
    assert result["counts"]["Miss"] == 1


def test_without_objects_there_are_no_points():
    result = of(ODD["no objects"])
    assert {result["AP50"], result["FalsePos"], result["FalseNeg"], *result["terms"].values()} == {None}
    assert result["counts"] == {"Cls": 0, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 1, "Miss": 0}


def test_chunks_of_any_size_give_the_same(monkeypatch):
    run = random_run(3, crowd=0.1)
    whole = of(run)
    monkeypatch.setattr("detkd.diagnosis.overlaps._PAIRS", 3)
    assert of(run) == whole
