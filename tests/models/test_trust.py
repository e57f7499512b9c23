from __future__ import annotations

import copy

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.models.distilled import DistilledDetector
from detkd.models.head import AssignmentRecorder, assigners
from detkd.models.teacher import LiveTeacher
from detkd.models.trust import BoxTrust, weigh_targets
from detkd.training.checkpoint import save_plain
from tests.inference.tiny import NAMES, tiny_model
from tests.models.test_distilled import independent, mixed, recipe


def plain(config: str = "yolo26n.yaml") -> torch.nn.Module:
    model = tiny_model(config, seed=1)
    model.args = get_cfg()
    return model.requires_grad_(True).train()


def hooks(model: torch.nn.Module) -> int:
    return sum(len(assigner._forward_hooks) for assigner in assigners(model.criterion).values())


def recorded(model: torch.nn.Module, data: dict[str, torch.Tensor], trust: BoxTrust | None = None) -> dict:
    model.criterion = model.init_criterion()
    if trust is not None:
        trust.set(data)
    with AssignmentRecorder(model.criterion) as recorder:
        model.loss(data, model(data["img"]))
    return recorder.take()


def test_targets_are_multiplied_by_the_trust_in_their_label() -> None:
    """Two images, three anchors, two classes; the first image's second label is trusted half, the other's fully."""
    scores = torch.tensor([[[0.8, 0.0], [0.0, 0.6], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0], [0.0, 0.4]]])
    owner, trust = torch.tensor([[0, 1, 0], [0, 0, 0]]), torch.tensor([[0.9, 0.5], [1.0, 0.0]])
    expected = torch.tensor([[[0.72, 0.0], [0.0, 0.3], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0], [0.0, 0.4]]])
    torch.testing.assert_close(weigh_targets(scores, owner, trust), expected)


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
def test_each_label_counts_as_much_as_it_is_trusted(config: str) -> None:
    model = plain(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    data = mixed()
    quality = torch.tensor([1.0, 0.25, 0.5, 0.75])
    usual = recorded(model, data)
    weighed = recorded(model, {**data, "quality": quality}, BoxTrust(model))
    assert usual.keys() == weighed.keys()
    for branch, before in usual.items():
        after = weighed[branch]
        assert torch.equal(before.foreground, after.foreground)
        for image, anchor in before.foreground.nonzero().tolist():
            score = before.scores[image, anchor]
            label = [row for row in range(4) if data["batch_idx"][row] == image and score[int(data["cls"][row])] > 0]
            expected = score * quality[label[0]] if label else score
            torch.testing.assert_close(after.scores[image, anchor], expected)
        assert float(after.scores.sum()) < float(before.scores.sum())


def test_full_trust_and_no_quality_change_nothing() -> None:
    model = plain()
    images = mixed()["img"]
    outputs = model(images)
    usual = model.loss(mixed(), outputs)[0]
    trust = BoxTrust(model)
    for data in ({**mixed(), "quality": torch.ones(4)}, mixed(), {**mixed(), "quality": torch.zeros(0)}):
        trust.set(data)
        assert torch.equal(model.loss(data, outputs)[0], usual)
    trust.set({**mixed(), "quality": torch.full((4,), 0.5)})
    assert not torch.equal(model.loss(mixed(), outputs)[0], usual)
    assert torch.equal(model.loss(mixed(), outputs)[0], usual), "the trust of one step must not reach the next"


def test_distrusted_labels_teach_no_box() -> None:
    model = plain("yolov8n.yaml")
    outputs = model(mixed()["img"])
    trust = BoxTrust(model)
    trust.set({**mixed(), "quality": torch.zeros(4)})
    _, items = model.loss(mixed(), outputs)
    assert float(items["box_loss"]) == float(items["dfl_loss"]) == 0
    assert float(items["cls_loss"]) > 0


def test_with_a_teacher_and_unlabelled_images() -> None:
    """The loss sees images 1 and 3 only; the trust in their labels must follow them there."""
    student = plain()
    wrapped = DistilledDetector(student, LiveTeacher(tiny_model(seed=2), NAMES), recipe(alpha=1.0))
    wrapped.probe(64, 64)
    independent(wrapped.train())
    quality = torch.tensor([0.1, 0.9, 0.5, 0.7])
    trust = BoxTrust(wrapped)
    data = mixed(labelled=[False, True, False, True])
    trust.set({**data, "quality": quality})
    assert wrapped.criterion is student.criterion is not None
    masked, _ = wrapped.loss(data)
    kept = torch.tensor([1, 3])
    rows = torch.tensor([1, 2, 3])
    alone = {
        "img": data["img"][kept],
        "cls": data["cls"][rows],
        "bboxes": data["bboxes"][rows],
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
        "quality": quality[rows],
    }
    plain_trust = BoxTrust(student)
    plain_trust.set(alone)
    expected, _ = student.loss(alone)
    torch.testing.assert_close(masked[:-1], expected)
    unweighed, _ = student.loss(alone)
    assert not torch.allclose(unweighed, expected)
    for labelled in ([False] * 4, [True] * 4, [False, False, True, False]):
        data = mixed(labelled=labelled)
        trust.set({**data, "quality": quality})
        total, _ = wrapped.loss(data)
        assert bool(total.isfinite().all())


def test_hooks_last_one_step_and_are_in_no_copy_or_checkpoint(tmp_path) -> None:
    model = plain()
    trust = BoxTrust(model)
    data = {**mixed(), "quality": torch.full((4,), 0.5)}
    for _ in range(3):
        trust.set(data)
        assert hooks(model) == 2
        trust.set(data)  # the step before was cut off
        assert hooks(model) == 2
        model.loss(data)
        assert hooks(model) == 0
    assert hooks(copy.deepcopy(model)) == 0
    file = save_plain(model, tmp_path / "student.pt", train_args={}, metrics={})
    stored = torch.load(file, weights_only=False)["model"]
    assert stored.criterion is None
    trust.set(data)
    trust.clear()
    assert hooks(model) == 0


def test_a_new_criterion_is_hooked_too() -> None:
    model = plain()
    trust = BoxTrust(model)
    data = {**mixed(), "quality": torch.full((4,), 0.5)}
    trust.set(data)
    model.criterion = model.init_criterion()
    trust.set(data)
    assert hooks(model) == 2
    model.loss(data)
    assert hooks(model) == 0
