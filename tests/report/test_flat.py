from __future__ import annotations

from typing import Any

import pytest

from detkd.errors import DataError
from detkd.report.flat import flat_numbers
from tests.evaluation.worlds import make_detections, make_gt


def row(key: str, **more: Any) -> dict[str, Any]:
    metric = key.partition("/")[0].partition("@")[0]
    return {"key": key, "metric": metric, "class": None, "slice": None, "values": {}, **more}


COMPARISON: dict[str, Any] = {
    "schema": 2,
    "kind": "comparison",
    "entries": [
        {"role": "before", "name": "control", "cost": {"params": 10, "latency_ms": 2.5, "device": "cpu"}},
        {"role": "after", "name": "distilled", "cost": None},
    ],
    "rows": [
        row(
            "AP",
            values={"before": 30.0, "after": 32.5, "teacher": 40},
            intervals={"before": [28.0, 31.0], "after": None},
            delta=2.5, delta_interval=[1.0, 4.0], p=0.001, gap_closed=0.25, gap_interval=[0.1, 0.4],
            vs_control={"delta": 1.5, "interval": [0.5, 2.5], "p": 0.01, "verdict": "improved"},
        ),
        row("AP/person", values={"before": None, "after": 12.0}, delta=None, delta_interval=None, p=None, gap_closed=None),
        row("AP50@camera=gate", slice={"field": "camera", "value": "gate"}, values={"before": 1.0, "after": 3.0}, delta=2.0,
            delta_interval=[-1.0, 5.0]),
    ],
}  # fmt: skip


def test_comparison() -> None:
    assert flat_numbers(COMPARISON) == {
        "before/AP": 30.0, "before/AP_low": 28.0, "before/AP_high": 31.0, "after/AP": 32.5, "teacher/AP": 40.0,
        "delta/AP": 2.5, "delta/AP_low": 1.0, "delta/AP_high": 4.0, "p/AP": 0.001,
        "gap_closed/AP": 0.25, "gap_closed/AP_low": 0.1, "gap_closed/AP_high": 0.4,
        "vs_control/AP": 1.5, "vs_control/AP_low": 0.5, "vs_control/AP_high": 2.5,
        "after/AP/person": 12.0,
        "slice/camera=gate/AP50": 3.0, "slice/camera=gate/AP50_before": 1.0, "slice/camera=gate/AP50_delta": 2.0,
        "slice/camera=gate/AP50_delta_low": -1.0, "slice/camera=gate/AP50_delta_high": 5.0,
        "before/cost/params": 10.0, "before/cost/latency_ms": 2.5,
    }  # fmt: skip


def test_leaderboard() -> None:
    other = {"AP": {"delta": -1.0, "interval": [-2.0, 0.5], "p": 0.2, "p_adjusted": 0.3, "verdict": ""}}
    report = {
        "kind": "leaderboard",
        "entries": [
            {"name": "a", "rank": 1, "metrics": {"AP": 3.0, "AP_small": None}, "intervals": {"AP": [2.0, 4.0]},
             "against_reference": None, "cost": {"params": 7}},
            {"name": "b", "rank": 2, "metrics": {"AP": 2.0}, "against_reference": other, "cost": None},
        ],
        "per_class": [{"class": "car", "objects": 3, "values": {"a": 1.5, "b": None}}],
    }  # fmt: skip
    assert flat_numbers(report) == {
        "a/rank": 1.0, "a/AP": 3.0, "a/AP_low": 2.0, "a/AP_high": 4.0, "a/cost/params": 7.0,
        "b/rank": 2.0, "b/AP": 2.0, "b/delta/AP": -1.0, "b/delta/AP_low": -2.0, "b/delta/AP_high": 0.5, "b/p/AP": 0.2,
        "a/AP/car": 1.5,
    }  # fmt: skip


def test_metrics_of_a_run_as_they_are_written() -> None:
    from detkd.evaluation.coco import evaluate_detections

    gt = make_gt(0, absent=True)
    metrics = evaluate_detections(gt, make_detections(gt, 0))
    flat = flat_numbers({"metrics": metrics.to_dict(), "cost": {"latency_ms": 3}, "split": "test", "weights": "x.pt"})
    assert flat["test/AP"] == metrics.AP
    assert flat["test/AP/person"] == metrics.per_class["person"].AP
    assert flat["cost/latency_ms"] == 3.0
    assert "test/AP/toothbrush" not in flat  # n/a
    assert all(type(value) is float for value in flat.values())


@pytest.mark.parametrize("report", [{}, {"kind": "other"}, {"metrics": 3}])
def test_anything_else_is_refused(report: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"compare\.json"):
        flat_numbers(report)
