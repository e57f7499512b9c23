"""The numbers of a study, in a fixed order: 12 overall, four per class, two per slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkd.evaluation.matching import Matches
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES
from detkd.evaluation.side import Slice
from detkd.statistics.draws import Units

__all__ = ["SLICE_METRICS", "Column", "columns_of"]

SLICE_METRICS = ("AP", "AP50")
"""What is computed for a slice."""


@dataclass(frozen=True)
class Column:
    """One number of a side.

    Attributes:
        key: "AP_small", "AP/person" or "AP@camera=gate".
        metric: The part before / or @.
        label: Index of the class, None for all classes.
        slice: Index of the slice, None for the whole set.
        objects: Labelled objects it rests on.
        units: Images (or groups) it rests on: those of the slice or of the whole set.
    """

    key: str
    metric: str
    label: int | None
    slice: int | None
    objects: int
    units: int


def columns_of(matches: Matches, units: Units, slices: Sequence[Slice] = ()) -> tuple[Column, ...]:
    """Return the numbers of a study.

    Args:
        matches: Any run's, for the classes and the objects.
        units: What is drawn as a whole.
        slices: Parts of the set.
    """
    areas = {name: int(inside.sum()) for (name, _, _), inside in _areas(matches)}
    total = len(matches.object_row)
    columns = [Column(m, m, None, None, areas.get(m.partition("_")[2], total), units.count) for m in METRIC_NAMES]
    per_class = np.bincount(matches.object_label, minlength=len(matches.names)).tolist()
    for k, name in enumerate(matches.names):
        columns += [Column(f"{m}/{name}", m, k, None, per_class[k], units.count) for m in CLASS_NAMES]
    for index, part in enumerate(slices):
        objects = int(part.mask[matches.object_image].sum())
        inside = len(np.unique(units.of_image[part.mask]))
        columns += [Column(f"{m}@{part.key}", m, None, index, objects, inside) for m in SLICE_METRICS]
    return tuple(columns)


def _areas(matches: Matches) -> list[tuple[tuple[str, float, float], np.ndarray]]:
    return list(zip(matches.params.area_ranges, matches.object_counts, strict=True))
