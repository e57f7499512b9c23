from __future__ import annotations

import copy

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.models.head import AssignmentRecorder, fold_batchnorm, has_one2one, native_weights, raw_outputs, read_view
from tests.inference.tiny import tiny_model


@pytest.mark.parametrize(
    ("config", "branches"), [("yolo26n.yaml", {"one2many", "one2one"}), ("yolov8n.yaml", {"one2many"})]
)
def test_view_agrees_with_what_ultralytics_decodes(config: str, branches: set[str]) -> None:
    """The decoded boxes and scores of a view are those that the head itself would output."""
    model = tiny_model(config)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        decoded, _ = model(images)  # (B, 4 + C, A) as centre, size, probabilities
        view = read_view(raw_outputs(model, images), model.model[-1])
    assert set(view.heads) == branches
    assert view.imgsz == (64, 96)
    head = view.head("one2many")
    xy, wh = decoded[:, :2].transpose(1, 2), decoded[:, 2:4].transpose(1, 2)
    torch.testing.assert_close(head.boxes_xyxy, torch.cat([xy - wh / 2, xy + wh / 2], -1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(head.logits.sigmoid(), decoded[:, 4:].transpose(1, 2), rtol=1e-4, atol=1e-5)
    centres = (view.anchor_points * view.strides).repeat(1, 2)
    sign = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    torch.testing.assert_close(centres + sign * head.distances * view.strides, head.boxes_xyxy, rtol=1e-4, atol=1e-3)
    assert (head.dist is None) == (config == "yolo26n.yaml")


def test_raw_outputs_leave_batch_statistics_and_modes_alone() -> None:
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    raw_outputs(model, torch.rand(2, 3, 64, 64))
    assert not any(m.training for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
def test_folding_keeps_both_heads_and_their_answers(config: str) -> None:
    model = tiny_model(config)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = read_view(raw_outputs(model, images), model.model[-1])
        fold_batchnorm(model)
        after = read_view(raw_outputs(model, images), model.model[-1])
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert has_one2one(model.model[-1]) == ("one2one" in before.heads)
    assert after.heads.keys() == before.heads.keys()
    for name, head in before.heads.items():
        torch.testing.assert_close(after.heads[name].logits, head.logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(after.heads[name].boxes_xyxy, head.boxes_xyxy, rtol=1e-3, atol=1e-3)


def test_recorder_keeps_the_assignment_of_each_head() -> None:
    model = tiny_model().train()
    model.args = get_cfg()
    criterion = model.init_criterion()
    model.criterion = criterion
    recorder = AssignmentRecorder(criterion)
    box = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "cls": torch.tensor([[1.0]]),
        "bboxes": box,
        "batch_idx": torch.tensor([1.0]),
    }
    model.loss(batch)
    taken = recorder.take()
    assert set(taken) == {"one2many", "one2one"}
    many, one = taken["one2many"], taken["one2one"]
    assert not many.foreground[0].any()  # the first image has no label
    assert 1 <= int(one.foreground[1].sum()) <= int(many.foreground[1].sum())
    chosen = many.foreground[1]
    torch.testing.assert_close(many.boxes_xyxy[1][chosen][0], torch.tensor([16.0, 16.0, 48.0, 48.0]))
    assert (many.scores[1][chosen].argmax(-1) == 1).all()
    assert recorder.take() == {}
    weights = native_weights(criterion)
    assert weights["one2many"] == pytest.approx(0.8)
    assert weights["one2one"] == pytest.approx(0.2)
