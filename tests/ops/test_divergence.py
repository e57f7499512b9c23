from __future__ import annotations

import math

import pytest
import torch

from detkd.ops.divergence import bernoulli_excess, softmax_kl, widen, with_rest


def test_bernoulli_excess_by_hand():
    """KL(1/2 || 1/4) = 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3) = 0.143841; logit of 1/4 is -ln 3."""
    value = bernoulli_excess(torch.tensor(-math.log(3.0)), torch.tensor(0.0))
    torch.testing.assert_close(value, torch.tensor(0.5 * math.log(4 / 3)))


def test_bernoulli_excess_is_cross_entropy_minus_entropy():
    z_s, z_t = torch.randn(2, 50, dtype=torch.float64) * 3
    p_t = z_t.sigmoid()
    entropy = -(p_t * p_t.log() + (1 - p_t) * (1 - p_t).log())
    bce = torch.nn.functional.binary_cross_entropy_with_logits(z_s, p_t, reduction="none")
    torch.testing.assert_close(bernoulli_excess(z_s, z_t), bce - entropy, rtol=1e-9, atol=1e-12)
    assert (bernoulli_excess(z_t, z_t) == 0).all()
    assert bce.min() > 0.001  # the floor that would hide convergence


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bernoulli_excess_zero_at_equality_and_never_negative(dtype):
    z = torch.linspace(-120, 120, 4801, dtype=torch.float64).to(dtype)
    assert (bernoulli_excess(z, z) == 0).all()
    near = bernoulli_excess(z * (1 + 1e-3), z)
    assert (near >= 0).all()
    assert near.isfinite().all()
    assert bernoulli_excess(z, z).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_bernoulli_excess_far_logits():
    """A sure teacher at 100 against a sure student at -100: -log sigmoid(-100) = 100; agreeing tails read 0."""
    student = torch.tensor([-100.0, 100.0, 99.0, -99.0], requires_grad=True)
    value = bernoulli_excess(student, torch.tensor([100.0, -100.0, 100.0, -100.0]))
    torch.testing.assert_close(value, torch.tensor([100.0, 100.0, 0.0, 0.0]))
    value.sum().backward()
    torch.testing.assert_close(student.grad, torch.tensor([-1.0, 1.0, 0.0, 0.0]))


def test_bernoulli_excess_gradient():
    """Temperature T gives T (sigmoid(z_s / T) - sigmoid(z_t / T)); also right where rounding is lifted to 0."""
    student = (torch.randn(20, dtype=torch.float64) * 4).requires_grad_()
    teacher = torch.randn(20, dtype=torch.float64) * 4
    assert torch.autograd.gradcheck(lambda z: bernoulli_excess(z, teacher, temperature=1.7), student)
    close = (teacher + 1e-9).requires_grad_()
    (grad,) = torch.autograd.grad(bernoulli_excess(close, teacher, temperature=2.0).sum(), close)
    expected = 2 * ((close / 2).sigmoid() - (teacher / 2).sigmoid())
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-16)


def test_softmax_kl_by_hand():
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812."""
    value = softmax_kl(torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]))
    torch.testing.assert_close(value, torch.tensor([0.75 * math.log(1.5) + 0.25 * math.log(0.5)]))


def test_softmax_kl_identities():
    z_s, z_t = torch.randn(2, 6, 7, 5, dtype=torch.float64) * 3
    assert softmax_kl(z_s, z_t).shape == (6, 7)
    assert (softmax_kl(z_t, z_t, temperature=3.0) == 0).all()
    assert (softmax_kl(z_s, z_t) > 0).all()
    shift = torch.randn(6, 7, 1, dtype=torch.float64)
    torch.testing.assert_close(softmax_kl(z_s + shift, z_t, temperature=2.0), softmax_kl(z_s, z_t, temperature=2.0))
    assert torch.autograd.gradcheck(lambda z: softmax_kl(z, z_t[0], temperature=2.0), z_s[0].clone().requires_grad_())


def test_softmax_kl_hot_limit():
    """For T to infinity T^2 KL tends to half the squared distance of centred logits over C."""
    z_s, z_t = torch.randn(2, 9, 4, dtype=torch.float64)
    gap = (z_s - z_s.mean(-1, keepdim=True)) - (z_t - z_t.mean(-1, keepdim=True))
    torch.testing.assert_close(softmax_kl(z_s, z_t, temperature=1e4), gap.square().sum(-1) / 8, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_single_class_is_compared_as_a_pair(temperature):
    z_s, z_t = torch.randn(2, 30, 1, dtype=torch.float64) * 3
    assert (softmax_kl(z_s, z_t) == 0).all()  # why with_rest exists
    paired = softmax_kl(with_rest(z_s), with_rest(z_t), temperature=temperature)
    torch.testing.assert_close(paired, bernoulli_excess(z_s, z_t, temperature=temperature)[:, 0])
    many = torch.randn(3, 2)
    assert with_rest(many) is many


def test_widen():
    assert widen(torch.zeros(1, dtype=torch.float16)).dtype == torch.float32
    assert widen(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert widen(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
