from __future__ import annotations

import pytest
import torch

from detkd.errors import ConfigError, ShapeError
from detkd.losses.boxes import BoxIoU, BoxL1, BoxOptions, Selection, box_iou_loss, box_l1_loss, select_boxes
from detkd.ops.boxes import ciou, giou, iou
from detkd.types import Assignment, Context, HeadOutput
from tests.losses.views import ANCHORS, IMGSZ, leaves, make_assignment, make_context, make_view, pick

LOSSES = [BoxIoU(), BoxIoU("ciou"), BoxL1()]


def names(loss: object) -> str:
    return f"{type(loss).__name__}-{getattr(loss, 'kind', '')}"


def one_box(box: list[float], logit: float = 0.0) -> HeadOutput:
    boxes = torch.tensor(box).view(1, 1, 4)
    return HeadOutput(torch.full((1, 1, 2), logit), boxes, boxes / 8)


def context(assignment: Assignment | None = None) -> Context:
    return Context("one2many", assignment, torch.ones(1, 1), (64, 32))


def test_iou_by_hand():
    """Boxes of area 4 sharing 1 in an enclosing 9: GIoU = 1/7 - 2/9, CIoU = 1/7 - 1/9; weight 1/2, mass 1/2 -> 1."""
    student, teacher = one_box([0, 0, 2, 2]), one_box([1, 1, 3, 3])
    selection = select_boxes(student, teacher, context())
    value = box_iou_loss(student.boxes_xyxy, teacher.boxes_xyxy, selection)
    torch.testing.assert_close(value, torch.tensor(0.5 * (1 - 1 / 7 + 2 / 9)))
    value = box_iou_loss(student.boxes_xyxy, teacher.boxes_xyxy, selection, kind="ciou")
    torch.testing.assert_close(value, torch.tensor(0.5 * (1 - 1 / 7 + 1 / 9)))


def test_l1_by_hand():
    """Sides differ by 1, 2, 3, 4 cells of 8 pixels in a 32 x 64 image (width x height).

    Shares of the image: 8/32, 16/64, 24/32, 32/64 = 1/4, 1/4, 3/4, 1/2, mean 7/16; weights 1/2 + 1, mass 1.5.
    """
    student = torch.tensor([[[1.0, 1, 1, 1]], [[1.0, 1, 1, 1]]])
    teacher = torch.tensor([[[2.0, 3, 4, 5]], [[0.0, -1, -2, -3]]])
    selection = Selection((torch.tensor([0, 1]), torch.tensor([0, 0])), torch.tensor([0.5, 1.0]), torch.tensor(1.5))
    value = box_l1_loss(student, teacher, torch.tensor([[8.0]]), selection, imgsz=(64, 32))
    torch.testing.assert_close(value, torch.tensor(7 / 16))


def test_l1_has_the_units_of_the_native_loss():
    """Same number as Ultralytics' own L1 (reg_max 1), for the same boxes and weights."""
    import detkd.environment

    from ultralytics.utils.loss import BboxLoss

    student, teacher = make_view(1, images=1, classes=1), make_view(2, images=1, classes=1)
    head_s, head_t = student.head("one2many"), teacher.head("one2many")
    quality = head_t.logits.sigmoid()
    every = torch.ones(1, ANCHORS, dtype=torch.bool)
    size, mass = torch.tensor(IMGSZ, dtype=torch.float32), quality.sum().clamp(min=1)
    cells = head_t.boxes_xyxy / student.strides
    _, native = BboxLoss(1)(
        head_s.distances, head_s.boxes_xyxy / student.strides, student.anchor_points, cells, quality, mass, every, size,
        student.strides,
    )  # fmt: skip
    torch.testing.assert_close(BoxL1()(student, teacher, make_context(student)), native)


