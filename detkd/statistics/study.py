"""Compare detectors on one set: intervals, p values and verdicts for every number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from detkd.errors import ConfigError, DataError
from detkd.evaluation.metrics import CLASS_NAMES
from detkd.evaluation.side import Run, Side, Slice
from detkd.statistics.columns import Column, columns_of
from detkd.statistics.contrast import Numbers, contrasts_of, number
from detkd.statistics.draws import Units, bootstrap_weights, paired_runs, run_shares, smallest_p, units_of
from detkd.statistics.intervals import MIN_VALID, spread
from detkd.statistics.notes import notes_of
from detkd.statistics.permutation import PValues, permutation_test
from detkd.statistics.records import Contrast, Estimate, Resolved, Settings, Study
from detkd.statistics.resample import side_values
from detkd.statistics.verdict import MIN_OBJECTS

__all__ = ["resolve", "study"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_MANY_IMAGES = 1000
_MIN_RESAMPLES = 20
_DEFAULT = Settings()


def study(
    sides: Sequence[Side],
    contrasts: Sequence[tuple[str, str]],
    *,
    teacher: str | None = None,
    slices: Sequence[Slice] = (),
    settings: Settings = _DEFAULT,
    progress: Progress | None = None,
) -> Study:
    """Give every number of every side an interval, and every comparison an interval, a p value and a verdict.

    All sides see the same draws of images (or groups), so differences are paired. Several runs of a side are drawn too;
    the runs of two sides stay together when both have the same training seeds.

    Args:
        sides: Detectors on the same set, with unique names.
        contrasts: Pairs of names: compared with, judged.
        teacher: Name of the side whose lead is to be closed.
        slices: Parts of the set to look at on their own.
        settings: How to draw.
        progress: Told about the work.

    Raises:
        ConfigError: If a setting or a name can't be used.
        DataError: If sides were evaluated on different sets.
    """
    _check(sides, [*contrasts, *([(teacher, teacher)] if teacher is not None else [])])
    truth = sides[0].runs[0].truth
    units = units_of(truth.images, settings.group_by)
    plan = resolve(settings, units)
    columns = columns_of(sides[0].runs[0].matches, units, slices)

    runs = {side.name: _ordered(side.runs) for side in sides}
    weights = np.ones((1 + plan.resamples, len(truth.images)), dtype=np.uint8)  # the first row is the set as it is
    if units.count > 1:
        weights[1:] = bootstrap_weights(units, plan.resamples, plan.seed)
    shares = _shares(runs, plan)
    numbers = {}
    for side in sides:
        tick = _counter(progress, f"resampling {side.name}", len(side.runs) * (1 + len(slices)) * len(weights))
        values = side_values(runs[side.name], weights, shares[side.name], slices, tick)
        # A single unit can be drawn in one way only: that says nothing, so no draw has a number.
        draws = values[1:] if units.count > 1 else np.full_like(values[1:], np.nan)
        numbers[side.name] = Numbers(_point_values(side, columns, values[0]), draws)

    compared: dict[tuple[str, str], dict[str, Contrast]] = {}
    for pair in contrasts:
        before, after = (numbers[name] for name in pair)
        tick = _counter(progress, f"permuting {pair[0]} and {pair[1]}", plan.permutations)
        p = _p_values(runs[pair[0]], runs[pair[1]], units, plan, columns, before.draws, tick)
        lead = numbers[teacher] if teacher is not None and teacher not in pair else None
        compared[pair] = contrasts_of(columns, before, after, lead, p, plan)
    return Study(
        settings=plan,
        estimates={name: _estimates(columns, numbers[name], plan.level) for name in numbers},
        contrasts=compared,
        notes=notes_of(plan, units, truth.images, {name: len(r) for name, r in runs.items()}, bool(slices)),
        seeds={side.name: tuple(one.seed for one in side.runs) for side in sides},
    )


def resolve(settings: Settings, units: Units) -> Resolved:
    """Check the settings and fill in what was left open.

    Raises:
        ConfigError: Names key, value and fix.
    """
    images = len(units.of_image)
    resamples = settings.resamples
    if resamples is None:
        resamples = 2000 if images < _MANY_IMAGES else 1000
    permutations = 1000 if settings.permutations is None else settings.permutations
    if resamples < _MIN_RESAMPLES:
        raise ConfigError(
            f"report.resamples: must be at least {_MIN_RESAMPLES}, got {resamples}; 1000 or more are usual"
        )
    if permutations < 0:
        raise ConfigError(f"report.permutations: must not be negative, got {permutations}; 0 leaves the test out")
    if settings.seed < 0:
        raise ConfigError(f"report.seed: must not be negative, got {settings.seed}; choose 0 or any whole number above")
    if not 0.5 < settings.level < 1:
        raise ConfigError(f"report.level: must be between 0.5 and 1, got {settings.level}; 0.95 is usual")
    if settings.margin is not None and not settings.margin > 0:
        raise ConfigError(
            f"report.margin: must be above 0 points, got {settings.margin}; give the loss that would not matter"
        )
    return Resolved(
        resamples=resamples,
        permutations=permutations,
        seed=settings.seed,
        level=settings.level,
        group_by=settings.group_by,
        margin=settings.margin,
        images=images,
        units=units.count,
        p_floor=max(1 / (1 + permutations), smallest_p(units.count)) if permutations else None,
    )


def _check(sides: Sequence[Side], contrasts: Sequence[tuple[str, str]]) -> None:
    by_name = {side.name: side for side in sides}
    if not sides or len(by_name) < len(sides):
        raise ConfigError(f"sides: names must be unique, got {', '.join(side.name for side in sides) or 'none'}")
    for name in {name for pair in contrasts for name in pair}:
        if name not in by_name:
            raise ConfigError(f"contrasts: there is no side {name!r}; choose from {', '.join(by_name)}")
    truth = sides[0].runs[0].truth
    for side in sides:
        for one in side.runs:
            if one.truth is not truth and one.truth.sha256 != truth.sha256:
                raise DataError(f"{side.name}: evaluated on {one.truth.source}, others on {truth.source}; use one set")


def _ordered(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return runs by training seed where all have one, so that equal seeds of two sides stand at the same place."""
    seeds = [one.seed for one in runs]
    return tuple(sorted(runs, key=lambda one: one.seed or 0)) if None not in seeds else tuple(runs)


