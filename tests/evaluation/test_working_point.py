from __future__ import annotations

from typing import Any

from detkd.evaluation.working_point import working_point


def truth(count: int) -> dict[str, Any]:
    boxes = [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [20 * i, 0, 10, 10]} for i in range(count)]
    images = [{"id": 1, "width": 400, "height": 50}]
    return {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": boxes}


def found(x: float, score: float) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "score": score}


def test_the_threshold_lies_between_hits_and_misses() -> None:
    """Two hits at 0.6 and 0.5, false alarms at 0.3: F1 is 1 for every threshold in (0.3, 0.5]."""
    detections = [found(0, 0.6), found(20, 0.5), found(300, 0.3), found(340, 0.3)]
    assert 0.3 < working_point(truth(2), detections) <= 0.5


def test_a_weak_hit_is_worth_its_false_alarms_or_not() -> None:
    """Third hit at 0.2 after one false alarm at 0.4: F1 0.86 with it, 0.8 without; after four alarms 0.6, so not."""
    hits = [found(0, 0.6), found(20, 0.5), found(40, 0.2)]
    assert working_point(truth(3), [*hits, found(300, 0.4)]) <= 0.2
    alarms = [found(300 + 20 * i, 0.4) for i in range(4)]
    assert 0.4 < working_point(truth(3), [*hits, *alarms]) <= 0.5


def test_without_any_hit_there_is_a_default() -> None:
    assert working_point(truth(1), [found(300, 0.9)]) == 0.25
    assert working_point(truth(1), []) == 0.25
