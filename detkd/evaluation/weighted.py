"""AP and AR of a set in which every image counts a whole number of times, from matches made once.

A bootstrap resample is a vector of image counts, a slice of the set is a mask, and a paired permutation takes every
image from one of two detectors. Neither changes which detection finds which object, so nothing is matched again.

AP depends on the hits in score order only: at each, the objects and the detections so far. Precision never rises
between two hits, so neither its envelope nor a look-up at a recall threshold ever lands elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detkd.errors import ConfigError, ShapeError
from detkd.evaluation.engine import Params
from detkd.evaluation.matching import Matches, union
from detkd.evaluation.metrics import METRIC_NAMES

__all__ = ["WeightedScorer", "overall"]

_BLOCK = 1 << 17
"""Numbers worked on at once: a few such arrays stay in the processor's cache."""


class _Curve(NamedTuple):
    """Hits of one class in one size range at some IoU thresholds, with what is needed to count detections up to them.

    Detections count the same between two hits, so they are added up segment by segment: one segment ends at each
    detection that is a hit at any threshold.

    Attributes:
        image: Images of the detections that count at any threshold, up to the last hit, (n,).
        segment: Where each segment starts, (S,).
        hit_image: Images of the hits, threshold by threshold, (E,).
        hit_segment: Segment that ends at each hit, (E,).
        start: Where each threshold starts among the hits; the last entry is E, (T + 1,).
        hidden_image: Images of those of the n that don't count at a threshold, threshold by threshold, (X,).
        hidden_from: First hidden one of the same threshold, for each hit, (E,).
        hidden_to: Hidden ones before the hit end here, (E,).
    """

    image: np.ndarray
    segment: np.ndarray
    hit_image: np.ndarray
    hit_segment: np.ndarray
    start: np.ndarray
    hidden_image: np.ndarray
    hidden_from: np.ndarray
    hidden_to: np.ndarray


class _Counts(NamedTuple):
    """Objects and hits of one class per image.

    Attributes:
        image: The images that have any, (n,).
        objects: Objects inside each size range, float64 (n, A).
        hits: Hits summed over the IoU thresholds, one column for each entry of `_recalls`, float64 (n, C).
    """

    image: np.ndarray
    objects: np.ndarray
    hits: np.ndarray


class WeightedScorer:
    """AP and AR per class of a set in which every image counts w times.

    With w = 1 throughout the numbers are those of the engines. With distinct scores the numbers are those of a data
    set in which the image and its objects and detections are there w times; equal scores of one image are ranked copy
    by copy there and detection by detection here, which changes the fifth decimal of a share at most.

    Several detectors on the same truth become one mixed detector: weights are (B, D, I), image i counts w[b, d, i]
    times with the answers of detector d, and its objects as often as all of these together. With weights that are 1
    for one detector and 0 for the others, that is the set in which every image was answered by the chosen one.

    Args:
        matches: Matches of a detector.
        others: Matches of further detectors on the same truth.

    Raises:
        ShapeError: If the detectors were matched to different truths or with different settings.
    """

    def __init__(self, matches: Matches, *others: Matches) -> None:
        self.detectors = 1 + len(others)
        self.images = matches.images
        self._matches = union(matches, *others) if others else matches
        self._recalls = _recalls(matches.params)
        self._counts = [_counts(self._matches, k, self._recalls) for k in range(len(matches.names))]
        self._curves: dict[tuple[int, tuple[int, ...]], list[_Curve]] = {}

    def score(self, weights: np.ndarray, metrics: Sequence[str] = METRIC_NAMES) -> dict[str, np.ndarray]:
        """Return each metric per draw and class.

        Args:
            weights: How often each image counts, whole numbers >= 0 or a mask, (B, I); (B, D, I) for D detectors.
            metrics: Some of the 12 names, or AP55 to AP95.

        Returns:
            Metric to float64 (B, K) in points; NaN where a class has no such object in a draw.

        Raises:
            ShapeError: If the weights have another shape or are no whole numbers >= 0.
            ConfigError: If a metric is unknown.
        """
        times = self._times(weights)
        params = self._matches.params
        needs = {name: _precision_of(name, params) for name in metrics if name not in self._recalls}
        thresholds: dict[int, tuple[int, ...]] = {}
        for area, chosen in needs.values():
            thresholds[area] = tuple(sorted({*thresholds.get(area, ()), *chosen}))
        result = {name: np.full((len(times), len(self._counts)), np.nan) for name in metrics}
        for k, counts in enumerate(self._counts):
            here = times.take(counts.image, axis=1).astype(np.float64)
            objects = here @ counts.objects
            hits = here @ counts.hits
            for column, (name, (area, _)) in enumerate(self._recalls.items()):
                if name in result:
                    most = objects[:, area] * len(params.iou_thresholds)
                    np.divide(100.0 * hits[:, column], most, out=result[name][:, k], where=most > 0)
            for area, chosen in thresholds.items():
                curve = self._curve(area, chosen)[k]
                precision = _average_precision(curve, times, objects[:, area].astype(np.int64), params)
                for name, (its_area, its_thresholds) in needs.items():
                    if its_area == area:
                        columns = [chosen.index(t) for t in its_thresholds]
                        value = 100.0 * precision[:, columns].mean(axis=1)
                        np.copyto(result[name][:, k], value, where=objects[:, area] > 0)
        return result

    def _times(self, weights: np.ndarray) -> np.ndarray:
        """Return checked weights as (B, D * I) of the smallest type that can't overflow."""
        weights = np.asarray(weights)
        one = self.detectors == 1
        shape = (self.images,) if one else (self.detectors, self.images)
        if weights.ndim != len(shape) + 1 or weights.shape[1:] != shape:
            raise ShapeError(
                f"weights: must be {('B', *shape)}, got {weights.shape}; give one row of image counts per draw"
            )
        if weights.dtype.kind not in "biu" or weights.min(initial=0) < 0:
            raise ShapeError(
                f"weights: must be whole numbers >= 0, got {weights.dtype}; an image counts a whole number of times"
            )
        largest = int(weights.max(initial=0)) * max(len(self._matches), len(self._matches.object_row))
        flat = weights.reshape(len(weights), self.detectors * self.images)
        return np.ascontiguousarray(flat, dtype=np.int32 if largest < 2**31 else np.int64)

    def _curve(self, area: int, thresholds: tuple[int, ...]) -> list[_Curve]:
        key = (area, thresholds)
        if key not in self._curves:
            self._curves[key] = [_make_curve(self._matches, k, area, thresholds) for k in range(len(self._counts))]
        return self._curves[key]


