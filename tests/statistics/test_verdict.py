from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detkd.statistics.columns import Column
from detkd.statistics.draws import run_shares
from detkd.statistics.intervals import quantiles
from detkd.statistics.records import Contrast, Resolved, Study
from detkd.statistics.verdict import FEW_RUNS, judge, min_units, rule_text, seeds_text, verdict_dict

PLAN = Resolved(
    resamples=2000,
    permutations=1000,
    seed=0,
    level=0.95,
    group_by=None,
    margin=None,
    images=160,
    units=160,
    p_floor=1 / 1001,
)
BETTER = Contrast(
    key="AP", before=30.0, after=35.2, delta=5.2, low=3.9, high=6.6, sd=0.7, p=1 / 1001, p_adjusted=None, smallest_visible=1.96,
    verdict="improved", reason="", not_inferior=None, gap_closed=None, gap_low=None, gap_high=None,
)  # fmt: skip


def words(contrast: Contrast, plan: Resolved = PLAN, **seeds: tuple[int | None, ...]) -> dict[str, Any]:
    known = {"control": (None,), "distilled": (None,), **seeds}
    return verdict_dict(contrast, "control", "distilled", Study(plan, {}, {}, (), known))


@pytest.mark.parametrize(
    ("low", "high", "p", "label", "objects", "valid", "word", "reason"),
    [
        (0.1, 2.0, 0.049, None, 50, 1.0, "improved", "the 95 % interval is above 0, and the permutation p is 0.049"),
        (-2.0, -0.1, 0.01, None, 50, 1.0, "regressed", "the 95 % interval is below 0, and the permutation p is 0.010"),
        (0.6, 9.6, 0.36, None, 50, 1.0, "no visible difference", "above 0, but the permutation p is 0.36, not below 0.05"),
        (0.1, 2.0, 0.05, None, 50, 1.0, "no visible difference", "above 0, but the permutation p is 0.050, not below"),
        (-9.6, -0.6, 0.36, None, 50, 1.0, "no visible difference", "below 0, but the permutation p is 0.36, not below"),
        (-1.0, 1.0, 0.41, None, 50, 1.0, "no visible difference", "holds 0, and the permutation p is 0.41"),
        (-0.1, 2.0, 0.02, None, 50, 1.0, "no visible difference", "holds 0, although the permutation p is 0.020"),
        (0.1, 2.0, None, None, 50, 1.0, "improved", "the 95 % interval is above 0"),
        (-2.0, -0.1, None, None, 50, 1.0, "regressed", "the 95 % interval is below 0"),
        (-1.0, 1.0, None, None, 50, 1.0, "no visible difference", "the 95 % interval holds 0"),
        (0.0, 0.0, None, None, 50, 1.0, "no visible difference", "holds 0"),
        (0.1, 2.0, 0.049, 1, 50, 1.0, "improved", "and p corrected for 7 classes is 0.049"),
        (0.1, 2.0, 0.05, 1, 50, 1.0, "no visible difference", "above 0, but p corrected for 7 classes is 0.050"),
        (-2.0, -0.1, 0.2, 1, 50, 1.0, "no visible difference", "below 0, but p corrected for 7 classes is 0.20"),
        (-1.0, 1.0, 0.01, 1, 50, 1.0, "no visible difference", "holds 0, although p corrected for 7 classes is 0.010"),
        (0.1, 2.0, None, 1, 50, 1.0, "improved", "the 95 % interval is above 0"),
        (0.1, 2.0, 0.001, 1, 9, 1.0, "not judged", "it rests on 9 objects; a verdict needs 10 or more"),
        (0.1, 2.0, None, None, 1, 1.0, "not judged", "it rests on 1 object;"),
        (None, None, None, 1, 12, 0.9, "not judged", "in so few images that 10 % of the draws have none"),
        (None, None, None, None, 12, 1.0, "not judged", "there is no interval"),
    ],
)  # fmt: skip
def test_verdicts(low, high, p, label, objects, valid, word, reason) -> None:  # type: ignore[no-untyped-def]
    column = Column("AP", "AP", label, None, objects, 160)
    got = judge(column, low, high, valid=valid, p=p, tests=7, plan=PLAN)
    assert got[0] == word
    assert reason in got[1]


