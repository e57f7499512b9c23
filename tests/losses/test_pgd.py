from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError, ShapeError
from detkd.losses.binary import BinaryLogits
from detkd.losses.pgd import QualityGaussian, RegionFeatures, gaussian_weights, object_weights, region_squares
from detkd.losses.recipe import Recipe, Term
from detkd.ops.boxes import iou
from tests.losses.maps import OBJECTS, feats, make_labelled, make_labels, make_maps_view, random_map
from tests.losses.views import ANCHORS, make_context, make_view

NATIVE = {"one2many": 0.8, "one2one": 0.2}


def slow(head, points, strides, labels, top, balance):
    """The same rule with plain numbers, image by image, object by object, cell by cell."""
    images, anchors = head.logits.shape[:2]
    weights = [[0.0] * anchors for _ in range(images)]
    for b in range(images):
        for box, number, present in zip(
            labels.boxes_xyxy[b], labels.classes[b].tolist(), labels.present[b], strict=True
        ):
            if not present:
                continue
            found = []
            for a, (x, y) in enumerate(points.tolist()):
                inside = box[0] < x < box[2] and box[1] < y < box[3]
                p = 1 / (1 + math.exp(-head.logits[b, a, number].item()))
                quality = p ** (1 - balance) * iou(head.boxes_xyxy[b, a], box).item() ** balance if inside else 0.0
                if quality > 0:
                    found.append((quality, a, x, y, strides[a].item()))
            found = sorted(found, reverse=True)[:top]
            if not found:
                continue
            n = len(found)
            mx, my = sum(f[2] for f in found) / n, sum(f[3] for f in found) / n
            extent = sum(f[4] ** 2 for f in found) / n / 12
            xx = sum((f[2] - mx) ** 2 for f in found) / n + extent
            yy = sum((f[3] - my) ** 2 for f in found) / n + extent
            xy = sum((f[2] - mx) * (f[3] - my) for f in found) / n
            det = xx * yy - xy * xy
            for _, a, x, y, _ in found:
                dx, dy = x - mx, y - my
                height = math.exp(-0.5 * (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / det)
                weights[b][a] = max(weights[b][a], height)
    return torch.tensor(weights, dtype=torch.float64)


def teacher_of(labels, seed=2, **options):
    """A teacher whose boxes lie near the labels, so that every cell inside has some overlap."""
    view = make_view(seed, dtype=torch.float64, **options)
    noise = random_map(seed, 2, ANCHORS, 4) * 3
    head = view.head("one2many")._replace(boxes_xyxy=labels.boxes_xyxy[0, 0].double() + noise)
    return view._replace(heads={"one2many": head})


def test_gaussian_by_hand():
    """Cells of side 8. Two at x = 0 and 8: variance 16 + 64 / 12 = 21.33, distance^2 16 / 21.33 = 0.75, height
    exp(-0.375) = 0.687289. One cell alone: 1. None: 0.
    """
    points = torch.tensor([[[0.0, 4.0], [8.0, 4.0], [90.0, 9.0]]]).expand(3, -1, -1)
    chosen = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    heights = gaussian_weights(points, chosen, torch.full((3, 3), 8.0))
    expected = torch.tensor([[0.687289, 0.687289, 0], [0, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(heights, expected, rtol=1e-5, atol=1e-8)


def test_gaussian_follows_the_shape_of_the_cells():
    """In a long row the ends are as far from the centre as in a short one; turning the axes changes nothing."""
    points = torch.cartesian_prod(torch.arange(9.0) * 8, torch.arange(3.0) * 8)[None]  # (1, 27, 2)
    chosen, sides = torch.ones(1, 27, dtype=torch.bool), torch.full((1, 27), 8.0)
    heights = gaussian_weights(points, chosen, sides).reshape(9, 3)
    assert heights[4, 1] == 1
    torch.testing.assert_close(heights, heights.flip(0))
    torch.testing.assert_close(gaussian_weights(points.flip(2), chosen, sides).reshape(9, 3), heights)
    angle = torch.tensor(0.7)
    turn = torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))
    torch.testing.assert_close(
        gaussian_weights(points @ turn.T, chosen, sides).reshape(9, 3), heights, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("top", "balance"), [(1, 0.6), (5, 0.6), (9, 0.0), (9, 1.0), (200, 0.8)])
def test_weights_slow_reference(top, balance):
    labels = make_labels()
    teacher = teacher_of(labels)
    head, points = teacher.head("one2many"), teacher.anchor_points * teacher.strides
    weights = object_weights(head, points, teacher.strides, labels, top=top, balance=balance)
    expected = slow(head, points, teacher.strides, labels, top, balance)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-8)
    assert (weights[0] > 0).sum() <= top * len(OBJECTS)
    assert weights[0].max() > 0
    assert (weights[-1] == 0).all()  # an image without objects


def test_weights_stay_inside_the_objects_and_need_no_class_but_the_labelled():
    labels = make_labels(objects=OBJECTS[:1])
    teacher = teacher_of(labels)
    head, points = teacher.head("one2many"), teacher.anchor_points * teacher.strides
    weights = object_weights(head, points, teacher.strides, labels)
    box = labels.boxes_xyxy[0, 0]
    inside = ((points > box[:2]) & (points < box[2:])).all(-1)
    assert (weights[0][~inside] == 0).all()
    assert (weights[0][inside] > 0).any()
    others = head.logits.clone()
    others[..., [0, 2, 3, 4]] = 9.0  # the label is of class 1
    torch.testing.assert_close(object_weights(head._replace(logits=others), points, teacher.strides, labels), weights)


def test_region():
    student = make_view(1, grad=True)
    labels = make_labels()
    teacher = teacher_of(labels)
    region = QualityGaussian(top=7)
    weights = region(student, teacher, make_context(student, assignment=make_labelled(3, labels)))
    expected = object_weights(
        teacher.head("one2many"), student.anchor_points * student.strides, student.strides, labels, top=7
    )
    torch.testing.assert_close(weights, expected)
    assert not weights.requires_grad
    assert ((weights >= 0) & (weights <= 1)).all()


def test_without_labels_the_score_counts():
    student, teacher = make_view(1), make_view(2, grad=True)
    score = teacher.head("one2many").logits.detach().sigmoid().amax(-1)
    unlabelled = make_labelled(3, make_labels())._replace(labels=None)
    for assignment in (None, unlabelled):
        weights = QualityGaussian()(student, teacher, make_context(student, assignment=assignment))
        torch.testing.assert_close(weights, score)
        assert not weights.requires_grad


@pytest.mark.parametrize("flags", [[True, False], [False, True], [False, False]])
def test_in_an_image_without_labels_the_score_counts(flags):
    labels, labelled = make_labels(images=2), torch.tensor(flags)
    labels = labels._replace(present=torch.ones_like(labels.present) & labelled[:, None])
    student, teacher, assignment = make_view(1), teacher_of(labels), make_labelled(3, labels)
    score = teacher.head("one2many").logits.sigmoid().amax(-1)
    known = QualityGaussian()(student, teacher, make_context(student, assignment=assignment))
    context = make_context(student, assignment=assignment._replace(labelled=labelled))
    weights = QualityGaussian()(student, teacher, context)
    torch.testing.assert_close(weights[~labelled], score[~labelled])
    assert torch.equal(weights[labelled], known[labelled])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_region_in_half_precision_and_with_one_class(dtype):
    labels = make_labels(objects=(((4.0, 4.0, 40.0, 30.0), 0),))
    student, teacher = make_view(1, classes=1, dtype=dtype), teacher_of(labels, classes=1)
    head = teacher.head("one2many")
    narrow = teacher._replace(
        heads={"one2many": head._replace(logits=head.logits.to(dtype), boxes_xyxy=head.boxes_xyxy.to(dtype))}
    )
    context = make_context(student, assignment=make_labelled(3, labels, classes=1))
    weights, wide = (
        QualityGaussian(top=200)(student, narrow, context),
        QualityGaussian(top=200)(student, teacher, context),
    )
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, wide.float(), rtol=1e-2, atol=1e-3)