def _shares(runs: dict[str, tuple[Run, ...]], plan: Resolved) -> dict[str, np.ndarray]:
    """Return for every side the share of each run in each draw; sides with the same training seeds share the draws."""
    shares: dict[str, np.ndarray] = {}
    streams: list[tuple[int | None, ...]] = []
    for name, mine in runs.items():
        seeds = tuple(one.seed for one in mine)
        stream = next((index for index, known in enumerate(streams) if paired_runs(seeds, known)), len(streams))
        if stream == len(streams):
            streams.append(seeds)
        as_it_is = np.full((1, len(mine)), 1 / len(mine))
        shares[name] = np.concatenate([as_it_is, run_shares(len(mine), plan.resamples, plan.seed, stream)])
    return shares


def _point_values(side: Side, columns: Sequence[Column], scored: np.ndarray) -> np.ndarray:
    """Return the numbers as the engine gives them, those of slices as scored from the matches; NaN for n/a."""
    values = [scored[c] if column.slice is not None else side.number(column.key) for c, column in enumerate(columns)]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _estimates(columns: Sequence[Column], side: Numbers, level: float) -> dict[str, Estimate]:
    found = spread(side.draws, level, side.points, (0.0, 100.0))
    return {
        column.key: Estimate(number(side.points[c]), number(found.low[c]), number(found.high[c]))
        for c, column in enumerate(columns)
    }


def _p_values(
    before: Sequence[Run],
    after: Sequence[Run],
    units: Units,
    plan: Resolved,
    columns: Sequence[Column],
    draws: np.ndarray,
    tick: Callable[[int], None] | None,
) -> PValues:
    """Return p values, none without permutations or with a single unit."""
    if not plan.permutations or units.count < 2:
        return {}
    present = (~np.isnan(draws)).mean(axis=0)
    judged = [
        column.objects >= MIN_OBJECTS and present[c] >= MIN_VALID
        for c, column in enumerate(columns)
        if column.label is not None and column.metric == CLASS_NAMES[0]
    ]
    return permutation_test(
        [one.matches for one in before],
        [one.matches for one in after],
        units,
        plan.permutations,
        plan.seed,
        tested=np.array(judged, dtype=bool),
        alpha=1 - plan.level,
        tick=tick,
    )


def _counter(progress: Progress | None, label: str, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(label, done, total)

    return tick
