from __future__ import annotations

import numpy as np
import pytest
from ensemble_boxes import weighted_boxes_fusion

from detkd.caching.objects import SoftObjects, no_objects
from detkd.inference.fusion import fuse, merge_same_place, overlaps

SIZE = (200, 100)


def objects(*rows: tuple[list[float], list[float]]) -> SoftObjects:
    """Boxes with class vectors; the quality is the highest probability."""
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    probs = np.array([vector for _, vector in rows], np.float32)
    return SoftObjects(boxes, probs, probs.max(1))


def random_objects(count: int, seed: int, num_classes: int = 3) -> SoftObjects:
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * [150, 60]
    boxes = np.concatenate([low, low + 10 + rng.random((count, 2)) * 30], 1)
    probs = rng.random((count, num_classes)) * 0.98 + 0.01
    return SoftObjects(boxes.astype(np.float32), probs.astype(np.float32), probs.max(1).astype(np.float32))


def test_one_answer_stays_as_it_is() -> None:
    given = random_objects(9, 0)
    assert fuse([given], size=SIZE, iou=0.5) is given


def test_two_answers_by_hand() -> None:
    """Scores 0.8 and 0.4: box and vector are averaged 2 : 1, the score is their mean since both saw it."""
    fused = fuse(
        [objects(([10, 10, 40, 40], [0.8, 0.2])), objects(([13, 10, 43, 40], [0.4, 0.05]))], size=SIZE, iou=0.5
    )
    np.testing.assert_allclose(fused.boxes_xyxy, [[11, 10, 41, 40]], atol=1e-3)
    np.testing.assert_allclose(fused.probs, [[(2 * 0.8 + 0.4) / 3, (2 * 0.2 + 0.05) / 3]], atol=1e-6)
    np.testing.assert_allclose(fused.quality, [0.6], atol=1e-6)


def test_what_few_answers_saw_is_trusted_less() -> None:
    seen, nothing = objects(([10, 10, 40, 40], [0.8, 0.2])), no_objects(2)
    fused = fuse([seen, nothing, nothing, nothing], size=SIZE, iou=0.5)
    np.testing.assert_allclose(fused.quality, [0.2], atol=1e-6)
    np.testing.assert_allclose(fused.probs, seen.probs, atol=1e-6)
    np.testing.assert_allclose(fused.boxes_xyxy, seen.boxes_xyxy, atol=1e-4)
    heavy = fuse([seen, nothing], size=SIZE, iou=0.5, weights=[3, 1])
    np.testing.assert_allclose(heavy.quality, [0.6], atol=1e-6)


def test_an_answer_that_cannot_know_the_class_has_no_say() -> None:
    """The first answer knows class 0 only: it is silent about the second object and about class 1 of the first."""
    first = objects(([10, 10, 40, 40], [0.8, 0.0]))
    second = objects(([10, 10, 40, 40], [0.6, 0.3]), ([100, 50, 140, 90], [0.1, 0.7]))
    knows = np.array([[True, False], [True, True]])
    fused = fuse([first, second], size=SIZE, iou=0.5, knows=knows)
    np.testing.assert_allclose(fused.quality, [0.7, 0.7], atol=1e-6)
    by_place = fused.take(np.argsort(fused.boxes_xyxy[:, 0]))
    np.testing.assert_allclose(by_place.probs[0], [(0.8 * 0.8 + 0.6 * 0.6) / 1.4, 0.3], atol=1e-6)
    np.testing.assert_allclose(by_place.probs[1], [0.1, 0.7], atol=1e-6)


def test_answers_that_name_an_object_differently_mean_one_object() -> None:
    fused = fuse([objects(([10, 10, 40, 40], [0.6, 0.4])), objects(([10, 10, 40, 40], [0.4, 0.5]))], size=SIZE, iou=0.5)
    assert len(fused) == 1
    np.testing.assert_allclose(fused.probs, [[(0.36 + 0.2) / 1.1, (0.24 + 0.25) / 1.1]], atol=1e-6)