def test_squares_by_hand():
    """(1, 3) and (3, 1) become (-1, 1) and (1, -1): 4 in each cell; weights 1 and 1/2 give 6."""
    student, teacher = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[3.0, 1.0]]]])
    value = region_squares(student, teacher, torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(value, torch.tensor(6.0), rtol=1e-4, atol=0)
    assert region_squares(teacher, teacher, torch.ones(1, 2)) == 0


def test_squares_gradcheck():
    student, teacher = random_map(1, 2, 2, 2, 3).requires_grad_(), random_map(2, 2, 2, 2, 3)
    weights = torch.rand(2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: region_squares(x, teacher, weights), student)


def test_loss_is_a_weighted_mean_over_cells():
    loss = RegionFeatures("needed")
    loss.setup((4, 4, 4), (4, 4, 4))
    student, teacher = make_maps_view(1, (4, 4, 4)), make_maps_view(2, (4, 4, 4))
    region = torch.rand(2, ANCHORS)
    total, start = torch.zeros(()), 0
    for x, y in zip(feats(student), feats(teacher), strict=True):
        mean = [z - z.mean((0, 2, 3), keepdim=True) for z in (x, y)]
        unit = [z / (z.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt() for z in mean]
        for image in range(2):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    gap = (unit[0] - unit[1])[image, :, row, column].square().mean()
                    total += region[image, start + row * x.shape[3] + column] * gap
        start += x.shape[2] * x.shape[3]
    value = loss(student, teacher, make_context(student, region=region))
    torch.testing.assert_close(value, total / region.sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss(student, teacher, make_context(student, region=region / 2)), value)
    assert loss(teacher, teacher, make_context(teacher)) == 0


def test_empty_region_is_zero_with_a_graph():
    loss = RegionFeatures()
    loss.setup((4, 6, 8), (8, 6, 12))
    student, teacher = make_maps_view(1, (4, 6, 8), grad=True), make_maps_view(2, (8, 6, 12), grad=True, ratio=2)
    value = loss(student, teacher, make_context(student, region=torch.zeros(2, ANCHORS)))
    assert value == 0
    value.backward()
    assert all((x.grad == 0).all() for x in feats(student))
    loss(student, teacher, make_context(student)).backward()
    assert all(x.grad.abs().sum() > 0 for x in (*feats(student), *loss.parameters()))
    assert all(x.grad is None for x in feats(teacher))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    loss = RegionFeatures()
    loss.setup((4, 4, 4), (4, 4, 4))
    student, teacher = make_maps_view(1, (4, 4, 4), grad=True, dtype=dtype), make_maps_view(2, (4, 4, 4), dtype=dtype)
    value = loss(student, teacher, make_context(student))
    assert value.dtype == torch.float32
    wide = [view._replace(feats=tuple(maps.detach().float() for maps in feats(view))) for view in (student, teacher)]
    torch.testing.assert_close(value, loss(*wide, make_context(student)), rtol=1e-2, atol=0)
    value.backward()
    assert all(maps.grad.isfinite().all() for maps in feats(student))


def test_in_a_recipe_for_maps_and_answers():
    terms = [Term("pgd", RegionFeatures(), branches=("one2many",)), Term("cls", BinaryLogits(), branches=("one2many",))]
    recipe = Recipe(terms, region=QualityGaussian())
    recipe.setup((4, 4, 4), (4, 4, 4))
    student, teacher = make_maps_view(1, (4, 4, 4), grad=True), make_maps_view(2, (4, 4, 4))
    for assignment in (make_labelled(3, make_labels()), None):
        total, items = recipe(student, teacher, {"one2many": assignment}, 0.5, NATIVE)
        assert total.isfinite()
        assert all(value > 0 for value in items.values())
    nothing = make_labelled(3, make_labels(objects=()))
    total, items = recipe(student, teacher, {"one2many": nothing}, 0.5, NATIVE)
    assert total == 0
    total.backward()


def test_errors():
    with pytest.raises(ConfigError, match=r"top: must be >= 1, got 0; 30 is usual"):
        QualityGaussian(top=0)
    with pytest.raises(ConfigError, match=r"balance: must be in \[0, 1\], got 2"):
        QualityGaussian(balance=2)
    with pytest.raises(ConfigError, match=r"adapter: unknown choice"):
        RegionFeatures(adapter="maybe")
    loss = RegionFeatures()
    loss.setup((4, 4, 4), (4, 4, 4))
    view = make_maps_view(1, (4, 4, 4))
    with pytest.raises(ShapeError, match=r"feats: maps of .* cells for a region of 9 anchors"):
        loss(view, view, make_context(view, region=torch.ones(2, 9)))
