from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkd.diagnosis.working_point import at_threshold, iou_index, round_threshold, sweep, working_point
from detkd.errors import ConfigError
from detkd.evaluation.inputs import Detections
from detkd.evaluation.matching import match
from tests.diagnosis.scenes import BOX, ODD, random_run, scene, shifted

FAR = [400.0, 300.0, 50.0, 50.0]


def matched_again(run, threshold):
    """Hits, false alarms and missed objects of the detections that pass, matched without the others."""
    found = run.detections
    keep = found.scores >= threshold
    part = Detections("part", found.image[keep], found.label[keep], found.boxes_xywh[keep], found.scores[keep])
    matches = match(run.truth, part)
    hits, false = (int((matches.outcome[0, 0] == value).sum()) for value in (1, 0))
    return hits, false, len(matches.object_row) - hits


def test_by_hand():
    """2 cats and 1 dog; from the top: cat hit .9, cat false .8, dog hit .6, dog false .3.

    F1 is 2 x hits / (detections + 3): 2/4, 2/5, 4/6, 4/7. Best is 4/6 from .6 on; halfway to .3 is .45.
    """
    run = scene(
        [(0, "cat", BOX), (1, "cat", BOX), (1, "dog", FAR)],
        [(0, "cat", BOX, 0.9), (0, "cat", FAR, 0.8), (1, "dog", FAR, 0.6), (0, "dog", FAR, 0.3)],
        images=2,
    )
    point = working_point(run.matches)
    per_class = point.pop("per_class")
    assert point == {
        "iou": 0.5,
        "threshold": 0.45,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "hits": 2,
        "false": 1,
        "missed": 1,
        "false_per_image": 0.5,
    }
    assert per_class["cat"] == {
        "threshold": 0.85,
        "precision": 1.0,
        "recall": 0.5,
        "f1": 2 / 3,
        "hits": 1,
        "false": 0,
        "missed": 1,
    }
    assert (per_class["dog"]["threshold"], per_class["dog"]["f1"]) == (0.45, 1.0)


@pytest.mark.parametrize("seed", range(12))
def test_best_of_all_thresholds_matched_one_by_one(seed):
    run = random_run(seed, crowd=0.1 * (seed % 2), decimals=2 + 4 * (seed % 3))
    point = working_point(run.matches)
    assert (point["hits"], point["false"], point["missed"]) == matched_again(run, point["threshold"])
    scores = np.unique(run.detections.scores)
    counts = [matched_again(run, score) for score in scores]
    f1 = [2 * hits / (2 * hits + false + missed) for hits, false, missed in counts]
    assert point["f1"] == pytest.approx(max(f1), abs=1e-12)
    highest = max(score for score, value in zip(scores, f1, strict=True) if value >= max(f1) - 1e-12)
    assert scores[scores < highest].max() < point["threshold"] <= highest
    assert point["false_per_image"] == point["false"] / run.matches.images
    for label, name in enumerate(run.matches.names):
        own = point["per_class"][name]
        at_common = matched_again(run, own["threshold"])
        assert own["hits"] <= at_common[0]
        assert own["hits"] + own["missed"] == int((run.matches.object_label == label).sum())


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.25, 0.5, 0.77, 1.0, 2.0])
def test_at_any_threshold(threshold):
    run = random_run(5, crowd=0.1)
    point = at_threshold(run.matches, threshold)
    assert (point["hits"], point["false"], point["missed"]) == matched_again(run, threshold)
    assert point["threshold"] == threshold
    if point["hits"]:
        assert point["f1"] == pytest.approx(
            2 * point["precision"] * point["recall"] / (point["precision"] + point["recall"])
        )


def test_at_its_own_threshold_nothing_changes():
    matches = random_run(2).matches
    point = working_point(matches)
    assert at_threshold(matches, point["threshold"]) == {
        k: v for k, v in point.items() if k not in ("iou", "per_class")
    }


def test_equal_f1_takes_the_higher_threshold():
    """1 hit of 2 objects: F1 2/3; with one more hit and two more false alarms 4/6 as well."""
    run = scene(
        [(0, "cat", BOX), (1, "cat", BOX)],
        [(0, "cat", BOX, 0.9), (0, "cat", FAR, 0.5), (0, "dog", FAR, 0.5), (1, "cat", BOX, 0.5)],
        images=2,
    )
    assert sweep(run.matches).f1.tolist() == [2 / 3, 4 / 6]
    assert working_point(run.matches)["threshold"] == 0.7


def test_detections_on_crowds_do_not_count():
    crowd = (0, "cat", FAR, True)
    with_crowd = scene([(0, "cat", BOX), crowd], [(0, "cat", BOX, 0.9), (0, "cat", FAR, 0.95)])
    point = working_point(with_crowd.matches)
    assert (point["precision"], point["recall"], point["hits"], point["false"]) == (1.0, 1.0, 1, 0)


def test_without_hits_there_is_no_threshold():
    point = working_point(ODD["only false alarms"].matches)
    assert point["threshold"] is None
    assert (point["precision"], point["recall"], point["f1"], point["false"], point["missed"]) == (None, 0.0, 0.0, 0, 1)
    point = working_point(ODD["no objects"].matches)
    assert {point[key] for key in ("threshold", "precision", "recall", "f1")} == {None}


@pytest.mark.parametrize(
    ("score", "lower", "expected"),
    [(0.9, 0.3, 0.6), (0.83, 0.82, 0.83), (0.5, None, 0.5), (0.12345, 0.12344, 0.12345), (0.1236, 0.1232, 0.1234)],
)
def test_round_threshold(score, lower, expected):
    value = round_threshold(score, lower)
    assert value == expected


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_rounding_never_changes_which_scores_pass(a, b):
    lower, score = sorted((a, b))
    if lower < score:
        assert lower < round_threshold(score, lower) <= score
    assert round_threshold(score, None) <= score


def test_other_iou_thresholds_are_refused():
    matches = scene([(0, "cat", BOX)], [(0, "cat", shifted(2), 0.9)]).matches
    wrong = replace(matches, params=replace(matches.params, iou_thresholds=(0.75,)))
    with pytest.raises(ConfigError, match=r"iou_thresholds: diagnosis needs 0\.5"):
        working_point(wrong)
    assert iou_index(matches, 0.75) == 5
