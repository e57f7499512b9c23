from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError, PairError, ShapeError
from detkd.losses.boxes import Selection
from detkd.losses.localization import Localization, ValuableBoxes, localization_loss, pairwise_diou, valuable_weights
from detkd.losses.recipe import Recipe, Term
from detkd.losses.regions import teacher_quality
from detkd.ops.anchors import anchor_points
from detkd.ops.boxes import iou
from detkd.types import Labels
from tests.losses.maps import make_labelled, make_labels
from tests.losses.views import ANCHORS, BOTH, leaves, make_assignment, make_context, make_view, pick

LN3 = math.log(3.0)
NATIVE = {"one2many": 0.8, "one2one": 0.2}


def one(logits: list[float]) -> torch.Tensor:
    """Two bins on each of four sides of one anchor."""
    return torch.tensor(logits).expand(1, 1, 4, 2).clone()


def selection(weight: float = 1.0, mass: float = 1.0) -> Selection:
    return Selection((torch.tensor([0]), torch.tensor([0])), torch.tensor([weight]), torch.tensor(mass))


def test_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2) on each side: KL = 0.130812, divided by two bins 0.065406."""
    value = localization_loss(one([0.0, 0.0]), one([LN3, 0.0]), selection(), temperature=1.0)
    torch.testing.assert_close(value, torch.tensor(0.065406), rtol=1e-5, atol=0)
    value = localization_loss(one([0.0, 0.0]), one([LN3 * 2, 0.0]), selection(3.0, 2.0), temperature=2.0)
    torch.testing.assert_close(value, torch.tensor(0.065406 * 4 * 3 / 2), rtol=1e-5, atol=0)
    student = one([LN3, 0.0])
    student[0, 0, 0] = 0.0  # one side of four
    value = localization_loss(student, one([LN3, 0.0]), selection(), temperature=1.0)
    torch.testing.assert_close(value, torch.tensor(0.065406 / 4), rtol=1e-5, atol=0)


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_slow_reference(power, temperature):
    student, teacher = (make_view(seed, bins=5, dtype=torch.float64) for seed in (1, 2))
    region = (torch.rand(2, ANCHORS, dtype=torch.float64) - 0.4).clamp(min=0)
    total = mass = 0.0
    for b in range(2):
        for a in range(ANCHORS):
            head = teacher.head("one2many")
            weight = float(region[b, a] * head.logits[b, a].max().sigmoid() ** power)
            mass += weight
            for side in range(4):
                v_s, v_t = (view.head("one2many").dist[b, a, side].tolist() for view in (student, teacher))
                e_s, e_t = ([math.exp(v / temperature) for v in row] for row in (v_s, v_t))
                kl = sum(t / sum(e_t) * math.log(t / sum(e_t) / (s / sum(e_s))) for s, t in zip(e_s, e_t, strict=True))
                total += weight * temperature**2 * kl / 5 / 4
    assert mass > 1
    loss = Localization(temperature, quality_power=power)
    value = loss(student, teacher, make_context(student, region=region))
    torch.testing.assert_close(value, torch.tensor(total / mass, dtype=torch.float64))


def test_hot_limit():
    """T^2 KL tends to half the variance of the gap over the bins as T grows."""
    student, teacher = torch.randn(2, 1, 1, 4, 6, dtype=torch.float64)
    value = localization_loss(student, teacher, selection(), temperature=1e4)
    expected = (student - teacher).var(-1, correction=0).mean() / 2 / 6
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)


def test_gradcheck():
    student, teacher = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    some = Selection((torch.tensor([0, 1]), torch.tensor([2, 0])), torch.rand(2).double(), torch.tensor(1.5).double())
    for temperature in (1.0, 10.0):
        assert torch.autograd.gradcheck(
            lambda v, t=temperature: localization_loss(v, teacher, some, temperature=t), student.requires_grad_()
        )


def test_contract_of_a_loss():
    student, teacher = (make_view(seed, bins=5, grad=True) for seed in (1, 2))
    loss, region = Localization(), torch.rand(2, ANCHORS)
    assert loss(teacher, teacher, make_context(teacher)) == 0
    value = loss(student, teacher, make_context(student, region=region))
    order, twice = torch.randperm(ANCHORS), torch.tensor([0, 1, 0, 1])
    moved = [pick(view, anchors=order) for view in (student, teacher)]
    torch.testing.assert_close(loss(*moved, make_context(student, region=region[:, order])), value)
    doubled = [pick(view, images=twice) for view in (student, teacher)]
    torch.testing.assert_close(loss(*doubled, make_context(doubled[0], region=region[twice])), value)
    value.backward()
    assert student.head("one2many").dist.grad.abs().sum() > 0
    assert all(x.grad is None for x in [*leaves(student), *leaves(teacher), *(h.dist for h in teacher.heads.values())])
    empty = loss(student, teacher, make_context(student, region=torch.zeros(2, ANCHORS)))
    assert empty == 0
    empty.backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    student, teacher = (make_view(seed, bins=16, dtype=dtype, grad=True) for seed in (1, 2))
    value = Localization()(student, teacher, make_context(student))
    assert value.dtype == torch.float32
    dists = [view.head("one2many").dist.detach() for view in (student, teacher)]
    every = Selection(tuple(torch.ones(2, ANCHORS).nonzero().T), torch.ones(2 * ANCHORS), torch.tensor(2.0 * ANCHORS))
    torch.testing.assert_close(value, localization_loss(*(d.float() for d in dists), every), rtol=1e-2, atol=0)
    value.backward()
    assert student.head("one2many").dist.grad.isfinite().all()


def test_refuses_yolo26_and_names_the_alternative():
    recipe = Recipe([Term("ld", Localization())])
    assignments = {branch: make_assignment(3) for branch in BOTH}
    with_bins, without = make_view(1, bins=5), make_view(2)
    for views, role in (((without, with_bins), "student"), ((with_bins, without), "teacher")):
        message = rf"terms.ld: reads dist.* {role}'s .*YOLO26 heads have no distance distribution.*use distill=binary"
        with pytest.raises(PairError, match=message):
            recipe(*views, assignments, 0.5, NATIVE)
        with pytest.raises(PairError, match=r"dist: heads without a distance distribution.*use distill=binary"):
            Localization()(*views, make_context(without))


def test_refuses_different_bins():
    student, teacher = make_view(1, bins=16), make_view(2, bins=17)
    with pytest.raises(PairError, match=r"dist: the student's head has 16 bins per side, the teacher's 17; use models"):
        Localization()(student, teacher, make_context(student))
    with pytest.raises(ShapeError, match="dist: student has shape"):
        localization_loss(torch.zeros(1, 2, 4, 5), torch.zeros(1, 3, 4, 5), selection())


def test_diou_by_hand():
    """Equal boxes: 1. Squares of 2 shifted by (1, 1): IoU 1/7, centres 2 apart squared, diagonal 18. Apart: below 0."""
    boxes = torch.tensor([[0.0, 0, 2, 2], [1.0, 1, 3, 3], [8.0, 0, 10, 2]])
    diou, overlap = pairwise_diou(boxes[:1], boxes)
    torch.testing.assert_close(diou, torch.tensor([[1.0, 1 / 7 - 2 / 18, -64 / 104]]))
    torch.testing.assert_close(overlap, torch.tensor([[1.0, 1 / 7, 0.0]]))


def test_valuable_weights_by_hand():
    """One object (0, 0, 8, 8), three anchors at stride 8 with squares of one cell, shifted by 0, 4 and 8 pixels in x.

    IoU 1, 1/3, 0; DIoU 1, 1/3 - 16/208 = 0.256410, 0 - 64/320 = -0.2. Mean 0.352137, deviation 0.494511, threshold
    0.846648. Valuable from a quarter of that, 0.211662: the second anchor alone, with weight 1/3.
    """
    points, strides = torch.tensor([[4.0, 4.0], [8.0, 4.0], [12.0, 4.0]]), torch.full((3, 1), 8.0)
    labels = Labels(torch.tensor([[[0.0, 0, 8, 8]]]), torch.zeros(1, 1).long(), torch.ones(1, 1).bool())
    found = valuable_weights(points, strides, labels, size=1.0)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1 / 3, 0.0]]))
    assert (valuable_weights(points, strides, labels, size=1.0, gamma=0.5) == 0).all()


@pytest.mark.parametrize("size", [3.0, 8.0])
def test_valuable_weights_slow_reference(size):
    view, labels = make_view(1, images=3), make_labels(images=3)
    points = view.anchor_points * view.strides
    expected = torch.zeros(3, ANCHORS)
    half = view.strides * size / 2
    squares = torch.cat((points - half, points + half), -1)
    for b in range(3):
        for box, present in zip(labels.boxes_xyxy[b], labels.present[b], strict=True):
            if not present:
                continue
            centre = (box[:2] + box[2:]) / 2
            diou, values = [], []
            for a in range(ANCHORS):
                low, high = torch.minimum(squares[a], box)[:2], torch.maximum(squares[a], box)[2:]
                share = (points[a] - centre).square().sum() / (high - low).square().sum()
                diou.append(float(iou(squares[a], box) - share))
            for stride in (8, 16, 32):
                level = [a for a in range(ANCHORS) if view.strides[a] == stride]
                level.sort(key=lambda a: float((points[a] - centre).square().sum()))
                values += [diou[a] for a in level[:9]]
            mean = sum(values) / len(values)
            bound = mean + math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
            for a in range(ANCHORS):
                if 0.25 * bound <= diou[a] < bound:
                    expected[b, a] = max(expected[b, a], iou(squares[a], box))
    found = valuable_weights(points, view.strides, labels, size=size)
    torch.testing.assert_close(found, expected)
    assert (found > 0).any()
    assert (found[-1] == 0).all()  # no objects


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_region(dtype):
    student, teacher = (make_view(seed, dtype=dtype, grad=True) for seed in (1, 2))
    assignment = make_labelled(3, make_labels())
    plain, joined = (
        ValuableBoxes(assigned=a)(student, teacher, make_context(student, assignment=assignment)) for a in (False, True)
    )
    assert torch.equal(joined, torch.where(assignment.foreground, torch.ones_like(plain), plain))
    quality = teacher_quality(teacher.head("one2many").logits)
    unknown = ValuableBoxes()(student, teacher, make_context(student))
    assert torch.equal(unknown, quality)
    bare = make_assignment(3)
    found = ValuableBoxes()(student, teacher, make_context(student, assignment=bare))
    assert torch.equal(found, torch.where(bare.foreground, torch.ones_like(quality), quality))
    for weights in (plain, joined, unknown):
        assert weights.shape == (2, ANCHORS)
        assert weights.dtype == torch.float32
        assert not weights.requires_grad
        assert weights.min() >= 0
        assert weights.max() <= 1


@pytest.mark.parametrize("flags", [[True, False], [False, False]])
@pytest.mark.parametrize("assigned", [True, False])
def test_in_an_image_without_labels_the_score_counts(flags, assigned):
    labels, labelled = make_labels(images=2), torch.tensor(flags)
    labels = labels._replace(present=torch.ones_like(labels.present) & labelled[:, None])
    student, teacher, assignment = make_view(1), make_view(2), make_labelled(3, labels)
    assignment = assignment._replace(foreground=assignment.foreground & labelled[:, None])
    region, score = ValuableBoxes(assigned=assigned), teacher_quality(teacher.head("one2many").logits)
    known = region(student, teacher, make_context(student, assignment=assignment))
    weights = region(student, teacher, make_context(student, assignment=assignment._replace(labelled=labelled)))
    assert torch.equal(weights[~labelled], score[~labelled])
    assert torch.equal(weights[labelled], known[labelled])


def grid(cells=20):
    """Centres and strides of three levels over a square image."""
    shapes = [(cells * k, cells * k) for k in (4, 2, 1)]
    points, strides = anchor_points(shapes, (8, 16, 32), like=torch.zeros(0))
    return points * strides, strides


@pytest.mark.parametrize("side", [2.0, 4.0, 6.0, 8.0])
@pytest.mark.parametrize("size", [3.0, 8.0])
def test_no_tiny_object_is_left_without_anchors(side, size):
    """Smaller than a cell, wherever it lies in one: anchors around it, none far away, each image for itself."""
    points, strides = grid()
    low = torch.rand(50, 1, 2, generator=torch.Generator().manual_seed(1)) * (640 - side)
    labels = Labels(torch.cat((low, low + side), -1), torch.zeros(50, 1).long(), torch.ones(50, 1).bool())
    weights = valuable_weights(points, strides, labels, size=size)
    assert ((weights > 0).sum(1) > 0).all()
    image, anchor = (weights > 0).nonzero(as_tuple=True)
    distance = (points[anchor] - low[image, 0] - side / 2).norm(dim=-1)
    assert (distance < size * strides[anchor, 0]).all()
    assert (valuable_weights(points, strides, labels, size=size, gamma=1.0) == 0).all()


def test_a_tiny_object_takes_the_nearest_anchors():
    """4 px in the middle of a cell of stride 8, squares of 64: the cell and its eight neighbours.

    Its square has an IoU of 16/4096 = 0.0039, less than what the distance takes away elsewhere: t < 0. The weight is
    that of an object of 8 px: 64/4096.
    """
    points, strides = grid()
    labels = Labels(torch.tensor([[[322.0, 322, 326, 326]]]), torch.zeros(1, 1).long(), torch.ones(1, 1).bool())
    weights = valuable_weights(points, strides, labels)[0]
    around = ((points - 324).abs() <= 8).all(1) & (strides[:, 0] == 8)
    assert int(around.sum()) == 9
    torch.testing.assert_close(weights, around * (64 / 4096))


def test_errors():
    with pytest.raises(ConfigError, match="temperature: must be > 0, got 0; 10 is usual"):
        Localization(temperature=0)
    with pytest.raises(ConfigError, match=r"gamma: must be in \[0, 1\], got 2; 0.25"):
        ValuableBoxes(gamma=2)
    with pytest.raises(ConfigError, match=r"size: must be > 0, got 0.0; 8 is usual"):
        ValuableBoxes(size=0.0)
