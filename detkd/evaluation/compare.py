"""Before against after, with the teacher beside them: every number, its difference, and what makes it unfair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detkd.errors import DataError
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES, Metrics

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["MIN_GAP", "ONE_RUN_NOTE", "PROTOCOL_KEYS", "Comparison", "Entry", "Note", "Row", "compare"]

MIN_GAP = 0.1
"""Points the teacher must be ahead of `before` for a share of the gap to mean anything."""

PROTOCOL_KEYS = ("conf", "iou", "max_det", "imgsz", "head", "nms", "letterbox", "rect", "multi_label", "half")
"""Settings of the detector that change AP by themselves. Where the two sides differ, the comparison says so in red."""

ONE_RUN_NOTE = (
    "one run each: no interval; this knows only how the two sets of weights do on these images, not how much a second "
    "training run or other images would change it"
)


@dataclass(frozen=True)
class Entry:
    """One side of a comparison.

    Attributes:
        name: What to call it in tables.
        role: "before", "after", "teacher", or what it is in the project ("control", "student").
        metrics: Its evaluation.
        cost: Parameters, GFLOPs, size and latency as `Cost.to_dict()` gives them, or None where unknown.
        source: Where it was read (weights, run folder, results file).
    """

    name: str
    role: str
    metrics: Metrics
    cost: dict[str, Any] | None = None
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "role": self.role,
            "source": self.source,
            "cost": self.cost,
            "metrics": self.metrics.to_dict(),
        }


@dataclass(frozen=True)
class Row:
    """One number on all sides, in points.

    Attributes:
        key: "AP", or "AP/person" for a class.
        metric: The number's name without the class.
        class_name: The class, or None for the 12 overall numbers.
        objects: Labelled objects behind it: of the class, of the size, or of the whole set.
        before: Value or None.
        after: Value or None.
        delta: after - before, or None where either is.
        teacher: Value, None without a teacher or without objects.
        gap_closed: delta / (teacher - before), None unless the teacher is at least `MIN_GAP` points ahead of `before`.
    """

    key: str
    metric: str
    class_name: str | None
    objects: int
    before: float | None
    after: float | None
    delta: float | None
    teacher: float | None
    gap_closed: float | None


@dataclass(frozen=True)
class Note:
    """A remark for the reader: `differs` (shown in red), `warning` about an input, or `info`."""

    level: Literal["differs", "warning", "info"]
    text: str


@dataclass(frozen=True)
class Comparison:
    """Two detectors on one set, and a teacher where there is one.

    Attributes:
        before: The reference (the control, the old model).
        after: The candidate.
        teacher: The detector `after` was taught by, or None.
        rows: The 12 overall numbers in COCO's order, then every class number (`CLASS_NAMES`) class by class.
        notes: What makes the comparison weaker than it looks.
    """

    before: Entry
    after: Entry
    teacher: Entry | None
    rows: tuple[Row, ...]
    notes: tuple[Note, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All sides in the order of the columns: before, after, teacher."""
        return (self.before, self.after) if self.teacher is None else (self.before, self.after, self.teacher)

    def row(self, key: str) -> Row:
        """Return the row called `key`, or raise `KeyError`."""
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(key)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with the version of their layout under `schema`."""
        from detkd.evaluation.report import comparison_dict

        return comparison_dict(self)

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Write compare.csv, compare.md, compare.json and compare.png; return suffix to path ("csv", ...)."""
        from detkd.evaluation.report import write_comparison

        return write_comparison(self, folder)

    def __rich__(self) -> RenderableType:
        from detkd.evaluation.tables import comparison_view

        return comparison_view(self)


