from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detkd.caching.views import LIMIT, STEP, UNKNOWN, ViewLayout, decode_views, encode_views
from detkd.errors import ConfigError, DataError, PairError
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.recipe import Recipe, Term
from detkd.losses.regions import Everywhere
from detkd.ops.anchors import distances_to_boxes
from detkd.types import HeadOutput, View
from tests.losses.views import ANCHORS, BOTH, IMGSZ, STRIDES, make_assignment, make_view

CLASSES = 5


def layout_of(k=None, classes=None, precision="float32", **changes):
    values = {"branches": BOTH, "anchors": ANCHORS, "num_classes": CLASSES, "imgsz": IMGSZ, "strides": STRIDES}
    return ViewLayout(k=k, classes=classes, precision=precision, **{**values, **changes})


def again(view: View, layout: ViewLayout) -> dict[str, HeadOutput]:
    payloads = encode_views(view, layout)
    return decode_views(
        payloads, layout, anchor_points=view.anchor_points, strides=view.strides, device=torch.device("cpu")
    )


def recipe(region=None):
    terms = [Term("cls", BinaryLogits()), Term("iou", BoxIoU()), Term("l1", BoxL1())]
    return Recipe(terms, region=region)


def loss(student: View, teacher: View, rule: Recipe):
    given_labels = {branch: make_assignment(7) for branch in BOTH}
    return rule(student, teacher, given_labels, 0.5, {"one2many": 0.8, "one2one": 0.2})


@given(seed=st.integers(0, 10_000), images=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_everything_in_float32_comes_back_bit_for_bit_with_the_same_loss(seed, images):
    teacher = make_view(seed, images=images)
    heads = again(teacher, layout_of())
    for branch in BOTH:
        for name in ("logits", "boxes_xyxy", "distances"):
            assert torch.equal(getattr(heads[branch], name), getattr(teacher.head(branch), name)), name
        assert heads[branch].known is None
    rule, student = recipe(), make_view(seed + 1, images=images, grad=True)
    args = ({}, 0.5, {"one2many": 0.8, "one2one": 0.2})
    live, stored = rule(student, teacher, *args), rule(student, teacher._replace(heads=heads), *args)
    assert torch.equal(live[0], stored[0])
    assert all(torch.equal(live[1][name], stored[1][name]) for name in live[1])


@given(seed=st.integers(0, 10_000), k=st.integers(1, ANCHORS - 1))
@settings(max_examples=30, deadline=None)
def test_the_best_anchors_are_kept_and_the_others_are_unknown(seed, k):
    teacher = make_view(seed)
    for branch, head in again(teacher, layout_of(k=k)).items():
        live = teacher.head(branch)
        score = live.logits.amax(-1)
        for image in range(len(score)):
            ranked = sorted(range(ANCHORS), key=lambda a: (-float(score[image, a]), a))
            assert head.known[image].nonzero().flatten().tolist() == sorted(ranked[:k])
        known = head.known
        assert torch.equal(head.logits[known], live.logits[known])
        assert torch.equal(head.distances[known], live.distances[known])
        assert torch.equal(head.boxes_xyxy[known], live.boxes_xyxy[known])
        assert (head.logits[~known] == UNKNOWN).all()
        assert (head.distances[~known] == 0).all()
        centres = (teacher.anchor_points * teacher.strides).repeat(1, 2).expand_as(head.boxes_xyxy)
        assert torch.equal(head.boxes_xyxy[~known], centres[~known])


def test_of_equal_scores_the_first_anchors_are_kept():
    teacher = make_view(1)
    flat = {name: head._replace(logits=torch.zeros_like(head.logits)) for name, head in teacher.heads.items()}
    for head in again(teacher._replace(heads=flat), layout_of(k=9)).values():
        assert head.known[:, :9].all()
        assert not head.known[:, 9:].any()


@given(seed=st.integers(0, 10_000), classes=st.integers(1, CLASSES - 1))
@settings(max_examples=20, deadline=None)
def test_the_best_classes_are_kept_and_the_others_share_their_mean_probability(seed, classes):
    teacher = make_view(seed)
    for branch, head in again(teacher, layout_of(k=20, classes=classes)).items():
        live, got = teacher.head(branch).logits[head.known], head.logits[head.known]
        order = live.argsort(-1, descending=True)
        best, rest = order[:, :classes], order[:, classes:]
        assert torch.equal(got.gather(1, best), live.gather(1, best))
        mean = live.gather(1, rest).double().sigmoid().mean(-1, keepdim=True)
        torch.testing.assert_close(
            got.gather(1, rest).double().sigmoid(), mean.expand(-1, rest.shape[1]), rtol=1e-4, atol=1e-8
        )


@pytest.mark.parametrize("k", [None, 20])
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 12))
@settings(max_examples=20, deadline=None)
def test_rounding_is_at_most_half_a_step(k, seed, scale):
    view = make_view(seed)
    teacher = view._replace(heads={n: h._replace(logits=h.logits * scale) for n, h in view.heads.items()})
    for precision in ("int8", "float16"):
        for branch, head in again(teacher, layout_of(k=k, precision=precision)).items():
            live = teacher.head(branch)
            known = torch.ones(live.logits.shape[:2], dtype=torch.bool) if head.known is None else head.known
            wanted, got = live.logits[known].double(), head.logits[known].double()
            if precision == "int8":
                assert ((got - wanted.clamp(-LIMIT, LIMIT)).abs() <= STEP / 2 + 1e-5).all()
            else:
                assert ((got - wanted).abs() <= wanted.abs() * 2**-11 + 2**-24).all()
            sides, exact = head.distances[known].double(), live.distances[known].double()
            assert ((sides - exact).abs() <= exact.abs() * 2**-11 + 2**-24).all()
            boxes = distances_to_boxes(head.distances, teacher.anchor_points, teacher.strides)
            assert torch.equal(head.boxes_xyxy, boxes)


