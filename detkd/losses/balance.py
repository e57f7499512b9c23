"""How strong distillation is, measured by gradients instead of copied from papers.

The size of a loss says little: a sum, a mean and a mean over positives of the same difference are orders of magnitude
apart. What matters is how hard it pulls the weights that detection pulls too. So the factor of a group of terms is set
from `share = |gradient of the group| / |gradient of the head's detection loss|` on parameters that both reach.

YOLO26 trains two heads and moves the weight of its detection loss from one to the other. Each head's terms are compared
with that head's own labels, both at full weight: a fading head keeps the distillation that its weight asks for.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from detkd.errors import ConfigError
from detkd.losses.checks import check_keys, check_number

__all__ = ["GROUPS", "KEYS", "Balance", "gradient_norm", "group_key", "next_factor"]

GROUPS = ("head", "head_o2o", "features")
"""Terms on the answers of either head, and terms on feature maps. Each group has a factor of its own."""

KEYS = ("head", "features")
"""Keys under `distill.calibrate` that hold the shares of the groups."""


def group_key(group: str) -> str:
    """Return the key under `distill.calibrate` that holds the share of a group: both heads have the same."""
    return group.removesuffix("_o2o")


@dataclass(frozen=True)
class Balance:
    """What the gradients of distillation shall be, relative to those of the detection loss.

    Attributes:
        head: Share of the terms on the answers of each head, > 0; None leaves their weights as they are.
        features: Share of the terms on feature maps, > 0; None likewise.
        warmup: Share of the run after which it is measured for the first time, in [0, 1).
        batches: Batches whose median is a measurement, >= 1.
        bound: Largest correction at each later measurement, once per epoch, >= 1.
        limit: A factor stays within [1 / limit, limit], >= 1.
    """

    head: float | None = 0.3
    features: float | None = 0.1
    warmup: float = 0.05
    batches: int = 4
    bound: float = 2.0
    limit: float = 100.0

    def __post_init__(self) -> None:
        key = "distill.calibrate"
        for name in KEYS:
            if getattr(self, name) is not None:
                hint = "0.3 is usual for head, 0.1 for features; null leaves the weights as they are"
                check_number(f"{key}.{name}", getattr(self, name), above=0.0, hint=hint)
        warmup = check_number(f"{key}.warmup", self.warmup, low=0.0, high=1.0, hint="0.05 is 5 % of the run")
        if warmup == 1.0:
            raise ConfigError(f"{key}.warmup: must be < 1, got {self.warmup}; leave a part of the run to train")
        if isinstance(self.batches, bool) or not isinstance(self.batches, int) or self.batches < 1:
            raise ConfigError(f"{key}.batches: must be a whole number >= 1, got {self.batches!r}; 4 is usual")
        check_number(f"{key}.bound", self.bound, low=1.0, hint="2 lets a factor double or halve per epoch")
        check_number(f"{key}.limit", self.limit, low=1.0, hint="100 is wide, 1 keeps the weights as they are")

    def target(self, group: str) -> float | None:
        """Return the share a group shall have, None where its weights stay as they are."""
        value = getattr(self, group_key(group))
        return None if value is None else float(value)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Balance:
        """Build it from a config node, refusing unknown keys by name."""
        check_keys("distill.calibrate", values, [field.name for field in fields(cls)])
        return cls(**values)  # type: ignore[arg-type]  # checked one by one above


def next_factor(
    factor: float, shares: Sequence[float], target: float, *, bound: float, limit: float, first: bool
) -> float:
    """Return the factor that brings the median share to the target, within bounds.

    Args:
        factor: The factor the shares were measured with, > 0.
        shares: Measured shares, one per batch; those that are 0 or not finite say nothing and are left out.
        target: The share to reach, > 0.
        bound: Largest change up or down, >= 1; not applied to the first measurement.
        limit: The result stays within [1 / limit, limit].
        first: Whether nothing was measured before.

    Example:
        >>> next_factor(1.0, [0.05, 0.06, 5.0], 0.3, bound=2.0, limit=100.0, first=True)
        5.0
        >>> next_factor(1.0, [0.05, 0.06, 5.0], 0.3, bound=2.0, limit=100.0, first=False)
        2.0
    """
    usable = [share for share in shares if 0 < share < float("inf")]
    if not usable:
        return factor
    wanted = factor * target / statistics.median(usable)
    if not first:
        wanted = min(max(wanted, factor / bound), factor * bound)
    return min(max(wanted, 1 / limit), limit)


def gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> float:
    """Return the norm of the gradient of a scalar with respect to some parameters, leaving graph and `.grad` alone.

    Args:
        loss: Scalar; without a graph the norm is 0.
        parameters: Those it may reach; the others count 0.
    """
    if not loss.requires_grad or not parameters:  # all of them frozen
        return 0.0
    gradients = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    squares = [_double(g.detach()).square().sum() for g in gradients if g is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _double(x: Tensor) -> Tensor:
    """Return a tensor in double precision, which Apple's GPUs don't have."""
    return (x.cpu() if x.device.type == "mps" else x).double()
