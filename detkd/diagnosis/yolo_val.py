"""Why the number that `yolo val` prints is not the one detkd prints, part by part, on the same detections.

Ultralytics has a metric of its own. What it would say is computed here from our matches by code of our own, as of
8.4.190; the tests hold it against their functions. Equal scores are ranked in the order of the images here and in no
particular order there. Older versions matched in another way and let the curve end with a
straight line to recall 1, which is worth tens of points where the detections start at a high score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from detkd.diagnosis.working_point import IOU, iou_index
from detkd.evaluation.matching import Matches, match
from detkd.evaluation.side import Run

__all__ = ["LOW_FLOOR", "MOST_DETECTIONS", "reconcile"]

MOST_DETECTIONS = 300
"""Ultralytics' `max_det`: detections kept per image, whatever their class."""

LOW_FLOOR = 0.01
"""A lowest score above this means that the ranking was cut; `yolo val` starts at 0.001."""

_GRID = np.linspace(0.0, 1.0, 101)
_Curve = Callable[[np.ndarray, np.ndarray], float]


class _Ranking(NamedTuple):
    """What became of ranked detections.

    Attributes:
        outcome: 1 hit, 0 false alarm, -1 does not count, int8 (T, N), ranked within each class.
        offsets: Where each class begins and ends, (K + 1,).
        objects: Objects of each class, (K,).
        low: Position of IoU 0.5 among the T.
    """

    outcome: np.ndarray
    offsets: np.ndarray
    objects: np.ndarray
    low: int


