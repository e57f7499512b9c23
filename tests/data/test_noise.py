from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detkd.data.noise import hurried_labels, hurry
from detkd.data.records import DetectionSet, ImageRecord
from detkd.errors import ConfigError


def record(boxes: list[list[float]], image_id: int = 1) -> ImageRecord:
    count = len(boxes)
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return ImageRecord(
        image_id, Path("x.jpg"), 100, 80, array, np.arange(count) % 2, np.zeros(count, bool), np.ones(count)
    )


def test_loose_boxes_by_hand() -> None:
    """A 20 x 10 box grows by half its size: 5 and 2.5 pixels on each side; at the border it is clipped."""
    got = hurried_labels(
        record([[40, 40, 60, 50], [0, 70, 20, 80]]), loose=0.5, jitter=0, missing=0, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(got.boxes_xyxy, [[35, 37.5, 65, 52.5], [0, 67.5, 25, 80]])
    np.testing.assert_allclose(got.areas, [30 * 15, 25 * 12.5])


def test_missing_takes_about_its_share_and_everything_stays_aligned() -> None:
    source = record([[i % 50, i % 40, i % 50 + 10, i % 40 + 8] for i in range(1000)])
    got = hurried_labels(source, loose=0, jitter=0, missing=0.3, rng=np.random.default_rng(0))
    assert 650 < len(got.classes) < 750
    assert len(got.boxes_xyxy) == len(got.classes) == len(got.crowd) == len(got.areas)
    assert {tuple(box) for box in got.boxes_xyxy} <= {tuple(box) for box in source.boxes_xyxy}


def test_boxes_keep_an_area_inside_the_image() -> None:
    source = record([[i % 90, i % 70, i % 90 + 9, i % 70 + 9] for i in range(500)])
    got = hurried_labels(source, loose=0.1, jitter=0.9, missing=0, rng=np.random.default_rng(0))
    assert (got.boxes_xyxy[:, 2:] > got.boxes_xyxy[:, :2]).all()
    assert (got.boxes_xyxy >= 0).all()
    assert (got.boxes_xyxy <= [100, 80, 100, 80]).all()


def test_a_set_depends_on_its_seed_alone() -> None:
    data = DetectionSet("train", ("a", "b"), (1, 2), (record([[1, 1, 9, 9]] * 8, 1), record([[1, 1, 9, 9]] * 8, 2)))
    node = {"jitter": 0.2, "missing": 0.3}
    first, again, other = hurry(data, node, seed=0), hurry(data, node, seed=0), hurry(data, node, seed=1)
    for a, b in zip(first.records, again.records, strict=True):
        np.testing.assert_array_equal(a.boxes_xyxy, b.boxes_xyxy)
    assert not np.array_equal(first.records[0].boxes_xyxy, other.records[0].boxes_xyxy)
    assert not np.array_equal(first.records[0].boxes_xyxy, first.records[1].boxes_xyxy)


def test_bad_values_name_their_key() -> None:
    data = DetectionSet("train", ("a",), (1,), ())
    with pytest.raises(ConfigError, match=r"data\.label_noise\.missing: must be at least 0 and below 1, got 1"):
        hurry(data, {"missing": 1.0}, seed=0)
    with pytest.raises(ConfigError, match=r"data\.label_noise\.lose: no such key; there are loose"):
        hurry(data, {"lose": 0.1}, seed=0)
