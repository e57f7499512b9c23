"""Many detectors on one set, ranked, each against one reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detkd.errors import ConfigError
from detkd.evaluation.metrics import METRIC_NAMES, plain
from detkd.evaluation.side import Side
from detkd.progress import stages
from detkd.report.dictionaries import entry_dict, protocol_dict, statistics_dict
from detkd.report.notes import Note, check_same_set, make_notes
from detkd.statistics.multiple import benjamini_hochberg
from detkd.statistics.records import Contrast, Settings, Study
from detkd.statistics.study import study

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["CONTRASTED", "Leaderboard", "rank"]

CONTRASTED = ("AP", "AP50", "AP75", "AR100")
"""The numbers that are tested against the reference."""


@dataclass(frozen=True)
class Leaderboard:
    """Detectors in the order of their AP.

    Attributes:
        sides: Best first.
        reference: The side all others are compared with.
        study: Intervals and tests.
        adjusted: Name and number to Benjamini-Hochberg's p over the other detectors.
        notes: What makes the comparison weaker than it looks.
        created: When it was made, ISO 8601.
        failed: Name and one-line reason of runs that have no result.
    """

    sides: tuple[Side, ...]
    reference: Side
    study: Study
    adjusted: dict[tuple[str, str], float | None]
    notes: tuple[Note, ...]
    created: str
    failed: tuple[tuple[str, str], ...] = ()

    def contrast(self, name: str, key: str = "AP") -> Contrast | None:
        """Return a detector's difference from the reference, None for the reference itself."""
        return None if name == self.reference.name else self.study.contrasts[self.reference.name, name][key]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with the version of their layout under `schema`."""
        from detkd import __version__
        from detkd.report.comparison import SCHEMA

        value: dict[str, Any] = plain(
            {
                "schema": SCHEMA,
                "kind": "leaderboard",
                "created": self.created,
                "version": __version__,
                "title": f"{len(self.sides)} detectors against {self.reference.name}",
                "reference": self.reference.name,
                "entries": [self._entry(place, side) for place, side in enumerate(self.sides, start=1)],
                "failed": [{"name": name, "reason": reason} for name, reason in self.failed],
                "per_class": [
                    {
                        "class": name,
                        "objects": numbers.objects,
                        "values": {side.name: side.number(f"AP/{name}") for side in self.sides},
                    }
                    for name, numbers in self.sides[0].runs[0].metrics.per_class.items()
                ],
                "statistics": statistics_dict(self.study),
                "protocol": protocol_dict([replace(side, role=side.name) for side in self.sides]),
                "notes": [{"level": note.level, "text": note.text} for note in self.notes],
            }
        )
        return value

    def _entry(self, place: int, side: Side) -> dict[str, Any]:
        estimates = self.study.estimates[side.name]
        against = None
        if side is not self.reference:
            against = {}
            for key in CONTRASTED:
                contrast = self.study.contrasts[self.reference.name, side.name][key]
                interval = None if contrast.low is None else [contrast.low, contrast.high]
                against[key] = {
                    "delta": contrast.delta,
                    "interval": interval,
                    "p": contrast.p,
                    "p_adjusted": self.adjusted[side.name, key],
                    "verdict": contrast.verdict,
                }
        intervals = {
            key: None if estimates[key].low is None else [estimates[key].low, estimates[key].high]
            for key in METRIC_NAMES
        }
        return {**entry_dict(side), "rank": place, "intervals": intervals, "against_reference": against}

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Write leaderboard.html, .csv, .md and .json; return suffix to path."""
        from detkd.report.files import write_leaderboard

        return write_leaderboard(self, folder)

    def __rich__(self) -> RenderableType:
        from detkd.report.tables import leaderboard_view

        return leaderboard_view(self)


def rank(
    sides: Sequence[Side],
    reference: str | None = None,
    *,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    progress: bool = True,
) -> Leaderboard:
    """Rank detectors by AP and test each against the reference.

    A verdict needs the interval of the difference to exclude 0 and, since several detectors are tried, p adjusted over
    them to be small enough; so the best of many equal ones is not taken for an improvement.

    Args:
        sides: Two or more, with distinct names.
        reference: Name of the one to compare with; None takes the first.
        settings: Resamples, groups, level and margin.
        progress: Show a progress bar on stderr.

    Raises:
        ConfigError: If there are too few, names are not unique, or the reference is none of them.
        DataError: If they were evaluated on different classes or different ground truth; both are shown.
    """
    names = [side.name for side in sides]
    if len(sides) < 2:
        raise ConfigError(f"runs: a leaderboard needs two detectors or more, got {len(sides)}; use detkd evaluate")
    if len(set(names)) < len(names):
        raise ConfigError(f"runs: every entry needs a name of its own, got {', '.join(names)}")
    wanted = names[0] if reference is None else reference
    if wanted not in names:
        raise ConfigError(f"reference: must be one of the runs, got {wanted!r}; choose {', '.join(names)}")
    chosen = sides[names.index(wanted)]
    ordered = [chosen, *(side for side in sides if side is not chosen)]
    check_same_set(ordered)
    with stages(progress) as report:
        result = study(ordered, [(wanted, side.name) for side in ordered[1:]], settings=settings, progress=report)
    adjusted: dict[tuple[str, str], float | None] = {}
    for key in CONTRASTED:
        values = [result.contrasts[wanted, side.name][key].p for side in ordered[1:]]
        p = np.asarray([np.nan if value is None else value for value in values])
        for side, value in zip(ordered[1:], benjamini_hochberg(p).tolist(), strict=True):
            adjusted[side.name, key] = None if np.isnan(value) else value
    result = replace(result, contrasts=_cautious(result, adjusted))
    best_first = sorted(ordered, key=lambda side: -(side.number("AP") or 0.0))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Leaderboard(tuple(best_first), chosen, result, adjusted, tuple(make_notes(ordered)), created)


def _cautious(
    result: Study, adjusted: dict[tuple[str, str], float | None]
) -> dict[tuple[str, str], dict[str, Contrast]]:
    """Take back verdicts that do not survive the adjustment for the number of detectors."""
    limit = 1 - result.settings.level
    contrasts = {}
    for (one, other), by_key in result.contrasts.items():
        changed = dict(by_key)
        for key in CONTRASTED:
            value, contrast = adjusted[other, key], by_key[key]
            if value is not None and value >= limit and contrast.verdict in ("improved", "regressed"):
                reason = f"p {value:.3g} after adjusting for the number of detectors"
                changed[key] = replace(contrast, verdict="no visible difference", reason=reason)
        contrasts[one, other] = changed
    return contrasts
