"""The weighted losses of a recipe, and what they make of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detkd.errors import ConfigError, DetkdError, ModelError, ShapeError
from detkd.losses.base import DistillLoss, Region
from detkd.losses.checks import check_choice, check_keys, check_number
from detkd.losses.pairing import BRANCHES
from detkd.losses.schedule import Schedule
from detkd.types import Branch, Context, View

__all__ = ["Compared", "Term", "column", "make_term", "term_doubts", "value_of"]


@dataclass(frozen=True)
class Term:
    """One weighted loss.

    Attributes:
        name: Its column in the progress line and the results file, after "kd_".
        loss: The loss itself.
        weight: Factor of the loss, >= 0.
        branches: Heads it applies to; None for all.
        region: Where it applies; None for the region of the recipe.
        schedule: Its weight over the run, times the schedule of the recipe; None for 1.
    """

    name: str
    loss: DistillLoss
    weight: float = 1.0
    branches: tuple[Branch, ...] | None = None
    region: Region | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        key = f"distill.terms.{self.name}"
        # nn.ModuleDict can't hold names of its own attributes, and a column name needs no quoting.
        if not self.name.isidentifier() or hasattr(nn.ModuleDict, self.name):
            raise ConfigError(f"{key}: can't name a term, got {self.name!r}; use letters, digits and _, e.g. cls")
        if not isinstance(self.loss, DistillLoss):
            raise ConfigError(f"{key}.loss: must be a DistillLoss, got {type(self.loss).__name__}; give a _target_")
        if not self.loss.uses:
            raise ConfigError(
                f"{key}.loss: {type(self.loss).__name__} names nothing in `uses`, so nothing tells whether a pair or a "
                "cache can give what it reads; set it in the class, e.g. frozenset({'logits'})"
            )
        check_number(f"{key}.weight", self.weight, low=0.0, hint="0 turns the term off")
        for branch in self.branches or ():
            check_choice(f"{key}.branches", branch, BRANCHES)
        if self.region is not None and not isinstance(self.region, Region):
            raise ConfigError(f"{key}.region: must be a Region, got {type(self.region).__name__}; give a _target_")

    def group(self, branch: Branch) -> str:
        """Return which gradient share it counts to: "features" for terms on feature maps, else that of the head."""
        if "feats" in self.loss.uses:
            return "features"
        return "head_o2o" if branch == "one2one" else "head"


def make_term(name: str, parts: Mapping[str, object]) -> Term:
    """Build a term from plain values and a loss that exists already.

    Args:
        name: Its name in the config.
        parts: `loss` and optionally `weight`, `branches`, `region` and `schedule`.

    Raises:
        ConfigError: Naming the key that can't be used.
    """
    key = f"distill.terms.{name}"
    if not isinstance(parts, Mapping):
        raise ConfigError(f"{key}: must hold loss and weight, got {parts!r}; see conf/distill/binary.yaml")
    check_keys(key, parts, ("loss", "weight", "branches", "region", "schedule"))
    if "loss" not in parts:
        raise ConfigError(f"{key}.loss: is missing; give a _target_ as in conf/distill/binary.yaml")
    branches = parts.get("branches")
    if isinstance(branches, str):
        branches = (branches,)
    schedule = parts.get("schedule")
    if isinstance(schedule, Mapping):
        try:
            schedule = Schedule.from_mapping(schedule)
        except ConfigError as err:
            raise ConfigError(str(err).replace("distill.schedule", f"{key}.schedule", 1)) from err
    return Term(
        name=name,
        loss=parts["loss"],  # type: ignore[arg-type]  # Term checks these three
        weight=parts.get("weight", 1.0),  # type: ignore[arg-type]
        branches=None if branches is None else tuple(branches),  # type: ignore[arg-type]
        region=parts.get("region"),  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]
    )


def term_doubts(terms: Iterable[tuple[str, nn.Module]]) -> list[str]:
    """Return what is doubtful about the arguments of losses, each sentence beginning with its key.

    Args:
        terms: Name and loss of each term, `recipe.terms.items()`.
    """
    return [
        f"distill.terms.{name}.loss.{text}"
        for name, loss in terms
        if isinstance(loss, DistillLoss)
        for text in loss.doubts()
    ]


def value_of(name: str, loss: nn.Module, student: View, teacher: View, context: Context) -> Tensor:
    """Return what the loss of a term says of one head, with the term's name on every mistake of a loss of the user's.

    Raises:
        ModelError: If a loss that isn't detkd's raises anything.
        ShapeError: If it returns no scalar tensor.
    """
    kind = type(loss)
    try:
        value: object = loss(student, teacher, context)
    except (DetkdError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as err:
        if kind.__module__.startswith("detkd."):
            raise
        raise ModelError(
            f"distill.terms.{name}.loss: {kind.__module__}.{kind.__name__} raised {type(err).__name__} ({err}); "
            "repair it there (feats, dist and towers of a view are there only where the loss names them in uses)"
        ) from err
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"distill.terms.{name}.loss: must return a scalar tensor, got {got}")
    return value


class Compared(NamedTuple):
    """What a recipe makes of one batch.

    Attributes:
        groups: Scalar per group of terms, with all weights but alpha and the group's factor.
        full: The same without the weight of the head and without schedules, which leaves what calibration compares.
        items: The plain value of each term and head, detached and without any weight.
        parts: The same values with their graph and all weights but alpha and factor; those with weight 0 are missing.
    """

    groups: dict[str, Tensor]
    full: dict[str, Tensor]
    items: dict[str, Tensor]
    parts: dict[str, Tensor]


def column(name: str, branch: Branch) -> str:
    """Return the name under which the value of a term in one head is logged."""
    return f"kd_{name}" + ("_o2o" if branch == "one2one" else "")