def compare(before: Entry, after: Entry, teacher: Entry | None = None) -> Comparison:
    """Put two detectors side by side.

    Args:
        before: The reference.
        after: The candidate; differences are after - before.
        teacher: Optional third column; the share of its lead over `before` that `after` closed is computed.

    Raises:
        DataError: If they were evaluated on different classes or different ground truth; both are shown.
    """
    entries = [before, after, *([teacher] if teacher else [])]
    for other in entries[1:]:
        _check_same_set(before, other)
    keys = [*METRIC_NAMES, *(f"{metric}/{name}" for name in before.metrics.names for metric in CLASS_NAMES)]
    rows = tuple(_row(key, before, after, teacher) for key in keys)
    return Comparison(before, after, teacher, rows, tuple(_notes(before, after, teacher)))


def _check_same_set(first: Entry, other: Entry) -> None:
    if first.metrics.names != other.metrics.names:
        raise DataError(
            f"compare: class names differ, {first.role} {first.name!r} has {list(first.metrics.names)}, "
            f"{other.role} {other.name!r} has {list(other.metrics.names)}; evaluate both on the same ground truth"
        )
    one, two = (entry.metrics.protocol.get("gt_sha256") for entry in (first, other))
    if one is None or one != two:
        raise DataError(
            f"compare: ground truth differs, {first.role} {first.name!r} was evaluated on {_describe(first)}, "
            f"{other.role} {other.name!r} on {_describe(other)}; evaluate both on the same set"
        )


def _describe(entry: Entry) -> str:
    protocol = entry.metrics.protocol
    digest = str(protocol.get("gt_sha256", "unknown"))[:12]
    return f"{protocol.get('gt', 'unknown')} ({entry.metrics.images} images, {entry.metrics.objects} objects, {digest})"


def _row(key: str, before: Entry, after: Entry, teacher: Entry | None) -> Row:
    metric, _, name = key.partition("/")
    old, new = before.metrics.number(key), after.metrics.number(key)
    best = teacher.metrics.number(key) if teacher else None
    delta = new - old if old is not None and new is not None else None
    share = None
    if delta is not None and old is not None and best is not None and best - old >= MIN_GAP:
        share = delta / (best - old)
    sizes = before.metrics.protocol.get("objects_by_area", {})
    if name:
        objects = before.metrics.per_class[name].objects
    else:
        objects = sizes.get(metric.partition("_")[2], before.metrics.objects)
    return Row(key, metric, name or None, objects, old, new, delta, best, share)


def _notes(before: Entry, after: Entry, teacher: Entry | None) -> Iterator[Note]:
    yield from _setting_notes(before, after)
    if teacher is not None:
        yield from _setting_notes(before, teacher, "info")
    for entry in (before, after, *([teacher] if teacher else [])):
        if not entry.metrics.protocol.get("settings"):
            yield Note("warning", f"{entry.name}: how its detections were made is not known (no settings with them)")
        for text in entry.metrics.protocol.get("warnings", ()):
            yield Note("warning", f"{entry.name}: {text}")
    if before.metrics.protocol.get("detections_sha256") == after.metrics.protocol.get("detections_sha256"):
        yield Note("differs", f"{before.name} and {after.name} have identical detections; is it the same file twice?")
    yield Note("info", ONE_RUN_NOTE)


def _setting_notes(first: Entry, other: Entry, level: Literal["differs", "info"] = "differs") -> Iterator[Note]:
    """Yield one note per setting the two sides don't share. A teacher at a higher resolution is no fault: info only."""
    ours, theirs = (entry.metrics.protocol.get("settings") or {} for entry in (first, other))
    if ours and theirs:
        for key in PROTOCOL_KEYS:
            if ours.get(key) != theirs.get(key):
                yield Note(level, f"{key} differs: {first.name} {_show(ours, key)}, {other.name} {_show(theirs, key)}")
    engines = [f"{e.metrics.protocol.get('engine')} {e.metrics.protocol.get('engine_version')}" for e in (first, other)]
    if engines[0] != engines[1]:
        yield Note(
            "info", f"engine differs: {first.name} {engines[0]}, {other.name} {engines[1]} (same numbers by test)"
        )


def _show(settings: dict[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "not given"
