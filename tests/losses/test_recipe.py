from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from detkd.errors import ConfigError, ModelError, PairError, ShapeError
from detkd.losses.balance import Balance
from detkd.losses.base import DistillLoss, Region, tower_channels
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.crosshead import CrossHead
from detkd.losses.pairing import detach_view, known_classes, paired_heads
from detkd.losses.recipe import Recipe, Schedule, Term
from detkd.losses.regions import Everywhere, TeacherTop
from detkd.losses.terms import term_doubts
from detkd.types import Labels
from tests.losses.views import ANCHORS, leaves, make_assignment, make_view, pick

NATIVE = {"one2many": 0.8, "one2one": 0.2}


class Reads(DistillLoss):
    """Reads what it is told to, and returns the mean student logit times a factor."""

    def __init__(self, *uses: str, factor: float = 1.0) -> None:
        super().__init__()
        self.uses = frozenset(uses)
        self.factor = factor

    def forward(self, student, teacher, context):
        return student.head(context.branch).logits.mean() * self.factor


class Shape(DistillLoss):
    uses: ClassVar[frozenset[str]] = frozenset({"logits"})

    def forward(self, student, teacher, context):
        return student.head(context.branch).logits.sum(-1)


class Layered(DistillLoss):
    uses: ClassVar[frozenset[str]] = frozenset({"feats"})

    def setup(self, student_channels, teacher_channels):
        self.adapter = torch.nn.Conv2d(student_channels[0], teacher_channels[0], 1)

    def forward(self, student, teacher, context):
        return (self.adapter(student.feats[0]) - teacher.feats[0]).square().mean()


class Flat(Region):
    def forward(self, student, teacher, context):
        return torch.ones(ANCHORS)


def usual(**options) -> Recipe:
    terms = [Term("cls", BinaryLogits(), 1.0), Term("giou", BoxIoU(), 2.5), Term("l1", BoxL1(), 1.5, ("one2many",))]
    return Recipe(terms, **options)


def call(recipe, student, teacher, assignments=None, progress=0.5, native=NATIVE):
    return recipe(student, teacher, assignments or {}, progress, native)


def test_total_is_the_weighted_sum_of_the_logged_values():
    recipe = usual(kd_weight=3.0, schedule=Schedule("linear", end=0.0))
    labels = {"one2many": make_assignment(3), "one2one": make_assignment(4, share=0.05)}
    total, items = call(recipe, make_view(1), make_view(2), labels, progress=0.25)
    assert list(items) == ["kd_cls", "kd_giou", "kd_l1", "kd_cls_o2o", "kd_giou_o2o"]
    assert tuple(items) == recipe.columns(("one2many", "one2one"))
    many = 1.0 * items["kd_cls"] + 2.5 * items["kd_giou"] + 1.5 * items["kd_l1"]
    one = 0.2 * (items["kd_cls_o2o"] + 2.5 * items["kd_giou_o2o"])
    torch.testing.assert_close(total, 3.0 * 0.75 * (many + one))
    assert total.shape == ()
    assert all(value > 0 for value in items.values())


def test_logged_values_carry_no_weight_and_no_graph():
    student, teacher = make_view(1, grad=True), make_view(2)
    _, plain = call(usual(), student, teacher)
    heavy = Recipe([Term("cls", BinaryLogits(), 9.0), Term("giou", BoxIoU(), 0.0)], kd_weight=7.0, alpha=0.1)
    total, items = call(heavy, student, teacher, progress=0.0)
    torch.testing.assert_close(items["kd_cls"], plain["kd_cls"])
    torch.testing.assert_close(items["kd_giou"], plain["kd_giou"])
    assert not any(value.requires_grad for value in items.values())
    assert total.requires_grad


def test_alpha_is_left_to_the_caller():
    student, teacher = make_view(1), make_view(2)
    totals = [call(usual(alpha=alpha), student, teacher)[0] for alpha in (0.0, 0.5, 1.0)]
    assert totals[0] == totals[1] == totals[2]


