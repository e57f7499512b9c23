"""From a config node to a recipe."""

from __future__ import annotations

import pytest

from detkd.errors import ConfigError
from detkd.losses.regions import Everywhere, TeacherTop
from detkd.tasks.recipes import make_recipe, wants_objects

CLS = {"weight": 1.0, "branches": None, "loss": {"_target_": "detkd.losses.binary.BinaryLogits"}}
TOP = {"_target_": "detkd.losses.regions.TeacherTop", "fraction": 0.2}


def test_what_a_node_may_leave_out():
    recipe = make_recipe({"terms": {"cls": CLS, "gone": None}})
    assert list(recipe.terms) == ["cls"]
    assert recipe.balance is None
    assert recipe.assignment == "student"
    assert recipe.alpha == 0.5
    assert not recipe.regions
    assert recipe.schedules == {}


def test_a_term_s_region_and_schedule_and_the_new_keys():
    other = {**CLS, "region": {"_target_": "detkd.losses.regions.Everywhere"}, "schedule": {"stop": 0.5}}
    node = {
        "terms": {"cls": CLS, "other": other},
        "region": TOP,
        "calibrate": {"head": 0.2, "features": None},
        "assignment": "mixed",
        "schedule": {"kind": "linear", "end": 0.0},
    }
    recipe = make_recipe(node)
    assert isinstance(recipe.region, TeacherTop)
    assert isinstance(recipe.regions["other"], Everywhere)
    assert recipe.strength("cls", 0.25) == recipe.strength("other", 0.25) == 0.75
    assert recipe.strength("other", 0.5) == 0.0
    assert recipe.balance is not None
    assert (recipe.balance.target("head"), recipe.balance.target("features")) == (0.2, None)
    assert recipe.assignment == "mixed"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"calibrate": {"head": -1}}, r"distill\.calibrate\.head"),
        ({"assignment": "both"}, r"distill\.assignment"),
        ({"terms": {"cls": {**CLS, "region": {"_target_": "os.getcwd"}}}}, r"distill\.terms\.cls\.region"),
        ({"terms": {"cls": {**CLS, "schedule": {"kind": "step"}}}}, r"distill\.terms\.cls\.schedule\.kind"),
    ],
)
def test_bad_values_are_named(change, key):
    with pytest.raises(ConfigError, match=key):
        make_recipe({"terms": {"cls": CLS}, **change})


CROSS = {"loss": {"_target_": "detkd.losses.crosshead.CrossHead"}}


@pytest.mark.parametrize(
    ("node", "wanted"),
    [
        ({"terms": {"cls": CLS}}, True),
        ({"terms": {"cls": {**CLS, "branches": ["one2many"]}}}, False),
        ({"terms": {"cls": CLS}, "heads": {"one2one": 0}}, False),
        ({"terms": {"cls": {**CLS, "branches": ["one2many"]}}, "assignment": "mixed"}, True),
        ({"terms": {"cross": CROSS}}, False),
        ({"terms": {"cross": CROSS, "cls": CLS}}, True),
        ({"terms": {"aux": {"loss": {"_target_": "detkd.losses.auxiliary.AuxiliaryDistances"}}}}, True),
    ],
)
def test_objects_are_found_only_for_who_reads_them(node, wanted):
    assert wants_objects(make_recipe(node)) is wanted
