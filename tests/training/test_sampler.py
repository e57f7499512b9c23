from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from detkd.errors import ConfigError
from detkd.training.sampler import EpochSampler, ViewPlan


def drawn(sampler: EpochSampler, epochs: int = 1) -> list[list[tuple[int, int]]]:
    return [list(sampler) for _ in range(epochs)]


def test_order() -> None:
    sampler = EpochSampler(5, seed=3)
    first, second = drawn(sampler, 2)
    assert [epoch for epoch, _ in first] == [0] * 5
    assert [epoch for epoch, _ in second] == [1] * 5
    assert sorted(i for _, i in first) == list(range(5))
    assert [i for _, i in first] != [i for _, i in second]
    sampler.go_to(0)
    assert list(sampler) == first


def test_the_order_of_earlier_results_is_kept() -> None:
    """Hash of the orders of the first published version."""
    orders = [
        [list(EpochSampler(n, seed=s, shuffle=shuffle, rank=rank, world_size=2)) for n in (5, 8) for s in (0, 9)]
        for shuffle in (True, False)
        for rank in (0, 1)
    ]
    expected = "55fb8ef83040ecf3bbfa7d17abd3cca638a4ddc8850471fa9503a820886f4b99"
    assert hashlib.sha256(repr(orders).encode()).hexdigest() == expected