def test_zero_for_the_same_answers_and_zero_weight_in_the_warm_up():
    view = make_view(2)
    total, items = call(usual(), view, view, {"one2many": make_assignment(3)})
    assert total == 0
    assert all(value == 0 for value in items.values())
    student = make_view(1, grad=True)
    total, items = call(usual(schedule=Schedule(warmup=0.1)), student, view, progress=0.0)
    assert total == 0
    assert not total.requires_grad
    assert items["kd_cls"] > 0  # still shown


def test_gradient_only_to_the_student_even_from_a_careless_loss():
    class Careless(DistillLoss):
        uses: ClassVar[frozenset[str]] = frozenset({"logits", "feats"})

        def forward(self, student, teacher, context):
            gap = student.head(context.branch).logits - teacher.head(context.branch).logits
            return gap.square().mean() + (student.feats[0] - teacher.feats[0]).square().mean()

    student, teacher = make_view(1, grad=True, feats=True), make_view(2, grad=True, feats=True)
    teacher.feats[0].requires_grad_()
    recipe = Recipe([Term("raw", Careless()), Term("giou", BoxIoU())])
    call(recipe, student, teacher, {"one2many": make_assignment(3)})[0].backward()
    assert all(x.grad.abs().sum() > 0 for x in leaves(student))
    assert all(x.grad is None for x in leaves(teacher))
    assert teacher.feats[0].grad is None


def test_batch_size_cancels():
    recipe = usual(region=Everywhere())
    student, teacher, twice = make_view(1), make_view(2), torch.tensor([0, 1, 0, 1])
    labels = make_assignment(3)
    once, _ = call(recipe, student, teacher, {"one2many": labels})
    doubled = type(labels)(*(x[twice] for x in labels[:3]))
    both = call(recipe, pick(student, images=twice), pick(teacher, images=twice), {"one2many": doubled})[0]
    torch.testing.assert_close(both, once)
    torch.testing.assert_close(4 * both, 2 * (2 * once))  # times B, as the caller does: twice the images, twice the sum


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (("one2many", "one2one"), ("one2many", "one2one"), ("one2many", "one2one")),
        (("one2many", "one2one"), ("one2many",), ("one2many",)),
        (("one2many",), ("one2many", "one2one"), ("one2many",)),
        (("one2one",), ("one2many", "one2one"), ("one2one",)),
    ],
)
def test_heads_pair_with_the_same_head_only(student, teacher, expected):
    assert paired_heads(student, teacher) == expected
    _, items = call(usual(), make_view(1, heads=student), make_view(2, heads=teacher))
    assert tuple(items) == usual().columns(expected)


def test_one2one_never_learns_from_one2many():
    student = make_view(1, grad=True)
    call(usual(), student, make_view(2, heads=("one2many",)))[0].backward()
    assert student.head("one2many").logits.grad.abs().sum() > 0
    assert student.head("one2one").logits.grad is None
    assert student.head("one2one").distances.grad is None


def test_heads_that_find_no_teacher():
    student, one = make_view(1), make_view(2, heads=("one2one",))
    with pytest.raises(PairError, match=r"teacher: has no one2many head to teach .* set distill.heads.one2many=0"):
        call(usual(), student, one)
    _, items = call(usual(head_weights={"one2many": 0}), student, one)
    assert list(items) == ["kd_cls_o2o", "kd_giou_o2o"]
    with pytest.raises(PairError, match=r"distill\.heads: nothing to distil, student has .* teacher .*one2many"):
        call(usual(head_weights={"one2many": 0}), student, make_view(2, heads=("one2many",)))


def test_head_weights():
    student, teacher = make_view(1), make_view(2)
    only = [Term("cls", BinaryLogits())]
    total, items = call(Recipe(only, head_weights={"one2many": "native", "one2one": 3}), student, teacher)
    torch.testing.assert_close(total, 0.8 * items["kd_cls"] + 3 * items["kd_cls_o2o"])
    with pytest.raises(ConfigError, match=r"distill\.heads\.one2one: 'native' needs the detector's own weights"):
        call(Recipe(only), student, teacher, native={"one2many": 1.0})
    total, items = call(Recipe(only), student, teacher, native={"one2many": 0.0, "one2one": 0.0})
    torch.testing.assert_close(total, items["kd_cls"])