def reconcile(run: Run) -> dict[str, Any]:
    """Compute the AP that `yolo val` would print for these detections, and what each difference in method makes.

    Args:
        run: A run matched with COCO's settings.

    Returns:
        `AP` and `AP50` its way, in points, None without objects; `parts` with `name`, `AP` and `AP50` (the change in
        points that this part makes) and `why`, in the order in which they are made: our number plus all changes is
        theirs; `remarks` on what else moves their number and can't be computed from detections.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    limit = run.matches.params.max_detections[-1]
    coco = _ranking(run.matches)
    plain = coco._replace(outcome=np.maximum(coco.outcome, 0))
    # Ultralytics raises its limit where an image has more objects.
    kept = max(MOST_DETECTIONS, int(np.bincount(run.truth.image[~run.truth.crowd], minlength=1).max()))
    limited = _over_classes(run, kept, limit)
    theirs = plain if limited is None else limited
    steps = (
        (
            "crowd regions are not in YOLO labels",
            "detections on them are false alarms there; COCO does not count them",
            _values(plain, _mean_of_steps),
        ),
        (
            f"{kept} detections per image",
            f"the best {kept} of an image over all classes are ranked; COCO ranks the best {limit} of each",
            _values(theirs, _mean_of_steps),
        ),
        (
            "area instead of the mean of 101 values",
            "the points of the curve, from precision 1 at recall 0, are joined by lines, and the area below them is "
            "taken; COCO's curve falls in steps, 101 of which are averaged",
            _values(theirs, _area_to_last_point),
        ),
        (
            "end of the curve",
            "at the last recall precision is 0 already; COCO still counts the last point there",
            _values(theirs, _area_to_end),
        ),
    )
    value = _values(coco, _mean_of_steps)
    parts = []
    for name, why, following in steps:
        change = {key: _difference(value[key], following[key]) for key in value}
        parts.append({"name": name, **change, "why": why})
        value = following
    return {**value, "parts": parts, "remarks": _remarks(run)}


def _ranking(matches: Matches) -> _Ranking:
    counts = matches.object_label[matches.object_counts[0]]
    objects = np.bincount(counts, minlength=len(matches.names))
    return _Ranking(matches.outcome[0], matches.offsets, objects, iou_index(matches, IOU))


def _over_classes(run: Run, kept: int, limit: int) -> _Ranking | None:
    """Return the `kept` best detections of each image, matched without crowd regions; None if that changes nothing."""
    found, truth = run.detections, run.truth
    most = np.bincount(found.image, minlength=1).max()
    of_class = np.unique(found.image * len(truth.names) + found.label, return_counts=True)[1].max(initial=0)
    if most <= kept and of_class <= limit:
        return None
    order = np.lexsort((-found.scores, found.image))
    image = found.image[order]
    rank = np.arange(len(order)) - np.searchsorted(image, image)
    keep = np.sort(order[rank < kept])
    params = run.matches.params
    params = replace(params, area_ranges=params.area_ranges[:1], max_detections=(kept,))
    labels = {name: getattr(truth, name)[~truth.crowd] for name in ("image", "label", "boxes_xywh", "areas", "crowd")}
    best = {name: getattr(found, name)[keep] for name in ("image", "label", "boxes_xywh", "scores")}
    ranking = _ranking(match(replace(truth, **labels), replace(found, **best), params))
    return ranking._replace(outcome=np.maximum(ranking.outcome, 0))


def _values(ranking: _Ranking, curve: _Curve) -> dict[str, float | None]:
    """Return AP and AP50 in points, None without objects."""
    known = np.flatnonzero(ranking.objects)
    if not len(known):
        return {"AP": None, "AP50": None}
    table = np.zeros((len(known), len(ranking.outcome)))
    for place, k in enumerate(known):
        mine = ranking.outcome[:, ranking.offsets[k] : ranking.offsets[k + 1]]
        for t, outcome in enumerate(mine):
            outcome = outcome[outcome >= 0]
            hits = np.cumsum(outcome == 1)
            if len(hits) and hits[-1]:
                precision = hits / np.arange(1, len(hits) + 1)
                envelope = np.maximum.accumulate(precision[::-1])[::-1]
                table[place, t] = curve(hits / ranking.objects[k], envelope)
    return {"AP": 100.0 * float(table.mean()), "AP50": 100.0 * float(table[:, ranking.low].mean())}


def _mean_of_steps(recall: np.ndarray, precision: np.ndarray) -> float:
    """COCO: at each of 101 recalls the precision of the first point that reaches it, 0 behind the last one."""
    return float(np.append(precision, 0.0)[np.searchsorted(recall, _GRID, side="left")].mean())


def _area_to_last_point(recall: np.ndarray, precision: np.ndarray) -> float:
    points = int(np.searchsorted(recall, recall[-1])) + 1  # without the false alarms behind the last hit
    across, down = np.append(0.0, recall[:points]), np.append(1.0, precision[:points])
    return _area(np.interp(_GRID, across, down, right=0.0))


def _area_to_end(recall: np.ndarray, precision: np.ndarray) -> float:
    across = np.concatenate(([0.0], recall, [recall[-1], 1.0]))
    down = np.concatenate(([1.0], precision, [0.0, 0.0]))
    return _area(np.interp(_GRID, across, down))


def _area(values: np.ndarray) -> float:
    """Area below values at the recalls of the grid: each trapezium is the mean of two neighbours, 1/100 wide."""
    return float((values[:-1] + values[1:]).sum()) / (2 * (len(values) - 1))


def _difference(old: float | None, new: float | None) -> float | None:
    return None if old is None or new is None else new - old


def _remarks(run: Run) -> list[str]:
    settings = run.metrics.protocol.get("settings") or {}
    scores, names = run.detections.scores, run.truth.names
    remarks = []
    if len(scores) and (low := float(scores.min())) > LOW_FLOOR:
        remarks.append(
            f"The lowest score is {low:.2g}: AP is lower than with detections from conf=0.001, here and in yolo val. "
            "Versions of Ultralytics that drew the end of the curve to recall 1 print far higher numbers from such "
            "detections, by 15 points and more at conf=0.5."
        )
    made = {"square": "these detections were made on squares", "rect": "and so these detections were made"}
    letterbox = made.get(str(settings.get("letterbox")), "which is not known of these detections")
    remarks.append(
        f"yolo val pads each batch to the shape of its images (rect=True), {letterbox}: padding moves single boxes, "
        "and with them AP by up to a point on a small set. It also matches boxes before they are clipped to the image."
    )
    if isinstance(most := settings.get("max_det"), int) and most < MOST_DETECTIONS:
        remarks.append(f"These detections were made with max_det={most}; yolo val keeps {MOST_DETECTIONS} of an image.")
    if len(names) == 80 and {"person", "toothbrush"} <= set(names):
        remarks.append(
            "On COCO's own val2017 list yolo val prints its own metric, while the dictionary it returns has the "
            "numbers of faster-coco-eval, which are COCO's."
        )
    return remarks
