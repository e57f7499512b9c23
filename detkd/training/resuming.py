"""What a resumed training must have of the one that was killed, so that both end bit for bit alike.

A run is saved between epochs, and a kill within one repeats that epoch from its start. What is drawn at random in it
follows from seed and epoch (order, augmentation) or from the states saved here (everything else).
"""

from __future__ import annotations

from typing import Any

import detkd.environment

from torch import Tensor, nn
from ultralytics.utils.torch_utils import unwrap_model

from detkd import ranks
from detkd.io import write_text
from detkd.training.checkpoint import restore_random_state

__all__ = ["finished", "give_gradients", "restore", "state_of"]


def state_of(trainer: Any) -> dict[str, Any]:
    """Return the state of a trainer after an epoch, as tensors and plain values."""
    model: Any = unwrap_model(trainer.model)
    steps = (trainer.epoch + 1) * len(trainer.train_loader)
    return {
        "epoch": trainer.epoch,
        "epochs": trainer.epochs,
        "stopped": bool(trainer.stop),
        "steps": steps,
        "last_update": trainer.last_update,
        # Batches since the last update of the weights wait in the gradients (trainer.nbs above batch).
        "gradients": _gradients(model) if trainer.last_update < steps - 1 else {},
        "model": model.state_dict(),
        "ema": trainer.ema.ema.state_dict(),
        "ema_updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "best_fitness": None if trainer.best_fitness is None else float(trainer.best_fitness),
        "stopper": {k: float(v) for k, v in vars(trainer.stopper).items()},
        "criterion_updates": getattr(model.criterion, "updates", 0),
        "amp": bool(trainer.amp),
        "random": trainer.random_states[0],
        "ranks": trainer.random_states[1:],
        "hashes": [trainer.initial_hash, trainer.batch_hash],
        "seconds": trainer.seconds,
        "factors": trainer.factors(),
        "calibrator": trainer.calibrator.state,
        "notes": list(trainer.notes.said),
        "results": trainer.csv.read_text(encoding="utf-8"),
    }


def restore(trainer: Any, state: dict[str, Any]) -> None:
    """Put the state back into a trainer that is about to start; `give_gradients` does the rest later.

    Raises:
        RuntimeError: If it is of another model.
        ValueError: Likewise.
    """
    model = unwrap_model(trainer.model)
    model.load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["ema"])
    trainer.optimizer.load_state_dict(state["optimizer"])
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
    if "calibrator" in state:  # else the run began with an earlier version
        trainer.calibrator.state = state["calibrator"]
    trainer.last_update = state.get("last_update", -1)
    write_text(trainer.csv, state["results"])
    random_states = [state["random"], *state.get("ranks", ())]
    if ranks.rank() < len(random_states):  # else the run had fewer processes before
        restore_random_state(random_states[ranks.rank()])


def finished(state: dict[str, Any]) -> bool:
    """Return whether nothing is left to train: the last epoch is done, or `trainer.patience` ended the run early."""
    return bool(state.get("stopped")) or state["epoch"] + 1 >= state["epochs"]


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def give_gradients(model: nn.Module, gradients: dict[str, Tensor]) -> None:
    """Put back what batches before the interruption left in the gradients."""
    for name, parameter in unwrap_model(model).named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter)