@pytest.mark.parametrize("missing", ["dist", "feats"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_missing_outputs_are_refused_by_name(missing, role):
    full = make_view(1, bins=4, feats=True)
    lacking = make_view(2, feats=True) if missing == "dist" else make_view(2, bins=4)
    recipe = Recipe([Term("extra", Reads(missing))])
    assert recipe.uses == {missing}
    pair = (lacking, full) if role == "student" else (full, lacking)
    with pytest.raises(PairError, match=f"distill.terms.extra: reads {missing}, which the {role}'s one2many head"):
        call(recipe, *pair)
    call(recipe, full, full)


def test_the_true_reason_for_a_missing_output_is_given():
    student, teacher = make_view(1, bins=4), make_view(2)
    recipe = Recipe([Term("extra", Reads("dist"))])
    with pytest.raises(PairError, match=r"\(YOLO26 heads have no distance distribution\); choose another loss"):
        call(recipe, student, teacher)
    with pytest.raises(PairError, match=r"\(averaged away\); choose another loss or another teacher"):
        call(recipe, student, teacher._replace(lost={"dist": "averaged away", "feats": "left out"}))
    with pytest.raises(PairError, match=r"\(it is made of objects or of stored answers, not a head of its own\)"):
        call(recipe, student, knowing(teacher, torch.ones(2, ANCHORS, dtype=torch.bool)))


def test_a_loss_inside_the_head_says_how_to_leave_a_head_out():
    student, teacher = make_view(1, towers=True), make_view(2, towers=True)
    teacher = teacher._replace(towers={"one2many": teacher.towers["one2many"]})
    recipe = Recipe([Term("mine", CrossHead())])
    recipe.setup_towers(tower_channels(student), tower_channels(teacher))
    with pytest.raises(PairError, match=r"one2one head .*; set distill\.terms\.mine\.branches=\[one2many\]"):
        call(recipe, student, teacher)
    recipe = Recipe([Term("mine", CrossHead(), branches=("one2many",))])
    recipe.setup_towers(tower_channels(student), tower_channels(teacher))
    assert list(call(recipe, student, teacher)[1]) == ["kd_mine"]


def test_doubtful_arguments_are_named_by_their_key():
    recipe = Recipe([Term("cls", BinaryLogits(temperature=2.0)), Term("other", BinaryLogits())])
    (doubt,) = term_doubts(recipe.terms.items())
    assert doubt.startswith("distill.terms.cls.loss.temperature: 2 with sigmoid scores")


class Number(DistillLoss):
    uses = frozenset({"logits"})

    def forward(self, student, teacher, context):
        return 1.0


class Undeclared(DistillLoss):
    uses = frozenset({"logits"})

    def forward(self, student, teacher, context):
        return student.towers["one2many"].boxes[0].sum()


def test_mistakes_of_a_users_loss_name_the_term():
    with pytest.raises(ShapeError, match=r"distill.terms.mine.loss: must return a scalar tensor, got float"):
        call(Recipe([Term("mine", Number())]), make_view(1), make_view(2))
    with pytest.raises(
        ModelError, match=r"distill.terms.mine.loss: \S+Undeclared raised TypeError .*names them in uses"
    ):
        call(Recipe([Term("mine", Undeclared())]), make_view(1), make_view(2))


class Silent(DistillLoss):
    def forward(self, student, teacher, context):
        return student.head(context.branch).logits.mean()


def test_a_loss_has_to_say_what_it_reads():
    with pytest.raises(ConfigError, match=r"distill.terms.mine.loss: Silent names nothing in `uses`"):
        Term("mine", Silent())


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"distill.terms.odd.loss: must return a scalar tensor, got shape \(2, 64\)"):
        call(Recipe([Term("odd", Shape())]), make_view(1), make_view(2))
    with pytest.raises(ShapeError, match=r"distill.region: must have one weight per image and anchor, \(2, 64\)"):
        call(usual(region=Flat()), make_view(1), make_view(2))
    with pytest.raises(ShapeError, match=r"distill.region: .* got shape \(2, 9\)"):
        call(usual(), make_view(1), pick(make_view(2), anchors=slice(9)))
    with pytest.raises(ShapeError, match=r"logits: student has shape \(2, 64, 5\), teacher \(2, 64, 7\)"):
        call(usual(), make_view(1), make_view(2, classes=7))


def knowing(view, known):
    return view._replace(heads={name: head._replace(known=known) for name, head in view.heads.items()})


@pytest.mark.parametrize("region", [None, Everywhere()], ids=["top", "everywhere"])
def test_unknown_anchors_teach_nothing(region):
    recipe = usual(region=region)
    labels = {"one2many": make_assignment(3), "one2one": make_assignment(4)}
    student, teacher = make_view(1, grad=True), make_view(2)
    known = torch.rand(2, ANCHORS) < 0.5
    total, _ = call(recipe, student, knowing(teacher, known), labels)
    total.backward()
    assert total > 0
    for leaf in leaves(student):
        assert not leaf.grad[~known].any()
        assert leaf.grad[known].any()
    if region is not None:  # what the teacher would say there doesn't matter
        heads = {}
        for name, head in teacher.heads.items():
            lost = ~known[..., None]
            heads[name] = head._replace(
                logits=head.logits.masked_fill(lost, -20.0), distances=head.distances.masked_fill(lost, 0.0),
                boxes_xyxy=head.boxes_xyxy.masked_fill(lost, 0.0), known=known,
            )  # fmt: skip
        torch.testing.assert_close(call(recipe, student, teacher._replace(heads=heads), labels)[0], total)


def test_a_teacher_that_knows_everything_or_nothing():
    student, teacher = make_view(1, grad=True), make_view(2)
    expected, values = call(usual(), student, teacher)
    total, items = call(usual(), student, knowing(teacher, torch.ones(2, ANCHORS, dtype=torch.bool)))
    assert torch.equal(total, expected)
    assert all(torch.equal(items[name], value) for name, value in values.items())
    total, items = call(usual(), student, knowing(teacher, torch.zeros(2, ANCHORS, dtype=torch.bool)))
    assert total == 0
    assert total.requires_grad
    assert items.keys() == values.keys()
    assert not any(items.values())


def test_an_image_without_known_anchors_changes_nothing():
    recipe = usual(region=Everywhere())
    student, teacher = make_view(1), make_view(2)
    known = torch.ones(2, ANCHORS, dtype=torch.bool)
    known[1] = False
    first = slice(0, 1)
    alone, _ = call(recipe, pick(student, images=first), pick(teacher, images=first))
    torch.testing.assert_close(call(recipe, student, knowing(teacher, known))[0], alone)


def test_setup_reaches_layers_and_they_train():
    recipe = Recipe([Term("maps", Layered()), Term("cls", BinaryLogits())])
    recipe.setup((4, 4, 4), (4, 4, 4))
    assert [name for name, _ in recipe.named_parameters()] == ["terms.maps.adapter.weight", "terms.maps.adapter.bias"]
    call(recipe, make_view(1, feats=True), make_view(2, feats=True))[0].backward()
    assert recipe.terms["maps"].adapter.weight.grad.abs().sum() > 0


def test_a_recipe_without_terms_is_silent():
    recipe = Recipe([], alpha=1.0)
    total, items = call(recipe, make_view(1), make_view(2, heads=("one2one",)))
    assert total == 0
    assert items == {}
    assert recipe.uses == frozenset()


def test_detach_view_keeps_values():
    view = make_view(1, grad=True, bins=4, feats=True)
    cut = detach_view(view)
    assert torch.equal(cut.head("one2one").dist, view.head("one2one").dist)
    assert torch.equal(cut.head("one2one").boxes_xyxy, view.head("one2one").boxes_xyxy)
    known = torch.rand(2, ANCHORS) < 0.5
    assert detach_view(knowing(view, known)).head("one2one").known is known
    assert not cut.head("one2one").logits.requires_grad
    assert make_view(1).feats is detach_view(make_view(1)).feats is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.3}, r"distill.alpha: must be in \[0, 1\], got 1.3; 1 is the detection loss alone"),
        ({"alpha": "half"}, "distill.alpha: must be a finite number, got 'half'"),
        ({"alpha": True}, "distill.alpha: must be a finite number, got True"),
        ({"kd_weight": -1}, "distill.lambda: must be >= 0, got -1"),
        ({"kd_weight": float("inf")}, "distill.lambda: must be a finite number, got inf"),
        ({"heads": {"one2many": -0.5}}, "distill.heads.one2many: must be >= 0, got -0.5; 'native' follows"),
        ({"heads": {"one2many": "auto"}}, "distill.heads.one2many: must be a finite number, got 'auto'"),
        ({"heads": {"one2mny": 1}}, "distill.heads.one2mny: unknown key; did you mean one2many?"),
        ({"schedule": {"kind": "step"}}, "distill.schedule.kind: unknown choice, got 'step'; use one of constant, cos"),
        ({"terms": {}}, "distill.terms: is empty, but distill.alpha=0.5 would scale the detection loss down"),
        ({"terms": {"cls": {"weight": 1.0}}}, "distill.terms.cls.loss: is missing"),
        ({"terms": {"cls": None}}, "distill.terms.cls: must hold loss and weight, got None"),
        ({"terms": {"cls": {"loss": 3}}}, "distill.terms.cls.loss: must be a DistillLoss, got int"),
        ({"terms": {"cls": {"loss": BinaryLogits(), "wieght": 1}}}, "cls.wieght: unknown key; did you mean weight?"),
        ({"terms": {"a.b": {"loss": BinaryLogits()}}}, "distill.terms.a.b: can't name a term"),
        ({"terms": {"items": {"loss": BinaryLogits()}}}, "distill.terms.items: can't name a term"),
        ({"terms": {"cls": {"loss": BinaryLogits(), "weight": -2}}}, "distill.terms.cls.weight: must be >= 0, got -2"),
        (
            {"terms": {"cls": {"loss": BinaryLogits(), "branches": ["o2m"]}}},
            "distill.terms.cls.branches: unknown choice, got 'o2m'; use one of one2many, one2one",
        ),
    ],
)
def test_config_errors(options, message):
    parts = {"terms": {"cls": {"loss": BinaryLogits()}}, **options}
    with pytest.raises(ConfigError, match=message):
        Recipe.from_parts(**parts)


