"""Verdicts in words, each with the rule behind it."""

from __future__ import annotations

import itertools
import math
from typing import Any

from detkd.statistics.columns import Column
from detkd.statistics.draws import paired_runs, smallest_p
from detkd.statistics.intervals import MIN_VALID, VISIBLE_SDS
from detkd.statistics.records import Contrast, Resolved, Study, Verdict

__all__ = ["MIN_OBJECTS", "judge", "min_units", "rule_text", "seeds_text", "verdict_dict"]

MIN_OBJECTS = 10
"""A number that rests on fewer objects gets no verdict."""

FEW_RUNS = {2: 50, 3: 75, 4: 80}
"""Numbers of runs from which the spread between training seeds is known roughly only, and how many of 100 nominal 95 %
intervals hold the truth where that spread is all there is (simulated with normal seeds)."""


def judge(
    column: Column,
    low: float | None,
    high: float | None,
    *,
    valid: float,
    p: float | None,
    tests: int,
    plan: Resolved,
) -> tuple[Verdict, str]:
    """Return the verdict on a difference and why.

    Args:
        column: Which number it is.
        low: Lower end of the interval of the difference in points, None without one.
        high: Upper end.
        valid: Share of the draws that have the number.
        p: Of the permutation test, for a class the corrected one; None where there is none.
        tests: Classes corrected for one another.
        plan: Level, and what was drawn.
    """
    nothing = _unjudged(column, valid, p, plan)
    if nothing is not None:
        return "not judged", nothing
    if low is None or high is None:
        return "not judged", "there is no interval"
    alpha = _alpha(plan.level)
    interval = f"the {100 * plan.level:.4g} % interval"
    compared = "the permutation p" if column.label is None else f"p corrected for {tests} classes"
    if low <= 0 <= high:
        reason = f"{interval} holds 0"
        if p is not None:
            reason += f", and {compared} is {_p(p)}" if p >= alpha else f", although {compared} is {_p(p)}"
        return "no visible difference", reason
    reason = f"{interval} is {'above' if low > 0 else 'below'} 0"
    if p is not None and p >= alpha:
        return "no visible difference", f"{reason}, but {compared} is {_p(p)}, not below {alpha:g}"
    if p is not None:
        reason += f", and {compared} is {_p(p)}"
    return "improved" if low > 0 else "regressed", reason


def _unjudged(column: Column, valid: float, p: float | None, plan: Resolved) -> str | None:
    """Return why there is no verdict, None where there is one."""
    if column.objects < MIN_OBJECTS:
        objects = "object" if column.objects == 1 else "objects"
        return f"it rests on {column.objects} {objects}; a verdict needs {MIN_OBJECTS} or more"
    least = min_units(plan.level)
    if column.units < least:
        return f"it rests on {_units(column.units, plan)}, too few to tell; a verdict needs {least} or more"
    if valid < MIN_VALID:
        return f"its objects stand in so few {_what(plan)} that {100 * (1 - valid):.0f} % of the draws have none"
    alpha = _alpha(plan.level)
    if p is not None and column.label is None and 1 / (1 + plan.permutations) >= alpha:
        return f"{plan.permutations} permutations can't give a p below {alpha:g}; raise report.permutations"
    return None


def min_units(level: float) -> int:
    """Return how many images (or groups) a verdict needs: with fewer, no permutation test can give p < 1 - level."""
    return next(units for units in itertools.count(1) if smallest_p(units) < _alpha(level))


def _alpha(level: float) -> float:
    return round(1 - level, 9)  # 1 - 0.95 is a little more than 0.05


def _what(plan: Resolved) -> str:
    return f"groups of {plan.group_by}" if plan.group_by else "images"


def _units(count: int, plan: Resolved) -> str:
    if count != 1:
        return f"{count:,} {_what(plan)}"
    return f"1 group of {plan.group_by}" if plan.group_by else "1 image"


def rule_text(settings: Resolved) -> str:
    """Return the rule behind the words, for people."""
    percent = f"{100 * settings.level:.4g} %"
    also = f" and p < {_alpha(settings.level):g}" if settings.permutations else ""
    p = (
        f" p is that of a paired permutation test with {settings.permutations:,} permutations; AP, AP50, AP75, AR100 "
        "and classes have one, for a class after Benjamini-Hochberg over the classes; for sizes and slices the "
        "interval alone decides."
        if settings.permutations
        else ""
    )
    return (
        f"Improved: the {percent} interval of the difference is above 0{also}; regressed: it is below 0{also}; "
        "otherwise no difference that this set can show. The interval is that of a paired bootstrap with "
        f"{settings.resamples:,} draws of {settings.units:,} {_what(settings)}.{p} Smallest visible difference: "
        f"{VISIBLE_SDS} standard deviations, found with 80 % power. Not judged: fewer than {MIN_OBJECTS} objects, "
        f"fewer than {min_units(settings.level)} {_what(settings)}, or missing from more than "
        f"{100 * (1 - MIN_VALID):.0f} % of the draws."
    )


