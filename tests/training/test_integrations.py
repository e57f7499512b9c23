from __future__ import annotations

import detkd.environment

from ultralytics.utils import SETTINGS

from detkd.training.integrations import TRACKERS, switched


def test_trackers_are_switched_for_a_while():
    before = dict(SETTINGS)
    with switched(["mlflow"]):
        assert [name for name in TRACKERS if SETTINGS[name]] == ["mlflow"]
    assert dict(SETTINGS) == before


def test_a_search_that_is_not_running_is_never_asked():
    before = dict(SETTINGS)
    with switched(None):
        assert SETTINGS["raytune"] is False
        assert all(SETTINGS[name] == before[name] for name in TRACKERS)
    assert dict(SETTINGS) == before
