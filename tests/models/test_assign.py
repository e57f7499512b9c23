from __future__ import annotations

import functools
from typing import Any

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.errors import ConfigError, ShapeError
from detkd.models.assign import assign_by, teacher_share
from detkd.models.head import AssignmentRecorder, assigners
from detkd.ops.anchors import anchor_points, distances_to_boxes
from detkd.ops.boxes import ciou
from detkd.types import HeadOutput, View
from tests.inference.tiny import tiny_model

BRANCHES = ("one2many", "one2one")
BOXES = [[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 60.0, 60.0]]


@functools.cache
def model_of(config: str) -> Any:
    model = tiny_model(config)
    model.args = get_cfg()
    return model


def criterion(config: str = "yolo26n.yaml") -> Any:
    return model_of(config).init_criterion()


def answers(seed: int, branches: tuple[str, ...] = BRANCHES, images: int = 2) -> View:
    """Random scores and boxes of about the labels' size, on the anchors of an image of 64 x 64 pixels."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = anchor_points([(8, 8), (4, 4), (2, 2)], (8, 16, 32), like=torch.zeros(0))
    heads = {}
    for branch in branches:
        logits = 2 * torch.randn(images, len(points), 4, generator=generator)
        distances = (4 + 20 * torch.rand(images, len(points), 4, generator=generator)) / strides
        heads[branch] = HeadOutput(logits, distances_to_boxes(distances, points, strides), distances)
    return View(heads, points, strides, (64, 64))


def labels(images: int = 2) -> tuple[torch.Tensor, ...]:
    """Two objects in each image but the last, which has one: classes (B, M, 1), corners (B, M, 4), present."""
    number = torch.tensor([[1.0], [2.0]]).repeat(images, 1, 1)
    boxes = torch.tensor(BOXES).repeat(images, 1, 1)
    present = torch.ones(images, 2, 1)
    for part in (number, boxes, present):
        part[-1, 1] = 0
    return number, boxes, present


def assign(assigner: Any, view: View, branch: str, objects: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    head = view.heads[branch]
    return assigner(head.logits.sigmoid(), head.boxes_xyxy, view.anchor_points * view.strides, *objects)


def metric(view: View, branch: str, image: int, j: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Alignment and overlap of object j with the anchors whose centre lies in it, 0 elsewhere, in float64."""
    head = view.heads[branch]
    number, boxes, _ = labels()
    label = boxes[image, j].double()
    overlap = ciou(head.boxes_xyxy[image].double(), label.expand_as(head.boxes_xyxy[image])).clamp(min=0)
    score = head.logits[image, :, int(number[image, j])].double().sigmoid()
    centres = (view.anchor_points * view.strides).double()
    inside = ((centres > label[:2]) & (centres < label[2:])).all(-1)
    return score.sqrt() * overlap**6 * inside, overlap * inside


