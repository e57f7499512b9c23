from __future__ import annotations

import copy
import math

import pytest
import torch

from detkd.errors import ConfigError, PairError
from detkd.losses.base import DistillLoss, TowerChannels, tower_channels, tower_stage
from detkd.losses.binary import BinaryLogits
from detkd.losses.crosshead import CrossHead, match_statistics
from detkd.types import Towers, View
from tests.losses.maps import random_map
from tests.losses.views import ANCHORS, BOTH, SHAPES, leaves, make_assignment, make_context, make_finish, make_view


def views(*, classes: int = 5, dtype: torch.dtype = torch.float32, images: int = 2) -> tuple[View, View]:
    options = {"classes": classes, "dtype": dtype, "images": images, "towers": True}
    return make_view(1, grad=True, **options), make_view(2, grad=True, **options)


def ready(*pair: View, **options: object) -> CrossHead:
    loss = CrossHead(**options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    loss.setup_towers(*(tower_channels(view) for view in pair))
    return loss


def inside(view: View, branch: str = "one2many") -> tuple[torch.Tensor, ...]:
    assert view.towers is not None
    return (*view.towers[branch].classes, *view.towers[branch].boxes)


def itself(view: View) -> View:
    """A view whose answers are what its head makes of its maps."""
    assert view.towers is not None
    assert view.finish is not None
    return view._replace(heads={branch: view.finish(branch, towers) for branch, towers in view.towers.items()})


def test_statistics_by_hand():
    """(1, 2, 3) has mean 2, variance 2/3; (10, 10, 40) mean 20, variance 200; ratio of the spreads sqrt(300)."""
    student, teacher = (torch.tensor([[[list(row)]]]).double() for row in ((1.0, 2.0, 3.0), (10.0, 10.0, 40.0)))
    expected = torch.tensor([[[[20 - math.sqrt(300), 20.0, 20 + math.sqrt(300)]]]]).double()
    torch.testing.assert_close(match_statistics(student, teacher), expected, rtol=1e-4, atol=0)


def test_statistics_are_the_teachers():
    """Per channel over images and cells, whatever the sizes of the maps; order and shape are the student's."""
    student, teacher = (
        random_map(1, 3, 4, 5, 6) * 7 - 3,
        random_map(2, 2, 4, 10, 12) * torch.arange(1, 5)[:, None, None],
    )
    matched = match_statistics(student, teacher)
    assert matched.shape == student.shape
    for channel in range(4):
        own, target = matched[:, channel].flatten().tolist(), teacher[:, channel].flatten().tolist()
        mean, mean_t = sum(own) / len(own), sum(target) / len(target)
        spread, spread_t = (sum((x - m) ** 2 for x in xs) / len(xs) for xs, m in ((own, mean), (target, mean_t)))
        assert mean == pytest.approx(mean_t, abs=1e-9)
        assert spread == pytest.approx(spread_t, rel=1e-4)
    torch.testing.assert_close(match_statistics(student * 9 + 4, teacher), matched, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(match_statistics(teacher, teacher), teacher)


def test_slow_reference():
    """One image of one level, one channel in each tower, one class, worked through with plain numbers.

    The student's map is standardised and given the teacher's mean and spread, doubled by the adapter (which the
    statistics undo), and turned into a logit 3 x and sides exp(x / 2) by the rest of the head.
    """
    maps_s, maps_t = ([0.5, -1.0, 2.0, 0.0], [0.3, 0.9, -0.4, 1.2]), ([1.0, 0.0, -1.0, 0.5], [0.2, 0.4, 0.1, -0.3])

    def view(maps: tuple[list[float], ...]) -> View:
        towers = Towers(*((torch.tensor(part).double().view(1, 1, 2, 2),) for part in maps))
        base = make_view(1, images=1, classes=1, dtype=torch.float64)
        points, strides = (
            torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5], [1.5, 1.5]]).double(),
            torch.full((4, 1), 8.0),
        )

        def finish(branch: str, given: Towers):
            logits = 3 * given.classes[0].flatten(2).transpose(1, 2)
            sides = (given.boxes[0].flatten(2).transpose(1, 2) / 2).exp().expand(-1, -1, 4)
            boxes = torch.cat((points - sides[..., :2], points + sides[..., 2:]), -1) * strides
            return base.head("one2many")._replace(logits=logits, distances=sides, boxes_xyxy=boxes)

        return View(
            {"one2many": finish("one2many", towers)}, points, strides, (16, 16), None, {"one2many": towers}, finish
        )

    def matched(xs: list[float], ts: list[float]) -> list[float]:
        mean, mean_t = sum(xs) / 4, sum(ts) / 4
        var, var_t = (sum((x - m) ** 2 for x in row) / 4 for row, m in ((xs, mean), (ts, mean_t)))
        return [(x - mean) / math.sqrt(var + 1e-5) * math.sqrt(var_t + 1e-5) + mean_t for x in xs]

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    student, teacher = view(maps_s), view(maps_t)
    loss = ready(student, teacher, box=0.7).double()
    for weight in loss.parameters():
        weight.data.fill_(2.0)
    region = [1.0, 0.5, 1.0, 0.0]
    classes = boxes = mass = 0.0
    for u, x, t, y, r in zip(
        region, matched(maps_s[0], maps_t[0]), maps_t[0], matched(maps_s[1], maps_t[1]), maps_t[1], strict=True
    ):
        p, q = sigmoid(3 * x), sigmoid(3 * t)
        excess = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        classes += u * abs(p - q) * excess
        # Squares around one centre: the overlap is the smaller area over the larger, and so is the enclosing one.
        boxes += u * q * (1 - math.exp(-abs(y - r)))
        mass += u * q
    expected = (classes + 0.7 * boxes) / max(1.0, mass)
    value = loss(student, teacher, make_context(student, region=torch.tensor([region]).double()))
    torch.testing.assert_close(value.item(), expected, rtol=1e-4, atol=0)


