"""What the verbs return."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detkd.evaluation.metrics import Metrics
from detkd.evaluation.side import Run
from detkd.report.comparison import Comparison
from detkd.report.leaderboard import Leaderboard

__all__ = [
    "CompareResult",
    "DemoResult",
    "DistillResult",
    "EvaluateResult",
    "TrainResult",
]


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics of one model or results file.

    Attributes:
        folder: Where `metrics.json` is.
        run: The evaluated detections behind the metrics.
        cost: Parameters, GFLOPs, size and latency; empty for a results file.
        objective: AP, for sweeps.
    """

    folder: Path
    run: Run
    cost: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        """The numbers."""
        return self.run.metrics

    @property
    def objective(self) -> float:
        """AP in points, 0 where there is none."""
        return self.metrics.AP or 0.0


@dataclass(frozen=True)
class TrainResult(EvaluateResult):
    """A trained detector.

    Attributes:
        weights: The reported checkpoint, a plain Ultralytics model.
        outcome: Hashes, epochs and seconds of the training.
    """

    weights: Path = Path()
    outcome: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DistillResult(TrainResult):
    """A distilled student.

    Attributes:
        teacher: The teacher's answers on the same images.
        teacher_cost: Its cost.
        control: The matched plain student, where there is one.
        comparison: Control against student.
    """

    teacher: Run | None = None
    teacher_cost: dict[str, Any] = field(default_factory=dict)
    control: TrainResult | None = None
    comparison: Comparison | None = None

    @property
    def gain(self) -> float | None:
        """AP of the student minus AP of the control, in points."""
        if self.control is None or self.control.metrics.AP is None or self.metrics.AP is None:
            return None
        return self.metrics.AP - self.control.metrics.AP


@dataclass(frozen=True)
class CompareResult:
    """Two or many models side by side.

    Attributes:
        folder: Where the page, the tables and the chart are.
        comparison: All differences.
        failed: Whether `fail_if` holds.
    """

    folder: Path
    comparison: Comparison | Leaderboard
    failed: bool = False


@dataclass(frozen=True)
class DemoResult:
    """The demo's run folder and what `summary.json` says."""

    folder: Path
    summary: dict[str, Any]

    @property
    def objective(self) -> float:
        """Gain in AP, for sweeps."""
        return float(self.summary["gain"])
