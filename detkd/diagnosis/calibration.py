"""Whether a score of 0.7 means that 7 of 10 such detections are right."""

from __future__ import annotations

from typing import Any

import numpy as np

from detkd.diagnosis.working_point import IOU, outcome_at
from detkd.evaluation.matching import Matches

__all__ = ["BINS", "FLOOR", "calibration", "threshold_advice"]

BINS = 10
"""Bins of equal width over scores from 0 to 1."""

FLOOR = 0.05
"""Lowest score looked at.

Evaluations keep detections from a score of 0.001. Most scores are tiny then, and nearly all of those are false alarms,
as they should be: counted in, they would make every detector look well calibrated.
"""


def calibration(matches: Matches, floor: float = FLOOR) -> dict[str, Any]:
    """Compare scores with the share of hits at IoU 0.5.

    Args:
        matches: Matched detections; those that do not count are left out.
        floor: Lowest score looked at.

    Returns:
        `iou`; `floor`; `ece`, the mean distance between score and share of hits over the bins, weighted by their
        detections, and `mce`, the largest one (Naeini et al., AAAI 2015); `shift`, mean score less share of hits, above
        0 for a detector too sure of itself; `count` of detections; `bins` with `low`, `high`, `count`, mean
        `confidence` and `accuracy`, the share of hits. Shares are None where there are no detections, and all of them
        are, with a `reason`, if scores are not between 0 and 1.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    outcome = outcome_at(matches)
    used = (outcome >= 0) & (matches.score >= floor)
    score, right = matches.score[used], (outcome[used] == 1).astype(np.float64)
    result: dict[str, Any] = {"iou": IOU, "floor": floor, "ece": None, "mce": None, "shift": None}
    if len(matches) and not (0 <= matches.score.min() and matches.score.max() <= 1):
        low, high = float(matches.score.min()), float(matches.score.max())
        reason = f"scores from {low:.6g} to {high:.6g} are no probabilities"
        return {**result, "count": len(score), "bins": [], "reason": reason}
    edges = np.arange(BINS + 1) / BINS
    bins = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    filled = np.maximum(count, 1)
    confidence = np.bincount(bins, weights=score, minlength=BINS) / filled
    accuracy = np.bincount(bins, weights=right, minlength=BINS) / filled
    if len(score):
        distance = np.abs(confidence - accuracy)
        result["ece"] = float((distance * count).sum() / count.sum())
        result["mce"] = float(distance.max())
        result["shift"] = float(score.mean() - right.mean())
    table = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "count": int(count[i]),
            "confidence": float(confidence[i]) if count[i] else None,
            "accuracy": float(accuracy[i]) if count[i] else None,
        }
        for i in range(BINS)
    ]
    return {**result, "count": len(score), "bins": table}


def threshold_advice(old: str, old_threshold: float | None, new: str, new_threshold: float | None) -> str:
    """Say how to move the threshold when one detector takes the place of another.

    Args:
        old: Name of the detector in use.
        old_threshold: Its best threshold, None if it has none.
        new: Name of the detector that replaces it.
        new_threshold: Its best threshold, None if it has none.
    """
    if old_threshold is None or new_threshold is None:
        without = old if old_threshold is None else new
        return f"{without} finds no object, so it has no best threshold."
    move = new_threshold - old_threshold
    where = f"{old} is best used from a score of {old_threshold:.2f}, {new} from {new_threshold:.2f}"
    if abs(move) < 0.02:
        return f"{where}: the threshold can stay."
    return f"{where}: {'raise' if move > 0 else 'lower'} the threshold by {abs(move):.2f}."