def same(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    """Whether foreground, targets and the boxes of the foreground agree."""
    return bool(
        torch.equal(first[3], second[3])
        and torch.equal(first[2], second[2])
        and torch.equal(first[1][first[3]], second[1][second[3]])
    )


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
def test_shares_0_and_1_are_the_assignments_of_one_side(config: str) -> None:
    loss, student, teacher, objects = criterion(config), answers(1), answers(2), labels()
    for branch, assigner in assigners(loss).items():
        by_student, by_teacher = (assign(assigner, view, branch, objects) for view in (student, teacher))
        assert not same(by_student, by_teacher)
        with assign_by(loss, teacher, 1.0):
            assert same(assign(assigner, student, branch, objects), by_teacher)
        with assign_by(loss, teacher, 0.0):
            assert same(assign(assigner, student, branch, objects), by_student)
        assert same(assign(assigner, student, branch, objects), by_student)  # as it was before


def test_a_mixture_ranks_by_the_mixed_alignment() -> None:
    """One object alone in an image: its 10 (or the 1 of 7) best of m, with targets m / max m * max overlap."""
    loss, student, teacher, k = criterion(), answers(1), answers(2), 0.3
    for branch, count in (("one2many", 10), ("one2one", 1)):
        with assign_by(loss, teacher, k):
            _, _, scores, chosen, _ = assign(assigners(loss)[branch], student, branch, labels())  # type: ignore[index]
        (m_s, o_s), (m_t, o_t) = (metric(view, branch, 1, 0) for view in (student, teacher))
        m, overlap = (1 - k) * m_s + k * m_t, (1 - k) * o_s + k * o_t
        best = m.topk(count).indices
        assert set(chosen[1].nonzero()[:, 0].tolist()) == set(best.tolist())
        assert set(best.tolist()) != set(m_s.topk(count).indices.tolist())
        expected = m[best] / m[best].max() * overlap[best].max()
        torch.testing.assert_close(scores[1, best, 1].double(), expected, rtol=1e-4, atol=1e-6)
        assert not scores[1, :, [0, 2, 3]].any()


@pytest.mark.parametrize("mix", [0.5, 1.0])
def test_objects_of_a_class_the_teacher_does_not_know_keep_the_students_choice(mix: float) -> None:
    loss, student, teacher, objects = criterion(), answers(1), answers(2), labels()
    unknown = torch.tensor([True, False, True, True])
    part = {name: head._replace(classes=unknown) for name, head in teacher.heads.items()}
    with assign_by(loss, teacher._replace(heads=part), mix):
        mixed = assign(loss.one2many.assigner, student, "one2many", objects)
    by_student = assign(loss.one2many.assigner, student, "one2many", objects)
    # Image 1 has an object of class 1 alone.
    assert torch.equal(mixed[3][1], by_student[3][1])
    assert torch.equal(mixed[2][1], by_student[2][1])
    assert not torch.equal(mixed[3][0], by_student[3][0])


def test_anchors_without_an_answer_of_the_teacher_are_not_its_choice() -> None:
    loss, student, teacher, objects = criterion(), answers(1), answers(2), labels()
    with assign_by(loss, teacher, 1.0):
        chosen = assign(loss.one2one.assigner, student, "one2one", objects)[3]
    known = ~chosen
    part = {name: head._replace(known=known) for name, head in teacher.heads.items()}
    with assign_by(loss, teacher._replace(heads=part), 1.0):
        again = assign(loss.one2one.assigner, student, "one2one", objects)[3]
    assert again.any()
    assert not (again & chosen).any()
    nowhere = {name: head._replace(known=torch.zeros_like(known)) for name, head in teacher.heads.items()}
    with assign_by(loss, teacher._replace(heads=nowhere), 1.0):
        mixed = assign(loss.one2one.assigner, student, "one2one", objects)
    assert same(mixed, assign(loss.one2one.assigner, student, "one2one", objects))


def test_a_head_the_teacher_lacks_keeps_the_students_assignment() -> None:
    loss, student, teacher, objects = criterion(), answers(1), answers(2, ("one2many",)), labels()
    plain = {branch: assign(assigner, student, branch, objects) for branch, assigner in assigners(loss).items()}
    with assign_by(loss, teacher, 1.0):
        mixed = {branch: assign(assigner, student, branch, objects) for branch, assigner in assigners(loss).items()}
    assert same(mixed["one2one"], plain["one2one"])
    assert not same(mixed["one2many"], plain["one2many"])


def test_images_one_at_a_time_after_a_full_memory() -> None:
    """The native assigner then works image by image, and must find each image's own teacher."""
    loss, student, teacher, objects = criterion(), answers(1), answers(2), labels()
    assigner = loss.one2many.assigner
    native = assigner._forward

    def full(scores: torch.Tensor, *args: Any, **more: Any) -> Any:
        if len(scores) > 1:
            raise RuntimeError("CUDA out of memory")
        return native(scores, *args, **more)

    with assign_by(loss, teacher, 0.7):
        whole = assign(assigner, student, "one2many", objects)
        assigner._oom_warned = True
        assigner._forward = full
        parts = assign(assigner, student, "one2many", objects)
    assert same(whole, parts)


@pytest.mark.parametrize("fails", [False, True])
def test_the_assigners_are_left_as_they_were(fails: bool) -> None:
    loss = criterion()
    before = {branch: dict(vars(assigner)) for branch, assigner in assigners(loss).items()}
    try:
        with assign_by(loss, answers(2), 1.0):
            assert all("get_box_metrics" in vars(assigner) for assigner in assigners(loss).values())
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    for branch, assigner in assigners(loss).items():
        assert vars(assigner).keys() == before[branch].keys()
        assert not assigner._forward_pre_hooks
        assert not assigner._forward_pre_hooks_with_kwargs


def test_the_detection_loss_learns_from_the_teachers_assignment() -> None:
    """Through the whole native loss, recorded; without labels there is nothing to assign."""
    model = tiny_model(seed=1).train().requires_grad_(True)
    model.args = get_cfg()
    model.criterion = model.init_criterion()
    images, teacher = torch.rand(2, 3, 64, 64), answers(2)
    batch = {
        "img": images,
        "cls": torch.tensor([[1.0], [2.0], [1.0]]),
        "bboxes": torch.tensor([[0.375, 0.375, 0.5, 0.5], [0.703125, 0.625, 0.46875, 0.625], [0.375, 0.375, 0.5, 0.5]]),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
    }
    with assign_by(model.criterion, teacher, 1.0), AssignmentRecorder(model.criterion) as recorder:
        loss, _ = model.loss(batch)
    taken = recorder.take()
    for branch in BRANCHES:
        expected = assign(assigners(model.criterion)[branch], teacher, branch, labels())  # type: ignore[index]
        assert torch.equal(taken[branch].foreground, expected[3])  # type: ignore[index]
        torch.testing.assert_close(taken[branch].scores, expected[2].float())  # type: ignore[index]
    loss.sum().backward()
    assert not any(p.grad is not None and not p.grad.isfinite().all() for p in model.parameters())
    empty = {"img": images, "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4), "batch_idx": torch.zeros(0)}
    with assign_by(model.criterion, teacher, 1.0), AssignmentRecorder(model.criterion) as recorder:
        assert model.loss(empty)[0].isfinite().all()
    assert not recorder.take()["one2many"].foreground.any()


def test_half_precision_keeps_the_assigners_types() -> None:
    loss, student, teacher, objects = criterion(), answers(1), answers(2), labels()
    head = student.heads["one2many"]
    half = student._replace(heads={**student.heads, "one2many": head._replace(logits=head.logits.half())})
    plain = assign(loss.one2many.assigner, half, "one2many", objects)
    with assign_by(loss, teacher, 0.5):
        mixed = assign(loss.one2many.assigner, half, "one2many", objects)
    assert [x.dtype for x in mixed] == [x.dtype for x in plain]
    assert mixed[2].isfinite().all()


def test_share_of_the_teacher_over_the_run() -> None:
    assert [teacher_share("student", x) for x in (0.0, 0.5, 1.0)] == [0.0, 0.0, 0.0]
    assert [teacher_share("teacher", x) for x in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    assert [teacher_share("mixed", x) for x in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([1.0, 0.75, 0.5, 0.0])


def test_errors() -> None:
    loss, student, objects = criterion(), answers(1), labels()
    for mix in (-0.1, 1.5):
        with pytest.raises(ConfigError, match=r"mix: must be in \[0, 1\]"), assign_by(loss, student, mix):
            pass
    with (
        assign_by(loss, answers(2, images=1), 0.5),
        pytest.raises(ShapeError, match=r"sees answers of shape \(2, 84, 4\), the teacher gave \(1, 84, 4\)"),
    ):
        assign(loss.one2many.assigner, student, "one2many", objects)
    with pytest.raises(ConfigError, match=r"distill.assignment: unknown choice, got 'both'; use one of student"):
        teacher_share("both", 0.0)
