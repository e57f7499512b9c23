"""Two processes on the CPU train one model; what each does is in two_processes.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from detkd.training.sampler import EpochSampler

pytestmark = pytest.mark.slow  # starts two processes and trains

TOLERANCE = 1e-5
"""Largest difference of a gradient, as a share of the parameter's largest one: sums in another order round otherwise."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes saw."""
    folder = tmp_path_factory.mktemp("two")
    repo = Path(__file__).resolve().parents[2]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.training.two_processes", str(folder)],
        cwd=repo, env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_the_same_half_on_both_is_one_process_and_different_halves_are_the_mean(both: list[dict[str, Any]]) -> None:
    for seen in both:
        assert seen["steps"]["alike"] <= TOLERANCE
        assert seen["steps"]["apart"] <= TOLERANCE
        assert seen["steps"]["halves"] > 0.1  # the halves do differ


def test_every_process_distils(both: list[dict[str, Any]]) -> None:
    """Loss and gradient of distillation alone, in the student and in each adapter, before anything is averaged."""
    for seen in both:
        assert seen["steps"]["kd"] > 0
        assert len(seen["steps"]["own"]) > 6
        for name, norm in seen["steps"]["own"].items():
            assert norm > 0, name
        assert len(seen["seen"]["kd"]) == 6
        assert min(seen["seen"]["kd"][1:]) > 0
    assert [seen["seen"]["kd"][0] > 0 for seen in both] == [True, False]  # nothing was taught in this one
    assert both[0]["seen"]["kd"] != both[1]["seen"]["kd"]  # each on images of its own


def test_weights_adapters_and_calibration_stay_in_step(both: list[dict[str, Any]]) -> None:
    first, second = (seen["seen"]["parameters"] for seen in both)
    assert any(name.startswith("recipe.terms.mgd.adapters") for name in first)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert both[0]["seen"]["factors"] == both[1]["seen"]["factors"]
    assert both[0]["seen"]["factors"][-1] != [1.0, 1.0, 1.0]


def test_together_they_see_the_batches_of_one_process(both: list[dict[str, Any]]) -> None:
    alone = EpochSampler(9, seed=0)
    for epoch in range(2):
        order = [(image, view) for view, image in alone]
        parts = [[keys for when, keys in seen["seen"]["records"] if when == epoch] for seen in both]
        assert [sorted(a + b) for a, b in zip(*parts, strict=True)][:2] == [sorted(order[:4]), sorted(order[4:8])]
        assert set(parts[0][2] + parts[1][2]) == {order[8], order[0]}  # filled up to one each


def test_only_the_first_process_writes(both: list[dict[str, Any]]) -> None:
    first, second = (seen["seen"] for seen in both)
    assert first["folder"] != second["folder"]
    assert {"live.json", "resume.pt", "train", "weights"} <= set(first["files"])
    assert second["files"] == ["train"]  # what Ultralytics makes by itself, in a folder that is gone now
    assert not Path(second["folder"]).exists()


def test_validation_is_that_of_one_process(both: list[dict[str, Any]]) -> None:
    """Batches are the same ones, so losses differ by rounding; AP is 0 after so little training."""
    first, second = (seen["seen"] for seen in both)
    assert second["metrics"] is None
    assert first["metrics"] == pytest.approx(first["alone"], abs=2e-5)
    assert first["metrics"]["val/box_loss"] > 0
