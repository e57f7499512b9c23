from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detkd.errors import ConfigError
from detkd.evaluation import engine as engine_module
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.engine import ENGINES, available_engines, resolve_engine, run
from detkd.evaluation.metrics import METRIC_NAMES
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import make_detections, make_gt, reference, twelve


@pytest.mark.parametrize("engine", available_engines())
def test_no_detections_is_0_and_no_objects_is_none(engine: str) -> None:
    gt = make_gt(3, absent=True)
    metrics = evaluate_detections(gt, [], engine=engine)
    assert metrics.AP == metrics.AP50 == metrics.AR100 == metrics.per_class["car"].AP == 0.0
    assert metrics.per_class["toothbrush"].AP is None
    assert metrics.detections == 0
    nothing = evaluate_detections({**gt, "annotations": []}, make_detections(gt, 4), engine=engine)
    assert all(getattr(nothing, name) is None for name in METRIC_NAMES)
    assert nothing.objects == 0


@pytest.mark.parametrize("engine", available_engines())
def test_arrays_have_pycocotools_layout(engine: str) -> None:
    truth = load_truth(make_gt(8))
    found = load_detections(make_detections(make_gt(8), 9), truth)
    ours, theirs = run(truth, found, engine=engine), run(truth, found, engine="pycocotools")
    assert ours.precision.shape == ours.scores.shape == (10, 101, 4, 4, 3)
    assert ours.recall.shape == (10, 4, 4, 3)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12)


def test_engines_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    gt = make_gt(8)
    for engine in available_engines():
        evaluate_detections(gt, make_detections(gt, 9), engine=engine)
    assert capfd.readouterr() == ("", "")


def test_values_worked_out_by_hand() -> None:
    """Two cars; the first found exactly with score 0.9, a false alarm at 0.8, the second never.

    Recall reaches 1/2 with precision 1, then stays: precision is 1 at the 51 thresholds 0.00..0.50 of 101.
    The dog is a crowd region: it counts nowhere. Both cars are medium (area 2000).
    """
    gt = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40]},
            {"image_id": 2, "category_id": 1, "bbox": [10, 10, 50, 40]},
            {"image_id": 2, "category_id": 2, "bbox": [0, 0, 90, 90], "iscrowd": 1},
        ],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 40], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [200, 200, 50, 40], "score": 0.8},
    ]
    metrics = evaluate_detections(gt, found)
    expected = 100 * 51 / 101
    for value in (metrics.AP, metrics.AP50, metrics.AP75, metrics.AP_medium, metrics.per_class["car"].AP75):
        assert value == pytest.approx(expected)
    assert metrics.AR1 == metrics.AR100 == metrics.per_class["car"].AR100 == pytest.approx(50.0)
    assert metrics.AP_small is None
    assert metrics.AR_large is None
    assert metrics.per_class["dog"].AP is None
    assert (metrics.images, metrics.objects, metrics.detections) == (2, 2, 2)
    assert (metrics.per_class["car"].objects, metrics.per_class["car"].images) == (2, 2)
    assert metrics.protocol["objects_by_area"] == {"all": 2, "small": 0, "medium": 2, "large": 0}
    assert metrics.protocol["crowd"] == 1
    assert metrics.protocol["classes_without_objects"] == ["dog"]


def test_protocol_holds_what_makes_the_number() -> None:
    gt = make_gt(2)
    settings = {"conf": 0.001, "iou": 0.7, "imgsz": (640, 480), "weights": Path("best.pt"), "x": np.float32(0.5)}
    protocol = evaluate_detections(gt, make_detections(gt, 3), engine="pycocotools", settings=settings).protocol
    assert protocol["engine"] == "pycocotools"
    assert protocol["engine_version"].startswith("2.")
    assert protocol["iou_thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert protocol["max_detections"] == [1, 10, 100]
    assert protocol["settings"] == {"conf": 0.001, "iou": 0.7, "imgsz": [640, 480], "weights": "best.pt", "x": 0.5}
    json.dumps(protocol, allow_nan=False)


def test_paths_dictionaries_and_streams_are_the_same(tmp_path: Path) -> None:
    gt = make_gt(2)
    found = make_detections(gt, 3)
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    (tmp_path / "found.json").write_text(json.dumps(found))
    one = evaluate_detections(gt, iter(found))
    two = evaluate_detections(str(tmp_path / "gt.json"), tmp_path / "found.json")
    assert np.array_equal(twelve(one), twelve(two))
    assert one.protocol["gt_sha256"] == two.protocol["gt_sha256"]
    assert one.protocol["detections_sha256"] == two.protocol["detections_sha256"]


def test_unknown_engine() -> None:
    with pytest.raises(ConfigError, match="engine: unknown, got 'coco'; choose auto, pycocotools, hotcoco, faster"):
        resolve_engine("coco")


def test_missing_engine_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_importable", lambda module: module == "pycocotools")
    assert resolve_engine("auto") == "pycocotools"
    assert available_engines() == ("pycocotools",)
    with pytest.raises(ConfigError, match='engine: faster is not installed; run `pip install "faster-coco-eval"`'):
        resolve_engine("faster")
    assert set(ENGINES) == {"pycocotools", "hotcoco", "faster"}


def test_coco_mini(assets: Path) -> None:
    """Real labels with crowd regions, 80 classes, ids that are not contiguous."""
    path = assets / "data" / "coco_mini" / "annotations" / "test.json"
    gt = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    found = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [
                a["bbox"][0] + float(rng.normal(0, 0.05)) * a["bbox"][2],
                a["bbox"][1] + float(rng.normal(0, 0.05)) * a["bbox"][3],
                *a["bbox"][2:],
            ],
            "score": round(float(rng.uniform(0.1, 1.0)), 3),
        }
        for a in gt["annotations"]
    ]
    stats, _ = reference(gt, found)
    for engine in available_engines():
        np.testing.assert_allclose(twelve(evaluate_detections(path, found, engine=engine)), stats, rtol=0, atol=1e-12)
    assert 20 < evaluate_detections(path, found).AP < 100
