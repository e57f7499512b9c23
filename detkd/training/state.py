"""What a resume file holds, taken from a trainer and put back into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detkd.environment

from ultralytics.utils.torch_utils import unwrap_model

from detkd import ranks
from detkd.errors import ModelError
from detkd.io import write_text
from detkd.training.checkpoint import check_epochs, restore_random_state

__all__ = ["collect", "restore"]


def collect(trainer: Any, random_states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return everything a trainer of ours needs to go on after the epoch it has just finished.

    Args:
        trainer: The trainer.
        random_states: Of each process that shares the batches.
    """
    model, ema = unwrap_model(trainer.model), trainer.ema
    return {
        "epoch": trainer.epoch,
        "epochs": trainer.epochs,
        "steps": trainer.epochs * len(trainer.train_loader),
        "model": model.state_dict(),
        "ema": ema.ema.state_dict(),
        "ema_updates": ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "best_fitness": None if trainer.best_fitness is None else float(trainer.best_fitness),
        "stopper": {k: float(v) for k, v in vars(trainer.stopper).items()},
        "criterion_updates": getattr(model.criterion, "updates", 0),
        "amp": bool(trainer.amp),
        "random": random_states[0],
        "ranks": list(random_states[1:]),
        "hashes": [trainer.initial_hash, trainer.batch_hash],
        "seconds": trainer.seconds,
        "factors": trainer.factors(),
        "notes": list(trainer.notes.said),
        "results": trainer.csv.read_text(encoding="utf-8"),
    }


def restore(trainer: Any, state: dict[str, Any], file: Path) -> None:
    """Put back what `collect` returned; hashes and seconds are left to the trainer.

    Args:
        trainer: A trainer of the same run that has not made a step.
        state: From the resume file.
        file: Its path, for messages.

    Raises:
        ConfigError: If the run was planned for another number of epochs.
        ModelError: If the weights or the optimizer don't fit.
    """
    check_epochs(state, trainer.epochs)
    model = unwrap_model(trainer.model)
    try:
        model.load_state_dict(state["model"])
        trainer.ema.ema.load_state_dict(state["ema"])
        trainer.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as err:
        raise ModelError(f"resume: {file} belongs to another model or configuration; start the run anew") from err
    if state["scaler"]:  # empty when the run was on a CPU
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.ema.updates = state["ema_updates"]
    trainer.best_fitness = state["best_fitness"]
    for name, value in state["stopper"].items():
        setattr(trainer.stopper, name, type(getattr(trainer.stopper, name))(value))
    model.criterion = model.init_criterion()
    if hasattr(model.criterion, "update"):
        model.criterion.updates = state["criterion_updates"] - 1
        model.criterion.update()
    trainer.start_epoch = state["epoch"] + 1
    trainer.train_loader.sampler.go_to(trainer.start_epoch)
    write_text(trainer.csv, state["results"])
    random_states = [state["random"], *state.get("ranks", ())]
    if ranks.rank() < len(random_states):  # else the run had fewer processes before
        restore_random_state(random_states[ranks.rank()])
