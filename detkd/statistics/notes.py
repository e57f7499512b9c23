"""What to keep in mind about a study, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detkd.statistics.draws import Units
from detkd.statistics.records import Resolved
from detkd.statistics.verdict import FEW_RUNS, min_units

__all__ = ["notes_of"]

_SMALL = 300
_ROUGH = 400
_KINSHIP = ("video", "video_id", "sequence", "scene", "clip", "camera")


def notes_of(
    plan: Resolved, units: Units, images: Sequence[Mapping[str, Any]], runs: Mapping[str, int], slices: bool
) -> tuple[str, ...]:
    """Return one sentence for each thing that limits what the study says.

    Args:
        plan: Its settings.
        units: What was drawn.
        images: Image records, to find fields that group near copies.
        runs: Name of each side to its number of runs.
        slices: Whether parts of the set were looked at.
    """
    notes = list(units.notes)
    what = "groups" if plan.group_by else "images"
    if units.count < 2:
        notes.append("There are no intervals and no p values: nothing can be drawn from a single image.")
    elif units.count < min_units(plan.level):
        notes.append(f"With {units.count} {what} no difference is judged: a verdict needs {min_units(plan.level)}.")
    elif units.count < _SMALL:
        notes.append(
            f"With {units.count} {what} the intervals are a little short: in simulations with 200 images, 95 % "
            "intervals held the true difference in 92 to 94 % of the sets."
        )
    if units.count > 1 and len(images) < _SMALL:
        notes.append(
            f"With {len(images)} images single values are less sure than differences: the fewer objects a class has, "
            "the higher its AP comes out, and no interval knows by how much. In simulations with 60 images and 30 "
            "classes, many of them rare, 95 % intervals held the true AP in 90 to 94 % of the sets and the true AP50 "
            "in 70 to 83 %, but the true difference in 90 to 95 %."
        )
    if plan.resamples < _ROUGH:
        notes.append(
            f"From {plan.resamples} resamples the ends of intervals are rough; use report.resamples=1000 or more."
        )
    if not plan.permutations:
        notes.append("There are no p values (report.permutations=0): verdicts rest on intervals alone.")
    hint = None if plan.group_by else _kinship(images)
    if hint is not None:
        notes.append(
            f"Image records have the field {hint!r} and images were drawn one by one; if images that share a value "
            f"are near copies, the intervals are too short; report.group_by={hint} draws them together."
        )
    few = [f"{name} ({count})" for name, count in runs.items() if count in FEW_RUNS]
    if few:
        notes.append(f"The spread between training seeds is known roughly only, from few runs: {', '.join(few)}.")
    if slices:
        notes.append(
            "Verdicts on slices rest on their intervals alone, without correction for the number of slices: among "
            "many, a few look different by chance."
        )
    return tuple(notes)


def _kinship(images: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first field known to group near copies whose values repeat."""
    for field in _KINSHIP:
        values = [str(record[field]) for record in images if record.get(field) is not None]
        if 1 < len(set(values)) < len(values):
            return field
    return None