@pytest.mark.parametrize("quality", ["score", "score_iou"])
@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_slow_reference(quality, guard, power):
    student, teacher = make_view(1, dtype=torch.float64), make_view(2, dtype=torch.float64)
    labels = make_assignment(3)
    region = (torch.rand(2, ANCHORS) - 0.3).clamp(min=0)
    head_s, head_t = student.head("one2many"), teacher.head("one2many")
    sums, mass, dropped = {"giou": 0.0, "ciou": 0.0, "l1": 0.0}, 0.0, 0
    for image in range(2):
        for anchor in range(ANCHORS):
            box_s, box_t = head_s.boxes_xyxy[image, anchor], head_t.boxes_xyxy[image, anchor]
            label = labels.boxes_xyxy[image, anchor].double()
            fit = 1.0
            weight = float(region[image, anchor] * head_t.logits[image, anchor].max().sigmoid() ** power)
            if labels.foreground[image, anchor]:
                fit = float(iou(box_t, label))
                weight *= fit if quality == "score_iou" else 1.0
            mass += weight
            if guard and labels.foreground[image, anchor] and fit < float(iou(box_s, label)):
                dropped += 1
                continue
            sums["giou"] += weight * (1 - float(giou(box_s, box_t)))
            sums["ciou"] += weight * (1 - float(ciou(box_s, box_t)))
            gaps = (head_s.distances[image, anchor] - head_t.distances[image, anchor]).abs().tolist()
            shares = [gap * float(student.strides[anchor]) / IMGSZ[1 - side % 2] for side, gap in enumerate(gaps)]
            sums["l1"] += weight * sum(shares) / 4
    assert mass > 1
    assert (dropped > 0) == guard
    options = {"quality": quality, "quality_power": power, "guard": guard}
    for key, loss in (
        ("giou", BoxIoU("giou", **options)),
        ("ciou", BoxIoU("ciou", **options)),
        ("l1", BoxL1(**options)),
    ):
        value = loss(student, teacher, make_context(student, region=region, assignment=labels))
        torch.testing.assert_close(value, torch.tensor(sums[key] / mass, dtype=torch.float64), rtol=1e-5, atol=1e-8)


def test_options_by_hand():
    """Label (0, 0, 4, 4): teacher (0, 0, 4, 2) fits 1/2, student (0, 0, 4, 3) fits 3/4; teacher score 1/2."""
    label = torch.tensor([0.0, 0, 4, 4]).view(1, 1, 4)
    on = Assignment(torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, 2), label)
    off = on._replace(foreground=torch.zeros(1, 1, dtype=torch.bool))
    student, teacher = one_box([0, 0, 4, 3]), one_box([0, 0, 4, 2])

    def weight(assignment: Assignment | None, **options: object) -> float:
        return select_boxes(student, teacher, context(assignment), BoxOptions(**options)).weights.item()

    assert weight(on) == 0.5
    assert weight(on, quality_power=2.0) == 0.25
    assert weight(on, quality_power=0.0) == 1.0
    assert weight(on, quality="score_iou") == 0.25
    assert weight(off, quality="score_iou") == weight(None, quality="score_iou") == 0.5
    assert weight(on, guard=True) == 0.0
    assert weight(off, guard=True) == weight(None, guard=True) == 0.5
    better = select_boxes(teacher, student, context(on), BoxOptions(guard=True))
    assert better.weights.item() == 0.5


@pytest.mark.parametrize("loss", LOSSES, ids=names)
def test_zero_at_a_match_and_positive_elsewhere(loss):
    teacher = make_view(2)
    assert loss(teacher, teacher, make_context(teacher)) == 0
    assert loss(make_view(1), teacher, make_context(teacher)) > 0
    head = teacher.head("one2many")
    flat = head._replace(boxes_xyxy=head.boxes_xyxy[..., [2, 1, 0, 3]])  # turned inside out: no area
    broken = teacher._replace(heads={"one2many": flat})
    assert loss(broken, broken, make_context(teacher)) == 0
    assert loss(make_view(1), broken, make_context(teacher)) == 0  # such a teacher box teaches nothing


@pytest.mark.parametrize("loss", LOSSES, ids=names)
def test_order_of_anchors_does_not_matter_and_batch_size_cancels(loss):
    student, teacher = make_view(1), make_view(2)
    region = torch.rand(2, ANCHORS)
    value = loss(student, teacher, make_context(student, region=region))
    order, twice = torch.randperm(ANCHORS), torch.tensor([0, 1, 0, 1])
    moved = [pick(view, anchors=order) for view in (student, teacher)]
    torch.testing.assert_close(loss(*moved, make_context(student, region=region[:, order])), value)
    doubled = [pick(view, images=twice) for view in (student, teacher)]
    torch.testing.assert_close(loss(*doubled, make_context(doubled[0], region=region[twice])), value)


