"""A cache that keeps fewer anchors than a recipe looks at: than some region of it, or than a loss that has none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from detkd.config import compose
from detkd.errors import ConfigError
from detkd.tasks.cache_checks import check_region, check_terms

TYPED = ["teacher=t.pt", "student=yolo26n.yaml", "data=toy", "distill.region.fraction=0.01"]


def check(k: int | None, region: dict[str, Any] | None, *terms: str) -> None:
    config = compose("distill", TYPED)
    for name in terms or ("cls",):
        config["distill"]["terms"][name]["region"] = region
    check_region(config, SimpleNamespace(k=k, anchors=1000))


def top(fraction: float) -> dict[str, Any]:
    return {"_target_": "detkd.losses.regions.TeacherTop", "fraction": fraction}


def test_a_term_s_own_region_is_refused_like_the_recipe_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"distill\.terms\.cls\.region\.fraction=0\.05 looks at 50 of 1000; use cache.k=50"
    ):
        check(20, top(0.05))
    with pytest.raises(ConfigError, match=r"distill\.region\.fraction=0\.01 looks at 10 of 1000") as caught:
        check(5, top(0.05))
    assert len(str(caught.value).splitlines()) == 2
    check(50, top(0.05))
    check(None, top(0.5))
    assert capsys.readouterr().err == ""


def test_a_recipe_s_region_that_no_term_uses_does_not_count() -> None:
    check(5, top(0.005), "cls", "giou", "l1")


def test_other_regions_of_terms_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    check(20, {"_target_": "detkd.losses.regions.Everywhere"}, "giou")
    said = capsys.readouterr().err
    assert said.count("looks at") + said.count("look at") == 1
    assert "distill.terms.giou.region (Everywhere) may look at more than the 20 anchors" in said


def test_a_loss_of_the_user_s_that_leaves_the_region_is_refused() -> None:
    config = compose("distill", [*TYPED, "plugins=[tests]", "cache=views"])
    check_terms(config)
    config["distill"]["terms"]["mine"] = {
        "loss": {"_target_": "tests.losses.test_placeholders.Squared", "where": "all"}
    }
    with pytest.raises(ConfigError, match=r"distill\.terms\.mine\.loss: looks at anchors where context\.region is 0"):
        check_terms(config)
    config["distill"]["terms"]["mine"]["loss"]["where"] = "region"
    check_terms(config)
