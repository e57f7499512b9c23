"""The weight of distillation over a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from detkd.errors import ConfigError
from detkd.losses.checks import check_choice, check_keys, check_number

__all__ = ["KINDS", "Schedule", "weight_at"]

KINDS = ("constant", "cosine", "linear")


def weight_at(
    progress: float, kind: str = "constant", *, warmup: float = 0.0, end: float = 1.0, stop: float | None = None
) -> float:
    """Return the weight after a share of the run.

    It rises from 0 to 1 in a straight line during the warm-up, then stays or falls to `end`, which it reaches at `stop`
    or, without one, at the end of the run. From `stop` on it is 0.

    Args:
        progress: Share of the run that is done, in [0, 1]; values outside are cut off.
        kind: "constant" (ignores `end`), "cosine" or "linear".
        warmup: Share of the run for the rise, in [0, 1).
        end: Weight just before `stop`, >= 0.
        stop: Share of the run after which distillation is off, in (warmup, 1]; None for never.

    Example:
        >>> [round(weight_at(p, "cosine", warmup=0.2, end=0.1), 3) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
        [0.0, 0.5, 1.0, 0.55, 0.1]
    """
    progress = min(max(progress, 0.0), 1.0)
    if stop is not None and progress >= stop:
        return 0.0
    if progress < warmup:
        return progress / warmup
    done = (progress - warmup) / ((1.0 if stop is None else stop) - warmup)
    if kind == "cosine":
        return end + (1.0 - end) * (1.0 + math.cos(math.pi * done)) / 2
    if kind == "linear":
        return 1.0 + (end - 1.0) * done
    return 1.0


@dataclass(frozen=True)
class Schedule:
    """Checked arguments of `weight_at`; call it with the progress.

    Raises:
        ConfigError: Naming the key under `distill.schedule` that can't be used.
    """

    kind: str = "constant"
    warmup: float = 0.0
    end: float = 1.0
    stop: float | None = None

    def __post_init__(self) -> None:
        key = "distill.schedule"
        check_choice(f"{key}.kind", self.kind, KINDS)
        warmup = check_number(f"{key}.warmup", self.warmup, low=0.0, high=1.0, hint="0.03 is 3 % of the run")
        check_number(f"{key}.end", self.end, low=0.0, hint="0.1 ends at a tenth of the full weight")
        if warmup == 1.0:
            raise ConfigError(f"{key}.warmup: must be < 1, got {self.warmup}; leave a part of the run to train")
        if self.stop is not None:
            check_number(
                f"{key}.stop", self.stop, above=warmup, high=1.0, hint="a share of the run after warmup, null for never"
            )

    def __call__(self, progress: float) -> float:
        """Return the weight at `progress` in [0, 1]."""
        return weight_at(progress, self.kind, warmup=self.warmup, end=self.end, stop=self.stop)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Schedule:
        """Build it from a config node, refusing unknown keys by name."""
        check_keys("distill.schedule", values, [field.name for field in fields(cls)])
        return cls(**values)  # type: ignore[arg-type]  # checked one by one above
