from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError, ShapeError
from detkd.losses.binary import BinaryLogits, binary_logits
from tests.losses.views import ANCHORS, leaves, make_context, make_view, pick

LN3 = math.log(3.0)


def slow(student, teacher, region, gamma=1.0, temperature=1.0):
    """The formula with plain numbers."""

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    total = mass = 0.0
    for image in range(len(student)):
        for anchor in range(len(student[image])):
            weight = region[image][anchor]
            mass += weight * max(sigmoid(z) for z in teacher[image][anchor])
            for z_s, z_t in zip(student[image][anchor], teacher[image][anchor], strict=True):
                gap = abs(sigmoid(z_s) - sigmoid(z_t)) ** gamma
                p, q = sigmoid(z_t / temperature), sigmoid(z_s / temperature)
                bce = -p * math.log(q) - (1 - p) * math.log(1 - q)
                entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
                total += weight * gap * temperature**2 * (bce - entropy)
    return total / max(1.0, mass)


def test_by_hand():
    """Teacher (1/2, 1/4), student (1/4, 1/2) in each of three images, one anchor.

    Both gaps are 1/4; KL(1/2 || 1/4) = 1/2 ln 4/3 = 0.143841; KL(1/4 || 1/2) = 1/4 ln 1/2 + 3/4 ln 3/2 = 0.130812.
    Sum 3 * (0.143841 + 0.130812) / 4 = 0.205990; mass 3 * 1/2 = 1.5; loss 0.137327. One image alone has mass
    1/2, raised to 1: 0.068663.
    """
    teacher = torch.tensor([0.0, -LN3]).expand(3, 1, 2)
    student = torch.tensor([-LN3, 0.0]).expand(3, 1, 2)
    torch.testing.assert_close(
        binary_logits(student, teacher, torch.ones(3, 1)), torch.tensor(0.137327), rtol=1e-5, atol=0
    )
    one = binary_logits(student[:1], teacher[:1], torch.ones(1, 1))
    torch.testing.assert_close(one, torch.tensor(0.068663), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("gamma", "temperature"), [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (0.5, 1.5), (1.0, 0.5)])
@pytest.mark.parametrize("detach_gap", [True, False])
def test_slow_reference(gamma, temperature, detach_gap):
    student, teacher = torch.randn(2, 3, 11, 4, dtype=torch.float64) * 3
    region = (torch.rand(3, 11, dtype=torch.float64) - 0.4).clamp(min=0)
    expected = slow(student.tolist(), teacher.tolist(), region.tolist(), gamma, temperature)
    options = {"gamma": gamma, "temperature": temperature, "detach_gap": detach_gap}
    value = binary_logits(student, teacher, region, **options)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    value = binary_logits(student.float(), teacher.float(), region.float(), **options)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-8)


def test_zero_at_a_match_and_positive_elsewhere():
    teacher = torch.randn(2, 20, 3) * 5
    region = torch.ones(2, 20)
    assert binary_logits(teacher, teacher, region) == 0
    for scale in (1e-4, 1e-2, 1.0, 30.0):
        student = teacher + torch.randn_like(teacher) * scale
        assert binary_logits(student, teacher, region, gamma=0.0) >= 0
    assert binary_logits(teacher + 0.01, teacher, region) > 0


def test_gamma_zero_is_the_plain_excess():
    """Without the factor, the gradient of one logit is u (p_s - p_t) / mass."""
    student = torch.randn(2, 9, 3, requires_grad=True)
    teacher, region = torch.randn(2, 9, 3), torch.rand(2, 9)
    mass = (region * teacher.amax(-1).sigmoid()).sum().clamp(min=1)
    expected = (student.sigmoid() - teacher.sigmoid()) * region[..., None] / mass
    (grad,) = torch.autograd.grad(binary_logits(student, teacher, region, gamma=0.0), student)
    torch.testing.assert_close(grad, expected)
    (grad,) = torch.autograd.grad(binary_logits(student, teacher, region), student)
    torch.testing.assert_close(grad, expected * (student.sigmoid() - teacher.sigmoid()).abs())  # a constant factor


