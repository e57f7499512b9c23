from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError
from detkd.losses.binary import BinaryLogits, binary_logits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.classic import ClassicLogits
from detkd.losses.errors import ErrorOptions, error_weights, without_object
from detkd.losses.localization import Localization
from detkd.ops.boxes import iou
from detkd.types import Assignment, HeadOutput, Labels
from tests.losses.maps import make_labelled, make_labels
from tests.losses.views import ANCHORS, leaves, make_assignment, make_context, make_view

LOSSES = [BinaryLogits, ClassicLogits, BoxIoU, BoxL1, Localization]
OPTIONS = {"threshold": 0.6, "w_fp": 0.25, "w_fn": 3.0}


def scene() -> tuple[HeadOutput, Assignment]:
    """One label (0, 0, 10, 10) and six anchors; scores 0.9 or 0.1, boxes on the label or far away.

    Anchor: assigned, sees it | assigned, misses it | duplicate on the label | far away, fires | far away, quiet |
    overlaps by 4/10, fires. A second label is absent: the far boxes lie on it.
    """
    far, on = [50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 10.0]
    boxes = torch.tensor([[on, on, [0.0, 0, 10, 5], far, far, [0.0, 0, 10, 4]]])
    scores = torch.tensor([[0.9, 0.1, 0.9, 0.9, 0.1, 0.9]])
    logits = torch.stack((scores.logit(), torch.full_like(scores, -9.0)), -1)
    labels = Labels(torch.tensor([[on, far]]), torch.zeros(1, 2, dtype=torch.long), torch.tensor([[True, False]]))
    foreground = torch.tensor([[True, True, False, False, False, False]])
    assignment = Assignment(foreground, torch.zeros(1, 6, 2), torch.tensor(on).expand(1, 6, 4), labels)
    return HeadOutput(logits, boxes, boxes / 8), assignment


def weights(assignment, **options):
    teacher, _ = scene()
    return error_weights(teacher, assignment, **{"threshold": 0.25, "w_fp": 1.0, "w_fn": 1.0, **options}).tolist()[0]


def test_by_hand():
    """A box that overlaps by exactly 1/2 is on the object; one by 4/10 is not; an absent label is no object."""
    _, assignment = scene()
    assert weights(assignment, w_fp=0.0, w_fn=2.0) == [1, 2, 1, 0, 1, 0]
    assert weights(assignment, w_fp=3.0) == [1, 1, 1, 3, 1, 3]
    assert weights(assignment, w_fp=0.0, w_fn=0.0, threshold=0.95) == [0, 0, 1, 1, 1, 1]
    assert weights(assignment._replace(labels=None), w_fp=0.0) == [1, 1, 0, 0, 1, 0]  # responsibility alone decides
    assert weights(None, w_fp=0.0, w_fn=0.0) == [1] * 6


