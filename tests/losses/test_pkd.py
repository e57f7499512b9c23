from __future__ import annotations

import pytest
import torch

from detkd.errors import ConfigError, ShapeError
from detkd.losses.pkd import NeckFeatures, pearson_distance, standardise
from tests.losses.views import make_context, make_view


def test_value_by_hand() -> None:
    """One channel, two images of one cell: student (1, 3) and teacher (5, 1) become (-1, 1) and (1, -1), so r = -1.

    Half the mean of squared differences of 2 is 2 = 1 - r.
    """
    student = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    teacher = torch.tensor([5.0, 1.0]).reshape(2, 1, 1, 1)
    assert float(pearson_distance(student, teacher, torch.ones(2, 1, 1))) == pytest.approx(2.0)


def test_equals_one_minus_the_mean_correlation() -> None:
    """Slow reference: numpy's correlation coefficient, channel by channel."""
    import numpy as np

    torch.manual_seed(1)
    student, teacher = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    r = [np.corrcoef(student[:, k].flatten(), teacher[:, k].flatten())[0, 1] for k in range(4)]
    got = float(pearson_distance(student, teacher, torch.ones(3, 5, 6)))
    assert got == pytest.approx(1 - float(np.mean(r)), rel=1e-5)


def test_scale_and_offset_do_not_count() -> None:
    maps = torch.randn(2, 3, 4, 4)
    moved = maps * torch.tensor([2.0, 0.1, 30.0]).reshape(1, 3, 1, 1) + 7
    assert float(pearson_distance(maps, moved, torch.rand(2, 4, 4))) == pytest.approx(0, abs=1e-6)


def test_weights_choose_the_cells() -> None:
    student, teacher = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    weight = torch.zeros(1, 3, 3)
    weight[0, 1, 2] = 5.0
    expected = (standardise(student) - standardise(teacher))[0, :, 1, 2].pow(2).mean() / 2
    assert float(pearson_distance(student, teacher, weight)) == pytest.approx(float(expected), rel=1e-5)


def test_a_constant_channel_is_silent() -> None:
    student = torch.ones(2, 1, 3, 3, requires_grad=True)
    value = pearson_distance(student, torch.randn(2, 1, 3, 3), torch.ones(2, 3, 3))
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_gradient_reaches_student_and_adapters_only() -> None:
    loss = NeckFeatures()
    loss.setup((4, 4, 4), (4, 4, 4))
    student, teacher = make_view(1, feats=True), make_view(2, feats=True)
    assert student.feats is not None
    assert teacher.feats is not None
    for maps in (*student.feats, *teacher.feats):
        maps.requires_grad_(True)
    loss(student, teacher, make_context(student)).backward()
    assert all(maps.grad is not None and maps.grad.abs().sum() > 0 for maps in student.feats)
    assert all(maps.grad is None for maps in teacher.feats)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())


def test_gradcheck() -> None:
    torch.manual_seed(2)
    student = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    weight = torch.rand(2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: pearson_distance(x, teacher, weight), (student,))


def test_other_channels_and_a_finer_teacher() -> None:
    loss = NeckFeatures()
    loss.setup((4, 4, 4), (7, 7, 7))
    student, teacher = make_view(1, feats=True), make_view(2, feats=True)
    assert student.feats is not None
    finer = tuple(torch.randn(2, 7, 2 * m.shape[2], 2 * m.shape[3]) for m in student.feats)
    value = loss(student, teacher._replace(feats=finer), make_context(student))
    assert 0 < float(value.detach()) < 4


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="focus: must be in"):
        NeckFeatures(focus=1.5)
    with pytest.raises(ShapeError, match="feats"):
        pearson_distance(torch.randn(1, 2, 3, 3), torch.randn(1, 3, 3, 3), torch.ones(1, 3, 3))
    loss = NeckFeatures()
    loss.setup((4, 4), (4, 4))
    with pytest.raises(ShapeError, match="2 levels were set up, got 3"):
        loss(make_view(1, feats=True), make_view(2, feats=True), make_context(make_view(1, feats=True)))
