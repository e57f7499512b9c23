"""`device=cpu,cpu`: a distillation in two processes, one of which is killed, and its continuation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from detkd import api
from detkd.config import compose
from detkd.errors import ConfigError
from detkd.quoting import quote
from detkd.tasks.arguments import list_devices, pick_device
from tests.inference.tiny import save, tiny_model

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("value", "devices"),
    [("auto", ["auto"]), (0, ["0"]), ("0,1", ["0", "1"]), ("[0, 1]", ["0", "1"]), ([0, 1], ["0", "1"]),
     ("cuda:1", ["1"]), ("cpu", ["cpu"]), ("cpu,cpu", ["cpu", "cpu"])],
)  # fmt: skip
def test_devices_are_listed(value: object, devices: list[str]) -> None:
    assert list_devices(value) == devices


@pytest.mark.parametrize(("value", "reason"), [("0,0", "twice"), ("gpu", "must be auto"), ("0,cpu", "must be auto")])
def test_devices_that_make_no_sense_are_refused(value: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        list_devices(value)


def test_each_process_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert [pick_device(value, ranks=True) for value in ("auto", "0,1", "1,0", "cpu,cpu")] == ["1", "1", "0", "cpu"]
    with pytest.raises(ConfigError, match="torchrun is for detkd train"):
        pick_device("auto")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="devices for 2"):
        pick_device("0,1", ranks=True)


def test_one_verb_at_a_time_starts_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="name one, e"):
        pick_device("0,1")


def test_a_batch_that_can_not_be_shared_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    words = ["model=yolo26n.yaml", f"data={REPO / 'data' / 'samples'}", "batch=5", "device=cpu,cpu", "out=run"]
    with pytest.raises(ConfigError, match="batch: 5 images can't be shared by 2 processes evenly; use batch=4 or 6"):
        api.train(compose("train", words))
    assert not (tmp_path / "run").exists()


def run_command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "detkd", "distill", *words],
        env={**os.environ, "PYTHONPATH": str(REPO)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_second(parent: int) -> None:
    for child in psutil.Process(parent).children(recursive=True):
        if child.environ().get("RANK") == "1":
            child.send_signal(signal.SIGKILL)
            return
    raise AssertionError("no second process")


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_resume_goes_on(tmp_path: Path) -> None:
    teacher = save(tiny_model(seed=3), tmp_path / "teacher.pt")
    run = tmp_path / "run"
    process = run_command(
        f"teacher={teacher}", "student=yolo26n_half", f"data={REPO / 'data' / 'samples'}", "cache=views", "cache.views=2", f"cache.path={tmp_path / 'cache'}", "epochs=3",
        "trainer.val=false", "imgsz=64", "batch=4", "augment=none", "device=cpu,cpu", "threads=1", "pictures=0", "control=true",
        f"out={run}",
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (run / "resume.pt").is_file() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    kill_second(process.pid)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "process 1 of the training was killed by SIGKILL" in said
    assert f"go on with: detkd distill resume={quote(str(run))}" in said
    assert "Traceback" not in said
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed"
    assert "SIGKILL" in record["reason"]
    control = (run / "control" / "resume.pt").stat().st_mtime_ns

    process = run_command(f"resume={run}")
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    assert (run / "control" / "resume.pt").stat().st_mtime_ns == control  # it was done
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    for folder in (run, run / "control"):
        outcome = json.loads((folder / "outcome.json").read_text())
        assert (outcome["processes"], outcome["epochs"]) == (2, 3)
        assert len((folder / "train" / "results.csv").read_text().splitlines()) == 4
    stored = json.loads((run / "cache.json").read_text())
    assert stored["records"] == 8 * 2  # images, views; both processes filled it
    assert (run / "compare.html").is_file()
    assert not [path for path in run.rglob(".*") if path.is_file()], "a temporary file was left"
