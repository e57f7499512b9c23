from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from detkd import cli
from detkd.errors import ConfigError
from detkd.runs import finish_run, open_run, process_start, start_run
from detkd.tasks.watch_state import process_lives


def test_a_run_names_its_process(tmp_path: Path) -> None:
    start_run(tmp_path, "train", {"seed": 3})
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["pid"] == os.getpid()
    assert record["host"] == platform.node()
    assert record["process_started"] == process_start(os.getpid())
    assert process_lives(record)
    assert "resumed" not in record


def test_resuming_is_noted(tmp_path: Path) -> None:
    start_run(tmp_path, "train", {"seed": 3})
    file = tmp_path / "run.json"
    before = json.loads(file.read_text()) | {"pid": 1, "process_started": 1, "host": "elsewhere"}
    file.write_text(json.dumps(before))
    assert open_run(tmp_path, "train") == tmp_path.resolve()
    record = json.loads(file.read_text())
    assert process_lives(record)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(record["resumed"])) < timedelta(minutes=1)
    kept = before.keys() - {"pid", "process_started", "host"}
    assert {key: record[key] for key in kept} == {key: before[key] for key in kept}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "run.json"]


def test_a_refused_resume_changes_nothing(tmp_path: Path) -> None:
    start_run(tmp_path, "train", {})
    file = tmp_path / "run.json"
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="is a train run"):
        open_run(tmp_path, "distill")
    assert file.read_bytes() == before
    finish_run(tmp_path, AP=1.0)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="is finished"):
        open_run(tmp_path, "train")
    assert file.read_bytes() == before


def test_a_folder_of_another_verb_is_left_alone(tmp_path: Path) -> None:
    start_run(tmp_path, "train", {"seed": 3})
    before = (tmp_path / "run.json").read_text(), (tmp_path / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"out: .* holds a train run; choose another folder with out="):
        start_run(tmp_path, "compare", {})
    assert ((tmp_path / "run.json").read_text(), (tmp_path / "config.yaml").read_text()) == before
    finish_run(tmp_path)
    start_run(tmp_path, "train", {"seed": 4})


def test_a_run_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gt.json").write_text("{}")
    words = ["compare", "before=a.json", "after=b.json", "gt=gt.json", "out=c"]
    assert cli.main(words) == 2
    record = json.loads((tmp_path / "c" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "gt.json" in record["reason"]
