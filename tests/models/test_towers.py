from __future__ import annotations

import copy

import detkd.environment

import pytest
import torch
from torch import nn

from detkd.errors import ConfigError, PairError
from detkd.losses.base import tower_channels
from detkd.losses.crosshead import CrossHead
from detkd.models.head import fold_batchnorm, raw_outputs, read_view
from detkd.models.towers import TowerRecorder, finish_towers, teacher_towers
from detkd.types import Context, Towers, View
from tests.inference.tiny import tiny_model

CONFIGS = ["yolo26n.yaml", "yolo11n.yaml", "yolov8n.yaml", "yolov10n.yaml"]


def look(model: nn.Module, images: torch.Tensor, stage: int = 1) -> View:
    """The answers of a frozen teacher with what lies inside its head."""
    head = model.model[-1]
    outputs, towers, finish = teacher_towers(head, lambda: raw_outputs(model, images), stage)
    return read_view(outputs, head)._replace(towers=towers, finish=finish)


def identity(loss: CrossHead) -> CrossHead:
    for weight in loss.parameters():
        weight.data = torch.eye(len(weight))[..., None, None]
    return loss


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("folded", [False, True])
def test_the_rest_of_a_head_makes_its_answers_of_its_own_maps(config: str, stage: int, folded: bool) -> None:
    model = tiny_model(config).requires_grad_(False)
    if folded:
        fold_batchnorm(model)
    view = look(model, torch.rand(2, 3, 64, 96), stage)
    assert view.towers is not None
    assert view.finish is not None
    assert view.towers.keys() == view.heads.keys()
    for branch, head in view.heads.items():
        again = view.finish(branch, view.towers[branch])
        assert [maps.shape[2:] for maps in view.towers[branch].classes] == [(8, 12), (4, 6), (2, 3)]
        torch.testing.assert_close(again.logits, head.logits)
        torch.testing.assert_close(again.boxes_xyxy, head.boxes_xyxy)
        torch.testing.assert_close(again.distances, head.distances)
        assert (again.dist is None) == (head.dist is None)


@pytest.mark.parametrize("stage", [1, 2])
def test_maps_are_read_before_the_activation(stage: int) -> None:
    """Of the stage that was asked for, folded or not."""
    model = tiny_model().requires_grad_(False)
    images = torch.rand(1, 3, 64, 64)
    view, head = look(model, images, stage), model.model[-1]
    for tower, maps in ((head.cv3, "classes"), (head.cv2, "boxes")):
        for level, part in enumerate(tower):
            expected = part[:stage](view.feats[level])  # type: ignore[index]
            found = getattr(view.towers["one2many"], maps)[level]  # type: ignore[index]
            torch.testing.assert_close(nn.functional.silu(found), expected)
            assert found.shape == expected.shape
    folded = look(fold_batchnorm(model), images, stage)
    for before, after in zip(view.towers["one2one"], folded.towers["one2one"], strict=True):  # type: ignore[index]
        for x, y in zip(before, after, strict=True):
            torch.testing.assert_close(y, x, rtol=1e-3, atol=1e-3)


def test_the_rest_takes_maps_of_another_size() -> None:
    """Half the size of the maps: anchors of an image of half the side, and a gradient to the maps alone."""
    model = tiny_model().requires_grad_(False)
    view = look(model, torch.rand(2, 3, 128, 128))
    own = view.towers["one2one"]  # type: ignore[index]
    smaller = Towers(*(tuple(x[..., ::2, ::2].clone().requires_grad_() for x in part) for part in own))
    answers = view.finish("one2one", smaller)  # type: ignore[misc]
    whole = read_view(raw_outputs(model, torch.rand(2, 3, 64, 64)), model.model[-1])
    assert answers.logits.shape == whole.head("one2one").logits.shape
    centres = (whole.anchor_points * whole.strides).repeat(1, 2)
    offsets = answers.distances * torch.tensor([-1.0, -1.0, 1.0, 1.0]) * whole.strides
    torch.testing.assert_close(answers.boxes_xyxy, centres + offsets)
    (answers.logits.sum() + answers.boxes_xyxy.sum()).backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for part in smaller for x in part)
    assert all(p.grad is None for p in model.parameters())


def test_a_recorder_keeps_the_graph_and_leaves_no_hook() -> None:
    model = tiny_model().train().requires_grad_(True)
    head = model.model[-1]
    with TowerRecorder(head, 1) as recorder:
        plain = model(torch.rand(2, 3, 64, 64))
    towers = recorder.take()
    assert not any(module._forward_hooks for module in model.modules())
    assert set(towers) == set(plain)
    sum(x.sum() for x in (*towers["one2many"].classes, *towers["one2many"].boxes)).backward()
    assert model.model[0].conv.weight.grad.abs().sum() > 0
    assert head.cv3[0][0][0].conv.weight.grad is not None
    assert head.cv3[0][1][0].conv.weight.grad is None  # behind the maps
    assert head.one2one_cv3[0][0][0].conv.weight.grad is None
    with pytest.raises(PairError, match=r"towers: saw 0 of 12 maps inside the head; a compiled network shows none"):
        recorder.take()


