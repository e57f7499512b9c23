from __future__ import annotations

import numpy as np
import pytest

from detkd.evaluation import pairs
from detkd.evaluation.pairs import near_pairs


def random_boxes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 4, count), np.column_stack([rng.uniform(0, 20, (count, 2)), rng.uniform(5, 30, (count, 2))])


def slowly(group, boxes, other_group, other_boxes, lowest):
    """The definition, one pair at a time."""
    found = {}
    for i, (x, y, w, h) in enumerate(boxes):
        for j, (gx, gy, gw, gh) in enumerate(other_boxes):
            inside = max(min(x + w, gx + gw) - max(x, gx), 0.0) * max(min(y + h, gy + gh) - max(y, gy), 0.0)
            iou = inside / (w * h + gw * gh - inside)
            if group[i] == other_group[j] and iou >= lowest:
                found[i, j] = iou
    return found


@pytest.mark.parametrize("block", [1, 7, 1 << 19])
@pytest.mark.parametrize(("first", "second"), [(40, 25), (0, 5), (5, 0), (1, 1)])
def test_equals_a_plain_loop(monkeypatch, block, first, second):
    monkeypatch.setattr(pairs, "_BLOCK", block)
    rng = np.random.default_rng(first)
    group, boxes = random_boxes(rng, first)
    other_group, other_boxes = random_boxes(rng, second)
    result = near_pairs(group, boxes, other_group, other_boxes, 0.3)
    expected = slowly(group, boxes, other_group, other_boxes, 0.3)
    assert dict(
        zip(zip(result.first.tolist(), result.second.tolist(), strict=True), result.iou, strict=True)
    ) == pytest.approx(expected)
    assert len(result.first) == len(expected)
    assert (np.diff(result.first) >= 0).all()
    if first == 40:
        assert len(expected) > 10


def test_the_lowest_iou_is_included():
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    half = np.array([[0.0, 0.0, 10.0, 5.0]])
    image = np.zeros(1, dtype=np.int64)
    assert near_pairs(image, box, image, half, 0.5).iou.tolist() == [0.5]
    assert len(near_pairs(image, box, image, half, 0.51).iou) == 0
    assert len(near_pairs(image, box, image + 1, half, 0.1).iou) == 0


def test_a_box_without_area_overlaps_nothing():
    image = np.zeros(1, dtype=np.int64)
    flat, box = np.array([[2.0, 2.0, 5.0, 0.0]]), np.array([[0.0, 0.0, 10.0, 10.0]])
    assert len(near_pairs(image, flat, image, box, 1e-9).iou) == 0
