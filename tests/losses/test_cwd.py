from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError, PairError, ShapeError
from detkd.losses.cwd import ChannelWise, cwd
from tests.losses.maps import feats, make_maps_view, random_map
from tests.losses.views import make_assignment, make_context


def slow(student, teacher, temperature):
    """The formula with plain numbers, without standardising."""
    total, count = 0.0, 0
    for maps_s, maps_t in zip(
        student.flatten(2).flatten(0, 1).tolist(), teacher.flatten(2).flatten(0, 1).tolist(), strict=True
    ):
        sums = [sum(math.exp(x / temperature) for x in maps) for maps in (maps_s, maps_t)]
        for x_s, x_t in zip(maps_s, maps_t, strict=True):
            q, p = math.exp(x_s / temperature) / sums[0], math.exp(x_t / temperature) / sums[1]
            total += temperature**2 * p * math.log(p / q)
        count += 1
    return total / count


def test_by_hand():
    """One channel of two cells: teacher (ln 3, 0) is (3/4, 1/4), student (0, 0) is (1/2, 1/2).

    KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.304099 - 0.173287 = 0.130812. A second channel that agrees halves the mean.
    """
    teacher = torch.tensor([[[[math.log(3.0), 0.0]], [[1.0, 2.0]]]])
    student = torch.tensor([[[[0.0, 0.0]], [[1.0, 2.0]]]])
    torch.testing.assert_close(
        cwd(student[:, :1], teacher[:, :1], standardised=False), torch.tensor(0.130812), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(cwd(student, teacher, standardised=False), torch.tensor(0.065406), rtol=1e-5, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_slow_reference(temperature):
    student, teacher = random_map(1, 2, 3, 4, 5), random_map(2, 2, 3, 4, 5)
    value = cwd(student, teacher, temperature=temperature, standardised=False)
    torch.testing.assert_close(value, torch.tensor(slow(student, teacher, temperature), dtype=torch.float64))
    value = cwd(student.float(), teacher.float(), temperature=temperature, standardised=False)
    torch.testing.assert_close(
        value.double(), torch.tensor(slow(student, teacher, temperature), dtype=torch.float64), rtol=1e-5, atol=1e-8
    )


def test_identities():
    student, teacher = random_map(1, 2, 3, 4, 5), random_map(2, 2, 3, 4, 5)
    assert cwd(teacher, teacher) == cwd(teacher, teacher, standardised=False) == 0
    offset, scale = torch.randn(1, 3, 1, 1).double(), torch.rand(1, 3, 1, 1).double() + 0.5
    moved = cwd(student + offset, teacher, standardised=False)  # a softmax does not see a constant
    torch.testing.assert_close(moved, cwd(student, teacher, standardised=False))
    torch.testing.assert_close(cwd(student * scale + offset, teacher), cwd(student, teacher), rtol=1e-4, atol=0)
    torch.testing.assert_close(cwd(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1)), cwd(student, teacher))
    order = torch.randperm(20)
    mixed = [x.flatten(2)[..., order].reshape(x.shape) for x in (student, teacher)]
    torch.testing.assert_close(cwd(*mixed), cwd(student, teacher))


@pytest.mark.parametrize("standardised", [True, False])
def test_gradcheck(standardised):
    student, teacher = random_map(1, 2, 2, 2, 3).requires_grad_(), random_map(2, 2, 2, 2, 3)
    assert torch.autograd.gradcheck(lambda x: cwd(x, teacher, temperature=1.5, standardised=standardised), student)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_only_the_student_and_the_adapters_learn(ratio):
    loss = ChannelWise()
    loss.setup((4, 6, 8), (8, 6, 12))
    student, teacher = make_maps_view(1, (4, 6, 8), grad=True), make_maps_view(2, (8, 6, 12), ratio=ratio, grad=True)
    value = loss(student, teacher, make_context(student))
    assert value.shape == ()
    value.backward()
    assert all(x.grad.abs().sum() > 0 for x in (*feats(student), *loss.parameters()))
    assert all(x.grad is None for x in feats(teacher))
    assert len(list(loss.parameters())) == 3


def test_labels_and_region_do_not_matter_and_levels_are_averaged():
    loss = ChannelWise(adapter="needed")
    loss.setup((4, 4, 4), (4, 4, 4))
    assert not list(loss.parameters())
    student, teacher = make_maps_view(1, (4, 4, 4), classes=1), make_maps_view(2, (4, 4, 4), classes=1)
    value = loss(student, teacher, make_context(student))
    expected = sum(cwd(x, y) for x, y in zip(feats(student), feats(teacher), strict=True)) / 3
    torch.testing.assert_close(value, expected)
    for context in (
        make_context(student, region=torch.zeros(2, 64)),
        make_context(student, assignment=make_assignment(1, classes=1)),
    ):
        torch.testing.assert_close(loss(student, teacher, context), value)
    assert loss(teacher, teacher, make_context(teacher)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    student, teacher = (random_map(seed, 2, 3, 40, 40) * 30 for seed in (1, 2))
    narrow = student.to(dtype).requires_grad_()
    value = cwd(narrow, teacher.to(dtype))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), cwd(student, teacher), rtol=1e-2, atol=0)
    value.backward()
    assert narrow.grad.isfinite().all()


def test_errors():
    with pytest.raises(ShapeError, match=r"feats: student has shape"):
        cwd(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(ConfigError, match=r"temperature: must be > 0, got 0; 1 is usual"):
        ChannelWise(temperature=0)
    with pytest.raises(ConfigError, match=r"adapter: unknown choice, got 'never'; use one of always, needed"):
        ChannelWise(adapter="never")
    with pytest.raises(PairError, match="teacher: has 2 feature maps"):
        ChannelWise().setup((4, 4, 4), (4, 4))
    view = make_maps_view(1, (4, 4, 4))
    with pytest.raises(ShapeError, match=r"for 0 adapters; .* call setup"):
        ChannelWise()(view, view, make_context(view))
