from __future__ import annotations

import math

import pytest
import torch

from detkd.errors import ConfigError
from detkd.losses.balance import Balance, gradient_norm, next_factor

OPEN = {"bound": 2.0, "limit": 100.0}


def test_the_first_measurement_reaches_the_target_at_once():
    # The median of 0.02, 0.06 and 0.9 is 0.06; 0.3 / 0.06 = 5.
    assert next_factor(1.0, [0.02, 0.06, 0.9], 0.3, first=True, **OPEN) == pytest.approx(5.0)
    # The shares hold the factor they were measured with: 4 * 0.3 / 0.06 = 20.
    assert next_factor(4.0, [0.06], 0.3, first=True, **OPEN) == pytest.approx(20.0)


def test_later_ones_move_within_the_bound():
    assert next_factor(5.0, [0.03], 0.3, first=False, **OPEN) == pytest.approx(10.0)
    assert next_factor(5.0, [30.0], 0.3, first=False, **OPEN) == pytest.approx(2.5)
    assert next_factor(5.0, [0.25], 0.3, first=False, **OPEN) == pytest.approx(6.0)


def test_the_limit_holds_in_both_directions():
    assert next_factor(1.0, [1e-9], 0.3, first=True, **OPEN) == 100.0
    assert next_factor(1.0, [1e9], 0.3, first=True, **OPEN) == pytest.approx(0.01)


@pytest.mark.parametrize("shares", [[], [0.0], [math.inf], [math.nan]])
def test_a_share_that_says_nothing_changes_nothing(shares):
    assert next_factor(3.0, shares, 0.3, first=True, **OPEN) == 3.0


def test_repeated_measurements_settle_at_the_target():
    factor, pull = 1.0, 0.7  # a loss that pulls 0.7 times as hard as the labels at factor 1
    for step in range(6):
        factor = next_factor(factor, [factor * pull], 0.3, first=step == 0, **OPEN)
    assert factor * pull == pytest.approx(0.3)


def test_gradient_norm_by_hand_and_without_a_trace():
    a, b = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True)
    loss = (a**2).sum() + 4 * b  # gradients (2, 4) and 4: norm 6
    assert gradient_norm(loss, [a, b]) == pytest.approx(6.0)
    assert gradient_norm(loss, [b, torch.zeros(1, requires_grad=True)]) == pytest.approx(4.0)
    assert a.grad is None
    assert b.grad is None
    loss.backward()  # the graph is still there
    assert a.grad.tolist() == [2.0, 4.0]


def test_without_a_graph_nothing_pulls():
    assert gradient_norm(torch.tensor(2.0), [torch.zeros(1, requires_grad=True)]) == 0.0
    assert gradient_norm(torch.tensor(2.0, requires_grad=True) * 2, []) == 0.0


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"head": 0}, "head"),
        ({"features": -1}, "features"),
        ({"warmup": 1.0}, "warmup"),
        ({"batches": 0}, "batches"),
        ({"batches": 2.5}, "batches"),
        ({"bound": 0.5}, "bound"),
        ({"limit": 0.1}, "limit"),
        ({"haed": 0.3}, "haed"),
    ],
)
def test_bad_values_are_named(values, key):
    with pytest.raises(ConfigError, match=f"distill.calibrate.{key}"):
        Balance.from_mapping(values)


def test_a_group_may_keep_its_weights():
    balance = Balance.from_mapping({"head": None})
    assert balance.target("head") is None
    assert balance.target("features") == 0.1
