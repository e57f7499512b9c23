"""Which classes a detector takes for which others, and where two detectors differ in that."""

from __future__ import annotations

from typing import Any

import numpy as np

from detkd.diagnosis.overlaps import labels_of
from detkd.diagnosis.working_point import IOU
from detkd.errors import ShapeError
from detkd.evaluation.pairs import near_pairs
from detkd.evaluation.side import Run

__all__ = ["BACKGROUND", "confusion_change", "confusion_matrix"]

BACKGROUND = "background"
"""Truth of a false alarm on nothing, and what a missed object was found as."""


def confusion_matrix(run: Run, threshold: float | None) -> np.ndarray:
    """Count what each object was found as, at IoU 0.5 and whatever the class.

    Detections take turns from the highest score down; each takes the free object of its image that it overlaps most,
    one of its own class where two overlap equally. One that finds none counts as a false alarm, unless half of it lies
    on a crowd region of its class: like COCO's numbers, and unlike the matrices of Ultralytics and hotcoco, these are
    not held against a detector. A box of the right class that comes after one of another class on the same object is a
    false alarm.

    Args:
        run: A matched run. Its detections beyond COCO's limit per class and image are left out.
        threshold: A detection counts if its score is at least this; None: none does.

    Returns:
        Counts, int64 (K + 1, K + 1): true class by found class; index K is background.
    """
    truth, matches = run.truth, run.matches
    count = len(matches.names)
    result = np.zeros((count + 1, count + 1), dtype=np.int64)
    used = np.flatnonzero(matches.score >= (np.inf if threshold is None else threshold))
    used = used[np.argsort(-matches.score[used], kind="stable")]
    label = labels_of(matches)[used]
    image = matches.image[used].astype(np.int64)
    boxes = run.detections.boxes_xywh[matches.detection[used]]

    inside = matches.object_counts[0]
    objects = matches.object_row[inside]
    object_label = truth.label[objects]
    pairs = near_pairs(image, boxes, truth.image[objects], truth.boxes_xywh[objects], IOU)
    same = label[pairs.first] == object_label[pairs.second]
    order = np.lexsort((~same, -pairs.iou, pairs.first))
    found_as = np.full(len(objects), count)
    free = np.ones(len(used), dtype=bool)
    for detection, place in zip(pairs.first[order].tolist(), pairs.second[order].tolist(), strict=True):
        if free[detection] and found_as[place] == count:
            free[detection], found_as[place] = False, label[detection]
    np.add.at(result, (object_label, found_as), 1)
    alarms = free & ~_on_crowd(run, label, image, boxes)
    np.add.at(result[count], label[alarms], 1)
    return result


def confusion_change(
    before: Run, after: Run, thresholds: tuple[float | None, float | None], *, cells: int = 10
) -> list[dict[str, Any]]:
    """Return the cells off the diagonal whose count changed most, each side at its own threshold.

    Args:
        before: The reference.
        after: The candidate, with the same classes.
        thresholds: Lowest score that counts for each of the two; None: nothing does.
        cells: Most cells.

    Returns:
        `truth` and `found` as class names or "background", `before`, `after` and `delta`; largest change first, equal
        ones with more cases first. Cells that did not change are left out.

    Raises:
        ShapeError: If the two have other classes.
    """
    names = before.matches.names
    if names != after.matches.names:
        raise ShapeError("confusion: the detectors were matched to different classes; match both of them to one truth")
    old, new = (confusion_matrix(run, limit) for run, limit in zip((before, after), thresholds, strict=True))
    change = new - old
    np.fill_diagonal(change, 0)
    rows, columns = np.nonzero(change)
    moved, cases = np.abs(change)[rows, columns], (old + new)[rows, columns]
    labels = (*names, BACKGROUND)
    return [
        {
            "truth": labels[row],
            "found": labels[column],
            "before": int(old[row, column]),
            "after": int(new[row, column]),
            "delta": int(change[row, column]),
        }
        for row, column in [(rows[n], columns[n]) for n in np.lexsort((columns, rows, -cases, -moved))[:cells]]
    ]


def _on_crowd(run: Run, label: np.ndarray, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return which detections lie on a crowd region of their class with half of their area or more, bool (n,)."""
    truth = run.truth
    result = np.zeros(len(label), dtype=bool)
    x, y, w, h = boxes.T
    for row in np.flatnonzero(truth.crowd):  # few, even in COCO
        mine = np.flatnonzero((image == truth.image[row]) & (label == truth.label[row]))
        left, top, width, height = truth.boxes_xywh[row]
        across = np.minimum(x[mine] + w[mine], left + width) - np.maximum(x[mine], left)
        down = np.minimum(y[mine] + h[mine], top + height) - np.maximum(y[mine], top)
        result[mine] |= np.maximum(across, 0.0) * np.maximum(down, 0.0) >= IOU * w[mine] * h[mine]
    return result