def overall(per_class: np.ndarray) -> np.ndarray:
    """Return the mean over the classes that exist: (B, K) to (B,), NaN where none does."""
    known = ~np.isnan(per_class)
    count = known.sum(axis=1)
    total = np.where(known, per_class, 0.0).sum(axis=1)
    mean: np.ndarray = np.divide(total, count, out=np.full(len(per_class), np.nan), where=count > 0)
    return mean


def _recalls(params: Params) -> dict[str, tuple[int, int]]:
    """Return AR's names with the index of the area range and the limit on detections per class and image."""
    limits = params.max_detections
    names = {f"AR{limit}": (0, limit) for limit in limits}
    return names | {f"AR_{name}": (a, limits[-1]) for a, (name, _, _) in enumerate(params.area_ranges) if a}


def _precision_of(name: str, params: Params) -> tuple[int, tuple[int, ...]]:
    """Return the index of the area range and those of the IoU thresholds that a kind of AP is made of."""
    every = tuple(range(len(params.iou_thresholds)))
    kinds = {"AP": (0, every)}
    kinds |= {f"AP{round(100 * iou)}": (0, (t,)) for t, iou in enumerate(params.iou_thresholds)}
    kinds |= {f"AP_{size}": (a, every) for a, (size, _, _) in enumerate(params.area_ranges) if a}
    if name not in kinds:
        raise ConfigError(f"metrics: unknown, got {name!r}; choose from {', '.join((*kinds, *_recalls(params)))}")
    return kinds[name]


def _counts(matches: Matches, k: int, recalls: dict[str, tuple[int, int]]) -> _Counts:
    mine = slice(matches.offsets[k], matches.offsets[k + 1])
    objects = np.flatnonzero(matches.object_label == k)
    rows = [
        np.bincount(matches.object_image[objects], weights=inside, minlength=matches.images)
        for inside in matches.object_counts[:, objects]
    ]
    image, rank = matches.image[mine], matches.rank[mine]
    for area, limit in recalls.values():
        hits = (matches.outcome[area, :, mine] == 1).sum(axis=0) * (rank < limit)
        rows.append(np.bincount(image, weights=hits, minlength=matches.images))
    table = np.stack(rows, axis=1)
    images = np.flatnonzero(table.any(axis=1))
    areas = len(matches.object_counts)
    return _Counts(images, table[images, :areas], table[images, areas:])


