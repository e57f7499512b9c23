"""What a resumed run must have of the one before: each test stops a training where something would be missing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import detkd.environment

import pytest
import torch

from detkd.errors import DataError
from detkd.io import write_json
from detkd.losses.mgd import MaskedGeneration
from detkd.losses.recipe import Recipe
from detkd.models.teacher import LiveTeacher
from detkd.tasks.common import train_once
from detkd.training.checkpoint import RESUME_FILE, load_state
from detkd.training.plan import Distillation, TrainPlan
from detkd.training.trainer import Trainer
from tests.inference.tiny import tiny_model
from tests.training.test_trainer import final_weights, plan, run

pytestmark = pytest.mark.slow  # trains


def rows(folder: Path) -> list[list[str]]:
    """Lines of results.csv without the time."""
    lines = (folder / "train" / "results.csv").read_text().splitlines()
    return [line.split(",")[:1] + line.split(",")[2:] for line in lines]


def interrupted(wanted: TrainPlan, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Train until the checkpoint of an epoch is written."""
    save = Trainer.save_model

    def die(self: Trainer) -> bool:
        save(self)
        if self.epoch == after:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_model", die)
        with pytest.raises(KeyboardInterrupt):
            run(wanted)


def same(tmp_path: Path) -> None:
    expected, got = final_weights(tmp_path / "whole"), final_weights(tmp_path / "part")
    assert expected.keys() == got.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, got[name])] == []
    assert rows(tmp_path / "whole") == rows(tmp_path / "part")
    ema = [load_state(tmp_path / name / RESUME_FILE) for name in ("whole", "part")]
    assert all(torch.equal(value, ema[1]["ema"][key]) for key, value in ema[0]["ema"].items())
    assert ema[0]["steps"] == ema[1]["steps"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_gradients_that_wait_for_the_next_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Three batches an epoch and an update every other batch: one batch is left over, whose gradient must not be lost."""
    more: dict[str, Any] = {"distil": False, "epochs": 4, "arguments": {"nbs": 4, "warmup_epochs": 0.0}}
    run(plan(tmp_path / "whole", tmp_path / "i", **more))
    interrupted(plan(tmp_path / "part", tmp_path / "i", **more), monkeypatch, after=after)
    state = load_state(tmp_path / "part" / RESUME_FILE)
    assert bool(state["gradients"]) == (after % 2 == 0)
    run(plan(tmp_path / "part", tmp_path / "i", resume=True, **more))
    same(tmp_path)


def test_random_masks_after_mosaic_was_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing mosaic starts the loader anew, a resumed run later than a whole one; that may draw no random number."""

    def masked(folder: Path, **more: Any) -> TrainPlan:
        made = plan(folder, tmp_path / "i", distil=True, epochs=4, arguments={"close_mosaic": 3}, **more)
        distillation = Distillation(
            source=lambda names: LiveTeacher(tiny_model(names=("a", "b"), seed=7), names),
            recipe=lambda: Recipe.from_parts({"mgd": {"loss": MaskedGeneration()}}),
        )
        return TrainPlan(**{**vars(made), "distillation": distillation})

    run(masked(tmp_path / "whole"))
    interrupted(masked(tmp_path / "part"), monkeypatch, after=2)
    run(masked(tmp_path / "part", resume=True))
    same(tmp_path)


def test_a_run_that_ended_early_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`trainer.patience` ends a run after that many epochs without a better one; then the process is killed."""
    more: dict[str, Any] = {"distil": False, "epochs": 6, "arguments": {"val": True, "patience": 2, "lr0": 1e-6}}
    monkeypatch.setattr("detkd.training.trainer.DetectionTrainer.validate", lambda self: (self.metrics, 0.5))
    whole = run(plan(tmp_path / "whole", tmp_path / "i", **more))
    assert whole.epochs == 3
    interrupted(plan(tmp_path / "part", tmp_path / "i", **more), monkeypatch, after=2)
    resumed = run(plan(tmp_path / "part", tmp_path / "i", resume=True, **more))
    assert (resumed.epochs, resumed.steps) == (whole.epochs, whole.steps) == (3, 9)
    same(tmp_path)


def test_times_in_the_curve_go_on_and_survive_a_clock_that_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    interrupted(plan(tmp_path / "part", tmp_path / "i", distil=False), monkeypatch, after=1)
    monkeypatch.setattr("time.time", lambda: clock() - 3600)
    outcome = run(plan(tmp_path / "part", tmp_path / "i", distil=False, resume=True))
    lines = (tmp_path / "part" / "train" / "results.csv").read_text().splitlines()[1:]
    times = [float(line.split(",")[1]) for line in lines]
    assert 0 < times[0] < times[1] < times[2] <= outcome.seconds < 600


def test_what_follows_a_training_that_was_done_before_runs_as_after_it(tmp_path: Path) -> None:
    """Killed in its evaluation, a run trains no more; threads and determinism are set nevertheless."""
    wanted = plan(tmp_path / "part", tmp_path / "i", distil=False, resume=True)
    write_json(tmp_path / "part" / "outcome.json", {"epochs": 3})
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    try:
        assert train_once(wanted).outcome == {"epochs": 3}
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)


def test_a_loader_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops with advice and can be resumed; what it ends with is what a whole one does."""
    run(plan(tmp_path / "whole", tmp_path / "i", distil=False))
    loader, started = Trainer.get_dataloader, Trainer.preprocess_batch

    def with_worker(self: Trainer, *words: Any, **more: Any) -> Any:
        self.args.workers = 1  # on a CPU Ultralytics takes none
        return loader(self, *words, **more)

    def kill(self: Trainer, batch: dict[str, Any]) -> dict[str, Any]:
        if self.epoch == 1:
            for worker in self.train_loader.iterator._workers:
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
        return started(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "get_dataloader", with_worker)
        patch.setattr(Trainer, "preprocess_batch", kill)
        with pytest.raises(DataError, match=r"^workers: a process that loads images has ended .* go on: resume=.*part"):
            run(plan(tmp_path / "part", tmp_path / "i", distil=False, arguments={"workers": 1}))
    run(plan(tmp_path / "part", tmp_path / "i", distil=False, resume=True))
    same(tmp_path)