@pytest.mark.parametrize("loss", LOSSES, ids=names)
def test_gradient_only_to_the_student(loss):
    labels = make_assignment(3)
    labels.boxes_xyxy.requires_grad_()
    for each in (loss, type(loss)(quality="score_iou", guard=True)):
        student, teacher = make_view(1, grad=True), make_view(2, grad=True)
        each(student, teacher, make_context(student, assignment=labels)).backward()
        assert student.head("one2many").distances.grad.abs().sum() > 0
        assert student.head("one2many").logits.grad is None
        assert all(x.grad is None for x in leaves(teacher))
        assert labels.boxes_xyxy.grad is None


@pytest.mark.parametrize("loss", [BoxIoU(), BoxL1()], ids=names)
def test_gradcheck(loss):
    teacher = make_view(2, images=1, dtype=torch.float64)
    student = make_view(1, images=1, dtype=torch.float64)
    head = student.head("one2many")
    region = torch.zeros(1, ANCHORS)
    region[:, ::9] = 1

    def value(distances: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        moved = student._replace(heads={"one2many": head._replace(distances=distances, boxes_xyxy=boxes)})
        return loss(moved, teacher, make_context(student, region=region))

    inputs = (head.distances.clone().requires_grad_(), head.boxes_xyxy.clone().requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("loss", LOSSES, ids=names)
def test_empty_region_and_no_foreground(loss):
    student, teacher = make_view(1, grad=True), make_view(2)
    value = loss(student, teacher, make_context(student, region=torch.zeros(2, ANCHORS)))
    assert value == 0
    value.backward()
    assert (student.head("one2many").distances.grad == 0).all()
    nothing = make_assignment(3, share=0.0)
    guarded = type(loss)(quality="score_iou", guard=True)
    with_labels = guarded(student, teacher, make_context(student, assignment=nothing))
    torch.testing.assert_close(with_labels, guarded(student, teacher, make_context(student)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES, ids=names)
def test_half_precision(loss, dtype):
    student, teacher = make_view(1, dtype=dtype, grad=True), make_view(2, dtype=dtype)
    value = loss(student, teacher, make_context(student))
    assert value.dtype == torch.float32
    assert value.isfinite()
    value.backward()
    assert student.head("one2many").distances.grad.isfinite().all()
    wide = [
        view._replace(
            heads={name: HeadOutput(*(None if x is None else x.detach().double() for x in head)) for name, head in
                   view.heads.items()},
            strides=view.strides.double(),
        )
        for view in (student, teacher)
    ]  # fmt: skip
    torch.testing.assert_close(value.double(), loss(*wide, make_context(wide[0])), rtol=1e-2, atol=1e-4)


def test_errors():
    with pytest.raises(ConfigError, match="kind: unknown choice, got 'diou'; use one of giou, ciou"):
        BoxIoU("diou")
    with pytest.raises(ConfigError, match="quality: unknown choice, got 'iou'; use one of score, score_iou"):
        BoxL1(quality="iou")
    with pytest.raises(ConfigError, match=r"quality_power: must be >= 0, got -1\.0"):
        BoxL1(quality_power=-1.0)
    student, teacher = make_view(1), make_view(2)
    fewer = pick(teacher, anchors=slice(0, 10))
    with pytest.raises(ShapeError, match=r"boxes: student has shape \(2, 64, 4\), teacher \(2, 10, 4\)"):
        BoxIoU()(student, fewer, make_context(student))
    empty = Selection((torch.zeros(0, dtype=torch.long),) * 2, torch.zeros(0), torch.ones(()))
    with pytest.raises(ShapeError, match="distances: student has shape"):
        box_l1_loss(torch.zeros(1, 4, 4), torch.zeros(1, 3, 4), torch.ones(4, 1), empty, imgsz=(8, 8))
