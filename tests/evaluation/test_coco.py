from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.errors import ConfigError
from detkd.evaluation import engine as engine_module
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.engine import ENGINES, available_engines, resolve_engine, run
from detkd.evaluation.metrics import METRIC_NAMES, Metrics
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import CATEGORY_IDS, NAMES, make_detections, make_gt, reference


def twelve(metrics: Metrics) -> np.ndarray:
    """The 12 numbers as pycocotools prints them: parts of 1, -1 for n/a."""
    values = [getattr(metrics, name) for name in METRIC_NAMES]
    return np.asarray([-1.0 if value is None else value / 100 for value in values])


@pytest.mark.parametrize("engine", available_engines())
@pytest.mark.parametrize("seed", range(30))
def test_equals_pycocotools(seed: int, engine: str) -> None:
    crowd = (0.0, 0.05, 0.5)[seed % 3]
    gt = make_gt(seed, crowd=crowd, absent=seed % 2 == 0)
    found = make_detections(gt, seed + 1000, decimals=(1, 2, 5)[seed % 3])
    stats, per_class = reference(gt, found)
    metrics = evaluate_detections(gt, found, engine=engine)
    np.testing.assert_allclose(twelve(metrics), stats, rtol=0, atol=1e-12)
    for value, category in zip(per_class, sorted(CATEGORY_IDS), strict=True):
        ours = metrics.per_class[NAMES[CATEGORY_IDS.index(category)]].AP
        assert (ours is None) == (value == -1)
        assert ours is None or ours / 100 == pytest.approx(value, abs=1e-12)


def edge_cases() -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Inputs on which evaluators have been seen to differ or fail, all of them acceptable as they are."""
    gt = make_gt(5, images=10)
    found = make_detections(gt, 6)
    cases = {
        "all crowd": ({**gt, "annotations": [{**a, "iscrowd": 1} for a in gt["annotations"]]}, found),
        "equal scores": (gt, [{**d, "score": 0.5} for d in found]),
        "every detection twice": (gt, [d for d in found for _ in range(2)]),
        "one detection": (gt, found[:1]),
        "no objects": ({**gt, "annotations": []}, found),
        "scores outside 0..1": (gt, [{**d, "score": d["score"] * 8 - 4} for d in found]),
        "boxes outside the image": (gt, [{**d, "bbox": [-50.0, 600.0, 30.0, 30.0]} for d in found]),
        "ignore set without iscrowd": ({**gt, "annotations": [{**a, "ignore": 1} for a in gt["annotations"]]}, found),
    }
    sides = (32.0, 96.0, 1e5, 1e6)
    boxes = [[0.0, 0.0, side, side] for side in sides]
    cases["area on the limits"] = (
        {
            "images": [{"id": 2}],
            "categories": [{"id": 4, "name": "car"}],
            "annotations": [
                {"id": n + 1, "image_id": 2, "category_id": 4, "bbox": b, "area": b[2] ** 2, "iscrowd": 0}
                for n, b in enumerate(boxes)
            ],
        },
        [{"image_id": 2, "category_id": 4, "bbox": b, "score": 0.9 - 0.1 * n} for n, b in enumerate(boxes)],
    )
    many = [
        {"image_id": 2, "category_id": 4, "bbox": [float(n), 0.0, 32.0, 32.0], "score": (n % 97) / 100}
        for n in range(400)
    ]
    cases["400 of one class"] = (cases["area on the limits"][0], many)
    shift = 10**12
    cases["huge ids"] = (
        {
            **gt,
            "images": [{**i, "id": i["id"] + shift} for i in gt["images"]],
            "annotations": [{**a, "image_id": a["image_id"] + shift} for a in gt["annotations"]],
        },
        [{**d, "image_id": d["image_id"] + shift} for d in found],
    )
    zero = {3: 0, 18: 18, 1: 1, 90: 90}
    cases["category id 0"] = (
        {
            **gt,
            "categories": [{**c, "id": zero[c["id"]]} for c in gt["categories"]],
            "annotations": [{**a, "category_id": zero[a["category_id"]]} for a in gt["annotations"]],
        },
        [{**d, "category_id": zero[d["category_id"]]} for d in found],
    )
    return cases


@pytest.mark.parametrize("engine", available_engines())
@pytest.mark.parametrize("case", edge_cases())
def test_edge_case_equals_pycocotools(case: str, engine: str) -> None:
    gt, found = edge_cases()[case]
    stats, _ = reference(gt, found)
    np.testing.assert_allclose(twelve(evaluate_detections(gt, found, engine=engine)), stats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", available_engines())
def test_annotation_ids_do_not_matter(engine: str) -> None:
    """pycocotools takes a match with id 0 for no match, and equal ids for one object; renumbered, nobody can tell."""
    gt = make_gt(1)
    found = make_detections(gt, 2)
    stats, _ = reference(gt, found)
    for factor in (1, 0):
        changed = {**gt, "annotations": [{**a, "id": n * factor} for n, a in enumerate(gt["annotations"])]}
        metrics = evaluate_detections(changed, found, engine=engine)
        np.testing.assert_allclose(twelve(metrics), stats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", available_engines())
def test_string_and_negative_image_ids_change_nothing(engine: str) -> None:
    gt = make_gt(3)
    found = make_detections(gt, 4, decimals=9)  # no ties, because renaming changes the order of images
    stats, _ = reference(gt, found)
    for rename in (lambda i: f"frame-{i}", lambda i: -i):
        named = {
            **gt,
            "images": [{**i, "id": rename(i["id"])} for i in gt["images"]],
            "annotations": [{**a, "image_id": rename(a["image_id"])} for a in gt["annotations"]],
        }
        moved = [{**d, "image_id": rename(d["image_id"])} for d in found]
        np.testing.assert_allclose(twelve(evaluate_detections(named, moved, engine=engine)), stats, rtol=0, atol=1e-12)


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
