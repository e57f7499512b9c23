"""How good a detector is at one score threshold, and which threshold is its best.

AP looks at all thresholds, whoever uses a detector chooses one. A detection counts if its score is at least the
threshold. Detections are matched in the order of their scores, so those below a threshold never change what became of
those above: one matching gives the counts at every threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detkd.errors import ConfigError
from detkd.evaluation.matching import Matches

__all__ = ["IOU", "Sweep", "at_threshold", "iou_index", "outcome_at", "round_threshold", "sweep", "working_point"]

IOU = 0.5
"""IoU at which a detection is a hit here."""

_MARGIN = 0.01
"""How far below the lowest score a threshold may be rounded, where no lower score sets a limit."""


class Sweep(NamedTuple):
    """Counts at every threshold that makes a difference, highest first.

    Attributes:
        score: The S distinct scores, descending.
        hits: Hits with at least that score, int64 (S,).
        false: False alarms with at least that score, int64 (S,).
        objects: Objects to be found.
    """

    score: np.ndarray
    hits: np.ndarray
    false: np.ndarray
    objects: int

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, float64 (S,)."""
        value: np.ndarray = 2.0 * self.hits / np.maximum(self.hits + self.false + self.objects, 1)
        return value

    def threshold(self, index: int) -> float:
        """Return a round threshold that gives the counts at `index`."""
        lower = float(self.score[index + 1]) if index + 1 < len(self.score) else None
        return round_threshold(float(self.score[index]), lower)


def sweep(matches: Matches, label: int | None = None) -> Sweep:
    """Count hits and false alarms from the highest score down.

    Args:
        matches: Matched detections. Those that do not count, such as those on crowd regions, are left out.
        label: Index of a class; None for all classes together, as one threshold for all of them sees it.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    outcome, score = outcome_at(matches), matches.score
    objects = matches.object_counts[0]
    if label is not None:
        part = slice(int(matches.offsets[label]), int(matches.offsets[label + 1]))
        outcome, score = outcome[part], score[part]
        objects = objects[matches.object_label == label]
    counts = outcome >= 0
    outcome, score = outcome[counts], score[counts]
    order = np.argsort(-score, kind="stable")
    outcome, score = outcome[order], score[order]
    last = np.append(score[1:] != score[:-1], True)[: len(score)]  # equal scores pass a threshold together
    hits = np.cumsum(outcome == 1)[last]
    total = (np.arange(len(score)) + 1)[last]
    return Sweep(score[last], hits, total - hits, int(objects.sum()))


def outcome_at(matches: Matches, iou: float = IOU) -> np.ndarray:
    """Return what became of each detection at one IoU, all sizes: 1 hit, 0 false alarm, -1 does not count; int8 (N,).

    Raises:
        ConfigError: If the matches have no such IoU.
    """
    outcome: np.ndarray = matches.outcome[0, iou_index(matches, iou)]
    return outcome


def iou_index(matches: Matches, iou: float = IOU) -> int:
    """Return the position of `iou` among the thresholds the detections were matched at.

    Raises:
        ConfigError: If it is not among them.
    """
    distance = np.abs(np.asarray(matches.params.iou_thresholds) - iou)
    if distance.min() > 1e-9:
        raise ConfigError(
            f"iou_thresholds: diagnosis needs {iou}, got {matches.params.iou_thresholds}; match with COCO's thresholds"
        )
    return int(distance.argmin())


def round_threshold(score: float, lower: float | None) -> float:
    """Return a threshold with as few decimals as possible, two at least, that `score` passes and `lower` does not.

    It is near the middle between the two, so that scores computed anew, with small differences, fall on the same side.

    Args:
        score: Lowest score that must pass.
        lower: Next lower score; None if there is none, then the threshold is within 0.01 of `score`.
    """
    lower = score - _MARGIN if lower is None else lower
    middle = lower + (score - lower) / 2
    for decimals in range(2, 18):
        for value in (round(middle, decimals), round(score, decimals)):
            if lower < value <= score:
                return value
    return score


def working_point(matches: Matches) -> dict[str, Any]:
    """Find the threshold with the best F1 for all classes together, and each class's own.

    Args:
        matches: Matched detections.

    Returns:
        `iou`; `threshold`, the highest of equally good ones, None without any hit; `precision`, `recall` and `f1` as
        shares there, None where there is nothing to divide by; the counts `hits`, `false` (alarms) and `missed`;
        `false_per_image`; and under `per_class` name to the same numbers (without `iou` and `false_per_image`) at the
        best threshold of the class alone.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    per_class = {}
    for label, name in enumerate(matches.names):
        per_class[name] = _best(sweep(matches, label))
    best = _best(sweep(matches))
    return {
        "iou": IOU,
        **best,
        "false_per_image": best["false"] / matches.images,
        "per_class": per_class,
    }


def at_threshold(matches: Matches, threshold: float) -> dict[str, Any]:
    """Return the numbers of `working_point` at a given threshold for all classes, such as another detector's best.

    Args:
        matches: Matched detections.
        threshold: A detection counts if its score is at least this.

    Returns:
        `threshold`, `precision`, `recall`, `f1`, `hits`, `false`, `missed`, `false_per_image`.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    curve = sweep(matches)
    reached = int(np.searchsorted(-curve.score, -threshold, side="right"))
    numbers = _numbers(curve, reached - 1)
    return {
        "threshold": float(threshold),
        **numbers,
        "false_per_image": numbers["false"] / matches.images,
    }


def _best(curve: Sweep) -> dict[str, Any]:
    if not len(curve.score) or not curve.hits[-1]:
        return {"threshold": None, **_numbers(curve, -1)}
    best = int(curve.f1.argmax())  # the first of equals, so the highest score
    return {"threshold": curve.threshold(best), **_numbers(curve, best)}


def _numbers(curve: Sweep, index: int) -> dict[str, Any]:
    """Return shares and counts at one point of the sweep; -1 is above all scores."""
    hits, false = (int(curve.hits[index]), int(curve.false[index])) if index >= 0 else (0, 0)
    return {
        "precision": hits / (hits + false) if hits + false else None,
        "recall": hits / curve.objects if curve.objects else None,
        "f1": 2 * hits / (hits + false + curve.objects) if curve.objects else None,
        "hits": hits,
        "false": false,
        "missed": curve.objects - hits,
    }
