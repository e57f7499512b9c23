from __future__ import annotations

import numpy as np
import pytest

from detkd.diagnosis.calibration import FLOOR, calibration, threshold_advice
from tests.diagnosis.scenes import BOX, ODD, hotcoco_of, random_run, scene

FAR = [400.0, 300.0, 50.0, 50.0]


def test_by_hand():
    """Scores .95 (right), .85 (wrong), .82 (right): bins .9-1 and .8-.9 are off by .05 and by .835 - .5 = .335."""
    run = scene(
        [(0, "cat", BOX), (1, "cat", BOX)],
        [(0, "cat", BOX, 0.95), (0, "cat", FAR, 0.85), (1, "cat", BOX, 0.82), (1, "cat", FAR, 0.01)],
        images=2,
    )
    result = calibration(run.matches)
    assert result["count"] == 3
    assert result["floor"] == FLOOR
    assert result["ece"] == pytest.approx((0.05 * 1 + 0.335 * 2) / 3)
    assert result["mce"] == pytest.approx(0.335)
    assert result["shift"] == pytest.approx((0.95 + 0.85 + 0.82) / 3 - 2 / 3)
    assert result["bins"][8] == {"low": 0.8, "high": 0.9, "count": 2, "confidence": 0.835, "accuracy": 0.5}
    assert result["bins"][0] == {"low": 0.0, "high": 0.1, "count": 0, "confidence": None, "accuracy": None}


def test_edges_belong_to_the_upper_bin_and_1_to_the_last():
    scores = [0.1, 0.2, 0.3, 0.6, 0.7, 1.0]
    run = scene([(0, "cat", BOX)], [(0, "cat", FAR, score) for score in scores])
    assert [one["count"] for one in calibration(run.matches)["bins"]] == [0, 1, 1, 1, 0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("seed", range(6))
def test_equals_hotcoco_without_a_floor(seed):
    run = random_run(seed, decimals=6, crowd=0.1)
    ours, other = calibration(run.matches, floor=0.0), hotcoco_of(run).calibration(n_bins=10, iou_threshold=0.5)
    assert ours["count"] == other["num_detections"]
    assert ours["ece"] == pytest.approx(other["ece"], abs=1e-9)
    assert ours["mce"] == pytest.approx(other["mce"], abs=1e-9)


def test_the_floor_leaves_tiny_scores_out():
    run = random_run(4, decimals=6)
    outcome = run.matches.outcome[0, 0]
    result = calibration(run.matches)
    assert result["count"] == int(((outcome >= 0) & (run.matches.score >= 0.05)).sum())
    assert sum(one["count"] for one in result["bins"]) == result["count"]
    weighted = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in result["bins"] if b["count"])
    assert result["ece"] == pytest.approx(weighted / result["count"])


def test_scores_that_are_no_probabilities():
    result = calibration(ODD["logits"].matches)
    assert (result["ece"], result["mce"], result["bins"]) == (None, None, [])
    assert result["reason"] == "scores from -2 to 3.5 are no probabilities"


def test_without_detections():
    result = calibration(ODD["no detections"].matches)
    assert (result["ece"], result["mce"], result["shift"], result["count"]) == (None, None, None, 0)
    assert len(result["bins"]) == 10
    assert np.isclose([one["high"] - one["low"] for one in result["bins"]], 0.1).all()


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ((0.25, 0.4), "old is best used from a score of 0.25, new from 0.40: raise the threshold by 0.15."),
        ((0.4, 0.25), "old is best used from a score of 0.40, new from 0.25: lower the threshold by 0.15."),
        ((0.4, 0.41), "old is best used from a score of 0.40, new from 0.41: the threshold can stay."),
        ((None, 0.4), "old finds no object, so it has no best threshold."),
        ((0.4, None), "new finds no object, so it has no best threshold."),
    ],
)
def test_threshold_advice(thresholds, expected):
    assert threshold_advice("old", thresholds[0], "new", thresholds[1]) == expected
