from __future__ import annotations

import pytest
import torch

from detkd.caching.fidelity import compare_views, problems, tolerance
from tests.caching.test_views import again, layout_of
from tests.losses.views import BOTH, make_view

LAYOUTS = [(None, None), (None, 2), (20, None), (20, 2)]


def compared(layout, change=lambda head: head, seed=1):
    teacher = make_view(seed)
    stored = again(teacher, layout)
    return [compare_views(stored[branch], change(teacher.head(branch)), layout) for branch in BOTH]


@pytest.mark.parametrize("precision", ["int8", "float16", "float32"])
@pytest.mark.parametrize(("k", "classes"), LAYOUTS)
@pytest.mark.parametrize("seed", range(5))
def test_an_untouched_cache_has_no_problems(precision, k, classes, seed):
    layout = layout_of(k=k, classes=classes, precision=precision)
    for found in compared(layout, seed=seed):
        assert problems(found, layout) == []
        assert found.share == 1.0


def test_everything_in_float32_differs_by_nothing():
    assert compared(layout_of()) == [(0.0, 0.0, 1.0)] * 2


@pytest.mark.parametrize("precision", ["int8", "float16", "float32"])
@pytest.mark.parametrize(("k", "classes"), LAYOUTS)
def test_another_teacher_is_found_out(precision, k, classes):
    layout = layout_of(k=k, classes=classes, precision=precision)
    stored, other = again(make_view(1), layout), make_view(2)
    for branch in BOTH:
        lines = problems(compare_views(stored[branch], other.head(branch), layout), layout)
        assert any("class logit differs by" in line for line in lines)
        assert any("box side differs by" in line for line in lines)
        assert any("of the best anchors are stored" in line for line in lines) == (k is not None)


def test_a_shift_of_one_kind_is_named_alone():
    layout = layout_of(k=20, classes=2, precision="int8")
    for found in compared(layout, lambda head: head._replace(logits=head.logits + 0.2)):
        assert [line.split(" differs")[0] for line in problems(found, layout)] == ["a class logit"]
        assert found.logit == pytest.approx(0.2, abs=0.05)
    for found in compared(layout, lambda head: head._replace(distances=head.distances + 0.1)):
        assert [line.split(" differs")[0] for line in problems(found, layout)] == ["a box side"]
        assert found.distance == pytest.approx(0.1, abs=0.01)


def test_logits_beyond_the_range_of_int8_are_no_difference():
    layout = layout_of(precision="int8")
    teacher = make_view(1)
    far = {name: head._replace(logits=head.logits * 20) for name, head in teacher.heads.items()}
    stored = again(teacher._replace(heads=far), layout)
    for branch in BOTH:
        assert problems(compare_views(stored[branch], far[branch], layout), layout) == []


def test_answers_that_are_no_numbers_are_a_problem():
    layout = layout_of(k=20, precision="int8")
    for found in compared(layout, lambda head: head._replace(logits=head.logits * torch.nan)):
        assert any("class logit differs by nan" in line for line in problems(found, layout))


def test_coarser_precisions_may_differ_by_more():
    allowed = [tolerance(layout_of(k=20, precision=name)) for name in ("float32", "float16", "int8")]
    assert allowed[0].logit < allowed[1].logit < allowed[2].logit < 0.1
    assert tolerance(layout_of()).share == 1.0
