from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from detkd.errors import DataError
from detkd.evaluation.records import read_records
from detkd.io import atomic_path, sweep, write_json, write_json_list, write_text


@pytest.mark.parametrize("items", [[], [{"a": 1.5}], [{"a": n, "name": "ä],[{"} for n in range(5000)]])
def test_a_list_written_piece_by_piece_is_json(tmp_path: Path, items: list[Any]) -> None:
    path = write_json_list(tmp_path / "out" / "list.json", iter(items))
    assert json.loads(path.read_text(encoding="utf-8")) == items
    assert [one for block in read_records(path) for one in block] == items


def test_a_list_is_complete_or_absent(tmp_path: Path) -> None:
    def broken() -> Any:
        yield {"a": 1}
        raise RuntimeError("no more")

    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(RuntimeError, match="no more"):
        write_json_list(path, broken())
    with pytest.raises(ValueError, match="JSON"):
        write_json_list(path, [{"a": float("nan")}])
    assert path.read_text() == "[]"
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Make the system refuse to let a file grow, as it does when the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_numbers(path: Path) -> Path:
    return write_json_list(path, range(10_000))


def write_checkpoint(path: Path) -> None:
    import torch

    from detkd.training.checkpoint import save_state

    save_state(path, {"model": {"weight": torch.zeros(10_000)}, "more": [torch.zeros(5_000)]})


def write_figure(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(range(100))
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.json", lambda path: write_json(path, list(range(10_000)))),
        ("a.txt", lambda path: write_text(path, "a" * 10_000)),
        ("b.json", write_numbers),
        ("a.pt", write_checkpoint),
        ("a.png", write_figure),
    ],
)
def test_no_room(tmp_path: Path, name: str, write: Any) -> None:
    """One message, the file that was there before untouched, nothing half-written beside it."""
    target = tmp_path / name
    write(target)
    before = target.read_bytes()
    message = rf"^out: can't write .*{name} \(File too large\); make room \([0-9,.]+ MB are free\) and go on"
    with files_of_at_most(4096), pytest.raises(DataError, match=message):
        write(target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"^out: can't write .*a.txt \(No space left on device\); make room"),
        (errno.EROFS, r"a.txt \(Read-only file system\); choose a writable folder with out="),
    ],
)
def test_a_name_that_can_not_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def refused(**_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("detkd.io.tempfile.mkstemp", refused)
    with pytest.raises(DataError, match=message):
        write_text(tmp_path / "a.txt", "a")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "missing").read_text()
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_leaves_can_be_told_from_results(tmp_path: Path) -> None:
    code = (
        "import sys, time; from detkd.io import atomic_path\n"
        "with atomic_path(sys.argv[1]) as file:\n"
        "    file.write_text('{'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.json")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".run-")
    assert left.name.endswith(".part.json")
    sweep(tmp_path, tmp_path / "not there")
    assert list(tmp_path.iterdir()) == []
