from __future__ import annotations

import math

import pytest
import torch

from detkd.ops.boxes import ciou, giou, has_area, iou, pairwise_iou, xywh_to_xyxy, xyxy_to_xywh

A = torch.tensor([0.0, 0.0, 2.0, 2.0])
B = torch.tensor([1.0, 1.0, 3.0, 3.0])


def random_boxes(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    low = torch.rand(count, 2, dtype=dtype) * 300
    return torch.cat((low, low + 2 + torch.rand(count, 2, dtype=dtype) * 200), dim=-1)


def slow_overlaps(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """IoU, GIoU and CIoU of two proper boxes with plain numbers."""
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    wa, ha, wb, hb = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    union = wa * ha + wb * hb - inter
    overlap = inter / union
    cw, ch = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    rho = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    v = 4 / math.pi**2 * (math.atan(wa / ha) - math.atan(wb / hb)) ** 2
    alpha = v / (1 - overlap + v) if v else 0.0
    return overlap, overlap - (cw * ch - union) / (cw * ch), overlap - rho / (cw**2 + ch**2) - alpha * v


def test_by_hand():
    """Shared 1, union 7, enclosing 9; centres 2 apart squared, diagonal 18 squared, same shape."""
    torch.testing.assert_close(iou(A, B), torch.tensor(1 / 7))
    torch.testing.assert_close(giou(A, B), torch.tensor(1 / 7 - 2 / 9))
    torch.testing.assert_close(ciou(A, B), torch.tensor(1 / 7 - 2 / 18))


def test_slow_reference():
    first, second = random_boxes(60, torch.float64), random_boxes(60, torch.float64)
    expected = torch.tensor(
        [slow_overlaps(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)], dtype=torch.float64
    )
    for column, function in enumerate((iou, giou, ciou)):
        torch.testing.assert_close(function(first, second), expected[:, column], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(
            function(first.float(), second.float()), expected[:, column].float(), rtol=1e-3, atol=1e-5
        )


def test_ciou_and_its_gradient_are_those_of_the_native_box_loss():
    import detkd.environment

    from ultralytics.utils import metrics

    first, second = random_boxes(40).requires_grad_(), random_boxes(40)
    ours = ciou(first, second)
    native = metrics.bbox_iou(first, second, xywh=False, CIoU=True)[:, 0]
    torch.testing.assert_close(ours, native, rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(ours.sum(), first)
    (grad_native,) = torch.autograd.grad(native.sum(), first)
    torch.testing.assert_close(grad, grad_native, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("function", [iou, giou, ciou])
def test_equal_boxes_reach_exactly_one(function):
    boxes = random_boxes(200)
    assert (function(boxes, boxes) == 1).all()
    assert (function(random_boxes(200), boxes) <= 1).all()


@pytest.mark.parametrize("function", [iou, giou])
def test_gradcheck(function):
    first, second = random_boxes(12, torch.float64).requires_grad_(), random_boxes(12, torch.float64)
    assert torch.autograd.gradcheck(lambda x: function(x, second), first)


@pytest.mark.parametrize("function", [iou, giou, ciou])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_degenerate_boxes_stay_finite_and_bounded(function, dtype):
    """Points, lines, turned boxes, huge and tiny ones, against themselves and a proper box."""
    odd = torch.tensor(
        [
            [5, 5, 5, 5],
            [5, 5, 5, 9],
            [9, 9, 5, 5],
            [10, 0, -100, 4],
            [0, 0, 6e4, 6e4],
            [0, 0, 1e-6, 1e-6],
            [1, 1, 2, 2],
        ],
        dtype=torch.float32,
    ).to(dtype)
    first, second = odd[:, None].expand(7, 7, 4).clone().requires_grad_(), odd[None].expand(7, 7, 4)
    value = function(first, second)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert value.min() >= -2
    assert value.max() <= 1
    value.sum().backward()
    assert first.grad.isfinite().all()
    assert (iou(odd[0], odd) == 0).all()


def test_has_area():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 1], [0, 0, -1, -1], [0, 0, 1, 1e-4]])
    assert has_area(boxes).tolist() == [True, False, False, False]


def test_pairwise():
    first, second = random_boxes(4), random_boxes(3)
    matrix = pairwise_iou(first, second)
    assert matrix.shape == (4, 3)
    for row in range(4):
        for column in range(3):
            torch.testing.assert_close(matrix[row, column], iou(first[row], second[column]))
    assert pairwise_iou(first[:0], second).shape == (0, 3)


def test_formats_round_trip():
    assert xyxy_to_xywh(torch.tensor([1.0, 2.0, 5.0, 10.0])).tolist() == [3.0, 6.0, 4.0, 8.0]
    boxes = random_boxes(20)
    torch.testing.assert_close(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)