def _make_curve(matches: Matches, k: int, area: int, thresholds: tuple[int, ...]) -> _Curve:
    mine = slice(matches.offsets[k], matches.offsets[k + 1])
    outcome = matches.outcome[area, list(thresholds), mine]
    used = np.flatnonzero((outcome >= 0).any(axis=0))
    outcome = outcome[:, used]
    ends = np.flatnonzero((outcome == 1).any(axis=0))
    length = int(ends[-1]) + 1 if len(ends) else 0
    outcome, image = outcome[:, :length], matches.image[mine][used[:length]].astype(np.intp)
    threshold, hit = np.nonzero(outcome == 1)
    hidden_threshold, hidden = np.nonzero(outcome < 0)
    hidden_key = hidden_threshold * length + hidden
    return _Curve(
        image=image,
        segment=np.append(0, ends[:-1] + 1) if length else ends,
        hit_image=image[hit],
        hit_segment=np.searchsorted(ends, hit),
        start=np.searchsorted(threshold, np.arange(len(thresholds) + 1)),
        hidden_image=image[hidden],
        hidden_from=np.searchsorted(hidden_key, threshold * length),
        hidden_to=np.searchsorted(hidden_key, threshold * length + hit),
    )


def _average_precision(curve: _Curve, times: np.ndarray, objects: np.ndarray, params: Params) -> np.ndarray:
    """Return the precision at `params.recall_thresholds`, averaged, per draw and IoU threshold: share (B, T)."""
    result = np.zeros((len(times), len(curve.start) - 1))
    if not len(curve.hit_image):
        return result
    rows = max(1, _BLOCK // max(len(curve.image), len(curve.hit_image)))
    some = np.flatnonzero(np.diff(curve.start))  # reduceat knows no empty segments
    for begin in range(0, len(times), rows):
        part = slice(begin, begin + rows)
        result[part, some] = _block(curve, times[part], objects[part], some, params)
    return result


def _block(curve: _Curve, times: np.ndarray, objects: np.ndarray, some: np.ndarray, params: Params) -> np.ndarray:
    found, counted = _until_hits(curve, times, some)
    precision = found / (counted + np.spacing(1))  # as pycocotools has it; 0 before the first detection
    # Floats >= 0 are ordered as their bits are, and numpy finds the larger integer faster.
    bits = precision.view(np.int64)
    for start, stop in zip(curve.start[some], curve.start[some + 1], strict=True):
        backwards = bits[:, start:stop][:, ::-1]
        np.maximum.accumulate(backwards, axis=1, out=backwards)
    reached = _reached(objects, np.asarray(params.recall_thresholds))
    width = reached.shape[1]
    level = reached.ravel().take(found + (np.arange(len(times), dtype=found.dtype) * width)[:, None])
    gained = level.copy()
    gained[:, 1:] -= level[:, :-1]
    gained[:, curve.start[some]] = level[:, curve.start[some]]
    gained *= precision
    mean: np.ndarray = np.add.reduceat(gained, curve.start[some], axis=1) / len(params.recall_thresholds)
    return mean


def _until_hits(curve: _Curve, times: np.ndarray, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return objects found and detections counted up to each hit, itself included, (B, E)."""
    kind = times.dtype
    found = times.take(curve.hit_image, axis=1)
    np.cumsum(found, axis=1, dtype=kind, out=found)
    before = found[:, curve.start[some[1:]] - 1]
    for column, t in enumerate(some[1:]):
        found[:, curve.start[t] : curve.start[t + 1]] -= before[:, column, None]
    segments = np.add.reduceat(times.take(curve.image, axis=1), curve.segment, axis=1, dtype=kind)
    counted = np.cumsum(segments, axis=1, dtype=kind).take(curve.hit_segment, axis=1)
    if len(curve.hidden_image):
        hidden = np.zeros((len(times), len(curve.hidden_image) + 1), dtype=kind)
        np.cumsum(times.take(curve.hidden_image, axis=1), axis=1, dtype=kind, out=hidden[:, 1:])
        counted -= hidden.take(curve.hidden_to, axis=1)
        counted += hidden.take(curve.hidden_from, axis=1)
    return found, counted


def _reached(objects: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return how many recall thresholds n found objects reach, float64 (B, most objects + 1), exactly as in floats.

    pycocotools asks `found / objects >= threshold` of rounded numbers: 7 of 100 are less than 0.07 there.
    """
    total = np.maximum(objects, 1)[:, None]
    need = np.ceil(thresholds * total)
    need -= (need - 1) / total >= thresholds
    need += need / total < thresholds
    width = int(total.max()) + 1
    need = np.minimum(need, width).astype(np.int64)  # a threshold above 1 is never reached
    place = need + np.arange(len(objects))[:, None] * (width + 1)
    counts = np.bincount(place.ravel(), minlength=len(objects) * (width + 1)).reshape(len(objects), width + 1)
    reached: np.ndarray = np.cumsum(counts[:, :width], axis=1).astype(np.float64)
    return reached
