from __future__ import annotations

import pytest
import torch

from detkd.errors import PairError
from detkd.models.classmap import UNKNOWN, known_classes, map_logits, only_classes, partial_class_map


def test_maps_by_name_whatever_the_order_and_spelling() -> None:
    assert partial_class_map(["Traffic Light", "car", "person"], ["person", "traffic_light"]) == ((2,), (0,))


def test_explicit_names_join_or_replace() -> None:
    assert partial_class_map(["car", "van", "truck"], ["car"], {"van": "car"}) == ((0, 1),)
    # A class that is renamed no longer stands for its own name.
    assert partial_class_map(["car", "auto"], ["car", "auto"], {"car": "auto", "auto": "car"}) == ((1,), (0,))


def test_classes_of_the_teacher_may_be_more_fewer_or_others() -> None:
    assert partial_class_map(["car", "person", "dog"], ["person"]) == ((1,),)  # more
    assert partial_class_map(["person"], ["car", "person"]) == ((), (0,))  # fewer
    assert partial_class_map(["dog", "person"], ["car", "person", "bus"]) == ((), (1,), ())  # partly the same


def test_refuses_what_cannot_be_mapped_and_shows_both_lists() -> None:
    with pytest.raises(
        PairError,
        match=r"teacher\.class_map: the teacher knows no class of the data; teacher: car, person; data: bus, bicycle; "
        r".*class_map=\{car: bus\}",
    ):
        partial_class_map(["car", "person"], ["bus", "bicycle"])
    with pytest.raises(PairError, match=r"no class 'vann'; the teacher has: car, van"):
        partial_class_map(["car", "van"], ["car"], {"vann": "car"})
    with pytest.raises(PairError, match=r"no class 'auto'; the data has: car"):
        partial_class_map(["car", "van"], ["car"], {"van": "auto"})


def test_a_teacher_may_answer_for_some_classes_only() -> None:
    mapping, names = ((0,), (1, 2), ()), ("car", "Traffic Light", "dog")
    assert only_classes(mapping, names, None) == mapping
    assert only_classes(mapping, names, ["traffic_light"]) == ((), (1, 2), ())
    with pytest.raises(PairError, match=r"teacher\.classes: no class 'cat' in the data, .*use some of car, Traffic"):
        only_classes(mapping, names, ["car", "cat"])
    with pytest.raises(PairError, match=r"teacher\.classes: the teacher knows none of them, got \['dog'\]"):
        only_classes(mapping, names, ["dog"])


def test_known_classes() -> None:
    assert known_classes(((0,), (1, 2))) is None
    known = known_classes(((0,), (), (1,)))
    assert known is not None
    assert known.tolist() == [True, False, True]


def test_shared_classes_count_with_the_most_certain() -> None:
    logits = torch.tensor([[[1.0, 5.0, -2.0, 3.0]]])
    assert map_logits(logits, ((3,), (0, 1))).tolist() == [[[3.0, 5.0]]]
    assert map_logits(logits, ((2,), (0,))).tolist() == [[[-2.0, 1.0]]]


def test_unknown_classes_have_a_logit_below_all_others() -> None:
    logits = torch.tensor([[[1.0, 5.0, -2.0]]], requires_grad=True)
    mapped = map_logits(logits, ((), (2,), (0, 1), ()))
    assert mapped.tolist() == [[[UNKNOWN, -2.0, 5.0, UNKNOWN]]]
    mapped.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[[0.0, 1.0, 1.0]]]


def test_equal_classes_cost_nothing() -> None:
    logits = torch.randn(1, 2, 3)
    assert map_logits(logits, ((0,), (1,), (2,))) is logits
    assert map_logits(logits, ((0,), (1,))).shape == (1, 2, 2)
    half = map_logits(logits.half(), ((2,), ()))
    assert half.dtype == torch.float16
    assert half[0, 0].tolist() == [float(logits[0, 0, 2].half()), UNKNOWN]
