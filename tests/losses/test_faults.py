"""Faults found in other implementations of detector distillation, each shown to be absent here."""

from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError, PairError, ShapeError
from detkd.losses.binary import BinaryLogits, binary_logits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.classic import ClassicLogits, classic_logits
from detkd.losses.recipe import Recipe, Schedule, Term
from tests.losses.views import ANCHORS, make_assignment, make_context, make_view

ALL = [BinaryLogits(), ClassicLogits(), BoxIoU(), BoxIoU("ciou"), BoxL1()]
NATIVE = {"one2many": 0.8, "one2one": 0.2}


def test_double_squashing():
    """One sigmoid only: a logit of 3 is a probability of 0.953, not sigmoid(0.953) = 0.722.

    Probabilities fed instead of logits give another, flattened number: 1 - sigmoid(-3) = 0.953 against
    sigmoid(0.953) - sigmoid(0.047) = 0.210 of disagreement.
    """
    student, teacher, region = torch.tensor([[[-3.0]]]), torch.tensor([[[3.0]]]), torch.ones(1, 1)
    p_s, p_t = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    kl = p_t * math.log(p_t / p_s) + p_s * math.log(p_s / p_t)
    torch.testing.assert_close(binary_logits(student, teacher, region), torch.tensor((p_t - p_s) * kl))
    assert binary_logits(student.sigmoid(), teacher.sigmoid(), region) < 0.02 * binary_logits(student, teacher, region)
    logits = torch.tensor([[[4.0, -4.0]]])
    value = classic_logits(-logits, logits, region, temperature=1.0)
    assert classic_logits((-logits).sigmoid(), logits.sigmoid(), region, temperature=1.0) < 0.1 * value


@pytest.mark.parametrize(("anchors", "classes"), [(7, 3), (3, 7), (5, 5)])
def test_softmax_runs_over_classes(anchors, classes):
    """An offset per anchor is invisible to a softmax over classes, an offset per class is not."""
    teacher, region = torch.randn(2, anchors, classes), torch.ones(2, anchors)
    per_anchor, per_class = torch.randn(2, anchors, 1), torch.randn(1, 1, classes)
    assert classic_logits(teacher + per_anchor, teacher, region) < 1e-6
    assert classic_logits(teacher + per_class, teacher, region) > 1e-3
    swapped = torch.randn(2, classes, anchors)
    if anchors != classes:
        with pytest.raises(ShapeError, match="logits"):
            classic_logits(swapped, teacher, region)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: f"{type(loss).__name__}-{getattr(loss, 'kind', '')}")
def test_never_negative_and_no_floor(loss):
    """Many random pairs, near and far: >= 0 always, and 0 (not the target's entropy) at a match."""
    for seed in range(10):
        student, teacher = make_view(seed), make_view(seed + 50)
        labels = make_assignment(seed)
        assert loss(student, teacher, make_context(student, assignment=labels)) > 0
        assert loss(teacher, teacher, make_context(student, assignment=labels)) == 0
        head = teacher.head("one2many")
        near = teacher._replace(
            heads={"one2many": head._replace(logits=head.logits * (1 + 1e-6), boxes_xyxy=head.boxes_xyxy * (1 + 1e-7))}
        )
        assert loss(near, teacher, make_context(student)) >= 0


def test_a_missing_flag_is_not_a_zero_loss():
    """Nothing to learn from is an error, not a silent 0: no terms, no common head, no output to read."""
    with pytest.raises(ConfigError, match=r"distill\.terms: is empty"):
        Recipe([])
    recipe = Recipe([Term("cls", BinaryLogits(), branches=("one2one",))])
    with pytest.raises(PairError, match="nothing to distil"):
        recipe(make_view(1), make_view(2, heads=("one2many",)), {}, 0.5, NATIVE)
    with pytest.raises(PairError, match="teacher: has no one2many head"):
        Recipe([Term("cls", BinaryLogits())])(make_view(1), make_view(2, heads=()), {}, 0.5, NATIVE)


def test_the_schedule_acts_on_the_total():
    recipe = Recipe([Term("cls", BinaryLogits())], schedule=Schedule("cosine", warmup=0.1, end=0.1, stop=0.9))
    student, teacher = make_view(1), make_view(2)
    totals = [
        recipe(student, teacher, {}, progress, NATIVE)[0].item() for progress in (0.0, 0.05, 0.1, 0.5, 0.89, 0.95)
    ]
    full = totals[2]
    assert full > 0
    assert [total / full for total in totals] == pytest.approx([0, 0.5, 1, 0.55, 0.1, 0], abs=1e-3)


def test_the_temperature_does_not_swamp_the_signal():
    """At T = 1 a background logit (-10 against -9) pulls 3000 times less than a foreground one (0.5 against 2)."""
    student = torch.tensor([[[-9.0], [2.0]]], requires_grad=True)
    teacher = torch.tensor([[[-10.0], [0.5]]])
    binary_logits(student, teacher, torch.ones(1, 2), gamma=0.0).backward()
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([7.8e-5, 0.258]), rtol=1e-2, atol=0)


def test_teacher_statistics_and_values_are_left_alone():
    teacher = make_view(2)
    before = [x.clone() for head in teacher.heads.values() for x in head if x is not None]
    recipe = Recipe([Term(f"t{i}", loss) for i, loss in enumerate(ALL)])
    recipe(make_view(1), teacher, {"one2many": make_assignment(3)}, 0.5, NATIVE)[0]
    after = [x for head in teacher.heads.values() for x in head if x is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not list(recipe.parameters())
    assert not list(recipe.terms.buffers())


def test_one_image_and_one_anchor_are_enough():
    student, teacher = make_view(1, images=1), make_view(2, images=1)
    region = torch.zeros(1, ANCHORS)
    region[0, 5] = 1
    for loss in ALL:
        value = loss(student, teacher, make_context(student, region=region))
        assert value.isfinite()
        assert value > 0