def test_the_threshold_itself_is_not_exceeded():
    teacher, assignment = scene()
    half = teacher._replace(logits=torch.zeros_like(teacher.logits))
    options = {"w_fp": 0.0, "w_fn": 5.0}
    assert error_weights(half, assignment, threshold=0.5, **options).tolist() == [[5, 5, 1, 1, 1, 1]]
    assert error_weights(half, assignment, threshold=0.49, **options).tolist() == [[1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_slow_reference(dtype):
    labels = make_labels(images=3)
    assignment, teacher = make_labelled(3, labels), make_view(2, images=3, dtype=dtype).head("one2many")
    teacher.boxes_xyxy[:, ::5] = labels.boxes_xyxy[:, :1].to(dtype) + 1  # some boxes are right
    expected = torch.ones(3, ANCHORS)
    for b in range(3):
        for a in range(ANCHORS):
            fires = teacher.logits[b, a].float().max().sigmoid() > 0.6
            overlaps = [float(iou(teacher.boxes_xyxy[b, a], box)) for box in labels.boxes_xyxy[b][labels.present[b]]]
            if assignment.foreground[b, a]:
                expected[b, a] = 1.0 if fires else 3.0
            elif fires and max(overlaps, default=0.0) < 0.5:
                expected[b, a] = 0.25
    assert {0.25, 1.0, 3.0} == set(expected.unique().tolist())
    found = error_weights(teacher, make_labelled(3, labels), **OPTIONS)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found.float(), expected)


def test_only_the_anchors_in_question_are_marked():
    teacher, assignment = scene()
    some = torch.tensor([[True, False, True, True, False, False]])
    assert without_object(teacher.boxes_xyxy, assignment, some).tolist() == [[False, False, False, True, False, False]]
    none = torch.zeros_like(some)
    assert not without_object(teacher.boxes_xyxy, assignment, none).any()
    empty = assignment.labels._replace(
        boxes_xyxy=torch.zeros(1, 0, 4), classes=torch.zeros(1, 0).long(), present=torch.zeros(1, 0).bool()
    )
    found = without_object(teacher.boxes_xyxy, assignment._replace(labels=empty), some)
    assert torch.equal(found, some & ~assignment.foreground)


@pytest.mark.parametrize("flags", [[True, False, True], [False, False, False]])
def test_images_without_labels_know_no_errors(flags):
    labelled = torch.tensor(flags)
    labels = make_labels(images=3)
    labels = labels._replace(present=labels.present & labelled[:, None])
    teacher = make_view(2, images=3).head("one2many")
    assignment = make_labelled(3, labels)
    assignment = assignment._replace(foreground=assignment.foreground & labelled[:, None])
    silent = error_weights(teacher, assignment, **OPTIONS)  # labelled, and there is no object
    assert ((silent == 0.25).any(1)).all()
    found = error_weights(teacher, assignment._replace(labelled=labelled), **OPTIONS)
    assert (found[~labelled] == 1).all()
    assert torch.equal(found[labelled], silent[labelled])


@pytest.mark.parametrize("kind", LOSSES)
def test_an_unlabelled_image_teaches_what_the_labels_can_not_contradict(kind):
    student, teacher = (make_view(seed, bins=5) for seed in (1, 2))
    blank = make_assignment(3, share=0.0)._replace(labelled=torch.tensor([False, False]))
    strict = kind(w_fp=0.0, w_fn=0.0, threshold=0.0)  # there is no anchor on which the teacher sees nothing
    assert strict(student, teacher, make_context(student, assignment=blank._replace(labelled=None))) == 0
    value = strict(student, teacher, make_context(student, assignment=blank))
    assert value > 0
    assert torch.equal(value, kind()(student, teacher, make_context(student, assignment=blank)))


def test_off_is_off():
    teacher, assignment = scene()
    assert ErrorOptions().factors(teacher, assignment) is None
    assert ErrorOptions(w_fp=0.0).factors(teacher, None) is None
    assert ErrorOptions(w_fp=0.0).factors(teacher, assignment).tolist() == [[1, 1, 1, 0, 1, 0]]


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_take_the_factors_and_keep_the_mass(kind):
    """The loss is linear in the anchors' factors: it equals a sum over the parts of the region, over the same mass."""
    student, teacher = (make_view(seed, dtype=torch.float64, bins=5) for seed in (1, 2))
    assignment = make_labelled(3, make_labels())
    factors = error_weights(teacher.head("one2many"), assignment, **OPTIONS)
    region = 20 * (torch.rand(2, ANCHORS, dtype=torch.float64) + 0.5)  # no part's mass is raised to 1

    def loss(region, **options):
        return kind(**options)(student, teacher, make_context(student, region=region, assignment=assignment))

    def mass(part):
        quality = teacher.head("one2many").logits.amax(-1).sigmoid()
        return (part * (1.0 if kind in (ClassicLogits, Localization) else quality)).sum()

    expected = 0.0
    for factor in factors.unique():
        part = region * (factors == factor)
        assert mass(part) > 1
        expected = expected + factor * loss(part) * mass(part) / mass(region)
    torch.testing.assert_close(loss(region, **OPTIONS), expected)
    assert loss(region, **OPTIONS) != loss(region)
    assert torch.equal(loss(region, threshold=0.6, w_fp=1.0, w_fn=1.0), loss(region))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("classes", [1, 5])
def test_gradients_and_edges(kind, classes):
    loss = kind(w_fp=0.0, w_fn=0.0)
    for labels in (None, make_assignment(3, classes=classes), make_assignment(3, classes=classes, share=0.0)):
        student, teacher = (make_view(seed, grad=True, bins=5, classes=classes) for seed in (1, 2))
        assert loss(teacher, teacher, make_context(student, assignment=labels)) == 0
        value = loss(student, teacher, make_context(student, assignment=labels))
        assert value.isfinite()
        value.backward()
        assert all(x.grad is None for x in [*leaves(teacher), teacher.head("one2many").dist])
    empty = make_context(student, region=torch.zeros(2, ANCHORS), assignment=make_assignment(3, classes=classes))
    assert loss(student, teacher, empty) == 0


def test_zero_ignores_the_teacher_at_its_false_positives():
    """No pull at all where it is wrong, the same pull as before elsewhere."""
    teacher, assignment = scene()
    student = torch.zeros_like(teacher.logits, requires_grad=True)
    ones = torch.ones(1, 6)
    plain, ignored = (
        torch.autograd.grad(binary_logits(student, teacher.logits, ones, factors=factors), student)[0]
        for factors in (None, ErrorOptions(w_fp=0.0).factors(teacher, assignment))
    )
    assert (ignored[0, [3, 5]] == 0).all()
    assert (plain[0, [3, 5]] != 0).all()
    assert torch.equal(ignored[0, [0, 1, 2, 4]], plain[0, [0, 1, 2, 4]])


@pytest.mark.parametrize("kind", LOSSES)
def test_errors(kind):
    for name, value, message in (
        ("w_fp", -1.0, "w_fp: must be >= 0, got -1.0; 0 ignores the teacher"),
        ("w_fn", math.inf, "w_fn: must be a finite number, got inf"),
        ("threshold", 25, r"threshold: must be in \[0, 1\], got 25; 0.25 is"),
    ):
        with pytest.raises(ConfigError, match=message):
            kind(**{name: value})
