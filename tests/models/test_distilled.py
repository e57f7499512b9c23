from __future__ import annotations

import copy
import pickle

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.errors import ModelError, PairError
from detkd.losses.base import DistillLoss
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.crosshead import CrossHead
from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.head import assigners
from detkd.models.teacher import LiveTeacher
from detkd.types import Context, View
from tests.inference.tiny import NAMES, tiny_model


def recipe(alpha: float = 0.5, **more: object) -> Recipe:
    terms = {
        "cls": {"loss": BinaryLogits()},
        "giou": {"loss": BoxIoU(), "weight": 2.5},
        "l1": {"loss": BoxL1(), "weight": 1.5},
    }
    return Recipe.from_parts(terms, alpha=alpha, **more)  # type: ignore[arg-type]


def pair(student: str = "yolo26n.yaml", teacher: str = "yolo26n.yaml", alpha: float = 0.5) -> DistilledDetector:
    model = tiny_model(student, seed=1)
    model.args = get_cfg()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    wrapped = DistilledDetector(model, LiveTeacher(tiny_model(teacher, seed=2), NAMES), recipe(alpha))
    wrapped.probe(64, 64)
    return wrapped.train()


def batch(images: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "img": torch.rand(images, 3, 64, 64, generator=generator),
        "cls": torch.zeros(images, 1),
        "bboxes": torch.full((images, 4), 0.5),
        "batch_idx": torch.arange(float(images)),
    }


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [
        ("yolo26n.yaml", "yolo26n.yaml", 2),
        ("yolo26n.yaml", "yolov8n.yaml", 1),  # an NMS-type teacher never teaches the NMS-free head
        ("yolov8n.yaml", "yolo26n.yaml", 1),
        ("yolo11n.yaml", "yolov8n.yaml", 1),
    ],
)
def test_every_pair_of_families_distils(student: str, teacher: str, heads: int) -> None:
    model = pair(student, teacher)
    loss, items = model.loss(batch())
    assert len([name for name in items if name.startswith("kd_")]) == 3 * heads
    assert all(bool(torch.isfinite(value)) for value in items.values())
    assert float(items["kd"]) > 0
    loss.sum().backward()
    weights = [p.grad for p in model.student_model.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in weights) > 0
    assert tuple(items)[-len(model.kd_names) :] == model.kd_names


def test_total_is_alpha_times_detection_plus_the_rest_times_distillation() -> None:
    model = pair(alpha=0.25)
    data = batch(3)
    plain, _ = copy.deepcopy(model.student_model).train().loss(data)
    total, items = model.loss(data)
    torch.testing.assert_close(total[:-1], 0.25 * plain)
    torch.testing.assert_close(total[-1], 0.75 * 3 * items["kd"])


def test_alpha_one_is_plain_training() -> None:
    model = pair(alpha=1.0)
    plain = copy.deepcopy(model.student_model).train()
    plain.loss(batch())[0].sum().backward()
    model.loss(batch())[0].sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), model.student_model.named_parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_the_teacher_is_frozen_and_in_no_state_copy_or_pickle() -> None:
    model = pair()
    teacher = model._source[0].model  # type: ignore[attr-defined]
    before = copy.deepcopy(teacher.state_dict())
    for _ in range(2):
        model.loss(batch())[0].sum().backward()
    assert not teacher.training
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(name.startswith(("student_model.", "recipe.")) for name in model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(copy.deepcopy(model)))):
        assert twin._source == []
        assert twin.kd_names == model.kd_names


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    twin = tiny_model(seed=4)
    twin.args = get_cfg()
    model = DistilledDetector(twin, LiveTeacher(copy.deepcopy(twin), NAMES), recipe())
    model.probe(64, 64)
    model.train()
    for module in twin.modules():  # the teacher uses running statistics; let the student do so too
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    _, items = model.loss(batch())
    for name in model.kd_names:
        assert float(items[name]) == pytest.approx(0, abs=1e-3), name