@pytest.mark.parametrize("size", [5, 6])
def test_ranks_share_an_epoch_evenly(size: int) -> None:
    parts = [list(EpochSampler(size, seed=1, rank=rank, world_size=2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 3
    assert {i for part in parts for _, i in part} == set(range(size))
    assert sorted(i for _, i in EpochSampler(size, seed=1)) == list(range(size))


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (ViewPlan(3, 0, 7), [0, 1, 2, 0, 1, 2, 0]),
        (ViewPlan(3, 4, 9), [0, 1, 2, 0, 1, 3, 4, 5, 3]),
        (ViewPlan(3, 2, 7), [0, 1, 2, 0, 1, 3, 4]),
        (ViewPlan(8, 2, 4), [0, 1, 8, 9]),  # more views than epochs
        (ViewPlan(1, 1, 3), [0, 0, 1]),
        (ViewPlan(2, 3, 3), [2, 3, 2]),  # nothing but closing epochs
    ],
)
def test_views_come_round(plan: ViewPlan, expected: list[int]) -> None:
    assert [plan.view(epoch) for epoch in range(plan.epochs)] == expected
    sampler = EpochSampler(4, seed=0, views=plan)
    assert [{view for view, _ in epoch} for epoch in drawn(sampler, plan.epochs)] == [{view} for view in expected]


def test_views_change_nothing_about_the_order() -> None:
    plain, planned = EpochSampler(9, seed=2), EpochSampler(9, seed=2, views=ViewPlan(2, 1, 4))
    for one, other in zip(drawn(plain, 4), drawn(planned, 4), strict=True):
        assert [i for _, i in one] == [i for _, i in other]


@pytest.mark.parametrize(
    ("views", "closing", "message"), [(0, 0, "cache.views: .* got 0"), (2, 5, "trainer.close_mosaic: .* got 5")]
)
def test_impossible_views(views: int, closing: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        ViewPlan(views, closing, 4)


GROUPS = np.array([True] * 6 + [False] * 5)


def mixed(**more: Any) -> EpochSampler:
    return EpochSampler(11, **{"seed": 4, "groups": GROUPS, "share": 0.5, "batch": 4, **more})


def chunks(epoch: list[tuple[int, int]], size: int = 4) -> list[list[int]]:
    return [[i for _, i in epoch[n : n + size]] for n in range(0, len(epoch), size)]


def test_every_batch_has_its_share() -> None:
    sampler = mixed()
    for epoch in drawn(sampler, 6):
        assert len(epoch) == len(sampler) == 12
        assert [[bool(GROUPS[i]) for i in batch] for batch in chunks(epoch)] == [[True, True, False, False]] * 3
        assert sorted(i for _, i in epoch if GROUPS[i]) == list(range(6))


def test_a_smaller_last_batch_keeps_its_unlabelled_images() -> None:
    """6 labelled images, 3 per batch of 4 would be 2 full batches; with 5 the second one has 2."""
    sampler = EpochSampler(10, seed=0, groups=np.array([True] * 5 + [False] * 5), share=0.25, batch=4)
    assert [[i < 5 for i in batch] for batch in chunks(list(sampler))] == [[True] * 3 + [False], [True, True, False]]
    assert len(sampler) == 7


def test_unlabelled_images_cycle_without_replacement_over_epochs() -> None:
    """6 of the 5 unlabelled images per epoch: 5 epochs pass over them exactly six times, each time in a new order."""
    row = [pair for epoch in drawn(mixed(), 5) for pair in epoch if not GROUPS[pair[1]]]
    rounds = [row[n : n + 5] for n in range(0, len(row), 5)]
    assert [sorted(i for _, i in part) for part in rounds] == [[6, 7, 8, 9, 10]] * 6
    assert len({tuple(i for _, i in part) for part in rounds}) > 1
    assert [{view for view, _ in part} for part in rounds] == [{n} for n in range(6)]


def test_a_mixed_epoch_follows_from_seed_and_number() -> None:
    epochs = drawn(mixed(), 4)
    resumed = mixed()
    resumed.go_to(3)
    assert list(resumed) == epochs[3]
    assert drawn(mixed(seed=5), 4) != epochs


def test_ranks_share_a_mixed_epoch() -> None:
    parts = [list(mixed(rank=rank, world_size=3, share=0.25)) for rank in range(3)]
    assert [[bool(GROUPS[i]) for i in batch] for part in parts for batch in chunks(part)] == [[True, True, False]] * 3
    assert sorted(i for part in parts for _, i in part if GROUPS[i]) == list(range(6))
    assert len({i for part in parts for _, i in part if not GROUPS[i]}) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"share": 0.1}, "batch of 4, got 0.1"),
        ({"share": 0.95}, "batch of 4, got 0.95"),
        ({"groups": np.ones(11, bool)}, "none that are unlabelled"),
        ({"groups": np.zeros(11, bool)}, "none that are labelled"),
        ({"groups": None}, "none that are unlabelled"),
    ],
)
def test_impossible_shares(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^unlabelled.share: .*{message}"):
        mixed(**more)


def test_an_epoch_of_another_size_repeats_the_set_and_never_a_view() -> None:
    sampler = EpochSampler(3, seed=0, epoch_size=8)
    epochs = drawn(sampler, 5)
    assert [len(epoch) for epoch in epochs] == [len(sampler)] * 5 == [8] * 5
    assert all(sorted(Counter(i for _, i in epoch).values()) == [2, 3, 3] for epoch in epochs)
    pairs = [pair for epoch in epochs for pair in epoch]
    assert len(set(pairs)) == len(pairs)
    assert drawn(EpochSampler(3, seed=0, epoch_size=3), 2) == drawn(EpochSampler(3, seed=0), 2)
    with pytest.raises(ConfigError, match="epoch_size"):
        EpochSampler(3, seed=0, epoch_size=0)


def test_repeats_stay_within_the_views_there_are() -> None:
    """Of 8 views a run of 4 epochs with 2 closing ones needs 0, 1 and 8, 9, however often an image is repeated."""
    plan = ViewPlan(8, 2, 4)
    epochs = drawn(EpochSampler(3, seed=0, epoch_size=30, views=plan), 4)
    assert [{view for view, _ in epoch} for epoch in epochs] == [{0, 1}, {0, 1}, {8, 9}, {8, 9}]
    for epoch in drawn(mixed(views=plan), 4)[:2]:
        assert {view for view, _ in epoch} <= {0, 1}


def test_epoch_size_with_a_share_counts_labelled_images() -> None:
    epoch = list(mixed(epoch_size=10))
    assert sum(GROUPS[i] for _, i in epoch) == 10
    assert len(epoch) == 20
