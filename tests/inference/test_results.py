from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detkd.data.coco import to_coco
from detkd.data.records import DetectionSet, ImageRecord
from detkd.errors import PairError
from detkd.inference.detector import Detector
from detkd.inference.results import detect_set, link_classes, to_coco_results
from tests.inference.tiny import picture


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionSet:
    """Classes in another order and spelling than the model's, ids with gaps, one class the model does not know."""
    records = []
    for i in range(3):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), picture(60, 90, i))
        empty = np.zeros(0)
        records.append(
            ImageRecord(10 + i, path, 90, 60, np.zeros((0, 4)), empty.astype(int), empty.astype(bool), empty)
        )
    return DetectionSet("val", ("Truck", "van", "PERSON"), (8, 9, 1), tuple(records))


def test_classes_are_matched_by_name(weights: dict[str, Path], dataset: DetectionSet) -> None:
    detector = Detector.load(weights["26"], imgsz=64)
    results = detect_set(detector, dataset, progress=False)
    assert {r["category_id"] for r in results} == {8, 1}
    assert {r["image_id"] for r in results} == {10, 11, 12}
    direct = next(detector.detect([dataset.records[1].path], classes=[0, 2]))
    mine = [r for r in results if r["image_id"] == 11]
    assert len(mine) == len(direct)
    assert [r["score"] for r in mine] == sorted((r["score"] for r in mine), reverse=True)
    left = list(range(len(direct)))  # two detections have one score here, so their order is nobody's
    for result in mine:
        x, y, width, height = result["bbox"]
        place = next(
            i for i in left
            if np.allclose([x, y, x + width, y + height], direct.boxes_xyxy[i], rtol=1e-7, atol=2e-4)
            and result["score"] == pytest.approx(float(direct.scores[i]), abs=1e-6)
            and result["category_id"] == {0: 1, 2: 8}[int(direct.classes[i])]
        )  # fmt: skip
        left.remove(place)
    assert not left


def test_results_are_accepted_by_the_evaluator(weights: dict[str, Path], dataset: DetectionSet) -> None:
    from detkd.evaluation.coco import evaluate_detections

    record = dataset.records[0]
    found = next(Detector.load(weights["26"], imgsz=64).detect([record.path], classes=[2]))
    labelled = ImageRecord(
        10,
        record.path,
        90,
        60,
        found.boxes_xyxy[:2].astype(float),
        np.zeros(2, int),
        np.zeros(2, bool),
        np.ones(2) * 99,
    )
    truth = DetectionSet("val", dataset.names, dataset.category_ids, (labelled, *dataset.records[1:]))
    results = detect_set(Detector.load(weights["26"], imgsz=64), truth, progress=False)
    metrics = evaluate_detections(to_coco(truth), results)
    assert metrics.per_class["Truck"].AP is not None
    assert metrics.per_class["Truck"].AP > 10


def test_remarks_name_the_classes_on_one_side() -> None:
    links = link_classes(("person", "traffic light", "dog", "cat"), ("Traffic-Light", "person", "van"))
    assert links.index == {0: 1, 1: 0}
    assert links.ignored == ("dog", "cat")
    assert links.missing == ("van",)
    assert links.notes() == [
        "2 of the model's 4 classes are not in the data: dog, cat",
        "the model does not know van: AP 0 for that",
    ]
    assert link_classes(("a", "b"), ("b", "a")).notes() == []


def test_remarks_are_printed(
    weights: dict[str, Path], dataset: DetectionSet, capsys: pytest.CaptureFixture[str]
) -> None:
    detect_set(Detector.load(weights["26"], imgsz=64), dataset)
    assert "2 of the model's 4 classes are not in the data: car, bicycle" in capsys.readouterr().err


def test_no_class_in_common_shows_both_lists() -> None:
    with pytest.raises(PairError, match=r"^model: .*model: cat, dog; data: car, van; "):
        link_classes(("cat", "dog"), ("car", "van"))


def test_results_keep_their_digits() -> None:
    boxes, scores = np.array([[1.23456, 2.0, 4.0, 8.5]], np.float32), np.array([0.1234567], np.float32)
    (result,) = to_coco_results(7, boxes, scores, np.array([3]), {3: 44})
    assert result == {"image_id": 7, "category_id": 44, "bbox": [1.2346, 2.0, 2.7654, 6.5], "score": 0.123457}