def test_evaluation_runs_no_teacher_and_logs_zeros() -> None:
    model = pair().eval()
    model._source.clear()
    with torch.no_grad():
        preds = model(batch()["img"])
        loss, items = model.loss(batch(), preds)
    assert len(loss) == 4
    assert all(float(items[name]) == 0 for name in model.kd_names)


def test_a_teacher_at_twice_the_resolution() -> None:
    model = pair()
    model.probe(64, 128)
    data = batch()
    data["img_teacher"] = torch.nn.functional.interpolate(data["img"], scale_factor=2)
    _, items = model.loss(data)
    assert float(items["kd"]) > 0
    with pytest.raises(PairError, match=r"teacher\.imgsz"):
        model.probe(64, 96)


def test_a_teacher_that_lost_its_head_is_refused() -> None:
    fused = tiny_model()
    fused.end2end = True
    fused.fuse(verbose=False)
    with pytest.raises(PairError, match="have lost their one2many head"):
        LiveTeacher(fused, NAMES)


def test_classes_are_reordered_for_the_student() -> None:
    model = tiny_model(seed=2)
    straight, turned = LiveTeacher(copy.deepcopy(model), NAMES), LiveTeacher(model, NAMES[::-1])
    student = pair()
    outputs = student.student_model(batch()["img"])
    from detkd.models.head import read_view

    view = read_view(outputs, student.student_model.model[-1])
    a, b = straight.answer(batch(), view), turned.answer(batch(), view)
    torch.testing.assert_close(a.head("one2many").logits.flip(-1), b.head("one2many").logits)


class Adapted(DistillLoss):
    """A loss with a layer of its own: the first neck map through a 1x1 convolution."""

    uses = frozenset({"feats"})

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        self.adapter = torch.nn.Conv2d(student_channels[0], teacher_channels[0], 1, bias=False)

    def forward(self, student: View, teacher: View, context: Context) -> torch.Tensor:
        assert student.feats is not None
        assert teacher.feats is not None
        return (self.adapter(student.feats[0]) - teacher.feats[0]).pow(2).mean()


def test_layers_of_a_loss_train_with_the_student_and_stay_out_of_it() -> None:
    student = tiny_model(seed=1)
    student.args = get_cfg()
    built = []
    for _ in range(2):
        terms = {"neck": {"loss": Adapted(), "branches": ["one2many"]}}
        teacher = LiveTeacher(tiny_model(seed=2), NAMES)
        built.append(DistilledDetector(copy.deepcopy(student), teacher, Recipe.from_parts(terms)))
        torch.rand(3)
        built[-1].probe(64, 64)
    first, second = ([p.detach() for p in model.recipe.parameters()] for model in built)
    assert len(first) == 1
    assert torch.equal(first[0], second[0]), "the layer depends on what ran before"
    model = built[0].train()
    assert model.kd_names == ("kd_neck", "kd")
    loss, _ = model.loss(batch())
    loss.sum().backward()
    assert all(p.grad is not None for p in model.recipe.parameters())
    assert not any("recipe" in name for name in model.student_model.state_dict())


