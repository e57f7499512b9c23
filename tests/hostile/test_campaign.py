"""Every bad input of the table is refused in one message, or left out and counted: no traceback, no silence."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile import good
from tests.hostile.case import Case
from tests.hostile.cases import CASES
from tests.hostile.play import play


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> None:
    good.STORE[:] = [tmp_path_factory.mktemp("made")]
    good._MADE.clear()


@pytest.fixture(autouse=True)
def no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DETKD_TRUST", "DETKD_TRACEBACK", "HYDRA_FULL_ERROR", "DETKD_IMAGE_LIMIT_MP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DETKD_FILE_LIMIT_MB", "64")  # so that the largest inputs take no time


def test_the_table_is_large_and_names_every_case_once() -> None:
    assert len(CASES) >= 100
    assert max(Counter(case.id for case in CASES).values()) == 1
    assert all(case.says for case in CASES)


@pytest.mark.filterwarnings("ignore")  # of decoders, about files that are broken on purpose
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bad_input(case: Case, tmp_path: Path) -> None:
    answer = play(case, tmp_path)
    assert answer.status == (0 if case.counted else 2), answer.text
    assert case.says in answer.text
    assert "Traceback" not in answer.text
    assert "internal error" not in answer.text
    assert "\x1b" not in answer.text
    if not case.counted:
        assert len(answer.message.splitlines()) == case.lines, answer.message
        assert len(answer.message) < 1500
    assert not list(tmp_path.rglob("ran*")), "the input was executed"
    assert not (tmp_path.parent / "ran").exists()
    left = [name for _, _, names in os.walk(tmp_path) for name in names if name.startswith(".") and name != ".lock"]
    assert left == [], "half-written files"
