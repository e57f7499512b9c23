"""One training run from a plan."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import detkd.environment

import torch
from ultralytics.utils.torch_utils import init_seeds

from detkd import ranks
from detkd.data.unlabelled import labels_hash
from detkd.errors import DataError
from detkd.training import group
from detkd.training.calibration import Calibrator
from detkd.training.checkpoint import RESUME_FILE, check_epochs, load_state
from detkd.training.integrations import switched
from detkd.training.plan import TrainPlan, usable_cores
from detkd.training.resuming import finished
from detkd.training.trainer import Trainer

__all__ = ["Outcome", "run_training", "settle"]


@dataclass(frozen=True)
class Outcome:
    """What a finished training run is known by.

    Attributes:
        initial_hash: Hash of the initial weights; equal for a control and its student.
        batch_hash: Hash of the pixels of the first batches; likewise.
        epochs: Epochs trained.
        steps: Batches in all of them.
        seconds: Wall time of the training, validation included, all parts of an interrupted run together.
        threads: CPU threads used.
        amp: Whether mixed precision was on.
        labels_hash: Hash of the images that people labelled.
        shown: Which views of each image were shown, in words.
        alarms: What was wrong with the distillation, in sentences that say what to do.
        factors: What calibration multiplied each group of terms with in the end; empty without.
        notes: What a reader must know of how the distillation was set up.
        processes: How many processes shared each batch.
    """

    initial_hash: str
    batch_hash: str
    epochs: int
    steps: int
    seconds: float
    threads: int
    amp: bool
    labels_hash: str = ""
    shown: str = ""
    alarms: tuple[str, ...] = ()
    factors: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    processes: int = 1


def shown_views(plan: TrainPlan) -> str:
    """Return in words which views of each image a run shows."""
    if plan.views is None:
        return "new ones every epoch"
    return f"{plan.views} of seed {plan.augment_seed}"


def settle(plan: TrainPlan) -> None:
    """Set threads, seeds and determinism as a training does, for what follows one that was done before.

    A run that was killed in its evaluation otherwise goes on with other threads, and numbers differ in the last digits.
    """
    if plan.arguments.get("device") == "cpu":
        torch.set_num_threads(plan.threads or usable_cores())
    init_seeds(plan.seed + 1, deterministic=bool(plan.arguments.get("deterministic", True)))


def run_training(plan: TrainPlan) -> Outcome:
    """Train; weights, curve and resume file are in the run folder afterwards.

    Where several processes have met (`detkd.training.group.join`), all of them call this with the same plan. The first
    one writes; the resume file is read by it alone, so the folder need not be there on other machines.

    Raises:
        RankError: If another process is gone.
    """
    with group.watched(), switched(None), _own_folder(plan) as plan:
        return group.share(lambda: _finished(plan)) or _train(plan)


@contextmanager
def _own_folder(plan: TrainPlan) -> Iterator[TrainPlan]:
    """Yield the plan of this process: what Ultralytics writes on all but the first goes where nobody looks."""
    if ranks.first():
        yield plan
        return
    with tempfile.TemporaryDirectory(prefix="detkd-rank-", ignore_cleanup_errors=True) as folder:
        arguments = {**plan.arguments, "save_dir": str(Path(folder) / "train")}
        yield replace(plan, folder=Path(folder), arguments=arguments)


def _finished(plan: TrainPlan) -> Outcome | None:
    """Return the outcome of a run that was killed between the last save and the evaluation, None of any other."""
    file = plan.folder / RESUME_FILE
    if not plan.resume or not file.is_file():
        return None
    state = load_state(file)
    check_epochs(state, int(plan.arguments["epochs"]))
    if not finished(state):
        return None
    initial_hash, batch_hash = state["hashes"]
    threads = plan.threads or usable_cores()
    epochs, steps = state["epoch"] + 1, state["steps"]
    alarms = tuple(Calibrator(plan.folder, resume=True).alarms)
    amp, facts = state["amp"], (labels_hash(plan.train), shown_views(plan), alarms, state.get("factors", {}))
    said, processes = tuple(state.get("notes", ())), 1 + len(state.get("ranks", ()))
    return Outcome(initial_hash, batch_hash, epochs, steps, state["seconds"], threads, amp, *facts, said, processes)


def _train(plan: TrainPlan) -> Outcome:
    bound: type[Trainer] = type("BoundTrainer", (Trainer,), {"plan": plan})
    trainer = bound(overrides=plan.arguments)
    try:
        trainer.train()
    except RuntimeError as err:
        if "DataLoader worker" not in str(err):
            raise
        raise DataError(
            f"workers: a process that loads images has ended ({str(err).splitlines()[0]}), perhaps for want of memory; "
            f"use fewer and go on: resume={plan.folder} workers={max(int(trainer.args.workers) // 2, 0)}"
        ) from err
    outcome = Outcome(
        trainer.initial_hash,
        trainer.batch_hash,
        trainer.epoch + 1,
        (trainer.epoch + 1) * len(trainer.train_loader),
        trainer.seconds,
        torch.get_num_threads(),
        bool(trainer.amp),
        labels_hash(plan.train),
        shown_views(plan),
        tuple(trainer.calibrator.alarms),
        trainer.factors(),
        tuple(trainer.notes.said),
        group.size(),
    )
    del trainer  # it sits in reference cycles and would keep device memory from the next run
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return outcome
