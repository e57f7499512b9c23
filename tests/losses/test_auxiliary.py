from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError, PairError
from detkd.losses.auxiliary import BINS, AuxiliaryDistances, label_distances, side_probabilities, vote_spread
from detkd.losses.base import tower_channels
from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.teacher import LiveTeacher
from detkd.types import Assignment, HeadOutput, View
from tests.inference.tiny import NAMES, tiny_model
from tests.losses.views import ANCHORS, leaves, make_assignment, make_context, make_view


def views(**options: object) -> tuple[View, View]:
    return make_view(1, grad=True, towers=True, **options), make_view(2, grad=True, towers=True, **options)  # type: ignore[arg-type]


def ready(student: View, teacher: View, **options: float) -> AuxiliaryDistances:
    loss = AuxiliaryDistances(**options)
    torch.manual_seed(0)
    loss.setup_towers(tower_channels(student), tower_channels(teacher))
    return loss


def head_of(boxes: list[list[float]], scores: list[float]) -> HeadOutput:
    corners = torch.tensor([boxes])
    return HeadOutput(torch.tensor([scores]).logit()[..., None], corners, torch.zeros_like(corners))


def test_distribution_by_hand():
    """Distance 1, width 1, three bins: e^-1, 1, e^-1 over their sum."""
    found = side_probabilities(torch.tensor([1.0]), torch.tensor([1.0]), 3)
    parts = torch.tensor([math.exp(-1), 1.0, math.exp(-1)])
    torch.testing.assert_close(found[0], parts / parts.sum())
    narrow = side_probabilities(torch.tensor([1.5]), torch.tensor([0.1]), 3)
    torch.testing.assert_close(narrow[0], torch.tensor([0.0, 0.5, 0.5]), atol=1e-4, rtol=0)


def test_spread_by_hand():
    """A box and another that agree but for the right side, 8 pixels apart: with equal votes half of that, one cell."""
    head = head_of([[0, 0, 40, 40], [0, 0, 48, 40], [100, 100, 120, 120]], [0.5, 0.5, 0.9])
    where = (torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]))
    strides = torch.full((3, 1), 4.0)
    spread = vote_spread(head, head, strides, where, least=0.1)
    torch.testing.assert_close(spread[0], torch.tensor([0.1, 0.1, 1.0, 0.1]))
    torch.testing.assert_close(spread[1], spread[0])
    torch.testing.assert_close(spread[2], torch.full((4,), 0.1))
    sure = head_of([[0, 0, 40, 40], [0, 0, 48, 40], [100, 100, 120, 120]], [0.9, 0.1, 0.9])
    found = vote_spread(sure, sure, strides, where, least=0.1)[:, 2]
    torch.testing.assert_close(found, torch.tensor([0.2, 1.8, 0.1]))  # the sure box hardly doubts itself


def test_votes_are_counted_in_parts(monkeypatch):
    """A crowd at high resolution would take gigabytes at once."""
    head = head_of([[0, 0, 40 + i, 40] for i in range(7)], [0.5] * 7)
    where, strides = (torch.zeros(7, dtype=torch.long), torch.arange(7)), torch.full((7, 1), 4.0)
    whole = vote_spread(head, head, strides, where, least=0.1)
    monkeypatch.setattr("detkd.losses.auxiliary.AT_ONCE", 3)
    assert torch.equal(vote_spread(head, head, strides, where, least=0.1), whole)


def test_boxes_that_a_source_does_not_know_have_no_vote():
    head = head_of([[0, 0, 40, 40], [0, 0, 48, 40]], [0.5, 0.5])
    where, strides = (torch.tensor([0]), torch.tensor([0])), torch.full((2, 1), 4.0)
    voters = head._replace(known=torch.tensor([[True, False]]))
    assert vote_spread(head, voters, strides, where, least=0.1)[0, 2] == pytest.approx(0.1)


def test_label_distances_by_hand():
    """Anchor at cell (2.5, 1.5) of stride 8, so at pixel (20, 12); label 12..36 wide, 4..28 high."""
    view = make_view(1)._replace(anchor_points=torch.tensor([[2.5, 1.5]]), strides=torch.tensor([[8.0]]))
    label = Assignment(torch.ones(1, 1), torch.ones(1, 1, 1), torch.tensor([[[12.0, 4.0, 36.0, 28.0]]]))
    torch.testing.assert_close(label_distances(label, view)[0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0]))


