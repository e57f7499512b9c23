"""The score above which a detector is best used, for pictures and for people: AP needs no threshold, they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.engine import COCO_PARAMS, Arrays, run
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth

__all__ = ["best_threshold", "working_point"]

_GRID = np.round(np.arange(0.01, 1.0, 0.01), 2)


def best_threshold(arrays: Arrays) -> float:
    """Return the score with the best F1 at IoU 0.5, averaged over classes.

    Args:
        arrays: Precision and scores by recall as the engine gives them.

    Returns:
        One of 0.01, 0.02, ..., 0.99; the highest of the best ones, since lower ones add false alarms that the curve
        does not show; 0.25 without any hit.
    """
    precision, scores = arrays.precision[0, :, :, 0, -1], arrays.scores[0, :, :, 0, -1]  # (recalls, classes)
    recall = np.asarray(COCO_PARAMS.recall_thresholds)[:, None]
    known = precision.max(axis=0) > -1  # classes with objects
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    mean = np.zeros(len(_GRID))
    for i, threshold in enumerate(_GRID):
        # Scores fall with recall: the last recall still above the threshold is the one reached there.
        reached = (scores >= threshold) & (precision > 0)
        last = np.where(reached.any(axis=0), reached.shape[0] - 1 - reached[::-1].argmax(axis=0), -1)
        values = [f1[row, k] if row >= 0 else 0.0 for k, row in enumerate(last) if known[k]]
        mean[i] = np.mean(values) if values else 0.0
    if mean.max() == 0:
        return 0.25
    return float(_GRID[np.flatnonzero(mean == mean.max())[-1]])


def working_point(
    gt: Mapping[str, Any] | str | Path, detections: Iterable[Mapping[str, Any]] | str | Path, *, engine: str = "auto"
) -> float:
    """Return `best_threshold` of detections on labelled images; arguments as for `evaluate_detections`."""
    truth = load_truth(gt)
    return best_threshold(run(truth, load_detections(detections, truth), COCO_PARAMS, engine=engine))