def test_all_problems_with_terms_at_once():
    with pytest.raises(ConfigError) as caught:
        Recipe.from_parts({"a": {"loss": BinaryLogits(), "weight": -1}, "b": {}, "c": {"loss": BinaryLogits()}})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "distill.terms.a.weight",
        "distill.terms.b.loss",
    ]
    with pytest.raises(ConfigError, match=r"distill\.terms: names must differ"):
        Recipe([Term("cls", BinaryLogits()), Term("cls", BinaryLogits())])


def test_from_parts_accepts_one_branch_as_text():
    recipe = Recipe.from_parts({"cls": {"loss": BinaryLogits(), "weight": 2, "branches": "one2one"}})
    assert recipe.columns(("one2many", "one2one")) == ("kd_cls_o2o",)
    assert recipe.weights == {"cls": 2.0}


def test_a_term_has_its_own_region_and_schedule():
    student, teacher = make_view(1), make_view(2)
    few = TeacherTop(fraction=0.05, assigned=False)
    term = Term("cls", BinaryLogits(), region=few)
    _, items = call(Recipe([term], region=Everywhere()), student, teacher)
    _, expected = call(Recipe([Term("cls", BinaryLogits())], region=few), student, teacher)
    assert items == expected
    plain = Recipe([Term("cls", BinaryLogits())], schedule=Schedule(warmup=0.5))
    late = Recipe([Term("cls", BinaryLogits(), schedule=Schedule(warmup=0.5))], schedule=Schedule(warmup=0.5))
    first, second = (call(recipe, student, teacher, progress=0.25)[0] for recipe in (plain, late))
    torch.testing.assert_close(second, first / 2)  # the warm-ups multiply: 0.5 * 0.5


