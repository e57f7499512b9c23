from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from detkd.errors import ConfigError, DataError
from detkd.evaluation.metrics import METRIC_NAMES
from detkd.report.leaderboard import CONTRASTED, Leaderboard, rank
from tests.report.conftest import QUICK, run_of, side_of, world

NOISE = {"poor": 0.25, "middle": 0.12, "middle again": 0.12, "good": 0.04}


@pytest.fixture(scope="module")
def board(gt: dict[str, Any]) -> Leaderboard:
    sides = [side_of(name, "run", run_of(gt, n, noise)) for n, (name, noise) in enumerate(NOISE.items())]
    return rank(sides, "middle", settings=QUICK, progress=False)


def test_order_and_reference(board: Leaderboard) -> None:
    values = [side.number("AP") or 0.0 for side in board.sides]
    assert values == sorted(values, reverse=True)
    assert [board.sides[0].name, board.sides[-1].name] == ["good", "poor"]
    assert board.contrast("middle") is None
    good, poor, again = (board.contrast(name) for name in ("good", "poor", "middle again"))
    assert good is not None
    assert poor is not None
    assert again is not None
    assert (good.verdict, poor.verdict, again.verdict) == ("improved", "regressed", "no visible difference")
    assert good.delta == pytest.approx(board.sides[0].number("AP") - board.reference.number("AP"))  # type: ignore[operator]


def test_p_is_adjusted_over_the_detectors(board: Leaderboard) -> None:
    for key in CONTRASTED:
        raw = {name: board.contrast(name, key).p for name in NOISE if name != "middle"}  # type: ignore[union-attr]
        assert all(board.adjusted[name, key] >= p - 1e-12 for name, p in raw.items() if p is not None)  # type: ignore[operator]
    limit = 1 - board.study.settings.level
    for name in raw:
        contrast = board.contrast(name)
        assert contrast is not None
        assert contrast.verdict == "no visible difference" or board.adjusted[name, "AP"] < limit  # type: ignore[operator]


def test_files(board: Leaderboard, tmp_path: Path) -> None:
    paths = board.write(tmp_path)
    data = json.loads(paths["json"].read_text())
    assert data == board.to_dict()
    assert (data["kind"], data["reference"]) == ("leaderboard", "middle")
    assert [entry["rank"] for entry in data["entries"]] == [1, 2, 3, 4]
    assert set(data["entries"][0]["intervals"]) == set(METRIC_NAMES)
    assert [entry["against_reference"] is None for entry in data["entries"]].count(True) == 1
    assert data["per_class"][0]["values"].keys() == NOISE.keys()
    lines = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    assert [line["name"] for line in lines] == [side.name for side in board.sides]
    assert float(lines[0]["difference"]) == pytest.approx(board.contrast("good").delta, abs=1e-4)  # type: ignore[union-attr]
    page = paths["md"].read_text()
    assert page.startswith("# 4 detectors against middle")
    assert "| 1 | good |" in page
    assert "good" in paths["html"].read_text()
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(board)
    assert "no visible difference" in console.export_text()


def test_what_can_not_be_ranked(gt: dict[str, Any]) -> None:
    one = side_of("one", "run", run_of(gt, 1, 0.1))
    two = side_of("two", "run", run_of(gt, 2, 0.1))
    with pytest.raises(ConfigError, match="runs: a leaderboard needs two detectors or more, got 1"):
        rank([one], settings=QUICK, progress=False)
    with pytest.raises(ConfigError, match="runs: every entry needs a name of its own, got one, one"):
        rank([one, one], settings=QUICK, progress=False)
    with pytest.raises(ConfigError, match="reference: must be one of the runs, got 'three'; choose one, two"):
        rank([one, two], "three", settings=QUICK, progress=False)
    with pytest.raises(DataError, match="ground truth differs"):
        rank([one, side_of("two", "run", run_of(world(40), 2, 0.1))], settings=QUICK, progress=False)
