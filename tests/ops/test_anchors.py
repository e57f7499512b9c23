from __future__ import annotations

import pytest
import torch

from detkd.errors import ShapeError
from detkd.ops.anchors import anchor_points, boxes_to_distances, distances_to_boxes, join_levels, split_levels

SHAPES, STRIDES = [(2, 3), (1, 2)], [8, 16]


def test_points_by_hand():
    points, strides = anchor_points(SHAPES, STRIDES)
    x_y = [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5], [0.5, 0.5], [1.5, 0.5]]
    assert points.tolist() == x_y
    assert strides[:, 0].tolist() == [8.0] * 6 + [16.0] * 2
    assert anchor_points(SHAPES, STRIDES, like=torch.zeros(1, dtype=torch.float64))[0].dtype == torch.float64


def test_same_layout_as_ultralytics():
    import detkd.environment

    from ultralytics.utils import tal

    maps = [torch.zeros(1, 4, h, w) for h, w in SHAPES]
    expected_points, expected_strides = tal.make_anchors(maps, STRIDES)
    points, strides = anchor_points(SHAPES, STRIDES)
    torch.testing.assert_close(points, expected_points)
    torch.testing.assert_close(strides, expected_strides)
    distances = torch.rand(2, 8, 4)
    expected = tal.dist2bbox(distances, points, xywh=False) * strides
    torch.testing.assert_close(distances_to_boxes(distances, points, strides), expected)


def test_distances_to_boxes_by_hand_and_back():
    points, strides = anchor_points(SHAPES, STRIDES)
    boxes = distances_to_boxes(torch.tensor([0.5, 0.25, 1.0, 2.0]).expand(1, 8, 4), points, strides)
    assert boxes[0, 7].tolist() == [16.0, 4.0, 40.0, 40.0]
    distances = torch.rand(3, 8, 4) * 5
    torch.testing.assert_close(
        boxes_to_distances(distances_to_boxes(distances, points, strides), points, strides), distances
    )


def test_join_keeps_cells_in_order_and_split_undoes_it():
    maps = [torch.arange(2.0 * 5 * h * w).view(2, 5, h, w) for h, w in SHAPES]
    row = join_levels(maps)
    assert row.shape == (2, 8, 5)
    assert row[1, 4].tolist() == maps[0][1, :, 1, 1].tolist()
    assert row[1, 7].tolist() == maps[1][1, :, 0, 1].tolist()
    parts = split_levels(row, SHAPES)
    assert [tuple(part.shape) for part in parts] == [(2, 6, 5), (2, 2, 5)]
    torch.testing.assert_close(torch.cat(parts, dim=1), row)


def test_errors():
    with pytest.raises(ShapeError, match="strides: 1 given for 2 levels"):
        anchor_points(SHAPES, [8])
    with pytest.raises(ShapeError, match="hold 8 anchors, the tensor has 9"):
        split_levels(torch.zeros(1, 9, 2), SHAPES)