def test_recording_changes_no_answer() -> None:
    images = torch.rand(2, 3, 64, 64)
    plain = raw_outputs(tiny_model(), images)
    seen = look(tiny_model(), images)
    torch.testing.assert_close(
        seen.head("one2many").logits, plain["one2many"]["scores"].transpose(1, 2), rtol=0, atol=0
    )


def test_an_activation_in_place_does_not_touch_the_maps() -> None:
    model = tiny_model("yolov8n.yaml").requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "act"):
            module.act = nn.ReLU(inplace=True)
    view = look(model, torch.rand(1, 3, 64, 64))
    maps = view.towers["one2many"]  # type: ignore[index]
    assert min(float(x.min()) for x in maps.classes) < 0
    before = copy.deepcopy(maps)
    again = view.finish("one2many", maps)  # type: ignore[misc]
    torch.testing.assert_close(again.logits, view.head("one2many").logits)
    assert all(torch.equal(x, y) for x, y in zip(maps.classes, before.classes, strict=True))


def test_errors() -> None:
    model = tiny_model("yolov8n.yaml")
    head = model.model[-1]
    for stage in (0, 3):
        with pytest.raises(
            ConfigError, match=rf"stage: must be in 1..2, the stages of this head's towers, got {stage}"
        ):
            TowerRecorder(head, stage)
        with pytest.raises(ConfigError, match=r"stage: must be in 1..2"):
            finish_towers(head, stage)
    view = look(model, torch.rand(1, 3, 64, 64))
    maps = view.towers["one2many"]  # type: ignore[index]
    with pytest.raises(PairError, match=r"towers: the teacher has no one2one head; set branches: \[one2many\]"):
        view.finish("one2one", maps)  # type: ignore[misc]
    with pytest.raises(PairError, match=r"towers: 2 class and 3 box maps for a head with 3 levels"):
        view.finish("one2many", maps._replace(classes=maps.classes[:2]))  # type: ignore[misc]
    head.cv3[0][0] = nn.Conv2d(8, 8, 1)
    with pytest.raises(PairError, match=r"towers: can't be read in a head whose towers end in Conv2d"):
        TowerRecorder(head, 1)


@pytest.mark.parametrize("stage", [1, 2])
def test_cross_head_loss_is_zero_for_a_student_that_is_the_teacher(stage: int) -> None:
    model = tiny_model().requires_grad_(False)
    view = look(model, torch.rand(2, 3, 64, 64), stage)
    loss = CrossHead(stage=stage)
    loss.setup_towers(tower_channels(view), tower_channels(view))
    other = look(tiny_model(seed=3).requires_grad_(False), torch.rand(2, 3, 64, 64), stage)
    for branch in ("one2many", "one2one"):
        context = Context(branch, None, torch.ones(view.head(branch).logits.shape[:2]), view.imgsz)  # type: ignore[arg-type]
        assert identity(loss)(view, view, context) < 1e-6
        assert loss(other, view, context) > 1e-3


@pytest.mark.parametrize(
    ("student", "teacher", "side"),
    [("yolo26n.yaml", "yolo26n.yaml", 64), ("yolo26n.yaml", "yolo26n.yaml", 128), ("yolo11n.yaml", "yolov8n.yaml", 64)],
)
def test_cross_head_loss_teaches_the_students_towers_and_nothing_behind_them(
    student: str, teacher: str, side: int
) -> None:
    """The teacher may be of another family or see more pixels; its weights and statistics stay as they are."""
    learner = tiny_model(student, seed=1).train().requires_grad_(True)
    source = fold_batchnorm(tiny_model(teacher, seed=2)).requires_grad_(False)
    images = torch.rand(2, 3, 64, 64)
    head = learner.model[-1]
    with TowerRecorder(head, 1) as recorder:
        outputs = learner(images)
    view_s = read_view(outputs, head)._replace(towers=recorder.take())
    same = look(source, images)
    maps = look(source, torch.rand(2, 3, side, side))
    view_t = same._replace(towers=maps.towers, finish=maps.finish)
    loss = CrossHead()
    loss.setup_towers(tower_channels(view_s), tower_channels(view_t))
    context = Context("one2many", None, torch.ones(view_s.head("one2many").logits.shape[:2]), view_s.imgsz)
    before = copy.deepcopy(source.state_dict())
    value = loss(view_s, view_t, context)
    value.backward()
    assert value.isfinite()
    assert value > 0
    assert learner.model[0].conv.weight.grad.abs().sum() > 0
    assert all(w.grad.abs().sum() > 0 for name, w in loss.named_parameters() if "one2many" in name)
    assert all(p.grad is None for level in head.cv3 for p in level[1:].parameters())
    assert all(p.grad is None for p in source.parameters())
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
