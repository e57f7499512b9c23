"""Before against after, with control and teacher beside them: every number, its interval, and what makes it unfair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.diagnosis.slices import make_slices
from detkd.errors import ConfigError
from detkd.evaluation.metrics import plain
from detkd.evaluation.side import Side, Slice
from detkd.progress import stages
from detkd.report.dictionaries import entry_dict, protocol_dict, statistics_dict
from detkd.report.findings import find, threshold
from detkd.report.gallery import make_gallery
from detkd.report.notes import Note, check_same_set, make_notes
from detkd.report.rows import Row, make_rows, row_dict
from detkd.statistics.records import Settings, Study
from detkd.statistics.study import study
from detkd.statistics.verdict import verdict_dict

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["SCHEMA", "Comparison", "compare"]

SCHEMA = 2
"""Version of compare.json and leaderboard.json. Raised when a reader of the old ones would go wrong."""


@dataclass(frozen=True)
class Comparison:
    """Two detectors on one set, with a control and a teacher where there are some.

    Attributes:
        sides: Before, after, then control and teacher where given.
        slices: Parts of the set that have rows of their own.
        study: Intervals and tests.
        rows: The 12 overall numbers in COCO's order, then every class number, then the slices.
        diagnosis: Error types, calibration, working points, curves and flips, as compare.json holds them.
        notes: What makes the comparison weaker than it looks.
        created: When it was made, ISO 8601.
        gallery: Pictures of gained and lost objects for the page, {} without any.
    """

    sides: tuple[Side, ...]
    slices: tuple[Slice, ...]
    study: Study
    rows: tuple[Row, ...]
    diagnosis: dict[str, Any]
    notes: tuple[Note, ...]
    created: str
    gallery: dict[str, Any] = field(default_factory=dict)

    def side(self, role: str) -> Side | None:
        """Return the side with this role, or None."""
        return next((side for side in self.sides if side.role == role), None)

    @property
    def before(self) -> Side:
        """The reference."""
        return self.sides[0]

    @property
    def after(self) -> Side:
        """The candidate."""
        return self.sides[1]

    @property
    def teacher(self) -> Side | None:
        """The detector `after` was taught by, or None."""
        return self.side("teacher")

    def row(self, key: str) -> Row:
        """Return the row called `key`, or raise `KeyError`."""
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(key)

    @property
    def verdict(self) -> dict[str, Any]:
        """Word, sentence and rule on the difference in AP."""
        return verdict_dict(self.row("AP").contrast, self.before.name, self.after.name, self.study)

    @property
    def control_verdict(self) -> dict[str, Any] | None:
        """The same against the control, None without one."""
        control, contrast = self.side("control"), self.row("AP").vs_control
        if control is None or contrast is None:
            return None
        return verdict_dict(contrast, control.name, self.after.name, self.study)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with the version of their layout under `schema`."""
        from detkd import __version__

        value: dict[str, Any] = plain(
            {
                "schema": SCHEMA,
                "kind": "comparison",
                "created": self.created,
                "version": __version__,
                "title": f"{self.before.name} → {self.after.name}",
                "entries": [entry_dict(side) for side in self.sides],
                "rows": [row_dict(row) for row in self.rows],
                "verdict": self.verdict,
                "control_verdict": self.control_verdict,
                "statistics": statistics_dict(self.study),
                "diagnosis": self.diagnosis,
                "gallery": {
                    "objects": len(self.gallery.get("objects", ())),
                    "frames": len(self.gallery.get("frames", ())),
                    "note": self.gallery.get("note", ""),
                },
                "protocol": protocol_dict(self.sides),
                "notes": [{"level": note.level, "text": note.text} for note in self.notes],
            }
        )
        return value

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Write compare.html, .csv, .md, .json and .png; return suffix to path ("html", ...)."""
        from detkd.report.files import write_comparison

        return write_comparison(self, folder)

    def __rich__(self) -> RenderableType:
        from detkd.report.tables import comparison_view

        return comparison_view(self)


def compare(
    before: Side,
    after: Side,
    *,
    teacher: Side | None = None,
    control: Side | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    slices: Sequence[str] | None = None,
    pictures: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Comparison:
    """Put two detectors side by side.

    Args:
        before: The reference.
        after: The candidate; differences are after - before.
        teacher: Optional; the share of its lead over `before` that `after` closed is computed.
        control: Optional; what `after` would be without a teacher, for the difference that the teacher made.
        settings: Resamples, groups, level and margin.
        slices: Fields of the image records to divide the set by; None finds them, an empty list makes none.
        pictures: Arguments of `make_gallery` (images, objects, frames); None makes no pictures.
        progress: Show a progress bar on stderr.

    Raises:
        DataError: If they were evaluated on different classes or different ground truth; both are shown.
        ConfigError: If names are not unique or a setting can't be used.
    """
    truth = before.runs[0].truth
    given = [(before, "before"), (after, "after"), (control, "control"), (teacher, "teacher")]
    sides = tuple(replace(side, role=role) for side, role in given if side is not None)
    names = [side.name for side in sides]
    if len(set(names)) < len(names):
        raise ConfigError(f"compare: every side needs a name of its own, got {', '.join(names)}")
    check_same_set(sides)
    parts = make_slices(truth, slices)
    pairs = [(before.name, after.name)] + ([(control.name, after.name)] if control else [])
    with stages(progress) as report:
        result = study(
            sides,
            pairs,
            teacher=teacher.name if teacher else None,
            slices=parts,
            settings=settings,
            progress=report,
        )
        rows = make_rows(sides, result, parts)
        diagnosis = find(sides, progress=report)
    gallery: dict[str, Any] = {}
    if pictures is not None:
        shown = {side.role: (side.runs[0], threshold(diagnosis, side.name)) for side in sides}
        gallery = make_gallery(truth, shown, diagnosis["pair"], slices=parts, **pictures)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Comparison(sides, parts, result, rows, diagnosis, tuple(make_notes(sides)), created, gallery)
