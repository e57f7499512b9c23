"""The numbers of a comparison, one row each: every side's value and interval, the difference and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES
from detkd.evaluation.side import Side, Slice
from detkd.statistics.columns import SLICE_METRICS
from detkd.statistics.records import Contrast, Estimate, Study

__all__ = ["SLICE_METRICS", "Row", "make_rows", "row_dict"]

_NOTHING = Estimate(None, None, None)


@dataclass(frozen=True)
class Row:
    """One number on all sides, in points.

    Attributes:
        key: "AP", "AP/person" for a class, "AP@camera=gate" for a slice.
        metric: The number's name without class or slice.
        class_name: The class, or None.
        slice: The slice, or None.
        objects: Labelled objects behind it: of the class, of the size, of the slice, or of the whole set.
        images: Images behind it.
        estimates: Role to value and interval.
        contrast: The difference after - before and what it is worth.
        vs_control: The difference after - control, None without a control.
    """

    key: str
    metric: str
    class_name: str | None
    slice: Slice | None
    objects: int
    images: int
    estimates: Mapping[str, Estimate]
    contrast: Contrast
    vs_control: Contrast | None = None

    @property
    def label(self) -> str:
        """The row's name for people: "AP small", "person AP50", "camera=gate AP"."""
        first = self.class_name if self.class_name is not None else self.slice.key if self.slice else ""
        return f"{first} {self.metric.replace('_', ' ')}".strip()

    @property
    def before(self) -> float | None:
        """Value of the reference."""
        return self.estimates["before"].value

    @property
    def after(self) -> float | None:
        """Value of the candidate."""
        return self.estimates["after"].value

    @property
    def teacher(self) -> float | None:
        """Value of the teacher, None without one."""
        return self.estimates.get("teacher", _NOTHING).value

    @property
    def delta(self) -> float | None:
        """After - before."""
        return self.contrast.delta

    @property
    def gap_closed(self) -> float | None:
        """Share of the teacher's lead over `before` that `after` closed."""
        return self.contrast.gap_closed


def make_rows(sides: Sequence[Side], study: Study, slices: Sequence[Slice]) -> tuple[Row, ...]:
    """Return the 12 overall numbers in COCO's order, every class number class by class, then those of the slices.

    Args:
        sides: Before and after first, then control and teacher in any order.
        study: What `detkd.statistics.study` says of them.
        slices: Those that were given to it.
    """
    truth = sides[0].runs[0].truth
    names = {side.role: side.name for side in sides}
    objects = ~truth.crowd
    per_class = sides[0].runs[0].metrics.per_class
    sizes = sides[0].runs[0].metrics.protocol["objects_by_area"]

    def row(key: str, metric: str, class_name: str | None, part: Slice | None, objects: int, images: int) -> Row:
        return Row(
            key,
            metric,
            class_name,
            part,
            objects,
            images,
            {role: study.estimates[name][key] for role, name in names.items()},
            study.contrasts[names["before"], names["after"]][key],
            study.contrasts[names["control"], names["after"]][key] if "control" in names else None,
        )

    rows = []
    for key in METRIC_NAMES:
        size = key.partition("_")[2]
        rows.append(row(key, key, None, None, sizes.get(size, int(objects.sum())), len(truth.images)))
    for name, numbers in per_class.items():
        rows += [row(f"{kind}/{name}", kind, name, None, numbers.objects, numbers.images) for kind in CLASS_NAMES]
    for part in slices:
        count = int((objects & part.mask[truth.image]).sum())
        rows += [
            row(f"{kind}@{part.key}", kind, None, part, count, int(np.count_nonzero(part.mask)))
            for kind in SLICE_METRICS
        ]
    return tuple(rows)


def row_dict(row: Row) -> dict[str, Any]:
    """Return a row as plain values: the layout of `rows` in compare.json."""
    contrast = row.contrast
    result: dict[str, Any] = {
        "key": row.key,
        "metric": row.metric,
        "class": row.class_name,
        "slice": {"field": row.slice.field, "value": row.slice.value} if row.slice else None,
        "objects": row.objects,
        "images": row.images,
        "values": {role: estimate.value for role, estimate in row.estimates.items()},
        "intervals": {role: _pair(estimate.low, estimate.high) for role, estimate in row.estimates.items()},
        "delta": contrast.delta,
        "delta_interval": _pair(contrast.low, contrast.high),
        "p": contrast.p,
        "p_adjusted": contrast.p_adjusted,
        "smallest_visible": contrast.smallest_visible,
        "verdict": contrast.verdict,
        "reason": contrast.reason,
        "not_inferior": contrast.not_inferior,
        "gap_closed": contrast.gap_closed,
        "gap_interval": _pair(contrast.gap_low, contrast.gap_high),
    }
    if row.vs_control is not None:
        other = row.vs_control
        result["vs_control"] = {
            "delta": other.delta,
            "interval": _pair(other.low, other.high),
            "p": other.p,
            "verdict": other.verdict,
        }
    return result


def _pair(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]