@pytest.mark.parametrize("label", [None, 1])
@pytest.mark.parametrize("p", [None, 0.01])
def test_few_units_get_no_verdict(label: int | None, p: float | None) -> None:
    """Neither an overall number nor a class, a size or a slice, with or without a p."""
    grouped = replace(PLAN, group_by="camera", units=5)

    def got(units: int, plan: Resolved) -> tuple[str, str]:
        column = Column("AP", "AP", label, None, 50, units)
        return judge(column, 0.1, 2.0, valid=1.0, p=p, tests=7, plan=plan)

    assert got(5, grouped) == (
        "not judged",
        "it rests on 5 groups of camera, too few to tell; a verdict needs 6 or more",
    )
    assert got(1, grouped)[1].startswith("it rests on 1 group of camera,")
    assert got(1, PLAN)[1].startswith("it rests on 1 image,")
    assert got(6, PLAN)[0] == got(5, replace(PLAN, level=0.9))[0] == "improved"
    assert got(7, replace(PLAN, level=0.99))[0] == "not judged"
    assert [min_units(level) for level in (0.9, 0.95, 0.99)] == [5, 6, 8]


def test_few_permutations_give_no_verdict_where_p_decides() -> None:
    few = replace(PLAN, permutations=19)
    overall = Column("AP", "AP", None, None, 50, 160)
    assert judge(overall, 0.1, 2.0, valid=1.0, p=0.05, tests=7, plan=few) == (
        "not judged", "19 permutations can't give a p below 0.05; raise report.permutations",
    )  # fmt: skip
    assert judge(overall, 0.1, 2.0, valid=1.0, p=None, tests=7, plan=few)[0] == "improved"
    # Classes get more permutations where they need them.
    one = replace(overall, label=1)
    assert judge(one, 0.1, 2.0, valid=1.0, p=0.02, tests=7, plan=few)[0] == "improved"


def test_sentences() -> None:
    assert words(BETTER)["sentence"] == (
        "distilled is better than control by +5.2 AP (95 % interval +3.9 to +6.6, permutation p 0.001) on these 160 images."
    )
    worse = replace(BETTER, delta=-1.25, low=-2.0, high=-0.04, p=0.031, verdict="regressed")
    assert words(worse)["sentence"] == (
        "distilled is worse than control by 1.25 AP (95 % interval -2.00 to -0.04, permutation p 0.031) on these 160 images."
    )
    unclear = replace(
        BETTER,
        key="AP50/person",
        delta=0.3,
        low=-0.6,
        high=1.2,
        p=0.41,
        p_adjusted=0.62,
        smallest_visible=1.3,
        verdict="no visible difference",
    )
    assert words(unclear, replace(PLAN, group_by="video", units=12))["sentence"] == (
        "distilled and control: no difference that this set can show (smallest visible: 1.3 AP50 of person); measured "
        "+0.3 AP50 of person (95 % interval -0.6 to +1.2, permutation p 0.41 (0.62 after correction for the number of "
        "classes)) on these 160 images in 12 groups of video."
    )
    same = replace(
        BETTER,
        key="AP@camera=gate",
        delta=0.0,
        low=0.0,
        high=0.0,
        sd=0.0,
        p=None,
        smallest_visible=0.0,
        verdict="no visible difference",
    )
    assert (
        words(same)["sentence"]
        == "distilled and control: AP at camera=gate is the same in every draw on these 160 images."
    )
    lucky = replace(
        BETTER,
        delta=5.1,
        low=0.6,
        high=9.6,
        p=0.36,
        verdict="no visible difference",
        reason="the 95 % interval is above 0, but the permutation p is 0.36, not below 0.05",
    )
    assert words(lucky, replace(PLAN, images=8, units=8))["sentence"] == (
        "distilled and control: no difference that this set can show; measured +5.1 AP (95 % interval +0.6 to +9.6, "
        "permutation p 0.36) on these 8 images: the 95 % interval is above 0, but the permutation p is 0.36, not below "
        "0.05."
    )


