"""Objects that one of two detectors finds and the other does not, each at its own working threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from detkd.diagnosis.overlaps import labels_of
from detkd.diagnosis.working_point import IOU, iou_index
from detkd.errors import ShapeError
from detkd.evaluation.pairs import near_pairs
from detkd.evaluation.side import Run

__all__ = ["MOST_ITEMS", "find_flips", "mcnemar"]

MOST_ITEMS = 400
"""Flips that are listed one by one; all of them are counted."""

_KINDS = ("both", "only_before", "only_after", "neither")


def find_flips(
    before: Run, after: Run, thresholds: tuple[float | None, float | None], *, limit: int = MOST_ITEMS
) -> dict[str, Any]:
    """Count the objects found by both, by one and by neither, and list those that flipped.

    An object is found if a detection with at least the threshold's score was matched to it at IoU 0.5. Crowd regions
    are no objects. The test of McNemar (Psychometrika 12, 1947) asks whether objects flip in one direction more often
    than a fair coin would; it takes objects for independent, though those of one image are not quite.

    Args:
        before: The reference.
        after: The candidate, matched to the same labels.
        thresholds: Lowest score that counts for each of the two; None where there is no such score: it finds nothing.
        limit: Most items.

    Returns:
        `iou`, `thresholds`, the counts `both`, `only_before`, `only_after` and `neither`, the exact two-sided `p`, the
        counts `by_class` and `by_size` (those that have objects), and `items`, half of them gained and half lost where
        there are enough. Within a kind the items take turns over classes and sizes, the clearest of each first: those
        in which the side that found the object is farthest above its threshold and the other farthest below its own.
        `score_before` and `score_after` are the score of the detection that found the object; for the side that missed
        it the highest score of a detection of its class that overlaps it by IoU 0.5 or more, None without one. That
        score can be above the threshold: then the detection was matched to another object.

    Raises:
        ShapeError: If the two were matched to different labels.
        ConfigError: If the matches have no IoU 0.5.
    """
    first, second = before.matches, after.matches
    if first.names != second.names or not np.array_equal(first.object_row, second.object_row):
        raise ShapeError("flips: the detectors were matched to different labels; match both of them to one truth")
    rows = first.object_row
    counts = first.object_counts[0]
    found = [_finders(run, limit_score) for run, limit_score in zip((before, after), thresholds, strict=True)]
    hit = [~np.isnan(scores) for scores in found]
    kind = np.where(hit[0], np.where(hit[1], 0, 1), np.where(hit[1], 2, 3))
    kind[~counts] = -1
    totals = _count(kind)
    size = _sizes(before)
    sizes = [name for name, _, _ in first.params.area_ranges[1:]]
    return {
        "iou": IOU,
        "thresholds": {"before": thresholds[0], "after": thresholds[1]},
        **totals,
        "p": mcnemar(totals["only_before"], totals["only_after"]),
        "by_class": [
            {"name": name, **_count(kind[first.object_label == k])}
            for k, name in enumerate(first.names)
            if (counts & (first.object_label == k)).any()
        ],
        "by_size": [
            {"name": name, **_count(kind[size == k])} for k, name in enumerate(sizes) if (counts & (size == k)).any()
        ],
        "items": [
            {
                "kind": "gained" if kind[index] == 2 else "lost",
                "truth": int(rows[index]),
                "image": int(first.object_image[index]),
                "class": first.names[first.object_label[index]],
                "size": sizes[size[index]],
                "score_before": score_before,
                "score_after": score_after,
            }
            for index, score_before, score_after in _items(before, after, thresholds, found, kind, size, limit)
        ],
    }


def mcnemar(one: int, other: int) -> float:
    """Return the exact two-sided p of so many flips in each direction: the binomial test of a fair coin.

    Example:
        >>> mcnemar(0, 6)
        0.03125
    """
    total, fewer = one + other, min(one, other)
    term = tail = 1
    for k in range(fewer):
        term = term * (total - k) // (k + 1)
        tail += term
    p: float = 2 * tail / 2**total  # whole numbers of any length, divided once
    return min(1.0, p)


def _count(kind: np.ndarray) -> dict[str, int]:
    return {name: int(np.count_nonzero(kind == number)) for number, name in enumerate(_KINDS)}


def _finders(run: Run, threshold: float | None) -> np.ndarray:
    """Return the score of the detection that found each object, float64 (G,); NaN where it was missed."""
    matches = run.matches
    scores = np.full(len(run.truth), np.nan)
    if threshold is not None:
        level = iou_index(matches, IOU)
        hits = (matches.outcome[0, level] == 1) & (matches.score >= threshold)
        scores[matches.target[level, hits]] = matches.score[hits]
    found: np.ndarray = scores[matches.object_row]
    return found


def _sizes(run: Run) -> np.ndarray:
    """Return each object's size range, int64 (G,): an index into the ranges after the first, the first that holds it.

    Ranges share their limits, so an object on a limit is in two of them for COCO; here it is in the smaller one.
    """
    size: np.ndarray = run.matches.object_counts[1:].argmax(axis=0)
    return size


def _items(
    before: Run,
    after: Run,
    thresholds: tuple[float | None, float | None],
    found: list[np.ndarray],
    kind: np.ndarray,
    size: np.ndarray,
    limit: int,
) -> list[tuple[int, float | None, float | None]]:
    """Return object and both scores of the items to list, gained ones first."""
    flipped = np.flatnonzero((kind == 1) | (kind == 2))
    scores = [column[flipped].copy() for column in found]
    clear = np.zeros(len(flipped))
    for run, threshold, column, missing, sign in zip(
        (before, after), thresholds, scores, (2, 1), (1.0, -1.0), strict=True
    ):
        missed = kind[flipped] == missing
        column[missed] = _nearest(run, flipped[missed])
        floor = min(0.0, float(run.matches.score.min(initial=0.0)))
        # Scores above the threshold speak for a loss on the side of `before`, for a gain on that of `after`.
        clear += sign * (np.nan_to_num(column, nan=floor) - (0.0 if threshold is None else threshold))
    result = []
    shares = _shares([int((kind == number).sum()) for number in (2, 1)], limit)
    for number, direction, share in zip((2, 1), (-1.0, 1.0), shares, strict=True):
        mine = np.flatnonzero(kind[flipped] == number)
        mine = mine[np.lexsort((mine, -direction * clear[mine]))]
        group = before.matches.object_label[flipped[mine]] * (1 + size.max(initial=0)) + size[flipped[mine]]
        by_group = np.argsort(group, kind="stable")
        turn = np.empty(len(mine), dtype=np.int64)
        new = np.flatnonzero(np.diff(group[by_group], prepend=-1))
        turn[by_group] = np.arange(len(mine)) - np.repeat(new, np.diff(new, append=len(mine)))
        for at in mine[np.argsort(turn, kind="stable")][:share]:
            score_before, score_after = (None if np.isnan(column[at]) else float(column[at]) for column in scores)
            result.append((int(flipped[at]), score_before, score_after))
    return result


def _shares(numbers: list[int], limit: int) -> list[int]:
    """Divide `limit` in halves; what one kind does not need goes to the other."""
    first = min(numbers[0], max(limit - limit // 2, limit - numbers[1]))
    return [first, min(numbers[1], limit - first)]


def _nearest(run: Run, objects: np.ndarray) -> np.ndarray:
    """Return the highest score of a detection of its class on each object, float64 (n,); NaN without one."""
    matches = run.matches
    wanted = matches.object_label[objects].astype(np.int64) * matches.images + matches.object_image[objects]
    groups = labels_of(matches) * matches.images + matches.image
    boxes = run.detections.boxes_xywh[matches.detection]
    pairs = near_pairs(wanted, run.truth.boxes_xywh[matches.object_row[objects]], groups, boxes, IOU)
    best = np.full(len(objects), -np.inf)
    np.maximum.at(best, pairs.first, matches.score[pairs.second])
    return np.where(np.isinf(best), np.nan, best)
