"""Two processes and one run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detkd import cli
from detkd.errors import ConfigError
from detkd.locks import let_go
from detkd.runs import claim, fail_runs, finish_run, new_folder, open_run, start_run

HOLDER = """
import os, sys, time
from pathlib import Path
from detkd.runs import start_run
start_run(Path(sys.argv[1]), "train", {"seed": 1})
child = os.fork() if sys.argv[2] == "fork" else 1
if child:
    print("ready", flush=True)
time.sleep(2 if not child else 60)
"""


@contextmanager
def at_work(folder: Path, kind: str = "alone") -> Iterator[subprocess.Popen[str]]:
    """Another process that runs in a folder; it may have a child, as loaders do."""
    command = [sys.executable, "-c", HOLDER, str(folder), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_second_of_two_is_refused_and_the_first_unharmed(tmp_path: Path) -> None:
    with at_work(tmp_path) as first:
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        message = rf"detkd \(train, process {first.pid}\) is at work in .*; wait for it or stop it"
        with pytest.raises(ConfigError, match=f"^resume: another {message}"):
            open_run(tmp_path, "train")
        with pytest.raises(ConfigError, match=f"^out: another {message}"):
            start_run(tmp_path, "train", {"seed": 2})
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert open_run(tmp_path, "train") == tmp_path.resolve()
    finish_run(tmp_path)


def test_the_command_line_says_so_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with at_work(tmp_path):
        assert cli.main(["train", f"resume={tmp_path}"]) == 2
    assert "another detkd (train, process" in capfd.readouterr().err


def test_a_killed_process_leaves_no_lock_even_where_its_children_live_on(tmp_path: Path) -> None:
    with at_work(tmp_path, "fork") as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert open_run(tmp_path, "train") == tmp_path.resolve()  # once the child is gone, two seconds later
    finish_run(tmp_path)


@pytest.mark.parametrize("end", ["done", "failed", "interrupted"])
def test_a_run_that_ends_lets_others_work_while_its_process_goes_on(tmp_path: Path, end: str) -> None:
    start_run(tmp_path, "train", {})
    finish_run(tmp_path) if end == "done" else fail_runs("no" if end == "failed" else None)
    code = "import sys; from pathlib import Path; from detkd.runs import claim; claim(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    status = json.loads((tmp_path / "run.json").read_text())["status"]
    assert status == {"done": "done", "failed": "failed", "interrupted": "running"}[end]


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = [".run-abcd1234.part.json", "weights/.last-a_b_c_d_.part.pt", "control/.metrics-00000000.part.json"]
    kept = [".my-settings.json", ".env", "notes.part.txt", ".part", "mine/.last-a_b_c_d_.part.pt"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "export" / ".a.onnx-abcd1234.part").mkdir(parents=True)
    claim(tmp_path)
    let_go(tmp_path)
    assert [name for name in left if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert list((tmp_path / "export").iterdir()) == []


def test_two_processes_that_name_no_folder_get_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: False if self.name == "train" else exists(self))
    assert [new_folder(None, "train").name for _ in range(3)] == ["train", "train-2", "train-3"]
