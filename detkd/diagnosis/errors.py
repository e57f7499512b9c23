"""What keeps AP50 down, by type of error.

Every false alarm has one reason: a wrong class, a box that fits badly, both, a second box on an object already found,
or nothing there at all. Objects that no better box and no better class would have found are missed. The cost of a type
is the AP50 there would be without its errors, less the AP50 there is. Costs do not add up, because mending one type
makes the others weigh more or less.

Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020, section 2. arXiv:2008.08115.
Differs from the paper: detections are matched by COCO's rules, also to crowd regions; and a class of which nothing is
left to be found and nothing was falsely found counts as perfect, where the paper leaves open what its AP is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detkd.diagnosis.overlaps import labels_of, overlaps
from detkd.diagnosis.working_point import IOU, iou_index, outcome_at
from detkd.evaluation.inputs import Detections, GroundTruth
from detkd.evaluation.matching import Matches

__all__ = ["BACKGROUND", "TERMS", "ErrorTypes", "error_types", "errors"]

TERMS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
"""Wrong class, badly placed, both, duplicate, background, missed."""

BACKGROUND = 0.1
"""IoU below which a box is about nothing."""

_CLS, _LOC, _BOTH, _DUPE, _BKG = range(5)
_HIT, _LEFT_OUT = -1, -2


class ErrorTypes(NamedTuple):
    """The type of each detection and object.

    Attributes:
        kind: Index into `TERMS` for a false alarm, -1 for a hit, -2 if it does not count; int8 (N,).
        aim: The free object that the detection would have found without its "Cls" or "Loc" error: an index into
            `Matches.object_row`, -1 for none; int64 (N,).
        mended: Whether mending makes it a hit: it has the highest score among those that aim at the object; bool (N,).
        missed: Objects neither found nor aimed at, bool (G,).
        lost: Objects not found, bool (G,).
    """

    kind: np.ndarray
    aim: np.ndarray
    mended: np.ndarray
    missed: np.ndarray
    lost: np.ndarray


class _Ranking(NamedTuple):
    """Detections by class and score, with the objects to find in each class."""

    label: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    objects: np.ndarray


def errors(truth: GroundTruth, detections: Detections, matches: Matches) -> dict[str, Any]:
    """Return what each type of error costs.

    Args:
        truth: Labels.
        detections: Detections on their images.
        matches: The two matched.

    Returns:
        `AP50` in points, equal to the engine's; `terms`, points of AP50 each of `TERMS` costs; `FalsePos` and
        `FalseNeg`, what all false alarms and all objects not found cost; `counts`, errors of each type. Without any
        object the points are None.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    types = error_types(truth, detections, matches)
    counts = {term: int(np.count_nonzero(types.kind == number)) for number, term in enumerate(TERMS[:-1])}
    counts["Miss"] = int(types.missed.sum())
    objects = _per_class(matches, matches.object_counts[0])
    if not objects.any():
        nothing = dict.fromkeys(TERMS)
        return {"AP50": None, "terms": nothing, "FalsePos": None, "FalseNeg": None, "counts": counts}
    recalls = np.asarray(matches.params.recall_thresholds)
    exists = objects > 0
    whole = _Ranking(labels_of(matches), matches.score, types.kind == _HIT, objects)
    counted = types.kind > _LEFT_OUT

    def score(ranking: _Ranking, keep: np.ndarray) -> float:
        return 100.0 * float(_average_precision(ranking, keep, recalls)[exists].mean())

    base = score(whole, counted)
    terms = {}
    for number, term in enumerate(TERMS[:-1]):
        wrong = types.kind == number
        mended = wrong & types.mended
        ranking, keep = whole._replace(hit=whole.hit | mended), counted & (~wrong | mended)
        if number == _CLS:
            label = whole.label.copy()
            label[mended] = matches.object_label[types.aim[mended]]
            # Into the class they belong to, behind its own detections of the same score.
            order = np.lexsort((mended, -ranking.score, label))
            ranking, keep = _Ranking(label[order], ranking.score[order], ranking.hit[order], objects), keep[order]
        terms[term] = score(ranking, keep) - base
    terms["Miss"] = score(whole._replace(objects=objects - _per_class(matches, types.missed)), counted) - base
    return {
        "AP50": base,
        "terms": terms,
        "FalsePos": score(whole, whole.hit) - base,
        "FalseNeg": score(whole._replace(objects=objects - _per_class(matches, types.lost)), counted) - base,
        "counts": counts,
    }


def error_types(truth: GroundTruth, detections: Detections, matches: Matches) -> ErrorTypes:
    """Give every false alarm and every object not found its type.

    A false alarm is tried in this order: "Loc", IoU 0.1 to 0.5 with the object of its class it overlaps most; "Cls",
    IoU of at least 0.5 with an object of another class; "Dupe", more than 0.5 with one of its class; "Bkg", at most
    0.1 with any object; "Both" is the rest.

    Args:
        truth: Labels.
        detections: Detections on their images.
        matches: The two matched.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    outcome = outcome_at(matches)
    false = np.flatnonzero(outcome == 0)
    near = overlaps(truth, detections, matches, false)
    badly = (near.same >= BACKGROUND) & (near.same <= IOU)
    reasons = [badly, near.other >= IOU, near.same > IOU, np.maximum(near.same, near.other) <= BACKGROUND]
    kind = np.where(outcome == 1, _HIT, _LEFT_OUT).astype(np.int8)
    kind[false] = np.select(reasons, [_LOC, _CLS, _DUPE, _BKG], _BOTH)

    row_found = matches.target[iou_index(matches)]
    found = np.zeros(len(truth), dtype=bool)
    found[row_found[row_found >= 0]] = True
    lost = matches.object_counts[0] & ~found[matches.object_row]
    aim = np.full(len(outcome), -1)
    aim[false] = np.select([kind[false] == _LOC, kind[false] == _CLS], [near.same_object, near.other_object], -1)
    aiming = np.flatnonzero(aim >= 0)
    taken = aiming[~lost[aim[aiming]]]  # at an object already found: without the error it would be a duplicate
    aim[taken] = -1

    aiming = np.flatnonzero(aim >= 0)
    aiming = aiming[np.lexsort((matches.detection[aiming], -matches.score[aiming], aim[aiming]))]
    mended = np.zeros(len(outcome), dtype=bool)
    mended[aiming[np.flatnonzero(np.diff(aim[aiming], prepend=-1))]] = True
    missed = lost.copy()
    missed[aim[aiming]] = False
    return ErrorTypes(kind, aim, mended, missed, lost)


def _per_class(matches: Matches, chosen: np.ndarray) -> np.ndarray:
    return np.bincount(matches.object_label[chosen], minlength=len(matches.names))


def _average_precision(ranking: _Ranking, keep: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return COCO's interpolated AP of each class from the kept detections, as shares; 0 for classes without objects.

    A class with nothing to find scores 1 if nothing is kept, else 0.
    """
    hits, offsets = ranking.hit[keep], np.searchsorted(ranking.label[keep], np.arange(len(ranking.objects) + 1))
    result = np.zeros(len(ranking.objects))
    for k, objects in enumerate(ranking.objects):
        hit = hits[offsets[k] : offsets[k + 1]]
        if not objects:
            result[k] = float(not len(hit))
            continue
        place = np.flatnonzero(hit)  # precision never rises between two hits
        number = np.arange(1, len(place) + 1)
        envelope = np.maximum.accumulate((number / (place + 1))[::-1])[::-1]
        read = np.searchsorted(number / objects, recalls, side="left")
        result[k] = np.append(envelope, 0.0)[np.minimum(read, len(place))].mean()
    return result
