from __future__ import annotations

import pytest
import torch

from detkd.errors import ConfigError
from detkd.losses.regions import Everywhere, TeacherScore, TeacherTop, batch_mass, teacher_quality, top_anchors
from tests.losses.views import ANCHORS, make_assignment, make_context, make_view

REGIONS = [Everywhere(), TeacherTop(0.1), TeacherTop(0.1, assigned=False), TeacherScore(0.8), TeacherScore(0.8, False)]


def test_top_anchors_by_hand():
    quality = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.8, 0.0, 0.1, 0.7]])
    assert top_anchors(quality, 0.5).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert top_anchors(quality, 0.01).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]  # one at least
    assert top_anchors(quality, 1.0).tolist() == [[1] * 4] * 2
    assert top_anchors(torch.rand(1, 8400), 0.01).sum() == 84
    assert top_anchors(torch.zeros(3, 100), 0.1).sum(1).tolist() == [10, 10, 10]  # ties don't add anchors


def test_quality_is_the_best_class_after_the_sigmoid():
    logits = torch.tensor([[[0.0, -5.0], [-20.0, 2.0]]], dtype=torch.float16, requires_grad=True)
    quality = teacher_quality(logits)
    torch.testing.assert_close(quality, torch.tensor([[0.5, 0.880797]]))
    assert not quality.requires_grad


def test_mass_is_at_least_one():
    assert batch_mass(torch.tensor([0.2, 0.3])) == 1
    assert batch_mass(torch.zeros(0)) == 1
    assert batch_mass(torch.tensor([2.0, 1.5])) == 3.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("region", REGIONS, ids=lambda r: f"{type(r).__name__}")
def test_weights_are_constant_in_range_and_shaped(region, dtype):
    student, teacher = make_view(1, dtype=dtype, grad=True), make_view(2, dtype=dtype, grad=True)
    for labels in (None, make_assignment(3), make_assignment(3, share=0.0)):
        weights = region(student, teacher, make_context(student, assignment=labels))
        assert weights.shape == (2, ANCHORS)
        assert weights.dtype == torch.float32
        assert not weights.requires_grad
        assert weights.min() >= 0
        assert weights.max() <= 1


def test_assigned_anchors_join_where_asked():
    view, labels = make_view(2), make_assignment(3)
    context = make_context(view, assignment=labels)
    quality = teacher_quality(view.head("one2many").logits)
    for plain, joined, inside in (
        (TeacherTop(0.1, assigned=False), TeacherTop(0.1), top_anchors(quality, 0.1) > 0),
        (TeacherScore(0.8, assigned=False), TeacherScore(0.8), quality >= 0.8),
    ):
        assert 0 < inside.sum() < inside.numel()
        assert torch.equal(plain(view, view, context) > 0, inside)
        assert torch.equal(joined(view, view, context) > 0, inside | labels.foreground)
        assert torch.equal(joined(view, view, context._replace(assignment=None)) > 0, inside)


def test_each_head_has_its_own_region():
    view = make_view(2)
    regions = [TeacherTop(0.1)(view, view, make_context(view, branch=branch)) for branch in ("one2many", "one2one")]
    assert not torch.equal(*regions)


def test_the_student_has_no_say():
    teacher = make_view(2)
    for region in REGIONS:
        first, second = (region(make_view(seed), teacher, make_context(teacher)) for seed in (1, 7))
        assert torch.equal(first, second)


def test_errors():
    for wrong in (0.0, -0.1):
        with pytest.raises(ConfigError, match=f"fraction: must be > 0, got {wrong}; 0.01 takes"):
            TeacherTop(wrong)
    with pytest.raises(ConfigError, match=r"fraction: must be .*1\], got 1.5"):
        TeacherTop(1.5)
    with pytest.raises(ConfigError, match=r"threshold: must be in \[0, 1\], got 30"):
        TeacherScore(30)
