"""Several live teachers that answer as one."""

from __future__ import annotations

import math

import detkd.environment

import pytest
import torch
from torch import Tensor

from detkd.errors import ConfigError, PairError
from detkd.models.ensemble import EnsembleTeacher, merge_heads
from detkd.models.teacher import LiveTeacher
from detkd.ops.anchors import distances_to_boxes
from detkd.types import HeadOutput
from tests.inference.tiny import NAMES, tiny_model
from tests.losses.views import ANCHORS, make_view
from tests.models.test_teacher import images, look

CPU = torch.device("cpu")


def members(*seeds: int, config: str = "yolo26n.yaml", **more: object) -> list[LiveTeacher]:
    return [LiveTeacher(tiny_model(config, seed=seed), NAMES, **more) for seed in seeds]  # type: ignore[arg-type]


def merge(heads: list[HeadOutput], weights: list[float]) -> HeadOutput:
    view = make_view(0)
    return merge_heads(heads, weights, view.anchor_points, view.strides)


def test_worked_by_hand() -> None:
    """One anchor, two classes, weights 1 and 3; the centre of the cell is (4, 4) pixels."""
    points, strides = torch.tensor([[0.5, 0.5]]), torch.tensor([[8.0]])

    def said(probs: list[float], distances: list[float]) -> HeadOutput:
        d = torch.tensor([[distances]])
        return HeadOutput(torch.tensor([[probs]]).logit(), distances_to_boxes(d, points, strides), d)

    merged = merge_heads([said([0.8, 0.1], [1, 1, 1, 1]), said([0.4, 0.3], [2, 2, 2, 2])], [1.0, 3.0], points, strides)
    torch.testing.assert_close(merged.logits.sigmoid(), torch.tensor([[[0.5, 0.25]]]))
    # Say in the box: 1 * 0.8 and 3 * 0.4, so (0.8 * 1 + 1.2 * 2) / 2 = 1.6 cells to each side.
    torch.testing.assert_close(merged.distances, torch.full((1, 1, 4), 1.6))
    torch.testing.assert_close(merged.boxes_xyxy, torch.tensor([[[-8.8, -8.8, 16.8, 16.8]]]))
    assert merged.known is None
    assert merged.classes is None


def slow(heads: list[HeadOutput], weights: list[float]) -> tuple[list[float], list[float], list[bool]]:
    """Anchor by anchor and class by class in float64."""
    probs, sides, known = [], [], []
    images, anchors, classes = heads[0].logits.shape
    reach = [any(h.classes is None or bool(h.classes[c]) for h in heads) for c in range(classes)]
    for b in range(images):
        for a in range(anchors):
            say, complete = [0.0] * len(heads), True
            for c in range(classes):
                total = mass = 0.0
                for m, head in enumerate(heads):
                    here = head.known is None or bool(head.known[b, a])
                    if here and (head.classes is None or bool(head.classes[c])):
                        p = 1 / (1 + math.exp(-float(head.logits[b, a, c])))
                        total, mass = total + weights[m] * p, mass + weights[m]
                        say[m] = max(say[m], weights[m] * p)
                probs.append(total / mass if mass else 0.0)
                complete = complete and (mass > 0 or not reach[c])
            known.append(complete)
            say = say if sum(say) else [1.0] * len(heads)
            for k in range(4):
                sides.append(sum(s * float(h.distances[b, a, k]) for s, h in zip(say, heads, strict=True)) / sum(say))
    return probs, sides, known