def test_gradcheck():
    student = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    teacher, region = torch.randn(2, 5, 3, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    for options in ({"gamma": 0.0}, {"gamma": 1.5, "detach_gap": False}, {"temperature": 1.3, "gamma": 0.0}):
        assert torch.autograd.gradcheck(lambda z, o=options: binary_logits(z, teacher, region, **o), student)


def test_hot_limit():
    """T^2 excess tends to (z_s - z_t)^2 / 8 as T grows."""
    student, teacher = torch.randn(2, 2, 7, 3, dtype=torch.float64)
    region = torch.ones(2, 7, dtype=torch.float64)
    mass = teacher.amax(-1).sigmoid().sum()
    value = binary_logits(student, teacher, region, gamma=0.0, temperature=1e3)
    torch.testing.assert_close(value, (student - teacher).square().sum() / 8 / mass, rtol=1e-3, atol=0)


def test_order_of_anchors_does_not_matter_and_batch_size_cancels():
    student, teacher = make_view(1, grad=False), make_view(2)
    loss, region = BinaryLogits(), torch.rand(2, ANCHORS)
    value = loss(student, teacher, make_context(student, region=region))
    order = torch.randperm(ANCHORS)
    moved = [pick(view, anchors=order) for view in (student, teacher)]
    torch.testing.assert_close(loss(*moved, make_context(student, region=region[:, order])), value)
    twice = torch.tensor([0, 1, 0, 1])
    doubled = [pick(view, images=twice) for view in (student, teacher)]
    torch.testing.assert_close(loss(*doubled, make_context(doubled[0], region=region[twice])), value)


def test_gradient_only_to_the_student():
    student, teacher = make_view(1, grad=True), make_view(2, grad=True)
    for detach_gap in (True, False):
        BinaryLogits(detach_gap=detach_gap)(student, teacher, make_context(student)).backward()
    assert student.head("one2many").logits.grad.abs().sum() > 0
    assert student.head("one2one").logits.grad is None
    assert all(x.grad is None for x in leaves(teacher))


def test_empty_region_is_zero_with_a_graph():
    student, teacher = make_view(1, grad=True), make_view(2)
    value = BinaryLogits()(student, teacher, make_context(student, region=torch.zeros(2, ANCHORS)))
    assert value == 0
    value.backward()
    assert (student.head("one2many").logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("detach_gap", [True, False])
def test_half_precision(dtype, detach_gap):
    """Inputs in half, sums in float32: 8400 anchors of extreme logits stay finite and close to the wide result."""
    student, teacher = (torch.randn(2, 1, 2100, 80) * 12).to(dtype)
    student.requires_grad_()
    region = torch.ones(1, 2100)
    value = binary_logits(student, teacher, region, detach_gap=detach_gap)
    assert value.dtype == torch.float32
    wide = binary_logits(student.double(), teacher.double(), region.double(), detach_gap=detach_gap)
    torch.testing.assert_close(value.double(), wide, rtol=1e-2, atol=0)
    value.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_attached_gap_has_a_finite_gradient_at_a_match(gamma):
    teacher = torch.randn(1, 4, 2)
    student = teacher.clone().requires_grad_()
    binary_logits(student, teacher, torch.ones(1, 4), gamma=gamma, detach_gap=False).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e-9


def test_errors_and_the_temperature_trap():
    with pytest.raises(ShapeError, match=r"logits: student has shape \(1, 4, 2\), teacher \(1, 4, 1\)"):
        binary_logits(torch.zeros(1, 4, 2), torch.zeros(1, 4, 1), torch.ones(1, 4))
    with pytest.raises(ConfigError, match=r"temperature: must be > 0, got 0; 1 keeps"):
        BinaryLogits(temperature=0)
    with pytest.raises(ConfigError, match=r"gamma: must be >= 0, got -1.0"):
        BinaryLogits(gamma=-1.0)
    with pytest.raises(ConfigError, match=r"gamma: must be a finite number, got 'high'"):
        BinaryLogits(gamma="high")
    (doubt,) = BinaryLogits(temperature=2.0).doubts()
    assert doubt.startswith("temperature: 2 with sigmoid scores turns distillation into background regression")
    assert BinaryLogits(temperature=1.0).doubts() == []
