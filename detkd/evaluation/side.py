"""One detector in a comparison: its runs, each with the matches every statistic is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.coco import metrics_from_arrays
from detkd.evaluation.engine import COCO_PARAMS, Arrays, run
from detkd.evaluation.inputs import Detections, GroundTruth, OnBad
from detkd.evaluation.matching import Matches, match
from detkd.evaluation.metrics import Metrics
from detkd.evaluation.results import load_detections

__all__ = ["Run", "Side", "Slice", "make_run"]


@dataclass(frozen=True)
class Run:
    """One trained detector on one set.

    Attributes:
        source: Where it was read.
        seed: Seed of its training, None where unknown.
        truth: The labels, the same object for all runs of a comparison.
        detections: Its answers.
        arrays: What the engine accumulated.
        metrics: The numbers made from `arrays`.
        matches: Our own matching of the same detections.
    """

    source: str
    seed: int | None
    truth: GroundTruth
    detections: Detections
    arrays: Arrays
    metrics: Metrics
    matches: Matches


@dataclass(frozen=True)
class Side:
    """One detector, trained once or with several seeds.

    Attributes:
        name: What to call it, unique within a comparison.
        role: "before", "after", "control", "teacher" or "run".
        runs: One per seed, at least one.
        cost: Parameters, GFLOPs, size and latency as `Cost.to_dict()` gives them, or None where unknown.
        source: Where it was read (weights, run folder, results file).
    """

    name: str
    role: str
    runs: tuple[Run, ...]
    cost: dict[str, Any] | None = None
    source: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """How the detections of the first run were made; empty where unknown."""
        return dict(self.runs[0].metrics.protocol.get("settings") or {})

    def number(self, key: str) -> float | None:
        """Return the mean over the runs of one number ("AP", "AP/person") in points, None where it is n/a."""
        values = [one.metrics.number(key) for one in self.runs]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None


@dataclass(frozen=True)
class Slice:
    """The images that share a value.

    Attributes:
        field: Field of the image record, or a derived one.
        value: Its value as text.
        mask: True for the images of the slice, bool (I,).
    """

    field: str
    value: str
    mask: np.ndarray

    @property
    def key(self) -> str:
        """`field=value`, as it stands behind the @ of a number's key."""
        return f"{self.field}={self.value}"


def make_run(
    truth: GroundTruth,
    detections: Iterable[Mapping[str, Any]] | str | Path | Detections,
    *,
    source: str = "",
    seed: int | None = None,
    engine: str = "auto",
    settings: Mapping[str, Any] | None = None,
    on_bad: OnBad = "error",
) -> Run:
    """Evaluate and match detections; arguments as for `evaluate_detections`.

    Raises:
        DataError: If the detections can't be used; names file, record and fix.
        ConfigError: If the engine is unknown or not installed.
    """
    found = load_detections(detections, truth, on_bad=on_bad)
    arrays = run(truth, found, COCO_PARAMS, engine=engine)
    metrics = metrics_from_arrays(arrays, truth, found, settings=settings)
    return Run(source or found.source, seed, truth, found, arrays, metrics, match(truth, found))
