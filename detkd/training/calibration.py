"""Sets the strength of distillation while a run goes on, and speaks up when something is wrong with it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detkd.environment

import torch
from torch import Tensor
from ultralytics.utils.torch_utils import unwrap_model

from detkd.io import read_json, write_json
from detkd.losses.balance import GROUPS, Balance, group_key, next_factor
from detkd.losses.recipe import Recipe
from detkd.losses.terms import column
from detkd.models.distilled import DistilledDetector
from detkd.models.pull import Pull
from detkd.progress import console
from detkd.training.group import gather

__all__ = ["ALARMS_FILE", "Calibrator"]

ALARMS_FILE = "alarms.json"
"""Name of the file in a run folder that lists what was wrong."""

_SILENT = 20
"""Steps in a row in which a term must be exactly 0 to be called silent."""
_ROUNDING = 1e-4
"""How far below 0 rounding may take a term."""
_LOUD = 10.0
"""Share of the gradient above which distillation drowns the labels."""


class Calibrator:
    """Measures gradients once after the warm-up and at the start of every epoch after that.

    Each time a few batches in a row are measured, and the median share moves the factor of its group (see
    `detkd.losses.balance`). Without `distill.calibrate` one batch is measured and nothing is changed. Factors are
    buffers of the recipe, so a resumed run has them; a run is saved between epochs, and measurements start anew there.

    Args:
        folder: Run folder, for the list of alarms.
        resume: Whether to keep the alarms that an earlier part of the run wrote there.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self._file = folder / ALARMS_FILE
        self._said: dict[str, str] = {}
        if resume and self._file.is_file():
            known = read_json(self._file)
            self._said = dict(zip(known.get("kinds", known["alarms"]), known["alarms"], strict=True))
        elif self._file.is_file():
            self._file.unlink()
        self._pulls: list[Pull] = []
        self._done = False  # whether this epoch's measurement is over
        self._zero: Tensor | None = None
        self._steps = 0

    @property
    def alarms(self) -> list[str]:
        """Return what was wrong so far."""
        return list(self._said.values())

    def attach(self, trainer: Any) -> None:
        """Register with a trainer."""
        trainer.add_callback("on_train_epoch_start", self.start_epoch)
        trainer.add_callback("on_train_batch_end", self.after_step)
        trainer.add_callback("on_train_epoch_end", self.end_epoch)

    @property
    def state(self) -> dict[str, Any]:
        """How long each term has been exactly 0, for a run that goes on after an interruption."""
        return {"zero": None if self._zero is None else self._zero.tolist(), "steps": self._steps}

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        self._zero = None if value["zero"] is None else torch.tensor(value["zero"])
        self._steps = value["steps"]

    def start_epoch(self, _trainer: Any = None) -> None:
        """Make the epoch's measurement due."""
        self._pulls, self._done = [], False

    def before_step(self, model: DistilledDetector) -> None:
        """Ask the model to measure the coming batch where that is due."""
        recipe = model.recipe
        warmup = max(recipe.balance.warmup if recipe.balance else 0.0, recipe.schedule.warmup)
        model.measure = not self._done and len(recipe.terms) > 0 and model.progress >= warmup
        model.measure_parts = not self._pulls  # alarms need them once an epoch
        model.pull = None

    def after_step(self, trainer: Any) -> None:
        """Take in what the step measured."""
        model = unwrap_model(trainer.model)
        if not isinstance(model, DistilledDetector):
            return
        self._watch(model, trainer.loss_items)
        pull = _together(model.pull) if model.measure else None
        if pull is not None:
            self.take(model, pull)

    def take(self, model: DistilledDetector, pull: Pull) -> None:
        """Add a measurement; the last of an epoch moves the factors."""
        self._pulls.append(pull)
        if len(self._pulls) == 1:
            self._check(model, pull)
        balance = model.recipe.balance
        if len(self._pulls) >= (balance.batches if balance else 1):
            self._conclude(model)

    def end_epoch(self, trainer: Any) -> None:
        """Make do with what was measured, where an epoch has fewer batches than a measurement."""
        model = unwrap_model(trainer.model)
        if self._pulls and not self._done:
            self._conclude(model)

    def _conclude(self, model: DistilledDetector) -> None:
        """Move the factors by what the epoch's batches say."""
        balance = model.recipe.balance
        self._done = True
        model.measure = False
        self._check_shares(model)
        if balance is None:
            return
        for number, group in enumerate(GROUPS):
            target = balance.target(group)
            if target is None:
                continue
            shares = [p.share(group) for p in self._pulls]
            factor = float(model.recipe.factors[number])
            # A group whose terms were still off, or said nothing, at the first measurement still has the factor 1.
            first = int(model.recipe.measured) == 0 or factor == 1.0
            self._check_limit(group, [share / factor for share in shares], target, balance)
            new = next_factor(factor, shares, target, bound=balance.bound, limit=balance.limit, first=first)
            model.recipe.factors[number] = new
        model.recipe.measured += 1

    def _check_limit(self, group: str, plain: Sequence[float], target: float, balance: Balance) -> None:
        """Raise an alarm for a group that stays too weak, whose shares at factor 1 are `plain`."""
        usable = [share for share in plain if 0 < share < math.inf]
        if usable and (wanted := target / statistics.median(usable)) > balance.limit:
            self.alarm(
                f"{group} limit",
                f"{group}: these terms are so weak that their target would take a factor of {wanted:.3g}, and "
                f"calibrate.limit={balance.limit:g} ends it at a share of {target * balance.limit / wanted:.2g}, "
                f"not {target:g}; raise their weights (distill.terms.NAME.weight) or distill.calibrate.limit",
            )

    def _check(self, model: DistilledDetector, pull: Pull) -> None:
        """Raise an alarm for each term whose gradient is gone or whose sign is wrong."""
        for name in [name for name, value in pull.values.items() if value < -_ROUNDING]:
            self.alarm(
                f"{name} negative",
                f"{name}: is negative ({pull.values[name]:.3g}), so the student is pushed away from the teacher; a "
                "loss is 0 where both agree and above it elsewhere: turn its sign",
            )
        for name in [name for name, norm in pull.parts.items() if norm == 0 and pull.values[name] > 0]:
            self.alarm(
                f"{name} gradient",
                f"{name}: has a value, but its gradient is exactly 0, so it teaches nothing; its loss detaches the "
                "student or its layers are frozen (trainer.freeze)",
            )

    def _check_shares(self, model: DistilledDetector) -> None:
        """Raise the alarms that an epoch's measurement gives reason for."""
        balance = model.recipe.balance
        for group in self._pulls[0].groups:
            shares = [share for pull in self._pulls if math.isfinite(share := pull.share(group))]
            share = statistics.median(shares) if shares else 0.0
            calibrated = balance is not None and balance.target(group) is not None
            idle = not any(pull.tasks.get(group, 0.0) > 0 for pull in self._pulls)
            if calibrated and idle and any(pull.groups.get(group, 0.0) > 0 for pull in self._pulls):
                self.alarm(
                    f"{group} labels",
                    f"calibrate.{group_key(group)}: the labels pull none of the weights that these terms pull "
                    f"({group}), so nothing can be compared and the weights of the terms stay as they are; freeze "
                    "fewer layers (trainer.freeze) or set distill.calibrate=null",
                )
            if share <= _LOUD or (calibrated and int(model.recipe.measured) == 0):  # about to be corrected
                continue
            advice = (
                "calibration can't keep up: raise distill.calibrate.bound and limit, or lower their weights"
                if calibrated
                else f"set distill.calibrate={{{group_key(group)}: 0.3}}, or lower their weights"
            )
            self.alarm(f"{group} share", f"{group}: these terms pull {share:.3g} times as hard as the labels; {advice}")

    def _watch(self, model: DistilledDetector, items: Mapping[str, Any] | None) -> None:
        """Count the steps in which a term is exactly 0 though it has weight; the count stays on the device."""
        if not items:
            return
        names = [name for name in model.kd_names if name != "kd" and name in items]
        if not names or model.recipe.schedule(model.progress) <= 0:
            return
        zero = torch.stack([items[name] for name in names]) == 0
        self._zero = zero.long() if self._zero is None else (self._zero.to(zero.device) + 1) * zero
        self._steps += 1
        if self._steps % _SILENT:
            return
        counted = _counted(model.recipe, model.progress)
        counts = [min(of_each) for of_each in zip(*gather(self._zero.tolist()), strict=True)]
        for name, count in zip(names, counts, strict=True):
            if count >= _SILENT and name in counted:
                self.alarm(
                    f"{name} zero",
                    f"{name}: was exactly 0 in {count} steps in a row; the teacher sees nothing here or the region is "
                    "empty: check teacher.class_map and distill.region, and run detkd doctor",
                )

    def alarm(self, kind: str, text: str) -> None:
        """Say what is wrong, once of each kind, and write it down."""
        if kind in self._said:
            return
        self._said[kind] = text
        write_json(self._file, {"schema": 1, "alarms": self.alarms, "kinds": list(self._said)})
        console.print(f"[yellow]alarm[/yellow] {text}", highlight=False, soft_wrap=True)


def _counted(recipe: Recipe, progress: float) -> set[str]:
    """Return the columns of the terms that have a weight at this moment."""
    return {
        column(name, branch)
        for name in recipe.terms
        for branch in recipe.branches[name]
        if recipe.weights[name] * recipe.strength(name, progress) > 0 and recipe.head_weights[branch] != 0
    }


def _together(pull: Pull | None) -> Pull | None:
    """Return the mean of what all processes of a run measured, so that all go on alike.

    Args:
        pull: What this one measured; None where nothing in its batch is taught. All must call this in the same step.
    """
    pulls = [one for one in gather(pull) if one is not None]
    if len(pulls) < 2:
        return pulls[0] if pulls else None
    return Pull(*(_mean(norms) for norms in zip(*pulls, strict=True)))


def _mean(several: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in several for name in one)
    return {name: statistics.fmean(one[name] for one in several if name in one) for name in names}
