from __future__ import annotations

import pytest
import torch

from detkd.errors import ConfigError, ShapeError
from detkd.losses.pkd import Pearson, pkd
from tests.losses.maps import feats, make_maps_view, random_map
from tests.losses.views import make_assignment, make_context


def correlations(student, teacher):
    """Pearson's r of each channel with plain numbers."""
    result = []
    for channel in range(student.shape[1]):
        xs, ys = student[:, channel].flatten().tolist(), teacher[:, channel].flatten().tolist()
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        cov = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
        result.append(cov / (sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys)) ** 0.5)
    return result


def test_by_hand():
    """(1, 2, 3) against (1, 3, 2) has r = 1/2, so the loss is 1/2; against (3, 2, 1) r = -1, loss 2."""
    teacher = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    for values, expected in (
        ((1.0, 3.0, 2.0), 0.5),
        ((3.0, 2.0, 1.0), 2.0),
        ((10.0, 30.0, 20.0), 0.5),
        ((4.0, 4.0, 4.0), 0.5),
    ):
        value = pkd(torch.tensor([[[list(values)]]]), teacher)
        torch.testing.assert_close(value, torch.tensor(expected), rtol=1e-4, atol=0)


def test_one_minus_the_correlation():
    student, teacher = random_map(1, 2, 3, 4, 5) * 4 + 1, random_map(2, 2, 3, 4, 5) * 9 - 2
    expected = sum(1 - r for r in correlations(student, teacher)) / 3
    torch.testing.assert_close(pkd(student, teacher).item(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(pkd(student.float(), teacher.float()).item(), expected, rtol=1e-5, atol=0)


def test_identities():
    student, teacher = random_map(1, 2, 3, 4, 5), random_map(2, 2, 3, 4, 5)
    assert pkd(teacher, teacher) == 0
    scale, offset = torch.rand(1, 3, 1, 1).double() * 50 + 5, torch.randn(1, 3, 1, 1).double()
    assert pkd(teacher * scale + offset, teacher) < 1e-8
    torch.testing.assert_close(pkd(student * scale + offset, teacher), pkd(student, teacher), rtol=1e-4, atol=0)
    torch.testing.assert_close(pkd(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1)), pkd(student, teacher))
    assert 0 < pkd(student, teacher) < 2


def test_gradcheck():
    student, teacher = random_map(1, 2, 2, 2, 3).requires_grad_(), random_map(2, 2, 2, 2, 3)
    assert torch.autograd.gradcheck(lambda x: pkd(x, teacher), student)


def test_constant_channels_and_single_cells_have_finite_gradients():
    for shape in ((2, 3, 4, 4), (1, 3, 1, 1)):
        student = torch.zeros(shape, requires_grad=True)
        value = pkd(student, torch.randn(shape))
        value.backward()
        assert value.isfinite()
        assert student.grad.isfinite().all()


def test_adapters_only_where_the_widths_differ():
    loss = Pearson()
    loss.setup((4, 6, 8), (8, 6, 8))
    assert [weight.shape for weight in loss.parameters()] == [(8, 4, 1, 1)]
    student, teacher = make_maps_view(1, (4, 6, 8), grad=True), make_maps_view(2, (8, 6, 8), ratio=2, grad=True)
    value = loss(student, teacher, make_context(student))
    value.backward()
    assert all(x.grad.abs().sum() > 0 for x in (*feats(student), *loss.parameters()))
    assert all(x.grad is None for x in feats(teacher))
    always = Pearson("always")
    always.setup((4, 6, 8), (8, 6, 8))
    assert len(list(always.parameters())) == 3


def test_zero_when_equal_and_nothing_but_maps_matters():
    loss = Pearson()
    loss.setup((4, 4, 4), (4, 4, 4))
    student, teacher = make_maps_view(1, (4, 4, 4), classes=1), make_maps_view(2, (4, 4, 4), classes=1)
    value = loss(student, teacher, make_context(student))
    torch.testing.assert_close(value, sum(pkd(x, y) for x, y in zip(feats(student), feats(teacher), strict=True)) / 3)
    assert loss(teacher, teacher, make_context(teacher)) == 0
    labelled = make_context(student, region=torch.zeros(2, 64), assignment=make_assignment(1, classes=1))
    torch.testing.assert_close(loss(student, teacher, labelled), value)
    bigger = teacher._replace(feats=tuple(x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in feats(teacher)))
    torch.testing.assert_close(loss(student, bigger, make_context(student)), value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    student, teacher = (random_map(seed, 2, 3, 40, 40) * 1000 for seed in (1, 2))
    narrow = student.to(dtype).requires_grad_()
    value = pkd(narrow, teacher.to(dtype))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), pkd(student, teacher), rtol=1e-2, atol=0)
    value.backward()
    assert narrow.grad.isfinite().all()


def test_errors():
    with pytest.raises(ShapeError, match=r"feats: student has shape"):
        pkd(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(ConfigError, match=r"adapter: unknown choice, got True; use one of always, needed"):
        Pearson(adapter=True)