def test_a_rider_and_a_motorcycle_stay_two_objects() -> None:
    both = objects(([10, 10, 40, 40], [0.9, 0.0]), ([12, 12, 40, 40], [0.0, 0.7]))
    fused = fuse([both, both], size=SIZE, iou=0.5)
    assert fused.classes.tolist() == [0, 1]
    np.testing.assert_allclose(fused.quality, [0.9, 0.7], atol=1e-6)
    # The third answer sees only one of the two, which says nothing against there being two.
    one = objects(([11, 11, 40, 40], [0.5, 0.6]))
    assert sorted(fuse([both, both, one], size=SIZE, iou=0.5).classes) == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_and_scores_are_those_of_the_library(seed: int) -> None:
    """With one class nothing of ours is between."""
    answers = [random_objects(15, 10 * seed + i, num_classes=1) for i in range(3)]
    sides = np.array([*SIZE, *SIZE])
    boxes, scores, _ = weighted_boxes_fusion(
        [a.boxes_xyxy / sides for a in answers],
        [a.quality for a in answers],
        [np.zeros(len(a)) for a in answers],
        weights=[1, 2, 0.5],
        iou_thr=0.4,
        conf_type="box_and_model_avg",
    )
    fused = fuse(answers, size=SIZE, iou=0.4, weights=[1, 2, 0.5])
    assert len(fused) < 45
    np.testing.assert_allclose(fused.quality, np.minimum(scores, 1), rtol=1e-5)
    order = np.lexsort(fused.boxes_xyxy.T)
    expected = boxes * sides
    np.testing.assert_allclose(fused.boxes_xyxy[order], expected[np.lexsort(expected.T)], atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_answers_does_not_matter(seed: int) -> None:
    answers = [random_objects(12, 10 * seed + i) for i in range(3)]
    one, other = fuse(answers, size=SIZE, iou=0.5), fuse(answers[::-1], size=SIZE, iou=0.5)
    for name in ("boxes_xyxy", "probs", "quality"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)
    assert (np.diff(one.quality) <= 0).all()
    assert one.quality.max() <= 1


def test_equal_answers_change_nothing() -> None:
    given = objects(([10, 10, 40, 40], [0.8, 0.2]), ([60, 10, 90, 40], [0.1, 0.5]))
    fused = fuse([given] * 4, size=SIZE, iou=0.5)
    for name in ("boxes_xyxy", "probs", "quality"):
        np.testing.assert_allclose(getattr(fused, name), getattr(given, name), atol=1e-4)


def test_boxes_outside_or_without_area_are_left_out() -> None:
    bad = objects(([10, 10, 10, 40], [0.8, 0.2]), ([210, 10, 240, 40], [0.8, 0.2]), ([10, 10, 40, 40], [0.0, 0.0]))
    assert len(fuse([bad, bad], size=SIZE, iou=0.5)) == 0
    assert fuse([no_objects(2), no_objects(2)], size=SIZE, iou=0.5).probs.shape == (0, 2)


def test_boxes_at_one_place_become_one_vector() -> None:
    given = objects(
        ([10, 10, 40, 40], [0.3, 0.0, 0.0]),
        ([10, 10, 40, 40], [0.0, 0.7, 0.1]),
        ([10, 10, 40, 39], [0.2, 0.5, 0.0]),
        ([60, 10, 90, 40], [0.4, 0.0, 0.0]),
        ([10, 10, 40, 30], [0.2, 0.0, 0.1]),
        ([5, 5, 5, 5], [0.1, 0.0, 0.0]),
    )
    merged = merge_same_place(given)
    expected = [[0.3, 0.7, 0.1], [0.4, 0, 0], [0.2, 0, 0.1], [0.1, 0, 0]]
    np.testing.assert_allclose(merged.probs, expected, atol=1e-6)
    np.testing.assert_allclose(merged.quality, [0.7, 0.4, 0.2, 0.1], atol=1e-6)


def test_overlaps_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5]], np.float64)
    np.testing.assert_allclose(overlaps(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