def test_each_group_has_its_factor():
    student, teacher = make_view(1, feats=True), make_view(2, feats=True)
    recipe = Recipe([Term("cls", BinaryLogits()), Term("feats", Layered())])
    recipe.setup((4, 4, 4), (4, 4, 4))
    compared = recipe.compare(student, teacher, {}, 0.5, NATIVE)
    assert set(compared.groups) == {"head", "head_o2o", "features"}
    recipe.factors[:] = torch.tensor([3.0, 2.0, 0.5])
    parts = compared.groups
    torch.testing.assert_close(
        recipe.total(compared), 3 * parts["head"] + 2 * parts["head_o2o"] + parts["features"] / 2
    )


def test_classes_the_teacher_does_not_know_get_no_pressure():
    classes = torch.tensor([True, False, True, True, False])
    student = make_view(1, grad=True)
    teacher = make_view(2)
    knowing = teacher._replace(heads={n: h._replace(classes=classes) for n, h in teacher.heads.items()})
    assignment = make_assignment(3)
    assignment = assignment._replace(scores=assignment.scores * torch.tensor([1.0, 0, 1, 1, 0]))
    total, _ = call(usual(region=Everywhere()), student, knowing, {"one2many": assignment})
    total.backward()
    for head in student.heads.values():
        assert not head.logits.grad[..., ~classes].any()
        assert head.logits.grad[..., classes].any()


