from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkd.diagnosis.entry import diagnose
from detkd.diagnosis.working_point import at_threshold, working_point
from detkd.evaluation.engine import available_engines
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from tests.diagnosis.scenes import ODD, random_run, scene
from tests.evaluation.worlds import make_detections, make_gt

KEYS = {"working_point", "calibration", "errors", "duplicates", "false_per_image", "by_iou", "curves"}


def numbers(value):
    """All numbers in nested dictionaries and lists."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_become_json(name):
    result = diagnose(ODD[name])
    assert set(result) == KEYS
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert np.isfinite(numbers(result)).all()


boxes = st.tuples(*[st.integers(0, 3).map(lambda v: 20.0 * v)] * 2, *[st.sampled_from([5.0, 20.0, 40.0])] * 2).map(list)
classes = st.sampled_from(["cat", "dog", "emu"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.tuples(st.integers(0, 1), classes, boxes), st.tuples(st.just(0), classes, boxes, st.just(True))),
        max_size=8,
    ),
    st.lists(
        st.tuples(st.integers(0, 1), classes, boxes, st.sampled_from([0.0, 0.05, 0.3, 0.3000001, 0.9, 1.0, 7.0])),
        max_size=10,
    ),
)
def test_any_small_run_becomes_json(objects, found):
    run = scene(objects, found, names=("cat", "dog", "emu"), images=2)
    result = diagnose(run)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    if run.metrics.AP50 is None:
        assert result["errors"]["AP50"] is None
    else:
        assert result["errors"]["AP50"] == pytest.approx(run.metrics.AP50, abs=1e-6)
        assert min(result["errors"]["terms"].values()) >= 0
    point = result["working_point"]
    assert point["hits"] + point["missed"] == run.metrics.objects


def test_thresholds_keep_all_their_digits():
    run = random_run(0, decimals=16, images=60)
    result = diagnose(run)
    assert result["working_point"]["threshold"] == working_point(run.matches)["threshold"]
    for one in [result["working_point"], *result["false_per_image"]]:
        if one["threshold"] is not None:
            there = at_threshold(run.matches, one["threshold"])["false_per_image"]
            assert one["false_per_image"] == pytest.approx(there, rel=1e-6)
    assert result["duplicates"]["threshold"] == result["working_point"]["threshold"]


def test_the_engine_changes_nothing():
    gt = make_gt(3, 25, crowd=0.1)
    truth, found = load_truth(gt), make_detections(gt, 3, noise=0.2)
    first, *others = (diagnose(make_run(truth, found, engine=engine)) for engine in available_engines())
    assert all(other == first for other in others)