def test_slow_reference():
    """Every anchor, side and bin by itself."""
    student, teacher = views(images=1)
    assignment = make_assignment(3, images=1)
    context = make_context(student, assignment=assignment)
    loss = ready(student, teacher, labels=2.0)
    logits = loss._logits(student, "one2many")[0].detach().log_softmax(-1)
    head = teacher.head("one2many")
    everywhere = (torch.zeros(ANCHORS, dtype=torch.long), torch.arange(ANCHORS))
    spread, distances = vote_spread(head, head, teacher.strides, everywhere), head.distances[0].detach()
    quality = head.logits.sigmoid().amax(-1)[0].tolist()
    taught = labelled = 0.0
    for anchor in range(ANCHORS):
        sides = []
        for side in range(4):
            d, b = float(distances[anchor, side]), float(spread[anchor, side])
            weights = [math.exp(-abs(r - d) / b) for r in range(BINS)]
            p = [w / sum(weights) for w in weights]
            sides.append(sum(x * (math.log(x) - float(logits[anchor, side, r])) for r, x in enumerate(p) if x > 1e-30))
        taught += quality[anchor] * sum(sides) / 4
        if assignment.foreground[0, anchor]:
            away = [min(max(float(x), 0.0), BINS - 1.01) for x in label_distances(assignment, student)[0, anchor]]
            ce = [-(1 - x % 1) * float(logits[anchor, i, int(x)]) - (x % 1) * float(logits[anchor, i, int(x) + 1])
                  for i, x in enumerate(away)]  # fmt: skip
            labelled += float(assignment.scores[0, anchor].sum()) * sum(ce) / 4
    expected = taught / max(1, sum(quality)) + 2 * labelled / max(1, float(assignment.scores.sum()))
    assert loss(student, teacher, context).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bins", [4, BINS, 20])
def test_a_teachers_own_distribution_is_taken(bins):
    """Shorter ones are filled up, longer ones end in the last bin."""
    student, teacher = views(bins=bins)
    where = (torch.tensor([0]), torch.tensor([3]))
    target = ready(student, teacher)._target(teacher, make_context(student), where)
    own = teacher.head("one2many").dist[0, 3].softmax(-1)
    assert target.shape == (1, 4, BINS)
    torch.testing.assert_close(target.sum(-1), torch.ones(1, 4))
    known = min(bins, BINS - 1)
    torch.testing.assert_close(target[0, :, :known], own[:, :known])


def test_the_box_tower_learns_and_the_teacher_does_not():
    student, teacher = views()
    loss = ready(student, teacher)
    loss(student, teacher, make_context(student, assignment=make_assignment(3))).backward()
    assert all(
        x.grad.abs().sum() > 0 for x in (*student.towers["one2many"].boxes, *loss.branches["one2many"].parameters())
    )
    assert all(x.grad is None for x in (*student.towers["one2many"].classes, *leaves(teacher), *leaves(student)))


def test_it_learns_the_teachers_width():
    """With a free map per cell the branch comes to the teacher's distribution."""
    student, teacher = views(images=1)
    loss = ready(student, teacher, labels=0.0)
    maps = student.towers["one2many"].boxes
    optimizer = torch.optim.Adam([*loss.branches["one2many"].parameters(), *maps], lr=0.05)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(student, teacher, make_context(student))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.2 * values[0]


def test_any_teacher_will_do_that_has_boxes():
    """Objects, stored answers, several teachers: none of them shows maps of its towers."""
    student = tiny_model(seed=1)
    teacher = LiveTeacher(tiny_model("yolov8n.yaml", seed=2), NAMES, nms_conf=0.05)
    recipe = Recipe.from_parts({"aux": {"loss": AuxiliaryDistances()}})
    assert recipe.uses == {"logits", "boxes"}
    model = DistilledDetector(student.train(), teacher, recipe)
    model.probe(64, 64)
    assert model.kd_names == ("kd_aux", "kd_aux_o2o", "kd")
    assert set(recipe.terms["aux"].branches) == {"one2many", "one2one"}
    alone = DistilledDetector(student, LiveTeacher(tiny_model("yolov8n.yaml", seed=2), NAMES), recipe)
    alone.probe(64, 64)  # nobody teaches the other head, so it gets no layers that would never learn
    assert set(recipe.terms["aux"].branches) == {"one2many"}


def test_without_labels_the_teacher_teaches_alone():
    student, teacher = views()
    assert ready(student, teacher)(student, teacher, make_context(student)) == ready(student, teacher, labels=0.0)(
        student, teacher, make_context(student, assignment=make_assignment(3))
    )


def test_refusals():
    student, teacher = views()
    with pytest.raises(ConfigError, match="labels"):
        AuxiliaryDistances(labels=-1)
    with pytest.raises(ConfigError, match="least"):
        AuxiliaryDistances(least=0)
    with pytest.raises(PairError, match="auxiliary branch needs the one2many head"):
        ready(student, teacher)(student._replace(towers=None), teacher, make_context(student))
