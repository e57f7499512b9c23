"""The campaign itself, on folders whose faults are known, and a few kills of each verb; it is run in full by hand."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import facts  # conftest.py puts scripts/campaigns on the path
import kill
import pytest

from detkd.io import write_json, write_text

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_moments_are_drawn_from_the_whole_run() -> None:
    whole = kill.Whole(10.0, 40, [2, 5000], {})
    rng = random.Random(0)
    drawn = {kind: [kill.draw(rng, whole, kind).at for _ in range(900)] for kind in kill.KINDS}
    assert 0 <= min(drawn["time"]) < 1 < 9 < max(drawn["time"]) <= 10
    assert {*drawn["step"]} == {*range(1, 41)}
    assert min(drawn["byte"]) == 1
    assert 4000 < max(drawn["byte"]) < 5000


@pytest.mark.parametrize(
    ("way", "signal_number", "left"),
    [
        (kill.Kill("step", 1), signal.SIGKILL, []),
        (kill.Kill("step", 3), signal.SIGKILL, ["part"]),  # it has its temporary name, and nothing in it
        (kill.Kill("step", 4), signal.SIGKILL, ["part"]),  # written, not renamed
        (kill.Kill("step", 5), signal.SIGKILL, ["b.txt"]),
        (kill.Kill("step", 9), signal.SIGKILL, ["b.txt", "part"]),
        (kill.Kill("byte", 60), signal.SIGXFSZ, ["part"]),
        (kill.Kill("step", 99), 0, ["a.txt", "b.txt"]),
    ],
)
def test_a_process_is_ended_where_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: kill.Kill, signal_number: int, left: list[str]
) -> None:
    def work(_: list[str]) -> int:
        write_text(tmp_path / "out" / "b.txt", "b" * 100)
        write_text(tmp_path / "out" / "a.txt", "a" * 100)
        return 0

    (tmp_path / "out").mkdir()
    monkeypatch.setattr("detkd.cli.main", work)
    status = kill.wait(kill.start([], tmp_path / "log", tmp_path / "out", way), None)
    assert (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0) == signal_number
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert sorted("part" if ".part" in name else name for name in names) == left
    assert facts.broken(tmp_path / "out") == []


def test_halves_lost_work_and_differences_are_seen(tmp_path: Path) -> None:
    write_json(tmp_path / "outcome.json", {"seconds": 1.0, "AP": 2.0})
    write_json(tmp_path / "deep" / "metrics.json", {"AP": 1.0, "latency_ms": 3, "path": str(tmp_path)})
    before, whole = facts.finished_work(tmp_path), facts.of_folder(tmp_path)
    write_json(tmp_path / "outcome.json", {"seconds": 2.0, "AP": 2.0})
    write_json(tmp_path / "deep" / "metrics.json", {"AP": 1.0, "latency_ms": 4, "path": str(tmp_path)})
    assert facts.differences(whole, facts.of_folder(tmp_path)) == []
    assert facts.lost(before, facts.finished_work(tmp_path)) == ["outcome.json"]
    write_json(tmp_path / "deep" / "metrics.json", {"AP": 1.0000001, "path": str(tmp_path)})
    assert facts.differences(whole, facts.of_folder(tmp_path)) == ["deep/metrics.json"]
    (tmp_path / "deep" / "metrics.json").write_text('{"AP": 1.')
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / ".run-abcd1234.part.json").write_text("{")
    assert [line.split(":")[0] for line in facts.broken(tmp_path)] == ["a.jpg", "deep/metrics.json", "page.html"]
    assert facts.temporary(tmp_path) == [".run-abcd1234.part.json"]


@pytest.mark.slow
@pytest.mark.parametrize("verbs", ["train", "cache", "pseudolabel", "compare,export"])
def test_two_kills_of_each_verb(tmp_path: Path, verbs: str) -> None:
    """`detkd distill` is in tests/tasks/test_resume.py."""
    script, record = Path(kill.__file__), tmp_path / "record.json"
    trials = 2 if verbs in ("train", "cache") else 1  # what is short may end before its first kill
    words = ["--only", verbs, "--trials", str(trials), "--base", str(tmp_path / "base"), "--record", str(record)]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(record.read_text())
    assert [row["equal"] for row in found["rows"]] == [trials] * len(verbs.split(","))
    assert found["kills"] > 0
    assert str(tmp_path) not in record.read_text()