def test_a_sentence_without_a_verdict_gives_what_was_measured() -> None:
    unjudged = replace(
        BETTER, delta=2.4, verdict="not judged", reason="it rests on 3 groups of camera, too few to tell"
    )
    assert words(unjudged, replace(PLAN, group_by="camera", units=3))["sentence"] == (
        "distilled against control: measured +2.4 AP on these 160 images in 3 groups of camera, not judged: it rests on "
        "3 groups of camera, too few to tell."
    )
    absent = replace(BETTER, delta=None, low=None, high=None, verdict="not judged", reason="it rests on 0 objects")
    assert words(absent)["sentence"] == "distilled against control: AP is not judged, it rests on 0 objects."


def test_the_floor_of_many_permutations_is_not_printed_as_zero() -> None:
    assert "permutation p 0.0002)" in words(replace(BETTER, p=0.0002))["sentence"]


def test_non_inferiority() -> None:
    plan = replace(PLAN, margin=0.5)
    assert words(BETTER)["not_inferior"] is None
    kept = replace(BETTER, low=-0.2, high=1.0, delta=0.4, not_inferior=True)
    assert words(kept, plan)["not_inferior"] == (
        "distilled is not worse than control by more than 0.5 points: the lower bound of the 95 % interval is -0.2."
    )
    unsure = replace(kept, low=-0.8, not_inferior=False)
    assert words(unsure, plan)["not_inferior"] == (
        "distilled may be worse than control by more than 0.5 points: the lower bound of the 95 % interval is -0.8."
    )
    lost = replace(kept, low=-2.8, high=-0.9, not_inferior=False)
    assert words(lost, plan)["not_inferior"] == (
        "distilled is worse than control by more than 0.5 points: the upper bound of the 95 % interval is -0.9."
    )


def test_seeds() -> None:
    names = ("control", "distilled")
    assert "knows the noise of the test set only" in seeds_text((None,), (3,), names)
    several = seeds_text((1, 2, 3), (3, 2, 1), names)
    assert several.startswith("3 runs each, paired by training seed: ")
    assert "with 3 runs the seed part is rough" in several
    assert "only about 75 of 100 such intervals hold the truth" in several
    assert "p value is about the test set alone" in several
    assert "not paired by training seed" in seeds_text((1, 2, 3), (4, 5, 6), names)
    many = seeds_text(tuple(range(5)), tuple(range(6)), names)
    assert many.startswith("5 and 6 runs, not paired")
    assert "rough" not in many
    assert "not how much another seed would move control" in seeds_text((1,), (1, 2), names)
    assert "not how much another seed would move distilled" in seeds_text((1, 2), (1,), names)
    assert words(BETTER, control=(1, 2), distilled=(1, 2))["seeds"].startswith("2 runs each, paired")


@pytest.mark.parametrize(("runs", "hundredths"), FEW_RUNS.items())
def test_what_is_said_of_few_runs_is_measured(runs: int, hundredths: int) -> None:
    rng = np.random.default_rng(0)
    means = run_shares(runs, 1000, 0) @ rng.normal(size=(runs, 4000))
    low, high = quantiles(means, (0.025, 0.975))
    assert 100 * ((low <= 0) & (0 <= high)).mean() == pytest.approx(hundredths, abs=2.5)


def test_the_rule_is_printed() -> None:
    rule = rule_text(PLAN)
    assert rule.startswith("Improved: the 95 % interval of the difference is above 0 and p < 0.05; regressed: ")
    assert "2,000 draws of 160 images" in rule
    assert "for sizes and slices the interval alone decides" in rule
    assert "fewer than 6 images, or missing from more than 5 % of the draws" in rule
    grouped = rule_text(replace(PLAN, group_by="video", units=12))
    assert "draws of 12 groups of video" in grouped
    assert "fewer than 6 groups of video" in grouped
    ninety = rule_text(replace(PLAN, level=0.9))
    assert "the 90 % interval" in ninety
    assert "p < 0.1;" in ninety
    assert "fewer than 5 images" in ninety
    assert "p <" not in rule_text(replace(PLAN, permutations=0))
