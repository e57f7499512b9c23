from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError, ShapeError
from detkd.losses.classic import ClassicLogits, classic_logits
from detkd.ops.divergence import bernoulli_excess
from tests.losses.views import ANCHORS, leaves, make_context, make_view, pick

LN3 = math.log(3.0)


def slow(student, teacher, region, temperature, score_weight):
    """The formula with plain numbers."""
    total = mass = 0.0
    for image in range(len(student)):
        for anchor in range(len(student[image])):
            z_s, z_t = list(student[image][anchor]), list(teacher[image][anchor])
            weight = region[image][anchor]
            if score_weight:
                weight /= 1 + math.exp(-max(z_t))
            if len(z_s) == 1:
                z_s, z_t = [*z_s, 0.0], [*z_t, 0.0]
            e_s, e_t = ([math.exp(z / temperature) for z in row] for row in (z_s, z_t))
            p_s, p_t = ([e / sum(row) for e in row] for row in (e_s, e_t))
            total += weight * temperature**2 * sum(t * math.log(t / s) for s, t in zip(p_s, p_t, strict=True))
            mass += weight
    return total / max(1.0, mass)


@pytest.mark.parametrize("logits", [[LN3, 0.0], [LN3]])
def test_by_hand(logits):
    """Teacher softmax (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812.

    That is the mean over any region of such anchors. The teacher's score is sigmoid(ln 3) = 3/4; with `score_weight`
    two images have mass 1.5: 2 * 3/4 * 0.130812 / 1.5 = 0.130812. One has mass 3/4, raised to 1: 0.098109. A single
    class z counts as [z, 0], hence the same numbers.
    """
    teacher = torch.tensor(logits).expand(2, 1, len(logits))

    def check(images, expected, **options):
        student = torch.zeros_like(teacher[:images])
        value = classic_logits(student, teacher[:images], torch.ones(images, 1), temperature=1.0, **options)
        torch.testing.assert_close(value, torch.tensor(expected), rtol=1e-5, atol=0)

    check(2, 0.130812)
    check(1, 0.130812)
    check(2, 0.130812, score_weight=True)
    check(1, 0.098109, score_weight=True)


def test_textbook_on_a_region():
    """T^2 KL per anchor, averaged over the anchors of the region, as PyTorch's own functions say it."""
    student, teacher = torch.randn(2, 3, 11, 4, dtype=torch.float64)
    inside = torch.rand(3, 11) < 0.5
    log_s, log_t = (torch.log_softmax(z[inside] / 3, -1) for z in (student, teacher))
    expected = 9 * torch.nn.functional.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    value = classic_logits(student, teacher, inside.double(), temperature=3.0)
    torch.testing.assert_close(value, expected)
    view, other = make_view(1), make_view(2)
    torch.testing.assert_close(
        ClassicLogits(3.0)(view, other, make_context(view)),
        classic_logits(
            view.head("one2many").logits, other.head("one2many").logits, torch.ones(2, ANCHORS), temperature=3.0
        ),
    )


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
@pytest.mark.parametrize("classes", [1, 2, 6])
@pytest.mark.parametrize("score_weight", [False, True])
def test_slow_reference(classes, temperature, score_weight):
    student, teacher = torch.randn(2, 3, 11, classes, dtype=torch.float64) * 3
    region = (torch.rand(3, 11, dtype=torch.float64) - 0.4).clamp(min=0)
    expected = slow(student.tolist(), teacher.tolist(), region.tolist(), temperature, score_weight)
    assert expected > 0.01
    options = {"temperature": temperature, "score_weight": score_weight}
    value = classic_logits(student, teacher, region, **options)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    value = classic_logits(student.float(), teacher.float(), region.float(), **options)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float32), rtol=1e-5, atol=1e-8)


def test_single_class_is_the_binary_divergence():
    student, teacher = torch.randn(2, 2, 9, 1, dtype=torch.float64)
    region = torch.ones(2, 9, dtype=torch.float64)
    quality = teacher[..., 0].sigmoid()
    expected = (quality * bernoulli_excess(student, teacher, temperature=2.0)[..., 0]).sum() / quality.sum()
    value = classic_logits(student, teacher, region, temperature=2.0, score_weight=True)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("classes", [1, 5])
def test_zero_at_a_match_positive_elsewhere_blind_to_offsets(classes):
    teacher = torch.randn(2, 20, classes) * 5
    region = torch.ones(2, 20)
    assert classic_logits(teacher, teacher, region) == 0
    assert classic_logits(teacher + torch.randn_like(teacher) * 1e-4, teacher, region) >= 0
    assert classic_logits(teacher + torch.randn_like(teacher), teacher, region) > 0
    offset = classic_logits(teacher - 5, teacher, region)
    assert (offset < 1e-6) if classes > 1 else (offset > 0.1)


@pytest.mark.parametrize("classes", [1, 3])
def test_gradcheck(classes):
    student = torch.randn(2, 5, classes, dtype=torch.float64, requires_grad=True)
    teacher, region = torch.randn(2, 5, classes, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: classic_logits(z, teacher, region, temperature=2.0), student)


def test_order_of_anchors_does_not_matter_and_batch_size_cancels():
    student, teacher = make_view(1), make_view(2)
    loss, region = ClassicLogits(), torch.rand(2, ANCHORS)
    value = loss(student, teacher, make_context(student, region=region))
    order, twice = torch.randperm(ANCHORS), torch.tensor([0, 1, 0, 1])
    moved = [pick(view, anchors=order) for view in (student, teacher)]
    torch.testing.assert_close(loss(*moved, make_context(student, region=region[:, order])), value)
    doubled = [pick(view, images=twice) for view in (student, teacher)]
    torch.testing.assert_close(loss(*doubled, make_context(doubled[0], region=region[twice])), value)


def test_gradient_only_to_the_student():
    student, teacher = make_view(1, grad=True), make_view(2, grad=True)
    ClassicLogits()(student, teacher, make_context(student)).backward()
    assert student.head("one2many").logits.grad.abs().sum() > 0
    assert all(x.grad is None for x in leaves(teacher))


def test_empty_region_is_zero_with_a_graph():
    student, teacher = make_view(1, grad=True), make_view(2)
    value = ClassicLogits()(student, teacher, make_context(student, region=torch.zeros(2, ANCHORS)))
    assert value == 0
    value.backward()
    assert (student.head("one2many").logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    student, teacher = (torch.randn(2, 1, 500, 80) * 12).to(dtype)
    value = classic_logits(student.requires_grad_(), teacher, torch.ones(1, 500))
    assert value.dtype == torch.float32
    wide = classic_logits(student.double(), teacher.double(), torch.ones(1, 500).double())
    torch.testing.assert_close(value.double(), wide, rtol=1e-2, atol=0)
    value.backward()
    assert student.grad.isfinite().all()


def test_errors():
    with pytest.raises(ShapeError, match="logits: student has shape"):
        classic_logits(torch.zeros(1, 4, 2), torch.zeros(1, 3, 2), torch.ones(1, 4))
    for wrong in (0.0, -1.0):
        with pytest.raises(ConfigError, match=f"temperature: must be > 0, got {wrong}; 2 is usual"):
            ClassicLogits(temperature=wrong)
    with pytest.raises(ConfigError, match="temperature: must be a finite number, got nan"):
        ClassicLogits(temperature=math.nan)
