"""What goes into a study and what comes out of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Contrast", "Estimate", "Resolved", "Settings", "Study", "Verdict"]

Verdict = Literal["improved", "regressed", "no visible difference", "not judged"]


@dataclass(frozen=True)
class Settings:
    """How to draw.

    Attributes:
        resamples: Draws of the bootstrap, at least 20; None: 2,000 below 1,000 images, else 1,000.
        permutations: Swaps of the permutation test, 0 for none; None: 1,000.
        seed: Of the random numbers; the same seed gives the same study.
        level: Of the intervals, between 0.5 and 1.
        group_by: Field of the image record (video, scene, camera) whose images are drawn together; None: single images.
        margin: A loss in points that would not matter, for "not worse than"; None: not asked.
    """

    resamples: int | None = None
    permutations: int | None = None
    seed: int = 0
    level: float = 0.95
    group_by: str | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Resolved:
    """The settings a study was made with.

    Attributes:
        resamples: Draws of the bootstrap.
        permutations: Swaps of the permutation test; classes may get more (see `detkd.statistics.permutation`).
        seed: Of the random numbers.
        level: Of the intervals.
        group_by: Field whose images were drawn together, or None.
        margin: Non-inferiority margin in points, or None.
        images: Images of the set.
        units: What was drawn: groups, or single images.
        p_floor: The smallest p of an overall number, the larger of 1 / (1 + permutations) and 2 / 2^units; None without
            permutations.
    """

    resamples: int
    permutations: int
    seed: int
    level: float
    group_by: str | None
    margin: float | None
    images: int
    units: int
    p_floor: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """A number of one side in points, with its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Contrast:
    """One number of two sides compared, in points; None where there is none.

    Attributes:
        key: "AP", "AP/person" or "AP@camera=gate".
        before: Of the first side.
        after: Of the second side.
        delta: `after - before`.
        low: Lower end of the interval of `delta`.
        high: Its upper end.
        sd: Standard deviation of `delta` over the draws.
        p: Of the paired permutation test, two-sided; for AP, AP50, AP75 and AR100, overall and per class.
        p_adjusted: The same after Benjamini-Hochberg over the classes of this metric; for classes only.
        smallest_visible: The difference that a set like this shows with 80 % power, 2.8 sd.
        verdict: In words.
        reason: Why, or why there is none.
        not_inferior: Whether `low` is above the loss that would not matter; None where not asked or not judged.
        gap_closed: Share of the teacher's lead over the first side that `delta` makes up, 1 = all of it; None unless
            the teacher leads by 0.1 points or more.
        gap_low: Lower end of its interval, None where it is open.
        gap_high: Upper end, None where it is open.
    """

    key: str
    before: float | None
    after: float | None
    delta: float | None
    low: float | None
    high: float | None
    sd: float | None
    p: float | None
    p_adjusted: float | None
    smallest_visible: float | None
    verdict: Verdict
    reason: str
    not_inferior: bool | None
    gap_closed: float | None
    gap_low: float | None
    gap_high: float | None


@dataclass(frozen=True)
class Study:
    """Everything the draws say about some detectors on one set.

    Attributes:
        settings: How it was made.
        estimates: Name of the side, then key, to the number with its interval.
        contrasts: Names of the two sides, then key, to the comparison.
        notes: What to keep in mind, one sentence each.
        seeds: Name of the side to the training seeds of its runs, None where unknown.
    """

    settings: Resolved
    estimates: dict[str, dict[str, Estimate]]
    contrasts: dict[tuple[str, str], dict[str, Contrast]]
    notes: tuple[str, ...]
    seeds: dict[str, tuple[int | None, ...]]
