"""What was loaded and what was left out: a table to look at, a file to keep."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from rich.table import Table

from detkd.data.records import DataSpec, DetectionSet
from detkd.io import write_json

__all__ = ["summary_table", "write_report"]

_MOST_CLASSES = 20
"""More are cut off in the table; the totals still count them."""


def summary_table(spec: DataSpec) -> Table:
    """Return a table with a column per split: images, backgrounds, boxes, crowd regions, left out, boxes per class.

    A background is an image without a box; `spec.notes` says more.
    """
    table = Table(title=f"data: {spec.name}", title_justify="left")
    table.add_column("")
    for split in spec.splits:
        table.add_column(split, justify="right")
    left_out = Counter(item.split for item in spec.skipped)
    counts = {split: _boxes_per_class(dataset) for split, dataset in spec.splits.items()}
    sets = spec.splits.values()
    table.add_row("images", *(str(len(dataset)) for dataset in sets))
    table.add_row("backgrounds", *(str(sum(not len(r.classes) for r in dataset.records)) for dataset in sets))
    table.add_row("boxes", *(str(int(count.sum())) for count in counts.values()))
    table.add_row("crowd", *(str(sum(int(r.crowd.sum()) for r in dataset.records)) for dataset in sets))
    table.add_row("skipped", *(str(left_out[split]) for split in spec.splits), end_section=True)
    order = np.argsort(-sum(counts.values(), np.zeros(len(spec.names), dtype=np.int64)), kind="stable")
    shown = sorted(order[:_MOST_CLASSES].tolist())
    for index in shown:
        table.add_row(spec.names[index], *(str(int(count[index])) for count in counts.values()))
    if len(spec.names) > _MOST_CLASSES:
        rest = [int(count.sum() - count[shown].sum()) for count in counts.values()]
        table.add_row(f"{len(spec.names) - _MOST_CLASSES} rarer classes", *map(str, rest))
    return table


def write_report(spec: DataSpec, folder: str | Path) -> Path:
    """Write `skipped.json` into a folder of ours: what was left out and why, plus the remarks; returns its path.

    Raises:
        DataError: If the folder can't be written.
    """
    items = [{"split": i.split, "where": i.where, "problem": i.problem, "detail": i.detail} for i in spec.skipped]
    kinds = dict(Counter(item.problem for item in spec.skipped).most_common())
    content = {"data": spec.name, "skipped": len(items), "problems": kinds, "notes": list(spec.notes), "items": items}
    return write_json(Path(folder) / "skipped.json", content)


def _boxes_per_class(dataset: DetectionSet) -> np.ndarray:
    classes = [record.classes[~record.crowd] for record in dataset.records]
    joined = np.concatenate(classes) if classes else np.zeros(0, dtype=np.int64)
    return np.bincount(joined.astype(np.int64), minlength=len(dataset.names))
