"""What a rehearsal measures: how a number falls on one batch, and what a step takes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

__all__ = ["Curve", "StepTimes"]

_TAIL = 3
"""Last steps whose mean counts as the end of a curve."""


@dataclass(frozen=True)
class Curve:
    """What training on one batch over and over did to a number.

    Attributes:
        values: One per step.
    """

    values: tuple[float, ...]

    @property
    def start(self) -> float:
        """Before the first step."""
        return self.values[0]

    @property
    def end(self) -> float:
        """Mean of the last steps."""
        return statistics.fmean(self.values[-_TAIL:])

    @property
    def ratio(self) -> float:
        """End as a share of the start; 0 where it was 0 throughout."""
        return self.end / self.start if self.start else (0.0 if not self.end else float("inf"))


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step on one batch, medians.

    Attributes:
        load: Reading and augmenting the batch in one process.
        plain: A training step of the control.
        distilled: A training step of the student with its live teacher.
        teacher: The teacher's part of it.
        batches: Steps per epoch.
        workers: Processes that load images in the real run.
    """

    load: float
    plain: float
    distilled: float
    teacher: float
    batches: int
    workers: int

    def epoch(self, *, distilled: bool, stored: bool = False) -> float:
        """Return the seconds of an epoch without validation.

        Args:
            distilled: Of the student, else of the control.
            stored: Whether the teacher's answers come from a cache; reading them takes next to nothing.
        """
        step = self.distilled - (self.teacher if stored else 0.0) if distilled else self.plain
        step = max(step, self.plain) if distilled else step
        # Other processes load while this one computes; without any, one comes after the other.
        return self.batches * (max(step, self.load / self.workers) if self.workers else step + self.load)