def seeds_text(before: tuple[int | None, ...], after: tuple[int | None, ...], names: tuple[str, str]) -> str:
    """Return what the number of runs allows to say.

    Args:
        before: Training seeds of one side's runs.
        after: Of the other's.
        names: What the sides are called.
    """
    runs = (len(before), len(after))
    if runs == (1, 1):
        return (
            "One run each: this knows the noise of the test set only, not how much another training seed would move "
            "either side; several runs of each would show it."
        )
    if min(runs) == 1:
        single, several = names if runs[0] == 1 else names[::-1]
        return (
            f"{max(runs)} runs of {several}, but one of {single}: the interval knows the noise of the test set and of "
            f"the training seeds of {several}, not how much another seed would move {single}."
        )
    count = f"{runs[0]} runs each" if runs[0] == runs[1] else f"{runs[0]} and {runs[1]} runs"
    pairing = "paired by training seed" if paired_runs(before, after) else "not paired by training seed"
    least = min(runs)
    rough = ""
    if least in FEW_RUNS:
        rough = (
            f"; with {least} runs the seed part is rough, and where it dominates, only about {FEW_RUNS[least]} of 100 "
            "such intervals hold the truth"
        )
    return (
        f"{count}, {pairing}: the interval holds the noise of the test set and of the training seed{rough}. "
        "The p value is about the test set alone."
    )


def verdict_dict(contrast: Contrast, before_name: str, after_name: str, study: Study) -> dict[str, Any]:
    """Return the verdict on one number for people and for compare.json: word, sentence, rule, seeds, not_inferior.

    Args:
        contrast: From `study.contrasts[before_name, after_name]`.
        before_name: Side that is compared with.
        after_name: Side that is judged.
        study: Where the contrast comes from.
    """
    return {
        "word": contrast.verdict,
        "sentence": _sentence(contrast, before_name, after_name, study.settings),
        "rule": rule_text(study.settings),
        "seeds": seeds_text(study.seeds[before_name], study.seeds[after_name], (before_name, after_name)),
        "not_inferior": _not_inferior(contrast, before_name, after_name, study.settings),
    }


def _sentence(contrast: Contrast, before: str, after: str, settings: Resolved) -> str:
    what = contrast.key.replace("/", " of ", 1).replace("@", " at ", 1)
    where = f"on these {settings.images:,} images"
    if settings.group_by:
        where += f" in {settings.units:,} groups of {settings.group_by}"
    if contrast.delta is None:
        return f"{after} against {before}: {what} is not judged, {contrast.reason}."
    if contrast.verdict == "not judged" or contrast.low is None or contrast.high is None:
        measured = f"measured {contrast.delta:+.{_digits(contrast.delta)}f} {what}"
        return f"{after} against {before}: {measured} {where}, not judged: {contrast.reason}."
    digits = _digits(contrast.delta, contrast.low, contrast.high)
    interval = f"{100 * settings.level:.4g} % interval {contrast.low:+.{digits}f} to {contrast.high:+.{digits}f}"
    p = "" if contrast.p is None else f", permutation p {_p(contrast.p)}"
    if contrast.p_adjusted is not None:
        p += f" ({_p(contrast.p_adjusted)} after correction for the number of classes)"
    if contrast.verdict != "no visible difference":
        improved = contrast.verdict == "improved"
        by = (
            f"better than {before} by {contrast.delta:+.{digits}f}"
            if improved
            else f"worse than {before} by {-contrast.delta:.{digits}f}"
        )
        return f"{after} is {by} {what} ({interval}{p}) {where}."
    if contrast.sd == 0 and contrast.delta == 0:
        return f"{after} and {before}: {what} is the same in every draw {where}."
    measured = f"measured {contrast.delta:+.{digits}f} {what} ({interval}{p}) {where}"
    if not contrast.low <= 0 <= contrast.high:  # the smallest visible difference may be below what was measured
        return f"{after} and {before}: no difference that this set can show; {measured}: {contrast.reason}."
    visible = contrast.smallest_visible or 0.0
    return (
        f"{after} and {before}: no difference that this set can show (smallest visible: {visible:.{digits}f} {what}); "
        f"{measured}."
    )


def _not_inferior(contrast: Contrast, before: str, after: str, settings: Resolved) -> str | None:
    if contrast.not_inferior is None or contrast.low is None or contrast.high is None:
        return None
    worse = f"worse than {before} by more than {settings.margin:g} points"
    percent = f"{100 * settings.level:.4g} %"
    digits = _digits(contrast.low, contrast.high)
    lower = f"the lower bound of the {percent} interval is {contrast.low:+.{digits}f}"
    if contrast.not_inferior:
        return f"{after} is not {worse}: {lower}."
    if settings.margin is not None and contrast.high < -settings.margin:
        return f"{after} is {worse}: the upper bound of the {percent} interval is {contrast.high:+.{digits}f}."
    return f"{after} may be {worse}: {lower}."


def _digits(*values: float) -> int:
    """Return 1, or 2 where one decimal would hide on which side of zero a value is."""
    return 2 if any(value != 0 and abs(value) < 0.05 for value in values) else 1


def _p(value: float) -> str:
    decimals = 2 if value >= 0.1 else 3 if value >= 0.0005 else -math.floor(math.log10(value))
    return f"{value:.{decimals}f}"
