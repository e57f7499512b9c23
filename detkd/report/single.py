"""One detector on one set: what `detkd evaluate` adds to the COCO numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detkd.evaluation.metrics import METRIC_NAMES, plain
from detkd.evaluation.side import Side, Slice
from detkd.evaluation.tables import format_points
from detkd.report.dictionaries import statistics_dict
from detkd.report.rows import SLICE_METRICS
from detkd.statistics.records import Study

__all__ = ["evaluation_dict", "evaluation_view"]


def evaluation_dict(side: Side, study: Study, slices: Sequence[Slice], diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    """Return what metrics.json holds beside the metrics: intervals, slices, statistics and diagnosis, JSON values."""
    estimates, truth = study.estimates[side.name], side.runs[0].truth
    objects = ~truth.crowd
    value: dict[str, Any] = plain(
        {
            "intervals": {
                key: None if one.low is None else [one.low, one.high]
                for key, one in estimates.items()
                if "@" not in key
            },
            "slices": [
                {
                    "field": part.field,
                    "value": part.value,
                    "images": int(np.count_nonzero(part.mask)),
                    "objects": int((objects & part.mask[truth.image]).sum()),
                    **{key: estimates[f"{key}@{part.key}"].value for key in SLICE_METRICS},
                    "intervals": {
                        key: None if one.low is None else [one.low, one.high]
                        for key in SLICE_METRICS
                        for one in [estimates[f"{key}@{part.key}"]]
                    },
                }
                for part in slices
            ],
            "statistics": statistics_dict(study),
            "diagnosis": diagnosis["entries"][side.name],
        }
    )
    return value


def evaluation_view(content: Mapping[str, Any]) -> RenderableType:
    """Return `evaluation_dict`'s answer for the terminal: intervals, slices, working point and what AP50 is lost to."""
    level = f"{content['statistics']['level']:.0%} interval"
    parts: list[RenderableType] = []
    intervals = [(key, content["intervals"][key]) for key in METRIC_NAMES if content["intervals"].get(key)]
    shown = ", ".join(
        f"{key} {low:.1f} to {high:.1f}" for key, (low, high) in intervals if key in ("AP", "AP50", "AP75")
    )
    parts.append(Text(f"{level}: {shown or 'none, too few objects'}"))
    if content["slices"]:
        table = Table(title="per slice (points)")
        for name in ("slice", "images", "objects", "AP", level, "AP50"):
            table.add_column(name, justify="left" if name == "slice" else "right")
        for part in content["slices"]:
            bounds = part["intervals"]["AP"]
            interval = "-" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"
            cells = [str(part["images"]), str(part["objects"]), format_points(part["AP"]), interval]
            table.add_row(Text(f"{part['field']}={part['value']}"), *cells, format_points(part["AP50"]))
        parts.append(table)
    found = content["diagnosis"]
    point = found["working_point"]
    if point["threshold"] is not None:
        parts.append(
            Text(
                f"best used above a score of {point['threshold']:.3g}: precision {point['precision']:.2f}, recall "
                f"{point['recall']:.2f}, F1 {point['f1']:.2f}, {point['false_per_image']:.2f} false alarms per image"
            )
        )
    terms = found["errors"]["terms"]
    parts.append(Text("AP50 lost to: " + ", ".join(f"{name} {value:.1f}" for name, value in terms.items() if value)))
    return Group(*parts)
