from __future__ import annotations

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.errors import ShapeError
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.recipe import Recipe
from detkd.losses.regions import Everywhere
from detkd.models.distilled import DistilledDetector
from detkd.models.head import assigners, object_assigner
from detkd.models.objects import ObjectTeacher
from detkd.ops.anchors import anchor_points, boxes_to_distances, distances_to_boxes
from detkd.ops.boxes import has_area
from detkd.types import HeadOutput, View
from tests.inference.tiny import NAMES, tiny_model

STRIDES = (8, 16, 32)
IMGSZ = (64, 96)
BOXES = torch.tensor([[8.0, 8.0, 40.0, 56.0], [56.0, 16.0, 88.0, 48.0], [20.0, 4.0, 90.0, 60.0]])
PROBS = torch.tensor([[0.7, 0.2, 0.0, 0.1], [0.05, 0.1, 1.0, 0.0], [0.3, 0.31, 0.0, 0.2]])


def student_view(seed: int = 0, images: int = 3, near: torch.Tensor = BOXES) -> View:
    """A student that is roughly right: at each anchor, one of the boxes with some error."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = anchor_points([(IMGSZ[0] // s, IMGSZ[1] // s) for s in STRIDES], STRIDES)
    heads = {}
    for branch in ("one2many", "one2one"):
        which = torch.randint(len(near), (images, len(points)), generator=generator)
        boxes = near[which] + torch.randn(images, len(points), 4, generator=generator) * 4
        logits = torch.randn(images, len(points), len(NAMES), generator=generator) - 1
        distances = boxes_to_distances(boxes, points, strides)
        heads[branch] = HeadOutput(logits, distances_to_boxes(distances, points, strides), distances)
    return View(heads, points, strides, IMGSZ)


def soft_batch(images: list[int]) -> dict[str, torch.Tensor]:
    """The first, second, ... object in the image of that number."""
    boxes, probs = BOXES[: len(images)], PROBS[: len(images)]
    scale = torch.tensor([IMGSZ[1], IMGSZ[0]])
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2 / scale, (boxes[:, 2:] - boxes[:, :2]) / scale
    return {
        "soft_boxes": torch.cat((centre, size), dim=-1),
        "soft_probs": probs,
        "soft_quality": probs.amax(-1),
        "soft_idx": torch.tensor(images),
    }


def test_an_object_is_answered_at_the_anchors_a_label_would_get() -> None:
    student = student_view()
    answer = ObjectTeacher().answer(soft_batch([0, 0, 2]), student).head("one2many")
    assigner = object_assigner("one2many", len(NAMES), student.strides)
    labels = torch.tensor([[[0.0], [2.0]], [[0.0], [0.0]], [[1.0], [0.0]]])
    boxes = torch.stack((BOXES[:2], torch.zeros(2, 4), torch.stack((BOXES[2], torch.zeros(4)))))
    head = student.head("one2many")
    mask = (boxes.sum(-1, keepdim=True) > 0).float()
    _, target_boxes, scores, chosen, owner = assigner(
        head.logits.sigmoid(), head.boxes_xyxy, student.anchor_points * student.strides, labels, boxes, mask
    )
    assert torch.equal(answer.known, chosen)
    assert answer.known.any(1).tolist() == [True, False, True]
    torch.testing.assert_close(answer.boxes_xyxy[answer.known], target_boxes[chosen], rtol=1e-5, atol=1e-4)
    # By hand: the share of the best target of the object, times the object's vector.
    for image, objects in ((0, (0, 1)), (2, (2,))):
        for position, number in enumerate(objects):
            mine = chosen[image] & (owner[image] == position)
            share = scores[image][mine].sum(-1) / scores[image][mine].sum(-1).max()
            expected = (share[:, None] * PROBS[number]).clamp(1e-4, 1 - 1e-4)
            torch.testing.assert_close(answer.logits[image][mine].sigmoid(), expected)
            assert share.max() == 1
            assert len(share.unique()) > 1


def test_unknown_anchors_are_empty_and_below_every_answer() -> None:
    student = student_view()
    view = ObjectTeacher().answer(soft_batch([0, 0, 2]), student)
    for head in view.heads.values():
        away = ~head.known
        assert torch.equal(head.logits[away], torch.full_like(head.logits[away], -20.0))
        assert not has_area(head.boxes_xyxy[away]).any()
        assert has_area(head.boxes_xyxy[head.known]).all()
        assert head.logits[head.known].min() > -10
        points = student.anchor_points.expand(3, -1, 2)[head.known]
        strides = student.strides.expand(3, -1, 1)[head.known]
        decoded = distances_to_boxes(head.distances[head.known], points, strides)
        torch.testing.assert_close(decoded, head.boxes_xyxy[head.known])


def test_one2one_gets_each_object_once_at_the_anchor_the_native_loss_takes() -> None:
    student = student_view(3)
    model = tiny_model()
    model.args = get_cfg()
    native = assigners(model.init_criterion())["one2one"]
    answer = ObjectTeacher().answer(soft_batch([0, 0, 2]), student).head("one2one")
    head = student.head("one2one")
    boxes = torch.stack((BOXES[:2], torch.zeros(2, 4), torch.stack((BOXES[2], torch.zeros(4)))))
    _, _, _, chosen, _ = native(
        head.logits.sigmoid(),
        head.boxes_xyxy,
        student.anchor_points * student.strides,
        torch.tensor([[[0.0], [2.0]], [[0.0], [0.0]], [[1.0], [0.0]]]),
        boxes,
        (boxes.sum(-1, keepdim=True) > 0).float(),
    )
    said = answer.logits.amax(-1).sigmoid() > 0.1
    assert torch.equal(said, chosen)
    assert said.sum(1).tolist() == [2, 0, 1]
    # The runners-up are known as well: nothing is there.
    silent = answer.known & ~said
    assert silent.sum(1)[0] > 2
    torch.testing.assert_close(answer.logits[silent].sigmoid(), torch.full_like(answer.logits[silent], 1e-4))


def test_equal_anchors_do_not_teach_a_duplicate() -> None:
    student = student_view()
    points, strides = student.anchor_points, student.strides
    boxes = BOXES[0].expand(1, len(points), 4)
    head = HeadOutput(torch.zeros(1, len(points), 4), boxes, boxes_to_distances(boxes, points, strides))
    student = student._replace(heads={"one2one": head})
    answer = ObjectTeacher().answer(soft_batch([0]), student).head("one2one")
    assert int(answer.known.sum()) == 7
    assert int((answer.logits.amax(-1).sigmoid() > 0.1).sum()) == 1


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
def test_candidates_are_those_of_the_native_loss(config: str) -> None:
    model = tiny_model(config)
    model.args = get_cfg()
    strides = torch.tensor([8.0] * 64 + [16.0] * 16 + [32.0] * 4)[:, None]
    for branch, native in assigners(model.init_criterion()).items():
        ours = object_assigner(branch, len(NAMES), strides)
        for name in ("topk", "num_classes", "alpha", "beta", "stride", "stride_val", "eps"):
            assert getattr(ours, name) == getattr(native, name), f"{branch}: {name}"
        assert native.topk2 == (1 if branch == "one2one" else native.topk)


def test_without_objects_nothing_is_known() -> None:
    student = student_view()
    for batch in ({}, soft_batch([])):
        view = ObjectTeacher().to(torch.device("cpu")).answer(batch, student)
        assert view.heads.keys() == student.heads.keys()
        for branch, head in view.heads.items():
            assert not head.known.any()
            assert head.logits.shape == student.head(branch).logits.shape
            assert head.boxes_xyxy.shape == head.distances.shape == student.head(branch).boxes_xyxy.shape
            assert head.dist is None
        assert view.feats is None


def test_objects_the_student_is_nowhere_near_or_without_area_are_left_out() -> None:
    far = student_view(near=torch.tensor([[200.0, 200.0, 240.0, 240.0]]))
    for head in ObjectTeacher().answer(soft_batch([0, 1, 2]), far).heads.values():
        assert not head.known.any()
    flat = soft_batch([0, 1, 2])
    flat["soft_boxes"][1, 2] = 0
    for head in ObjectTeacher().answer(flat, student_view()).heads.values():
        assert head.known.any(1).tolist() == [True, False, True]


def test_an_object_that_some_answers_missed_counts_less() -> None:
    """The first object was seen by one answer of two: half its score, and half of each class. The second by both."""
    student = student_view()
    batch = soft_batch([0, 1])
    whole = ObjectTeacher().answer(batch, student).head("one2many")
    batch["soft_quality"] = torch.tensor([0.35, 1.0])
    half = ObjectTeacher().answer(batch, student).head("one2many")
    assert torch.equal(half.known, whole.known)
    assert torch.equal(half.boxes_xyxy, whole.boxes_xyxy)
    seen = whole.logits[0][whole.known[0]].sigmoid()
    expected = (seen / 2).where(seen > 1e-3, seen)  # a probability of 0 stays at the floor
    torch.testing.assert_close(half.logits[0][half.known[0]].sigmoid(), expected)
    assert half.logits[0].amax().sigmoid() == pytest.approx(0.35)
    assert torch.equal(half.logits[1], whole.logits[1])
    batch["soft_quality"] = torch.tensor([0.9, 1.0])  # never raises a score
    assert torch.equal(ObjectTeacher().answer(batch, student).head("one2many").logits, whole.logits)


def test_order_of_objects_within_a_batch_does_not_matter() -> None:
    student = student_view()
    straight = soft_batch([0, 2, 2])
    turned = {key: value.flip(0) for key, value in straight.items()}
    for branch in student.heads:
        one, other = (ObjectTeacher().answer(batch, student).head(branch) for batch in (straight, turned))
        assert torch.equal(one.known, other.known)
        torch.testing.assert_close(one.logits, other.logits)
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy)


def test_other_classes_are_refused() -> None:
    batch = soft_batch([0])
    batch["soft_probs"] = batch["soft_probs"][:, :3]
    with pytest.raises(ShapeError, match="soft_probs: the teacher's objects have 3 classes, the student has 4; build"):
        ObjectTeacher().answer(batch, student_view())


def test_a_student_that_answers_like_the_objects_has_nothing_to_learn() -> None:
    batch = soft_batch([0, 1, 2])
    student = student_view()
    teacher = ObjectTeacher().answer(batch, student)
    # The assignment depends on the student, so what it is compared with is kept.
    same = student._replace(heads={name: head._replace(known=None) for name, head in teacher.heads.items()})
    terms = {"cls": {"loss": BinaryLogits()}, "giou": {"loss": BoxIoU()}, "l1": {"loss": BoxL1()}}
    recipe = Recipe.from_parts(terms, region=Everywhere())
    total, _ = recipe(same, teacher, {}, 0.5, {"one2many": 1.0, "one2one": 1.0})
    assert float(total) == pytest.approx(0, abs=1e-6)
    total, items = recipe(student, teacher, {}, 0.5, {"one2many": 1.0, "one2one": 1.0})
    assert all(float(value) > 0 for value in items.values())


def train_steps(*, objects: bool, steps: int) -> tuple[float, float]:
    """Train both heads on unlabelled images; return the first and the last distance of the boxes."""
    model = tiny_model(seed=1)
    model.args = get_cfg()
    model.requires_grad_(True)
    terms = {"cls": {"loss": BinaryLogits()}, "giou": {"loss": BoxIoU(), "weight": 2.5}}
    recipe = Recipe.from_parts(terms, alpha=0.0, region=Everywhere(), heads={"one2one": 1.0})
    wrapped = DistilledDetector(model, ObjectTeacher(), recipe)
    wrapped.probe(64, 64)
    wrapped.train()
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "cls": torch.zeros(0, 1),
        "bboxes": torch.zeros(0, 4),
        "batch_idx": torch.zeros(0),
        "labelled": torch.tensor([False, False]),
    }
    if objects:
        box = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.4, 0.6, 0.6, 0.5]])
        probs = torch.tensor([[0.9, 0.05, 0.0, 0.0], [0.0, 0.0, 0.1, 0.8]])
        objects_of = {"soft_boxes": box, "soft_probs": probs, "soft_quality": probs.amax(-1)}
        batch |= {**objects_of, "soft_idx": torch.tensor([0, 1])}
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    values = []
    for _ in range(steps):
        loss, items = wrapped.loss(batch)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        values.append(float(items["kd_giou"] + items["kd_giou_o2o"]))
    return values[0], values[-1]


def test_unlabelled_images_teach_through_their_objects_and_only_through_them() -> None:
    first, last = train_steps(objects=True, steps=15)
    assert 0 < last < 0.7 * first
    assert train_steps(objects=False, steps=2) == (0.0, 0.0)
