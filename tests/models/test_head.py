from __future__ import annotations

import copy

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.models.head import (
    AssignmentRecorder,
    assigners,
    fold_batchnorm,
    has_one2one,
    native_weights,
    pad_rows,
    raw_outputs,
    read_view,
    select_images,
)
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
    assert many.classes is not None
    assert (many.classes[1][chosen] == 1).all()
    assert many.labelled is None
    for part in (many, one):
        assert part.labels is not None
        assert part.labels.present.tolist() == [[False], [True]]
        assert part.labels.classes.tolist() == [[0], [1]]
        torch.testing.assert_close(part.labels.boxes_xyxy[1, 0], torch.tensor([16.0, 16.0, 48.0, 48.0]))
    assert recorder.take() == {}
    weights = native_weights(criterion)
    assert weights["one2many"] == pytest.approx(0.8)
    assert weights["one2one"] == pytest.approx(0.2)


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
def test_recorder_keeps_the_labels_of_each_image(config: str) -> None:
    """In pixels of an image that is not square, filled up to the most an image has; none is a shape, not an error."""
    model = tiny_model(config).train()
    model.args = get_cfg()
    model.criterion = model.init_criterion()
    batch = {
        "img": torch.rand(3, 3, 64, 96),
        "cls": torch.tensor([[1.0], [3.0], [2.0]]),
        "bboxes": torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1.0, 0.5], [0.5, 0.5, 0.25, 0.25]]),
        "batch_idx": torch.tensor([0.0, 2.0, 2.0]),
    }
    with AssignmentRecorder(model.criterion) as recorder:
        model.loss(batch)
        for part in recorder.take().values():
            labels = part.labels
            assert labels is not None
            assert labels.present.tolist() == [[True, False], [False, False], [True, True]]
            assert labels.classes.tolist() == [[1, 0], [0, 0], [3, 2]]
            assert labels.classes.dtype == torch.long
            expected = [[0.0, 16.0, 96.0, 48.0], [36.0, 24.0, 60.0, 40.0]]
            torch.testing.assert_close(labels.boxes_xyxy[2], torch.tensor(expected))
            torch.testing.assert_close(labels.boxes_xyxy[0, 0], torch.tensor([0.0, 0.0, 48.0, 32.0]))
            assert not labels.boxes_xyxy[~labels.present].any()
        empty = {"cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4), "batch_idx": torch.zeros(0)}
        model.loss({**batch, **empty})
        for part in recorder.take().values():
            assert part.labels is not None
            assert part.labels.boxes_xyxy.shape == (3, 0, 4)
            assert part.labels.present.shape == (3, 0)


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
@pytest.mark.parametrize("index", [[2, 0], [1], []])
def test_selected_images_are_what_the_model_says_of_them(config: str, index: list[int]) -> None:
    model = tiny_model(config)
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        outputs = raw_outputs(model, images)
        view = read_view(select_images(outputs, torch.tensor(index, dtype=torch.long)), model.model[-1])
    whole = read_view(outputs, model.model[-1])
    assert view.imgsz == whole.imgsz
    assert view.heads.keys() == whole.heads.keys()
    for branch, head in whole.heads.items():
        assert torch.equal(view.heads[branch].logits, head.logits[index])
        assert torch.equal(view.heads[branch].boxes_xyxy, head.boxes_xyxy[index])
    assert view.feats is not None
    assert [len(maps) for maps in view.feats] == [len(index)] * 3


def test_selected_images_keep_their_graph() -> None:
    model = tiny_model().train().requires_grad_(True)
    outputs = select_images(model(torch.rand(2, 3, 64, 64)), torch.tensor([], dtype=torch.long))
    sum(part["scores"].sum() for part in outputs.values()).backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("image", [[0, 0, 2, 2, 2], [1], [3, 3], []])
def test_rows_are_padded_as_the_native_loss_pads_labels(image: list[int]) -> None:
    model = tiny_model()
    model.args = get_cfg()
    loss = model.init_criterion().one2many
    number = torch.tensor(image, dtype=torch.float32)
    rows = torch.rand(len(image), 5)
    expected = loss.preprocess(torch.cat((number[:, None], rows), 1), 4, scale_tensor=torch.ones(4))
    padded, present = pad_rows(rows, number, 4)
    assert padded.shape == expected.shape
    torch.testing.assert_close(padded[..., 0], expected[..., 0])
    assert present.sum(1).tolist() == [image.count(i) for i in range(4)]
    assert not padded[~present].any()
    single, _ = pad_rows(rows[:, 0], number, 4)
    torch.testing.assert_close(single, padded[..., 0])


def test_rows_of_a_batch_out_of_order_keep_their_image() -> None:
    padded, present = pad_rows(torch.tensor([5.0, 6.0, 7.0]), torch.tensor([2, 0, 2]), 3)
    torch.testing.assert_close(padded, torch.tensor([[6.0, 0.0], [0.0, 0.0], [5.0, 7.0]]))
    assert present.tolist() == [[True, False], [False, False], [True, True]]


@pytest.mark.parametrize("fails", [False, True])
def test_a_recorder_leaves_no_hook_behind(fails: bool) -> None:
    model = tiny_model()
    model.args = get_cfg()
    criterion = model.init_criterion()
    found = assigners(criterion).values()
    try:
        with AssignmentRecorder(criterion):
            assert [len(assigner._forward_hooks) for assigner in found] == [1, 1]
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert [len(assigner._forward_hooks) for assigner in found] == [0, 0]