def test_the_loss_on_stored_anchors_is_the_live_one():
    """The default region, the teacher's best anchors, lies within those stored; no labels, so no other anchor counts."""
    teacher, student, rule = make_view(2), make_view(3, grad=True), recipe()
    stored = teacher._replace(heads=again(teacher, layout_of(k=16)))
    args = ({}, 0.5, {"one2many": 0.8, "one2one": 0.2})
    assert torch.equal(rule(student, teacher, *args)[0], rule(student, stored, *args)[0])


def test_unknown_anchors_weigh_nothing_even_where_labels_are_assigned():
    teacher, student = make_view(2), make_view(3)
    heads = again(teacher, layout_of(k=16))
    wild = {n: h._replace(logits=torch.where(h.known[..., None], h.logits, 5.0)) for n, h in heads.items()}
    rule = recipe(Everywhere())
    plain, changed = (loss(student, teacher._replace(heads=h), rule)[0] for h in (heads, wild))
    assert torch.equal(plain, changed)


def test_the_usual_record_is_at_most_8000_bytes():
    usual = layout_of(k=128, classes=8, precision="int8", anchors=8400, num_classes=80, imgsz=(640, 640))
    assert usual.record_bytes() <= 8000


@pytest.mark.parametrize("precision", ["int8", "float16", "float32"])
@pytest.mark.parametrize(("k", "classes"), [(None, None), (None, 2), (10, None), (10, 2)])
def test_the_size_is_known_beforehand_and_the_layout_survives_json(k, classes, precision):
    layout = layout_of(k=k, classes=classes, precision=precision)
    payloads = encode_views(make_view(1, images=3), layout)
    assert [len(payload) for payload in payloads] == [layout.record_bytes()] * 3
    assert ViewLayout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


def test_images_do_not_depend_on_their_batch():
    teacher, layout = make_view(4, images=3), layout_of(k=10, classes=2, precision="int8")
    alone = []
    for i in range(3):
        heads = {n: HeadOutput(*(None if x is None else x[i : i + 1] for x in h)) for n, h in teacher.heads.items()}
        alone += encode_views(teacher._replace(heads=heads), layout)
    assert encode_views(teacher, layout) == alone


