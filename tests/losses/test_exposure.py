from __future__ import annotations

import pytest
import torch

from detkd.errors import ConfigError
from detkd.losses.binary import BinaryLogits
from detkd.losses.exposure import StudentErrors, false_alarms
from detkd.losses.regions import TeacherTop, teacher_quality, top_anchors
from detkd.ops.boxes import iou
from tests.losses.maps import make_labelled, make_labels
from tests.losses.views import ANCHORS, make_assignment, make_context, make_view


def quiet_student(firing: dict[tuple[int, int], float], classes: int = 5):
    """A student that scores 0.001 everywhere but at these (image, anchor)."""
    view = make_view(1, classes=classes)
    head = view.head("one2many")
    logits = torch.full_like(head.logits, -6.9)
    for (image, anchor), score in firing.items():
        logits[image, anchor, 0] = torch.tensor(score).logit()
    return view._replace(heads={"one2many": head._replace(logits=logits)})


def test_by_hand():
    """The student fires at four anchors: one assigned, one on a label, one nowhere, one too faint to count."""
    student = quiet_student({(0, 3): 0.9, (0, 4): 0.8, (0, 5): 0.7, (1, 6): 0.15})
    labels = make_labels()
    assignment = make_assignment(3, share=0.0)._replace(labels=labels)
    assignment.foreground[0, 3] = True
    boxes = student.head("one2many").boxes_xyxy
    boxes[0, 4] = labels.boxes_xyxy[0, 0] + 1
    boxes[0, 5] = torch.tensor([0.0, 0, 3, 3])
    context = make_context(student, assignment=assignment)
    found = false_alarms(student, context, threshold=0.2, fraction=0.5)
    assert found.nonzero().tolist() == [[0, 5]]
    assert false_alarms(student, context, threshold=0.1, fraction=0.5).nonzero().tolist() == [[0, 5], [1, 6]]
    everywhere = false_alarms(student, context._replace(assignment=None), threshold=0.2, fraction=0.5)
    assert everywhere.nonzero().tolist() == [[0, 3], [0, 4], [0, 5]]  # no labels: the teacher judges all of them
    two = false_alarms(student, context._replace(assignment=None), threshold=0.2, fraction=2 / ANCHORS)
    assert two.nonzero().tolist() == [[0, 3], [0, 4]]


def test_slow_reference():
    student, labels = make_view(1, images=3), make_labels(images=3)
    assignment = make_labelled(3, labels)
    head = student.head("one2many")
    head.boxes_xyxy[:, ::4] = labels.boxes_xyxy[:, :1] + 1
    expected = torch.zeros(3, ANCHORS, dtype=torch.bool)
    top = top_anchors(teacher_quality(head.logits), 0.4)
    for b in range(3):
        for a in range(ANCHORS):
            overlaps = [float(iou(head.boxes_xyxy[b, a], box)) for box in labels.boxes_xyxy[b][labels.present[b]]]
            fires = head.logits[b, a].max().sigmoid() >= 0.7 and top[b, a] > 0
            expected[b, a] = bool(fires) and not assignment.foreground[b, a] and max(overlaps, default=0.0) < 0.5
    found = false_alarms(student, make_context(student, assignment=assignment), threshold=0.7, fraction=0.4)
    assert 0 < expected.sum() < top.sum()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("base", [1.0, 0.5])
@pytest.mark.parametrize("assigned", [True, False])
def test_adds_errors_to_the_usual_anchors(base, assigned):
    student, teacher = make_view(1), make_view(2)
    context = make_context(student, assignment=make_labelled(3, make_labels()))
    usual = TeacherTop(0.1, assigned)(student, teacher, context)
    wrong = false_alarms(student, context, threshold=0.6, fraction=0.3)
    region = StudentErrors(0.1, 0.6, 0.3, base, assigned)
    found = region(student, teacher, context)
    assert torch.equal(found, torch.where(wrong, torch.ones(2, ANCHORS), usual * base))
    assert (found > 0).sum() > (usual > 0).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 5])
def test_constant_in_range_and_shaped(dtype, classes):
    student, teacher = (make_view(seed, dtype=dtype, grad=True, classes=classes) for seed in (1, 2))
    region = StudentErrors(threshold=0.5)
    for labels in (None, make_assignment(3, classes=classes), make_labelled(3, make_labels(), classes)):
        weights = region(student, teacher, make_context(student, assignment=labels))
        assert weights.shape == (2, ANCHORS)
        assert weights.dtype == torch.float32
        assert not weights.requires_grad
        assert weights.min() >= 0
        assert weights.max() <= 1


def test_a_quiet_student_leaves_the_usual_region():
    student, teacher = quiet_student({}), make_view(2)
    for labels in (None, make_labelled(3, make_labels())):
        context = make_context(student, assignment=labels)
        assert torch.equal(StudentErrors(0.1)(student, teacher, context), TeacherTop(0.1)(student, teacher, context))


def test_pulls_a_false_alarm_down():
    """The teacher is quiet at an anchor where the student fires: only this region teaches it so."""
    student = quiet_student({(0, 5): 0.9})
    teacher = quiet_student({(0, 9): 0.9})
    context = make_context(student, assignment=make_assignment(3, share=0.0))
    head = student.head("one2many")
    head.logits.requires_grad_()
    pulls = []
    for region in (TeacherTop(1 / ANCHORS), StudentErrors(1 / ANCHORS)):
        weights = region(student, teacher, context)
        (pull,) = torch.autograd.grad(BinaryLogits()(student, teacher, context._replace(region=weights)), head.logits)
        pulls.append(pull)
    assert (pulls[0][0, 5] == 0).all()
    assert pulls[1][0, 5, 0] > 0.1
    torch.testing.assert_close(pulls[1][0, 9], pulls[0][0, 9], rtol=2e-2, atol=0)  # hardly diluted


def test_errors():
    for options, message in (
        ({"fraction": 0.0}, "fraction: must be > 0, got 0.0"),
        ({"threshold": 1.5}, r"threshold: must be in \[0, 1\], got 1.5"),
        ({"most": 0}, "most: must be > 0, got 0; 0.01 adds"),
        ({"base": 2.0}, r"base: must be .*1\], got 2.0"),
        ({"base": 0.0}, "base: must be > 0, got 0.0; 1 weighs"),
    ):
        with pytest.raises(ConfigError, match=message):
            StudentErrors(**options)
