from __future__ import annotations

import pytest
import torch

from detkd.errors import PairError
from detkd.models.classmap import class_map, map_logits


def test_maps_by_name_whatever_the_order_and_spelling() -> None:
    assert class_map(["Traffic Light", "car", "person"], ["person", "traffic_light"]) == ((2,), (0,))


def test_explicit_names_join_or_replace() -> None:
    assert class_map(["car", "van", "truck"], ["car"], {"van": "car"}) == ((0, 1),)
    # A class that is renamed no longer stands for its own name.
    assert class_map(["car", "auto"], ["car", "auto"], {"car": "auto", "auto": "car"}) == ((1,), (0,))


def test_refuses_what_cannot_be_mapped_and_shows_both_lists() -> None:
    with pytest.raises(
        PairError,
        match=r"teacher\.class_map: the teacher does not know bicycle; teacher: car, person; data: car, bicycle",
    ):
        class_map(["car", "person"], ["car", "bicycle"])
    with pytest.raises(PairError, match=r"no class 'vann'; the teacher has: car, van"):
        class_map(["car", "van"], ["car"], {"vann": "car"})
    with pytest.raises(PairError, match=r"no class 'auto'; the data has: car"):
        class_map(["car", "van"], ["car"], {"van": "auto"})


def test_shared_classes_count_with_the_most_certain() -> None:
    logits = torch.tensor([[[1.0, 5.0, -2.0, 3.0]]])
    assert map_logits(logits, ((3,), (0, 1))).tolist() == [[[3.0, 5.0]]]
    assert map_logits(logits, ((2,), (0,))).tolist() == [[[-2.0, 1.0]]]