def test_zero_when_the_maps_agree_up_to_scale_and_shift():
    _, teacher = views()
    teacher = itself(teacher)
    loss = ready(teacher, teacher)
    for weight in loss.parameters():
        weight.data = torch.eye(4)[..., None, None]
    for branch in BOTH:
        value = loss(teacher, teacher, make_context(teacher, branch=branch))
        assert 0 <= value < 1e-6
    scaled = {n: Towers(*(tuple(3 * x - 1 for x in part) for part in t)) for n, t in teacher.towers.items()}
    assert loss(teacher._replace(towers=scaled), teacher, make_context(teacher)) < 1e-4  # variances are raised by 1e-5
    other, _ = views()
    assert loss(other, teacher, make_context(teacher)) > 0.01


def test_gradcheck():
    """To the student's maps and the adapters; with gamma 0, because the disagreement is a constant."""
    student, teacher = views(classes=2, images=1, dtype=torch.float64)
    teacher = itself(teacher)
    loss = ready(student, teacher, gamma=0.0).double()
    context = make_context(student, region=torch.rand(1, ANCHORS).double())
    level = 1
    maps = student.towers["one2many"]

    def value(classes: torch.Tensor, boxes: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        parts = [tuple(x if i == level else y for i, y in enumerate(old)) for x, old in zip((classes, boxes), maps, strict=True)]  # fmt: skip
        return loss(student._replace(towers={"one2many": Towers(*parts)}), teacher, context)

    weights = [loss.adapters["one2many_classes"][level].weight, loss.adapters["one2many_boxes"][level].weight]
    assert torch.autograd.gradcheck(value, (maps.classes[level], maps.boxes[level], *weights))


@pytest.mark.parametrize("branch", BOTH)
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("classes", [1, 5])
def test_gradient_only_to_the_students_maps_of_the_head(branch, labelled, classes):
    """The student's own answers get none: labels alone teach them."""
    student, teacher = views(classes=classes)
    loss = ready(student, teacher)
    assignment = make_assignment(3, classes=classes) if labelled else None
    value = loss(student, teacher, make_context(student, assignment=assignment, branch=branch))
    assert value.dtype == torch.float32
    value.backward()
    other = next(name for name in BOTH if name != branch)
    assert all(x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in inside(student, branch))
    assert all(x.grad is None for x in (*inside(student, other), *leaves(student)))
    assert all(x.grad is None for name in BOTH for x in (*inside(teacher, name), *leaves(teacher)))
    assert {name for name, w in loss.named_parameters() if w.grad is not None} == {
        name for name, _ in loss.named_parameters() if branch in name
    }


def test_empty_region_is_zero_with_a_graph():
    student, teacher = views()
    loss = ready(student, teacher)
    value = loss(student, teacher, make_context(student, region=torch.zeros(2, ANCHORS)))
    assert value == 0
    value.backward()
    assert all((x.grad == 0).all() for x in (*inside(student), *loss.adapters["one2many_classes"].parameters()))


def test_flat_maps_have_finite_gradients():
    """An untrained tower may be constant, as the empty image of the first probe is."""
    student, teacher = views(images=1)
    for x in inside(student):
        x.data.zero_()
    loss = ready(student, teacher)
    loss(student, teacher, make_context(student)).backward()
    assert all(x.grad.isfinite().all() for x in (*inside(student), *loss.adapters["one2many_boxes"].parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    student, teacher = views(dtype=dtype)
    loss = ready(student, teacher)
    value = loss(student, teacher, make_context(student))
    assert value.dtype == torch.float32
    wide = [
        view._replace(
            heads={n: h._replace(**{k: x.detach().float() for k, x in h._asdict().items() if x is not None}) for n, h in view.heads.items()},
            towers={n: Towers(*(tuple(x.detach().float() for x in part) for part in t)) for n, t in view.towers.items()},
        )
        for view in (student, teacher)
    ]  # fmt: skip
    expected = loss(*wide, make_context(student))
    torch.testing.assert_close(value, expected, rtol=1e-2, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ready(*wide)(*wide, make_context(student)), expected, rtol=1e-2, atol=0)
    value.backward()
    assert all(x.grad.isfinite().all() for x in inside(student))


def test_without_boxes_their_towers_are_left_alone():
    """Also when the teacher's maps are of another size."""
    student, teacher = views()
    loss = ready(student, teacher, box=0.0)
    assert {name.split(".")[1] for name, _ in loss.named_parameters()} == {f"{branch}_classes" for branch in BOTH}
    bigger = {n: Towers(*(tuple(x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in part) for part in t)) for n, t in teacher.towers.items()}  # fmt: skip
    value = loss(student, teacher._replace(towers=bigger), make_context(student))
    torch.testing.assert_close(value, loss(student, teacher, make_context(student)))
    value.backward()
    assert all(x.grad is None for x in student.towers["one2many"].boxes)
    both = ready(student, teacher, box=1.0)
    both.load_state_dict(loss.state_dict(), strict=False)
    assert both(student, teacher, make_context(student)) > value


def test_batch_size_cancels_and_a_copy_is_the_same():
    student, teacher = views()
    loss = ready(student, teacher)
    value = loss(student, teacher, make_context(student, region=torch.ones(2, ANCHORS)))

    def twice(view: View) -> View:
        heads = {n: h._replace(logits=h.logits.repeat(2, 1, 1), boxes_xyxy=h.boxes_xyxy.repeat(2, 1, 1), distances=h.distances.repeat(2, 1, 1)) for n, h in view.heads.items()}  # fmt: skip
        towers = {n: Towers(*(tuple(x.repeat(2, 1, 1, 1) for x in part) for part in t)) for n, t in view.towers.items()}
        return view._replace(heads=heads, towers=towers)

    doubled = loss(twice(student), twice(teacher), make_context(twice(student)))
    torch.testing.assert_close(doubled, value)
    twin = copy.deepcopy(loss)
    assert twin(student, teacher, make_context(student)) == value
    twin.load_state_dict(loss.state_dict(), strict=True)


def test_adapters_turn_the_students_width_into_the_teachers():
    student = {branch: TowerChannels((4, 4, 4), (2, 2, 2)) for branch in BOTH}
    teacher = {"one2many": TowerChannels((9, 9, 9), (5, 5, 5))}
    loss = CrossHead()
    loss.setup_towers(student, teacher)
    shapes = {name: tuple(weight.shape) for name, weight in loss.named_parameters()}
    assert set(shapes.values()) == {(9, 4, 1, 1), (5, 2, 1, 1)}
    assert all("one2many" in name for name in shapes)  # the teacher has no other head
    assert len(shapes) == 6
    view = make_view(1, towers=True)
    assert tower_channels(view) == {branch: TowerChannels((4, 4, 4), (4, 4, 4)) for branch in BOTH}
    assert tower_channels(make_view(1)) == {}
    with pytest.raises(PairError, match=r"teacher: has 2 feature maps"):
        loss.setup_towers(student, {"one2many": TowerChannels((9, 9), (5, 5))})


def test_losses_agree_on_one_stage():
    assert tower_stage([]) is None
    assert tower_stage([("a", BinaryLogits()), ("b", DistillLoss())]) is None
    assert tower_stage([("a", CrossHead(stage=2)), ("b", BinaryLogits()), ("c", CrossHead(stage=2))]) == 2
    with pytest.raises(ConfigError, match=r"distill.terms: losses read the towers .*\(a at 1, b at 2\); give"):
        tower_stage([("a", CrossHead(stage=1)), ("b", CrossHead(stage=2))])


def test_errors():
    for stage in (0, 3, True, "1", None):
        with pytest.raises(ConfigError, match=r"stage: must be 1 or 2, got"):
            CrossHead(stage=stage)
    with pytest.raises(ConfigError, match=r"gamma: must be >= 0, got -1"):
        CrossHead(gamma=-1.0)
    with pytest.raises(ConfigError, match=r"box: must be >= 0, got -1"):
        CrossHead(box=-1.0)
    with pytest.raises(ConfigError, match=r"kind: unknown choice, got 'diou'; use one of giou, ciou"):
        CrossHead(kind="diou")
    student, teacher = views()
    loss, context = ready(student, teacher), make_context(student)
    for pair in (
        (student._replace(towers=None), teacher),
        (student, teacher._replace(towers=None)),
        (student, teacher._replace(finish=None)),
        (student, teacher._replace(towers={"one2one": teacher.towers["one2one"]})),
    ):
        with pytest.raises(PairError, match=r"distill: cross-head distillation needs the one2many head of a live"):
            loss(*pair, context)
    with pytest.raises(PairError, match=r"distill: cross-head"):
        CrossHead()(student, teacher, context)


def test_the_fake_head_is_a_head():
    view = itself(make_view(1, towers=True))
    assert view.head("one2many").logits.shape == (2, ANCHORS, 5)
    assert make_finish(5)("one2one", view.towers["one2one"]).boxes_xyxy.shape == (2, sum(h * w for h, w in SHAPES), 4)