def independent(model: DistilledDetector) -> DistilledDetector:
    """Let no image of a batch change what is said about another one."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return model


def mixed(**flags: list[bool]) -> dict[str, torch.Tensor]:
    """Four images with one, two, no and one label, and which of them count."""
    data = batch(4)
    data["batch_idx"] = torch.tensor([0.0, 1.0, 1.0, 3.0])
    data["cls"] = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    data["bboxes"] = torch.tensor(
        [[0.5, 0.5, 0.5, 0.5], [0.3, 0.3, 0.4, 0.4], [0.7, 0.7, 0.4, 0.5], [0.4, 0.5, 0.6, 0.7]]
    )
    return {**data, **{key: torch.tensor(value) for key, value in flags.items()}}


def some(images: list[int]) -> dict[str, torch.Tensor]:
    """These images of `mixed` alone, with their labels."""
    data = mixed()
    image = data["batch_idx"].long().tolist()
    kept = [row for row, number in enumerate(image) if number in images]
    numbers = torch.tensor([float(images.index(image[row])) for row in kept])
    return {"img": data["img"][images], "cls": data["cls"][kept], "bboxes": data["bboxes"][kept], "batch_idx": numbers}


def gradients(model: DistilledDetector, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.loss(data)[0].sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_batches_in_which_all_images_count_take_the_usual_path() -> None:
    model = independent(pair())
    (usual, usual_items), (total, items) = (
        model.loss(data) for data in (mixed(), mixed(labelled=[True] * 4, taught=[True] * 4))
    )
    assert torch.equal(usual, total)
    assert all(torch.equal(items[name], usual_items[name]) for name in usual_items)


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
@pytest.mark.parametrize("images", [[1, 3], [2, 3], [0]])
def test_detection_loss_is_that_of_the_labelled_images_alone(config: str, images: list[int]) -> None:
    model = independent(pair(config, config, alpha=1.0))
    alone, alone_items = model.loss(some(images))
    total, items = model.loss(mixed(labelled=[image in images for image in range(4)]))
    torch.testing.assert_close(total[:-1], alone[:-1])
    for name in set(items) - set(model.kd_names):
        torch.testing.assert_close(items[name], alone_items[name])
    data = mixed(labelled=[image in images for image in range(4)])
    expected = gradients(model, some(images))
    for name, gradient in gradients(model, data).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolov8n.yaml"])
def test_without_labelled_images_only_the_teacher_teaches(config: str) -> None:
    model = independent(pair(config, config))
    data = mixed(labelled=[False] * 4)
    total, items = model.loss(data)
    assert total[:-1].requires_grad
    assert total[:-1].tolist() == [0, 0, 0]
    assert all(float(value) == 0 for name, value in items.items() if not name.startswith("kd"))
    assert float(items["kd"]) > 0
    found = gradients(model, data)
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    assert sum(float(gradient.abs().sum()) for gradient in found.values()) > 0
    # No label leaks into distillation: its region would take in the assigned anchors.
    blank = {**data, "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4), "batch_idx": torch.zeros(0)}
    assert torch.equal(model.loss(blank)[0], total)


@pytest.mark.parametrize("images", [[1, 3], [0]])
def test_distillation_is_that_of_the_taught_images_alone(images: list[int]) -> None:
    model = independent(pair(alpha=0.0))
    alone, alone_items = model.loss(some(images))
    total, items = model.loss(mixed(taught=[image in images for image in range(4)]))
    torch.testing.assert_close(total[-1], alone[-1])
    for name in model.kd_names:
        torch.testing.assert_close(items[name], alone_items[name])
    usual, _ = pair(alpha=0.5).loss(mixed())
    detection, _ = pair(alpha=0.5).loss(mixed(taught=[image in images for image in range(4)]))
    torch.testing.assert_close(detection[:-1], usual[:-1])


def test_labelled_and_taught_images_may_be_different_ones() -> None:
    model = independent(pair())
    total, _ = model.loss(mixed(labelled=[True, False, True, False], taught=[False, True, False, False]))
    taught = some([1])
    unlabelled = {**taught, "labelled": torch.tensor([False])}
    torch.testing.assert_close(total[:-1], model.loss(some([0, 2]))[0][:-1])
    torch.testing.assert_close(total[-1], model.loss(unlabelled)[0][-1])


def test_pulls_are_compared_image_by_image() -> None:
    """Half of the labels, or of the lessons, of twin images pull as hard per image; without labels nothing is compared."""
    model = independent(pair())
    twins = {**mixed(), "img": mixed()["img"][[0, 1, 0, 1]], "batch_idx": torch.tensor([0.0, 1.0, 2.0, 3.0])}
    twins["cls"], twins["bboxes"] = twins["cls"][[0, 1, 0, 1]], twins["bboxes"][[0, 1, 0, 1]]
    measured = []
    for flags in ({}, {"labelled": [True, True, False, False]}, {"taught": [False, False, True, True]}):
        model.measure = True
        model.loss({**twins, **{key: torch.tensor(value) for key, value in flags.items()}})
        measured.append(model.pull)
    everything, half_labelled, half_taught = measured
    assert half_labelled.tasks == pytest.approx(everything.tasks, rel=1e-3)
    assert half_taught.tasks == pytest.approx(everything.tasks, rel=1e-3)
    # The region holds anchors of labels too, and sums are divided by a mass of at least 1.
    assert half_taught.groups == pytest.approx(everything.groups, rel=0.45)
    model.pull = None
    model.loss({**twins, "labelled": torch.zeros(4, dtype=torch.bool)})
    assert model.pull is None


def test_without_taught_images_a_learnable_layer_still_has_a_gradient() -> None:
    student = tiny_model(seed=1)
    student.args = get_cfg()
    terms = {"neck": {"loss": Adapted(), "branches": ["one2many"]}}
    model = DistilledDetector(student, LiveTeacher(tiny_model(seed=2), NAMES), Recipe.from_parts(terms))
    model.probe(64, 64)
    model.train()
    loss, items = model.loss(mixed(taught=[False] * 4))
    assert all(float(items[name]) == 0 for name in model.kd_names)
    loss.sum().backward()
    for parameter in model.recipe.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def assignments_of(model: DistilledDetector) -> list[dict]:
    """What the recipe is given as assignments from now on, a batch each."""
    seen: list[dict] = []
    compare = model.recipe.compare
    model.recipe.compare = lambda *args: (seen.append(args[2]), compare(*args))[1]  # type: ignore[method-assign]
    return seen


def test_the_recipe_gets_assignments_at_their_places_in_the_batch() -> None:
    model = independent(pair())
    seen = assignments_of(model)
    model.loss(mixed())
    model.loss(mixed(labelled=[True, False, False, True]))
    whole, part = seen
    for branch in ("one2many", "one2one"):
        assert whole[branch].foreground.any(1).tolist() == [True, True, False, True]
        assert part[branch].foreground.any(1).tolist() == [True, False, False, True]
        for a, b in zip(whole[branch][:3], part[branch][:3], strict=True):
            torch.testing.assert_close(a[[0, 3]], b[[0, 3]])
        assert whole[branch].labels.present.sum(1).flatten().tolist() == [1, 2, 0, 1]
        assert part[branch].labels.present.sum(1).flatten().tolist() == [1, 0, 0, 1]
        for a, b in zip(whole[branch].labels, part[branch].labels, strict=True):
            torch.testing.assert_close(a[[0, 3], :1], b[[0, 3], :1])


def test_the_recipe_is_told_which_images_are_labelled() -> None:
    model = independent(pair())
    seen = assignments_of(model)
    model.loss(mixed())
    model.loss(mixed(labelled=[True, False, False, True]))
    model.loss(mixed(labelled=[True, False, False, True], taught=[False, True, False, True]))
    model.loss(mixed(labelled=[False] * 4))
    for branch in ("one2many", "one2one"):
        found = [part[branch].labelled for part in seen]
        assert found[0] is None
        assert [flags.tolist() for flags in found[1:]] == [[True, False, False, True], [False, True], [False] * 4]
        chosen = seen[1][branch].foreground[3]
        assert (seen[1][branch].classes[3][chosen] == 3).all()


@pytest.mark.parametrize("images", [[1, 3], []])
def test_an_unlabelled_image_is_no_error_of_the_teacher(images: list[int]) -> None:
    """With w_fp=0 the teacher is silenced where labels contradict it, which those of an unlabelled image can't."""
    student = tiny_model(seed=1)
    student.args = get_cfg()
    data = mixed(labelled=[image in images for image in range(4)], taught=[image not in images for image in range(4)])
    values = []
    for options in ({}, {"w_fp": 0.0, "w_fn": 0.0, "threshold": 0.0}):
        terms = {"cls": {"loss": BinaryLogits(**options)}, "giou": {"loss": BoxIoU(**options)}}  # type: ignore[arg-type]
        teacher = LiveTeacher(tiny_model(seed=2), NAMES)
        model = DistilledDetector(copy.deepcopy(student), teacher, Recipe.from_parts(terms))
        model.probe(64, 64)
        values.append(independent(model.train()).loss(data)[1])
    for name in model.kd_names:
        assert float(values[0][name]) > 0
        torch.testing.assert_close(values[1][name], values[0][name])