def test_a_memoryview_is_read_like_bytes():
    teacher, layout = make_view(4), layout_of(k=10)
    payloads = [memoryview(payload) for payload in encode_views(teacher, layout)]
    grid = {"anchor_points": teacher.anchor_points, "strides": teacher.strides, "device": torch.device("cpu")}
    assert torch.equal(
        decode_views(payloads, layout, **grid)["one2one"].logits, again(teacher, layout)["one2one"].logits
    )


def test_many_anchors_and_classes_need_wider_numbers():
    anchors = 70_000
    layout = layout_of(k=3, classes=2, anchors=anchors, num_classes=300, branches=("one2many",), strides=(8,))
    logits = torch.full((1, anchors, 300), -5.0)
    logits[0, 69_999, 299], logits[0, 40_000, 257], logits[0, 0, 256] = 3.0, 2.0, 1.0
    points, pixels = torch.zeros(anchors, 2), torch.ones(anchors, 1)
    sides = torch.rand(1, anchors, 4)
    view = View({"one2many": HeadOutput(logits, sides, sides)}, points, pixels, IMGSZ)
    head = again(view, layout)["one2many"]
    assert head.known[0].nonzero().flatten().tolist() == [0, 40_000, 69_999]
    assert (head.logits[0, 69_999, 299], head.logits[0, 40_000, 257], head.logits[0, 0, 256]) == (3.0, 2.0, 1.0)


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_truncated_record_is_refused(cut):
    teacher, layout = make_view(1), layout_of(k=10)
    payloads = encode_views(teacher, layout)
    payloads[1] = payloads[1][:-cut]
    with pytest.raises(DataError, match=rf"cache: .*{layout.record_bytes() - cut}.*detkd cache verify"):
        decode_views(
            payloads, layout, anchor_points=teacher.anchor_points, strides=teacher.strides, device=torch.device("cpu")
        )


@pytest.mark.parametrize(
    "changes", [{"k": 11}, {"k": None}, {"classes": 2}, {"precision": "int8"}, {"branches": ("one2many",)}]
)
def test_a_record_of_another_layout_is_refused(changes):
    teacher, layout = make_view(1), layout_of(k=10)
    payloads = encode_views(teacher, dataclasses.replace(layout, **changes))
    with pytest.raises(DataError, match=r"cache: .*; .*detkd cache verify"):
        decode_views(
            payloads, layout, anchor_points=teacher.anchor_points, strides=teacher.strides, device=torch.device("cpu")
        )


def test_an_anchor_that_does_not_exist_is_refused():
    teacher, layout = make_view(1), layout_of(k=10)
    payloads = [b"\xff" * len(payload) for payload in encode_views(teacher, layout)]
    with pytest.raises(DataError, match="an anchor that does not exist"):
        decode_views(
            payloads, layout, anchor_points=teacher.anchor_points, strides=teacher.strides, device=torch.device("cpu")
        )


def test_answers_on_other_anchors_or_without_a_head_are_refused():
    with pytest.raises(PairError, match="cache: stores 65 anchors and 5 classes"):
        encode_views(make_view(1), layout_of(anchors=ANCHORS + 1))
    with pytest.raises(PairError, match="cache: stores 64 anchors and 5 classes"):
        encode_views(make_view(1, classes=6), layout_of())
    with pytest.raises(PairError, match="cache: the teacher has no one2one head, only"):
        encode_views(make_view(1, heads=("one2many",)), layout_of())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int4"}, "cache.precision: .*got 'int4'"),
        ({"k": 0}, "cache.k: must be .*got 0"),
        ({"classes": -1}, "cache.classes: must be .*got -1"),
    ],
)
def test_layouts_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        layout_of(**changes)


def test_a_layout_of_another_version_is_refused():
    for values in ({**layout_of().to_dict(), "zip": 1}, {"k": 3}):
        with pytest.raises(DataError, match=r"cache: its layout can't be read .*build the cache anew"):
            ViewLayout.from_dict(values)
