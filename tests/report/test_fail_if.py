from __future__ import annotations

from typing import Any

import pytest

from detkd.errors import ConfigError
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from detkd.report.comparison import Comparison, compare
from detkd.report.fail_if import FailIf, parse_fail_if
from tests.report.conftest import QUICK, run_of, side_of


@pytest.mark.parametrize(
    ("expression", "parsed"),
    [
        ("AP<-0.5", FailIf("AP", "<", -0.5)),
        (" AP50 <= -1 ", FailIf("AP50", "<=", -1.0)),
        ("AR_small>2e0", FailIf("AR_small", ">", 2.0)),
        ("AP/traffic light>=.5", FailIf("AP/traffic light", ">=", 0.5)),
        ("AP50/a<b<=+1", FailIf("AP50/a<b", "<=", 1.0)),
    ],
)
def test_fail_if_grammar(expression: str, parsed: FailIf) -> None:
    assert parse_fail_if(expression) == parsed


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("AP", "fail_if: must be METRIC OP POINTS with OP one of < <= > >=, got 'AP'; write fail_if='AP<-0.5'"),
        ("", "must be METRIC OP POINTS"),
        ("AP==1", "must be METRIC OP POINTS"),
        ("<1", "must be METRIC OP POINTS"),
        ("AP<half", "the limit must be a number of points, got 'half'"),
        ("AP<nan", "the limit must be a number of points, got 'nan'"),
        ("AP<-0.5%", "the limit must be a number of points"),
        ("mAP<-0.5", "unknown metric, got 'mAP'; did you mean AP.* Known: AP, AP50, AP75, AP_small, .*AP/CLASS"),
        ("ap50<0", r"unknown metric, got 'ap50'; did you mean AP50\?"),
        ("AP_small/car<0", "unknown metric, got 'AP_small/car'"),
    ],
)
def test_fail_if_errors(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_fail_if(expression)


def test_the_bound_nearest_to_the_condition_counts(better: Comparison) -> None:
    """The gate passes only when the loss is excluded, not when the set is too small to see it."""
    contrast = better.row("AP").contrast
    assert contrast.low is not None
    assert contrast.high is not None
    assert contrast.low < contrast.delta < contrast.high
    passed = parse_fail_if(f"AP<{contrast.low - 0.01:.4f}").check(better)
    assert not passed
    assert f"AP after - before is {contrast.delta:+.2f} points, 95% interval" in passed.message
    assert passed.message.endswith("lower bound used")
    failed = parse_fail_if(f"AP<{contrast.low + 0.01:.4f}").check(better)
    assert failed.failed
    assert ": failed, " in failed.message
    assert parse_fail_if(f"AP>{contrast.high - 0.01:.4f}").check(better)
    assert not parse_fail_if(f"AP>{contrast.high + 0.01:.4f}").check(better)


def test_nothing_known_is_nothing_excluded(gt: dict[str, Any]) -> None:
    few = {**gt, "annotations": [a for a in gt["annotations"] if a["category_id"] != 3] + gt["annotations"][:0]}
    few["annotations"] += [a for a in gt["annotations"] if a["category_id"] == 3][:3]
    sides = [
        side_of(name, role, run_of(few, n, 0.1)) for n, (name, role) in enumerate((("a", "before"), ("b", "after")))
    ]
    verdict = parse_fail_if("AP/car<-50").check(compare(*sides, settings=QUICK, progress=False))
    assert verdict.failed
    assert "not judged" in verdict.message


def test_nothing_measured_is_nothing_passed(gt: dict[str, Any]) -> None:
    empty = [make_run(load_truth(gt), [], source=f"{n}.json") for n in range(2)]
    sides = side_of("a", "before", empty[0]), side_of("b", "after", empty[1])
    verdict = parse_fail_if("AP<-0.5").check(compare(*sides, settings=QUICK, progress=False))
    assert verdict.failed
    assert verdict.message.endswith("a has no detections: nothing was measured")


def test_what_can_not_be_checked_does_not_pass(better: Comparison) -> None:
    with pytest.raises(ConfigError, match=r"unknown metric, got 'AP/cat'; did you mean AP/car\?"):
        parse_fail_if("AP/cat<0").check(better)
    with pytest.raises(ConfigError, match=r"AP/toothbrush is n/a on this set"):
        parse_fail_if("AP/toothbrush<0").check(better)