def test_anchors_of_an_unknown_class_are_left_alone():
    """An object that the teacher can't know: whatever it says of its anchors is no lesson."""
    classes = torch.tensor([True, False, True, True, True])
    student, teacher = make_view(1, grad=True), make_view(2)
    knowing = teacher._replace(heads={n: h._replace(classes=classes) for n, h in teacher.heads.items()})
    assignment = make_assignment(3)
    foreground = torch.zeros_like(assignment.foreground)
    foreground[0, 5] = True
    scores = torch.zeros_like(assignment.scores)
    scores[0, 5, 1] = 0.9
    assignment = assignment._replace(foreground=foreground, scores=scores)
    total, _ = call(usual(region=Everywhere()), student, knowing, {"one2many": assignment})
    total.backward()
    head = student.heads["one2many"]
    assert not head.logits.grad[0, 5].any()
    assert not head.distances.grad[0, 5].any()
    assert head.logits.grad[0, 6].any()


def test_the_class_of_a_label_decides_not_what_is_left_of_its_target():
    """The assigner's target is 0 where the student's box misses the object or the label isn't trusted at all."""
    classes = torch.tensor([True, False, True, True, True])
    teacher = make_view(2)
    knowing = teacher._replace(heads={n: h._replace(classes=classes) for n, h in teacher.heads.items()})
    assignment = make_assignment(3)
    foreground, scores = torch.zeros_like(assignment.foreground), torch.zeros_like(assignment.scores)
    foreground[0, 4:8] = True  # an unknown class and a known one, each with a target and without
    scores[0, 4, 1] = scores[0, 6, 3] = 0.9
    owner = torch.full(foreground.shape, 5)  # off the foreground, the assigner may give a number that is no class
    owner[0, 4:8] = torch.tensor([1, 1, 3, 3])
    told = assignment._replace(foreground=foreground, scores=scores, classes=owner)
    _, _, kept, excluded = known_classes(make_view(1), knowing, {"one2many": told})
    assert excluded["one2many"].nonzero().tolist() == [[0, 4], [0, 5]]
    assert kept["one2many"].foreground.nonzero().tolist() == [[0, 6], [0, 7]]
    assert kept["one2many"].classes[0, 6:8].tolist() == [2, 2]  # numbers among the four that are left
    untold = told._replace(classes=None)  # then an anchor without a target is not known to be of an unknown class
    _, _, kept, excluded = known_classes(make_view(1), knowing, {"one2many": untold})
    assert excluded["one2many"].nonzero().tolist() == [[0, 4]]
    assert kept["one2many"].classes is None