class Broken(DistillLoss):
    """A loss that is no number."""

    uses = frozenset({"logits"})

    def forward(self, student: View, teacher: View, context: Context) -> torch.Tensor:
        return student.head(context.branch).logits.sum() * float("nan")


def test_a_term_stops_the_run_only_while_it_has_a_weight() -> None:
    student = tiny_model(seed=1)
    student.args = get_cfg()
    terms = {"cls": {"loss": BinaryLogits()}, "broken": {"loss": Broken(), "schedule": {"stop": 0.5, "warmup": 0.0}}}
    model = DistilledDetector(student, LiveTeacher(tiny_model(seed=2), NAMES), Recipe.from_parts(terms))
    model.probe(64, 64)
    model.train().progress = 0.2
    advice = r"lower trainer.lr0 or, with calibration, distill.calibrate.head / features \(else distill.lambda\)"
    with pytest.raises(ModelError, match=f"distill.terms: kd_broken, kd_broken_o2o became .*{advice}"):
        model.loss(batch())
    model.progress = 0.8
    total, items = model.loss(batch())
    assert bool(total.isfinite().all())
    assert bool(items["kd_broken"].isnan())


def test_only_taught_images_keep_their_labels() -> None:
    model = independent(pair())
    seen = assignments_of(model)
    model.loss(mixed(taught=[False, True, False, True]))
    for part in seen[0].values():
        assert part.labels.present.sum(1).flatten().tolist() == [2, 1]
        assert part.labels.classes[0, :2].flatten().tolist() == [1, 2]


