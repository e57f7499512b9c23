from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest

from detkd.errors import ConfigError
from detkd.losses.schedule import KINDS, Schedule, weight_at


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("constant", {}, {0: 1, 0.5: 1, 1: 1}),
        ("constant", {"end": 0.1}, {0: 1, 1: 1}),
        ("constant", {"warmup": 0.2}, {0: 0, 0.05: 0.25, 0.1: 0.5, 0.2: 1, 1: 1}),
        ("constant", {"stop": 0.9}, {0: 1, 0.89: 1, 0.9: 0, 1: 0}),
        ("linear", {"end": 0.2}, {0: 1, 0.5: 0.6, 1: 0.2}),
        ("linear", {"end": 0.0, "warmup": 0.2, "stop": 0.8}, {0.1: 0.5, 0.2: 1, 0.5: 0.5, 0.799999: 0, 0.8: 0}),
        ("linear", {"end": 2.0}, {0.5: 1.5, 1: 2}),
        ("cosine", {"end": 0.1}, {0: 1, 0.5: 0.55, 0.25: 0.1 + 0.45 * (1 + math.sqrt(0.5)), 1: 0.1}),
        ("cosine", {"end": 0.1, "warmup": 0.2}, {0.1: 0.5, 0.2: 1, 0.6: 0.55, 1: 0.1}),
    ],
)
def test_by_hand(kind, options, expected):
    for progress, weight in expected.items():
        assert weight_at(progress, kind, **options) == pytest.approx(weight, abs=1e-5)
        assert Schedule(kind, **options)(progress) == weight_at(progress, kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_shape_over_a_run(kind):
    """It moves (no inert schedule), never restarts, never turns negative, and ignores overshoot."""
    weights = [weight_at(step / 1000, kind, warmup=0.1, end=0.05) for step in range(1001)]
    assert weights[0] == 0
    assert max(weights) == pytest.approx(1.0)
    assert all(a <= b for a, b in pairwise(weights[:101]))
    assert all(a >= b for a, b in pairwise(weights[100:]))
    assert weights[-1] == pytest.approx(1.0 if kind == "constant" else 0.05)
    assert weight_at(1.7, kind, end=0.05) == weight_at(1.0, kind, end=0.05)
    assert weight_at(-1.0, kind) == weight_at(0.0, kind)


def test_mapping_and_pickle():
    schedule = Schedule.from_mapping({"kind": "cosine", "warmup": 0.1, "end": 0.2, "stop": None})
    assert schedule == Schedule("cosine", 0.1, 0.2)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "step"}, "distill.schedule.kind: unknown choice, got 'step'; use one of constant, cosine, linear"),
        ({"warmpu": 0.1}, "distill.schedule.warmpu: unknown key; did you mean warmup?"),
        ({"warmup": 3}, r"distill.schedule.warmup: must be in \[0, 1\], got 3; 0.03 is 3 % of the run"),
        ({"warmup": 1.0}, "distill.schedule.warmup: must be < 1, got 1.0"),
        ({"end": -0.1}, "distill.schedule.end: must be >= 0, got -0.1"),
        ({"end": "low"}, "distill.schedule.end: must be a finite number, got 'low'"),
        ({"stop": 0.1, "warmup": 0.2}, "distill.schedule.stop: must be > 0.2, got 0.1"),
        ({"stop": 90}, "distill.schedule.stop: must be .* got 90"),
    ],
)
def test_errors(values, message):
    with pytest.raises(ConfigError, match=message):
        Schedule.from_mapping(values)
