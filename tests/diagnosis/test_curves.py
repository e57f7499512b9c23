from __future__ import annotations

import numpy as np
import pytest

from detkd.diagnosis.curves import RECALLS, by_iou, curves, false_per_image
from detkd.diagnosis.working_point import at_threshold, sweep
from tests.diagnosis.scenes import BOX, ODD, random_run, scene

FAR = [400.0, 300.0, 50.0, 50.0]


def four():
    """2 cats and 1 dog; from the top: cat hit .9, cat false .8, dog hit .6, dog false .3."""
    return scene(
        [(0, "cat", BOX), (1, "cat", BOX), (1, "dog", FAR)],
        [(0, "cat", BOX, 0.9), (0, "cat", FAR, 0.8), (1, "dog", FAR, 0.6), (0, "dog", FAR, 0.3)],
        images=2,
    )


def test_curves_by_hand():
    result = curves(four().matches)
    assert result["iou"] == 0.5
    assert result["all"] == [[0.3333, 1.0, 0.9], [0.6667, 0.6667, 0.6]]
    assert result["per_class"] == {"cat": [[0.5, 1.0, 0.9]], "dog": [[1.0, 1.0, 0.6]]}


def test_false_per_image_by_hand():
    result = false_per_image(four().matches)
    assert [one["recall"] for one in result] == list(RECALLS)
    assert [one["false_per_image"] for one in result] == [0.5, 0.5, None, None, None]
    assert [one["threshold"] for one in result] == [0.45, 0.45, None, None, None]


@pytest.mark.parametrize("seed", range(8))
def test_every_point_holds_at_its_threshold(seed):
    run = random_run(seed, images=80, crowd=0.1 * (seed % 2), decimals=2 if seed % 2 else 4)
    points = curves(run.matches)["all"]
    assert 2 <= len(points) <= 101
    assert len({(recall, precision) for recall, precision, _ in points}) == len(points)
    for recall, precision, threshold in points:
        there = at_threshold(run.matches, threshold)
        assert (recall, precision) == pytest.approx((there["recall"], there["precision"]), abs=5.1e-5)
    assert points[-1][0] == round(sweep(run.matches).hits[-1] / len(run.matches.object_row), 4)
    thresholds = [threshold for _, _, threshold in points]
    assert thresholds == sorted(thresholds, reverse=True)


@pytest.mark.parametrize("seed", range(8))
def test_no_higher_threshold_has_the_recall(seed):
    run = random_run(seed, images=60, crowd=0.05, noise=0.05)
    curve = sweep(run.matches)
    for one in false_per_image(run.matches):
        if one["threshold"] is None:
            assert curve.hits[-1] < one["recall"] * curve.objects
            continue
        there = at_threshold(run.matches, one["threshold"])
        assert there["recall"] >= one["recall"] - 1e-12
        assert there["false_per_image"] == one["false_per_image"]
        passing = int((curve.score >= one["threshold"]).sum())
        assert at_threshold(run.matches, float(curve.score[passing - 2]))["recall"] < one["recall"]


def test_seven_of_ten_is_a_recall_of_0_7():
    """0.7 x 10 is more than 7 in floating point; the recall is reached all the same."""
    run = scene([(i, "cat", BOX) for i in range(10)], [(i, "cat", BOX, 0.9) for i in range(7)], images=10)
    assert [one["false_per_image"] for one in false_per_image(run.matches)] == [0.0, 0.0, 0.0, None, None]


@pytest.mark.parametrize("seed", range(4))
def test_by_iou_averages_to_ap(seed):
    run = random_run(seed, crowd=0.1)
    values = by_iou(run.arrays)
    assert [one["iou"] for one in values] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert np.mean([one["AP"] for one in values]) == pytest.approx(run.metrics.AP, abs=1e-9)
    assert (values[0]["AP"], values[5]["AP"]) == pytest.approx((run.metrics.AP50, run.metrics.AP75), abs=1e-9)


def test_without_objects_there_is_no_ap():
    assert {one["AP"] for one in by_iou(ODD["no objects"].arrays)} == {None}


@pytest.mark.parametrize("name", ["no detections", "no objects", "nothing at all", "only crowds", "only false alarms"])
def test_without_hits_there_is_no_curve(name):
    assert curves(ODD[name].matches)["all"] == []
    assert {one["false_per_image"] for one in false_per_image(ODD[name].matches)} == {None}