@pytest.mark.parametrize("partial", [False, True])
def test_like_a_slow_loop(partial: bool) -> None:
    heads = [make_view(seed, classes=3).head("one2many") for seed in (1, 2, 3)]
    if partial:
        generator = torch.Generator().manual_seed(7)
        masks = [torch.rand(2, ANCHORS, generator=generator) < 0.6 for _ in range(2)]
        heads = [
            heads[0]._replace(classes=torch.tensor([True, False, False]), known=masks[0]),
            heads[1]._replace(classes=torch.tensor([True, True, False])),
            heads[2]._replace(classes=torch.tensor([True, True, False]), known=masks[1]),
        ]
    weights = [0.5, 2.0, 1.0]
    merged = merge(heads, weights)
    probs, sides, known = slow(heads, weights)
    assert merged.logits.dtype == torch.float32
    torch.testing.assert_close(merged.logits.sigmoid().flatten(), torch.tensor(probs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged.distances.flatten(), torch.tensor(sides), rtol=1e-5, atol=1e-5)
    if not partial:
        assert merged.known is None
        return
    assert merged.classes is not None
    assert merged.classes.tolist() == [True, True, False]
    assert merged.known is not None
    assert merged.known.flatten().tolist() == known


def test_anchors_that_nobody_can_fully_judge_are_not_known() -> None:
    first, second = (make_view(seed, classes=2).head("one2many") for seed in (1, 2))
    known = torch.zeros(2, ANCHORS, dtype=torch.bool)
    known[:, 3] = True
    first = first._replace(classes=torch.tensor([True, False]))
    second = second._replace(classes=torch.tensor([False, True]), known=known)
    merged = merge([first, second], [1.0, 1.0])
    assert merged.known is not None
    assert torch.equal(merged.known, known)  # elsewhere nobody can say whether there is the second class
    nothing = [head._replace(known=torch.zeros_like(known)) for head in (first, second)]
    merged = merge(nothing, [1.0, 1.0])
    assert merged.known is not None
    assert not merged.known.any()
    assert bool(merged.distances.isfinite().all())
    assert bool((merged.logits == -20).all())


def test_teachers_who_agree_are_one_teacher() -> None:
    head = make_view(1).head("one2many")
    extreme = head._replace(logits=head.logits * 20)  # beyond what a probability in float32 can hold
    merged = merge([extreme, extreme], [1.0, 2.0])
    torch.testing.assert_close(merged.logits, extreme.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged.boxes_xyxy, extreme.boxes_xyxy)
    assert merge([head], [1.0]) is head


def test_half_precision_and_one_class() -> None:
    view = make_view(1, classes=1, dtype=torch.float16)
    merged = merge_heads([view.head("one2many")] * 2, [1, 1], view.anchor_points, view.strides)
    assert merged.logits.dtype == merged.boxes_xyxy.dtype == torch.float32
    assert merged.logits.shape == (2, ANCHORS, 1)
    torch.testing.assert_close(merged.logits, view.head("one2many").logits.float(), rtol=1e-3, atol=1e-3)


def answers(teachers: list[LiveTeacher], weights: list[float], size: int = 64) -> tuple[Tensor, HeadOutput]:
    batch = {"img": images()}
    if size != 64:
        batch["img_teacher"] = images(size)
    view = EnsembleTeacher(list(zip(teachers, weights, strict=True))).to(CPU).answer(batch, look())
    assert view.feats is not None
    return view.feats[0], view.head("one2many")


def test_one_member_with_all_the_say_is_that_member() -> None:
    feats, merged = answers(members(2, 3), [1e6, 1e-6])
    alone = members(2)[0].answer({"img": images()}, look())
    torch.testing.assert_close(merged.logits, alone.head("one2many").logits, rtol=1e-4, atol=1e-4)
    assert alone.feats is not None
    assert torch.equal(feats, alone.feats[0])


def test_by_class() -> None:
    cars, rest = members(2, classes=["car"])[0], members(3, classes=["person", "truck"])[0]
    teacher = EnsembleTeacher([(cars, 1.0), (rest, 5.0)])
    batch, student = {"img": images()}, look()
    assert teacher.classes is not None
    assert teacher.classes.tolist() == [True, True, True, False]
    assert teacher.branches == ("one2many", "one2one")
    view = teacher.answer(batch, student)
    for branch in teacher.branches:
        first, second = (member.answer(batch, student).heads[branch].logits for member in (cars, rest))
        merged = view.heads[branch]
        torch.testing.assert_close(merged.logits[..., 1], first[..., 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(merged.logits[..., [0, 2]], second[..., [0, 2]], rtol=1e-4, atol=1e-4)
        assert merged.classes is not None
        assert merged.classes.tolist() == [True, True, True, False]


def test_members_of_different_families_and_sizes() -> None:
    small = members(2, imgsz=64)[0]
    large = LiveTeacher(tiny_model("yolov8n.yaml", seed=3), NAMES, imgsz=128, nms_conf=0.12)
    batch, student = {"img": images(), "img_teacher": images(128)}, look()
    teacher = EnsembleTeacher([(small, 1.0), (large, 1.0)])
    view = teacher.answer(batch, student)
    assert set(view.heads) == {"one2many", "one2one"}
    both = [member.answer(batch, student).head("one2many").logits.sigmoid() for member in (small, large)]
    torch.testing.assert_close(view.head("one2many").logits.sigmoid(), (both[0] + both[1]) / 2, rtol=1e-4, atol=1e-5)
    # Where the second has no object, the first alone speaks for the NMS-free head.
    found, own = (member.answer(batch, student).head("one2one") for member in (large, small))
    assert found.known is not None
    torch.testing.assert_close(
        view.head("one2one").logits[~found.known], own.logits[~found.known], rtol=1e-4, atol=1e-4
    )
    known = view.head("one2one").known
    assert known is not None
    assert bool(known.all())


def test_a_head_that_can_not_speak_for_all_classes_is_left_out() -> None:
    free, nms = members(2, classes=["car"])[0], members(3, config="yolov8n.yaml", classes=["person"])[0]
    teacher = EnsembleTeacher([(free, 1.0), (nms, 1.0)])
    assert teacher.branches == ("one2many",)
    assert set(teacher.answer({"img": images()}, look()).heads) == {"one2many"}


def test_it_says_what_is_lost_and_which_head_is_silent() -> None:
    both = members(2, 3, config="yolov8n.yaml")
    student = look("yolov8n.yaml")
    assert both[0].answer({"img": images()}, student).head("one2many").dist is not None
    view = EnsembleTeacher([(member, 1.0) for member in both]).answer({"img": images()}, student)
    assert view.head("one2many").dist is None
    assert view.lost is not None
    assert "several teachers are averaged" in view.lost["dist"]
    assert "the teacher has no one2one head" in EnsembleTeacher([(both[0], 1.0)]).silence("one2one")
    free, nms = members(2, classes=["car"])[0], members(3, config="yolov8n.yaml", classes=["person"])[0]
    said = EnsembleTeacher([(free, 1.0), (nms, 1.0)]).silence("one2one")
    assert said.startswith("the teachers that answer for it don't know every class that the others know")
    assert "teacher.nms_conf=0.05" in said


def test_what_is_wanted_reaches_the_members() -> None:
    first, second = members(2, 3)
    teacher = EnsembleTeacher([(first, 1.0), (second, 1.0)])
    assert teacher.wants is None
    teacher.wants = frozenset({"feats", "logits"})
    assert teacher.wants == first.wants == {"feats", "logits"}
    assert second.wants == {"logits"}
    with pytest.raises(PairError, match=r"teacher\.others: a loss that runs the teacher's own head needs one teacher"):
        teacher.wants = frozenset({"towers"})


def test_nothing_has_a_gradient() -> None:
    view = EnsembleTeacher([(member, 1.0) for member in members(2, 3)]).answer({"img": images()}, look())
    assert not any(part.requires_grad for head in view.heads.values() for part in head if part is not None)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="at least one is needed"):
        EnsembleTeacher([])
    with pytest.raises(ConfigError, match=r"teacher\.weight: must be above 0, got 0"):
        EnsembleTeacher([(member, 0) for member in members(2)])