@pytest.mark.parametrize("assignment", ["teacher", "mixed"])
def test_the_teacher_may_assign_the_labels_of_some_images(assignment: str) -> None:
    """Images without labels have no assignment, and the others the one they would have alone."""
    model = independent(pair())
    plain, _ = model.loss(some([1, 3]))
    model.recipe.assignment, model.progress = assignment, 0.5
    alone, _ = model.loss(some([1, 3]))
    total, _ = model.loss(mixed(labelled=[False, True, False, True]))
    torch.testing.assert_close(total[:-1], alone[:-1])
    assert not torch.equal(alone[:-1], plain[:-1])
    model.progress = 1.0  # in the end, a mixture is the student's
    assert torch.equal(model.loss(some([1, 3]))[0], plain) == (assignment == "mixed")


def test_cross_head_distillation_of_some_images() -> None:
    student = tiny_model(seed=1)
    student.args = get_cfg()
    recipe = Recipe.from_parts({"cross": {"loss": CrossHead()}})
    model = DistilledDetector(student, LiveTeacher(tiny_model(seed=2), NAMES), recipe)
    model.probe(64, 64)
    independent(model.train())
    _, alone = model.loss(some([1, 3]))
    _, items = model.loss(mixed(taught=[False, True, False, True]))
    for name in model.kd_names:
        torch.testing.assert_close(items[name], alone[name])


def test_no_hook_stays_behind() -> None:
    model = pair()
    model.loss(batch())
    assert model.criterion is not None
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(not assigner._forward_hooks for assigner in assigners(twin.criterion).values())
