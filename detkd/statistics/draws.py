"""Random draws: how often each image counts, which images swap sides, which runs are taken.

All draws of a study are made from its seed alone, so every side, class and slice sees the same ones, and nothing
depends on how they are cut into batches later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkd.errors import ConfigError

__all__ = ["Units", "bootstrap_weights", "paired_runs", "run_shares", "smallest_p", "swaps", "units_of"]

_IMAGES, _SWAPS, _RUNS = 0, 1, 2
_FEW_GROUPS = 10


@dataclass(frozen=True)
class Units:
    """What is drawn as a whole.

    Attributes:
        of_image: Index of the unit of each image, int64 (I,).
        count: Number of units U.
        group_by: Field of the image record they come from; None for single images.
        notes: What to keep in mind about them.
    """

    of_image: np.ndarray
    count: int
    group_by: str | None = None
    notes: tuple[str, ...] = ()


def units_of(images: Sequence[Mapping[str, Any]], group_by: str | None = None) -> Units:
    """Return single images, or groups that share a value of a field, as units.

    Frames of one video are near copies of each other: drawn one by one they make intervals far too short. An image
    without the field is a group of its own.

    Args:
        images: COCO image records.
        group_by: Field of the record, None for single images.

    Raises:
        ConfigError: If no image has the field (names those that exist), or all images share one value.
    """
    if group_by is None:
        return Units(np.arange(len(images)), len(images))
    known: dict[str, int] = {}
    of_image = np.full(len(images), -1, dtype=np.int64)
    for index, record in enumerate(images):
        value = record.get(group_by)
        if value is not None:
            of_image[index] = known.setdefault(str(value), len(known))
    if not known:
        fields = sorted({str(key) for record in images for key in record})
        raise ConfigError(
            f"report.group_by: no image record has the field {group_by!r}; choose one of {', '.join(fields)}, "
            "or add the field"
        )
    without = np.flatnonzero(of_image < 0)
    of_image[without] = len(known) + np.arange(len(without))
    count = len(known) + len(without)
    if count == 1:
        raise ConfigError(
            f"report.group_by: all images have {group_by}={next(iter(known))}, and one group can't be resampled; "
            "choose a field with several values or leave out report.group_by"
        )
    notes = []
    if len(without):
        noun = "image has" if len(without) == 1 else "images have"
        notes.append(f"{len(without)} {noun} no field {group_by!r} and count as groups of their own.")
    if count < _FEW_GROUPS:
        notes.append(
            f"There are only {count} groups of {group_by!r}: intervals from fewer than {_FEW_GROUPS} are unreliable."
        )
    return Units(of_image, count, group_by, tuple(notes))


def bootstrap_weights(units: Units, resamples: int, seed: int) -> np.ndarray:
    """Return how often each image counts in each draw, uint8 (resamples, I).

    Every draw takes U units with replacement, and multiplicities are kept (Efron, "Bootstrap methods: another look at
    the jackknife", 1979). Images of a unit share its count. A count above 255 does not happen: its chance is below
    1 / 255! even when one unit is drawn from thousands.
    """
    rng = np.random.default_rng([seed, _IMAGES])
    weights = np.empty((resamples, len(units.of_image)), dtype=np.uint8)
    for row in weights:
        counts = np.bincount(rng.integers(0, units.count, units.count), minlength=units.count)
        row[:] = counts[units.of_image]
    return weights


def swaps(units: Units, permutations: int, seed: int, *, batch: int = 0) -> np.ndarray:
    """Return which images change sides in each permutation, bool (permutations, I).

    Args:
        units: Images of a unit change together.
        permutations: Number of rows.
        seed: Of the study.
        batch: A number that gives another, independent table of the same study.
    """
    rng = np.random.default_rng([seed, _SWAPS, batch])
    table = np.empty((permutations, len(units.of_image)), dtype=bool)
    for row in table:
        row[:] = rng.integers(0, 2, units.count, dtype=np.uint8)[units.of_image]
    return table


def smallest_p(units: int) -> float:
    """Return the smallest p a two-sided paired permutation test can give: of 2^U ways to swap two are as extreme."""
    return float(2.0 ** (1 - units))


def paired_runs(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Return whether two sides have the same training seeds, all known and distinct, so that runs belong together."""
    return None not in one and len(set(one)) == len(one) and len(one) == len(other) and set(one) == set(other)


def run_shares(runs: int, resamples: int, seed: int, stream: int = 0) -> np.ndarray:
    """Return the share of each run in the mean of a side, float64 (resamples, runs), rows add up to 1.

    R - 1 of R runs are drawn with replacement. Drawing all R would show (R - 1) / R of the variance that the mean of R
    runs has, half of it for two runs; with R - 1 it is right on average (Rao and Wu, "Resampling inference with complex
    survey data", JASA 1988). One run is always taken: it can't say anything about other runs.

    Args:
        runs: Number of runs R.
        resamples: Number of draws.
        seed: Of the study.
        stream: The same number gives the same draws, for sides whose runs belong together.
    """
    if runs == 1:
        return np.ones((resamples, 1))
    rng = np.random.default_rng([seed, _RUNS, stream])
    drawn = rng.integers(0, runs, (resamples, runs - 1))
    shares: np.ndarray = (drawn[:, :, None] == np.arange(runs)).sum(axis=1) / (runs - 1)
    return shares
