from __future__ import annotations

import copy

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from detkd.errors import PairError
from detkd.losses.recipe import Recipe
from detkd.losses.regions import Everywhere
from detkd.models.distilled import DistilledDetector
from detkd.models.teacher import LiveTeacher
from detkd.models.ultralytics_distill import UltralyticsFeatures, location_scores
from tests.inference.tiny import NAMES, tiny_model
from tests.losses.maps import feats, make_maps_view
from tests.losses.views import SHAPES, make_context, make_view


def wide_teacher(config: str) -> DetectionModel:
    """A teacher twice as wide as the tiny student."""
    cfg = yaml_model_load(config)
    cfg.update(scale="n", scales={"n": [0.33, 0.25, 256]})
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = DetectionModel(cfg, nc=len(NAMES), verbose=False)
    narrow = tiny_model(config, seed=2)
    for part in ("cv3", "one2one_cv3"):  # scores as varied as the tiny model's
        for mine, other in zip(
            getattr(model.model[-1], part, None) or (), getattr(narrow.model[-1], part, None) or (), strict=True
        ):
            mine[-1].weight.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
            mine[-1].bias.data.copy_(other[-1].bias.data)
    model.names = dict(enumerate(NAMES))
    return model.eval()


def batch(images: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "img": torch.rand(images, 3, 64, 64, generator=generator),
        "cls": torch.arange(float(images))[:, None] % len(NAMES),
        "bboxes": torch.full((images, 4), 0.5),
        "batch_idx": torch.arange(float(images)),
    }


def recipe() -> Recipe:
    term = {"loss": UltralyticsFeatures(), "weight": 6.0, "branches": ["one2many"]}
    return Recipe.from_parts({"ultralytics": term}, region=Everywhere(), alpha=0.5)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(("student", "teacher"), [("yolo26n.yaml", "yolo26n.yaml"), ("yolov8n.yaml", "yolov8n.yaml")])
def test_half_of_their_loss_and_gradient(student: str, teacher: str, images: int) -> None:
    """One batch through their `DistillationModel` and through ours: every number is theirs times alpha = 1/2."""
    network, big = tiny_model(student, seed=1), wide_teacher(teacher)
    network.args = get_cfg(overrides={"imgsz": 64, "dis": 6.0})
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    theirs = DistillationModel(copy.deepcopy(big), copy.deepcopy(network)).train()
    ours = DistilledDetector(copy.deepcopy(network), LiveTeacher(big, NAMES), recipe())
    ours.probe(64, 64)
    ours.train()
    loss = ours.recipe.terms["ultralytics"]
    assert isinstance(loss, UltralyticsFeatures)
    loss.projector.load_state_dict(theirs.projector.state_dict())  # the same layers, under the same names
    expected, their_items = theirs.loss(batch(images))
    total, items = ours.loss(batch(images))
    assert float(their_items["dis_loss"]) > 0
    torch.testing.assert_close(total, expected / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(items["kd"], their_items["dis_loss"][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(6 * items["kd_ultralytics"], items["kd"])
    expected.sum().backward()
    total.sum().backward()
    pairs = [
        *zip(ours.student_model.named_parameters(), theirs.student_model.named_parameters(), strict=True),
        *zip(loss.projector.named_parameters(), theirs.projector.named_parameters(), strict=True),
    ]
    compared = 0
    for (name, mine), (_, other) in pairs:
        if other.grad is not None:
            # What lies before a batch normalisation has gradients that are 0 but for rounding.
            atol = max(1e-4 * float(other.grad.abs().max()), 1e-5)
            torch.testing.assert_close(mine.grad, other.grad / 2, rtol=1e-3, atol=atol, msg=name)
            compared += 1
    assert compared > 50


def test_by_hand() -> None:
    """Projector switched to the identity: sum over levels of sum a (F_s - F_t)^2 / (K sum a)."""
    student, teacher = make_maps_view(1, (4, 4, 4)), make_maps_view(2, (4, 4, 4))
    student = student._replace(feats=tuple(maps.abs() for maps in feats(student)))  # the ReLU lets these pass
    loss = UltralyticsFeatures()
    loss.setup((4, 4, 4), (4, 4, 4))
    for layers in loss.projector:
        for layer in (layers[0], layers[2]):
            layer.weight.data.copy_(torch.eye(4)[..., None, None])
            layer.bias.data.zero_()
    logits = [teacher.head(branch).logits for branch in ("one2many", "one2one")]
    weights = ((logits[0] + logits[1]) / 2).sigmoid().amax(-1)
    expected, start = 0.0, 0
    for x, y, (height, width) in zip(feats(student), feats(teacher), SHAPES, strict=True):
        part = weights[:, start : start + height * width]
        squares = (x - y).square().sum(1).flatten(1)
        expected += float((part * squares).sum() / (4 * part.sum()))
        start += height * width
    value = loss(student, teacher, make_context(student)).item()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)


def test_scores_of_a_teacher_with_one_head() -> None:
    teacher = make_view(2, heads=("one2many",), grad=True)
    scores = location_scores(teacher)
    torch.testing.assert_close(scores[:, 0], teacher.head("one2many").logits.detach().sigmoid().amax(-1))
    assert not scores.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_only_to_the_student_also_in_half_precision(dtype: torch.dtype) -> None:
    loss = UltralyticsFeatures()
    loss.setup((4, 6, 8), (8, 6, 12))
    student = make_maps_view(1, (4, 6, 8), grad=True, dtype=dtype, classes=1)
    teacher = make_maps_view(2, (8, 6, 12), grad=True, dtype=dtype, classes=1)
    context = make_context(student, region=torch.zeros(2, 64))  # theirs knows no region
    value = loss(student, teacher, context)
    assert value.dtype == torch.float32
    assert value.shape == ()
    value.backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in (*feats(student), *loss.parameters()))
    assert all(x.grad is None for x in feats(teacher))


def test_another_resolution_is_refused() -> None:
    loss = UltralyticsFeatures()
    loss.setup((4, 4, 4), (4, 4, 4))
    student, teacher = make_maps_view(1, (4, 4, 4)), make_maps_view(2, (4, 4, 4), ratio=2)
    with pytest.raises(
        PairError, match=r"teacher\.imgsz: Ultralytics' loss needs teacher and student at one resolution"
    ):
        loss(student, teacher, make_context(student))
    with pytest.raises(PairError, match="teacher: has 2 feature maps"):
        loss.setup((4, 4, 4), (4, 4))