def test_which_images_are_labelled_outlives_the_choice_of_classes():
    classes = torch.tensor([True, False, True, True, True])
    teacher = make_view(2)
    knowing = teacher._replace(heads={n: h._replace(classes=classes) for n, h in teacher.heads.items()})
    given = make_assignment(3)._replace(labelled=torch.tensor([True, False]))
    _, _, kept, _ = known_classes(make_view(1), knowing, {"one2many": given})
    assert kept["one2many"].labelled.tolist() == [True, False]


def test_labels_of_a_class_the_teacher_does_not_know_are_not_present():
    classes = torch.tensor([True, False, True, True, True])
    student, teacher = make_view(1), make_view(2)
    partial = teacher._replace(heads={n: h._replace(classes=classes) for n, h in teacher.heads.items()})
    present = torch.tensor([[True, True, True], [True, True, False]])
    given = Labels(torch.zeros(2, 3, 4), torch.tensor([[0, 1, 3], [4, 1, 0]]), present)
    side, other, kept, excluded = known_classes(
        student, partial, {"one2many": make_assignment(3)._replace(labels=given), "one2one": None}
    )
    labels = kept["one2many"].labels
    assert labels.present.tolist() == [[True, False, True], [True, False, False]]
    assert labels.classes[labels.present].tolist() == [0, 2, 3]  # numbers among the four that are left
    assert kept["one2one"] is None
    assert set(excluded) == {"one2many"}
    assert kept["one2many"].scores.shape[-1] == 4
    for view in (side, other):
        assert all(head.logits.shape[-1] == 4 and head.classes is None for head in view.heads.values())
    everything = teacher._replace(heads={n: h._replace(classes=classes | True) for n, h in teacher.heads.items()})
    assert known_classes(student, everything, {})[0] is student  # nothing is copied where nothing is left out


def test_problems_of_a_term_s_own_parts_are_named():
    for parts, message in (
        ({"schedule": {"stop": 2}}, r"distill\.terms\.cls\.schedule\.stop"),
        ({"region": 3}, r"distill\.terms\.cls\.region: must be a Region, got int"),
    ):
        with pytest.raises(ConfigError, match=message):
            Recipe.from_parts({"cls": {"loss": BinaryLogits(), **parts}})


def test_a_loss_may_name_an_alternative():
    class Picky(DistillLoss):
        uses: ClassVar[frozenset[str]] = frozenset({"dist"})
        alternative: ClassVar[str] = "use distill=binary"

        def forward(self, student, teacher, context):
            return student.head(context.branch).logits.mean()

    with pytest.raises(PairError, match=r"no distance distribution\); use distill=binary"):
        call(Recipe([Term("dfl", Picky())]), make_view(1), make_view(2))


def test_calibration_needs_both_losses():
    with pytest.raises(ConfigError, match=r"distill\.calibrate.*distill\.alpha=1"):
        usual(alpha=1.0, balance=Balance())


def test_an_unknown_assignment_is_named():
    with pytest.raises(ConfigError, match=r"distill\.assignment"):
        usual(assignment="teachers")


def test_the_state_of_a_run_from_before_there_were_factors_is_taken():
    recipe = usual()
    recipe.load_state_dict({})
    assert recipe.factors.tolist() == [1.0, 1.0, 1.0]
    recipe.load_state_dict({"factors": torch.tensor([3.0, 0.5]), "measured": torch.tensor(4)})
    assert recipe.factors.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(RuntimeError, match="layer"):
        recipe.load_state_dict({"layer": torch.zeros(1)})
