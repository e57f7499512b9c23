from __future__ import annotations

import json

import pytest
from rich.console import Console

from detkd.errors import DataError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.metrics import Metrics
from detkd.evaluation.tables import metrics_table, per_class_table, signed_points
from tests.evaluation.worlds import make_detections, make_gt

COST = {
    "params": 2_572_280,
    "gflops": 5.4,
    "size_mb": 5.3,
    "latency_ms": 31.25,
    "latency_p95_ms": 40.0,
    "device": "cpu",
    "head": "one2many+nms",
    "imgsz": 640,
}


def metrics(seed: int = 1) -> Metrics:
    gt = make_gt(seed, absent=True)
    return evaluate_detections(gt, make_detections(gt, seed + 1), settings={"head": "one2one (NMS-free)"})


def text(renderable: object) -> str:
    console = Console(width=200, record=True, file=open("out.txt", "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
    return console.export_text()


def test_round_trip() -> None:
    one = metrics()
    data = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert data["schema"] == 1
    assert data["per_class"]["toothbrush"]["AP"] is None
    assert Metrics.from_dict(data) == one


def test_numbers_by_name() -> None:
    one = metrics()
    assert one.number("AP_small") == one.AP_small
    assert one.number("AP50/car") == one.per_class["car"].AP50
    for key in ("AP5", "AP/van", "AP_small/car", "images"):
        with pytest.raises(KeyError):
            one.number(key)


def test_from_dict_refuses() -> None:
    with pytest.raises(DataError, match=r"m\.json: these are no metrics written by detkd evaluate"):
        Metrics.from_dict({"AP": 1}, "m.json")
    data = metrics().to_dict()
    with pytest.raises(DataError, match="metrics of schema 2, this version reads 1"):
        Metrics.from_dict({**data, "schema": 2})
    del data["AP75"]
    with pytest.raises(DataError, match=r"incomplete metrics \(KeyError\('AP75'\)"):
        Metrics.from_dict(data)


def test_tables() -> None:
    one = metrics()
    shown = text(metrics_table([("plain [x]", one, COST), ("other", one, None)]))
    for cell in ("plain [x]", "2.57 M", "5.40", "31.2", "one2many+nms", f"{one.AP:.2f}", "NMS counted, on cpu"):
        assert cell in shown
    assert "one2one (NMS-free)" in shown  # from the protocol where no cost is known
    bare = text(metrics_table([("other", one, None)]))
    assert "GFLOPs" not in bare
    assert "one2one (NMS-free)" in bare
    classes = text(per_class_table([("a", one, None), ("b", one, None)]))
    assert "AP50" in classes
    assert "toothbrush" not in classes
    assert "1 classes without objects left out" in " ".join(classes.split())
    assert "AP50" in text(per_class_table([("a", one, None)]))


def test_signed_points() -> None:
    assert [signed_points(v) for v in (1.234, -0.5, 0.0, -0.001, None)] == ["+1.23", "-0.50", "0.00", "0.00", "n/a"]
