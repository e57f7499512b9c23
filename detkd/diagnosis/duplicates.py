"""Second and later boxes on an object that is already found: what a head without NMS can get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from detkd.diagnosis.overlaps import overlaps
from detkd.diagnosis.working_point import IOU, outcome_at
from detkd.evaluation.inputs import Detections, GroundTruth
from detkd.evaluation.matching import Matches

__all__ = ["duplicates"]


def duplicates(truth: GroundTruth, detections: Detections, matches: Matches, threshold: float | None) -> dict[str, Any]:
    """Count false alarms that fit an object of their class.

    Matching leaves a box that overlaps an object of its class by 0.5 or more without a hit only if boxes with higher
    scores took all such objects, so each of these false alarms is a duplicate. Unlike TIDE's "Dupe" that holds too
    where the box also fits an object of another class.

    Args:
        truth: Labels.
        detections: Detections on their images.
        matches: The two matched.
        threshold: Score from which a detection counts, best that of the working point; None if there is none.

    Returns:
        `threshold`; `per_object`, duplicates per object found, None if none is; and their number as `count`.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    if threshold is None:
        return {"threshold": None, "per_object": None, "count": 0}
    outcome, used = outcome_at(matches), matches.score >= threshold
    false = np.flatnonzero(used & (outcome == 0))
    count = int(np.count_nonzero(overlaps(truth, detections, matches, false).same >= IOU))
    hits = int(np.count_nonzero(used & (outcome == 1)))
    return {"threshold": float(threshold), "per_object": count / hits if hits else None, "count": count}
