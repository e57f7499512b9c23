"""The losses on feature maps with real networks: unlike families, widths and resolutions."""

from __future__ import annotations

import copy

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.losses.base import DistillLoss
from detkd.losses.cwd import ChannelWise
from detkd.losses.mgd import MaskedGeneration
from detkd.losses.pgd import QualityGaussian, RegionFeatures
from detkd.losses.pkd import Pearson
from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.teacher import LiveTeacher
from tests.inference.tiny import NAMES, tiny_model

LOSSES = (ChannelWise, Pearson, MaskedGeneration, RegionFeatures)


def pair(loss: DistillLoss, student: str, teacher: str, ratio: int = 1) -> DistilledDetector:
    network = tiny_model(student, seed=1)
    network.args = get_cfg()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    recipe = Recipe.from_parts({"maps": {"loss": loss, "branches": ["one2many"]}}, region=QualityGaussian())
    model = DistilledDetector(network, LiveTeacher(tiny_model(teacher, seed=2), NAMES), recipe)
    model.probe(64, 64 * ratio)
    return model.train()


def batch(ratio: int = 1) -> dict[str, torch.Tensor]:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    data = {
        "img": images,
        "cls": torch.arange(2.0)[:, None],
        "bboxes": torch.tensor([[0.5, 0.5, 0.6, 0.7], [0.4, 0.4, 0.5, 0.5]]),
        "batch_idx": torch.arange(2.0),
    }
    if ratio > 1:
        data["img_teacher"] = torch.nn.functional.interpolate(images, scale_factor=ratio)
    return data


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize(
    ("student", "teacher", "ratio"),
    [("yolo26n.yaml", "yolov8n.yaml", 1), ("yolov8n.yaml", "yolo26n.yaml", 2), ("yolo11n.yaml", "yolo11n.yaml", 4)],
)
def test_the_gradient_reaches_the_backbone_and_the_adapters(make, student, teacher, ratio):
    model = pair(make(), student, teacher, ratio)
    _, items = model.loss(batch(ratio))
    assert model.kd_names == ("kd_maps", "kd")
    assert items["kd_maps"] > 0
    total, _ = model.loss(batch(ratio))
    model.zero_grad()
    total[-1].backward()  # distillation alone
    first = next(model.student_model.parameters())
    assert first.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.recipe.parameters())
    head = model.student_model.model[-1]
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("make", LOSSES)
def test_learnt_layers_are_saved_for_resume_and_belong_to_no_detector(make):
    model = pair(make(), "yolo26n.yaml", "yolov8n.yaml")
    state = copy.deepcopy(model.state_dict())
    layers = {name for name, _ in model.recipe.named_parameters()}
    assert {f"recipe.{name}" for name in layers} <= state.keys()
    assert not {name for name in model.student_model.state_dict() if "adapter" in name or "generator" in name}
    twin = pair(make(), "yolo26n.yaml", "yolov8n.yaml")
    for name, parameter in twin.recipe.named_parameters():
        assert torch.equal(parameter, state[f"recipe.{name}"]), "the same start in every run"
        parameter.data.add_(1)
    twin.load_state_dict(state, strict=True)
    torch.manual_seed(1)
    expected, _ = model.loss(batch())
    torch.manual_seed(1)
    again, _ = twin.loss(batch())
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
