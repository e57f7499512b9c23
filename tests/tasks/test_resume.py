from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_killed_distillation_goes_on_and_ends_like_an_undisturbed_one(tmp_path: Path, repo: Path) -> None:
    """`kill -9` in the middle, then `resume=`: same final metrics and weights, no temporary file left."""
    import torch

    from tests.inference.tiny import save, tiny_model

    teacher = save(tiny_model(seed=3), tmp_path / "teacher.pt")
    words = [
        f"teacher={teacher}", "student=yolo26n_half", f"data={repo / 'data' / 'samples'}", "epochs=8", "imgsz=64", "batch=4",
        "augment=none", "device=cpu", "threads=1", "pictures=0", "trainer.val=false", "control=true",
    ]  # fmt: skip
    command = [sys.executable, "-m", "detkd", "distill"]
    subprocess.run([*command, *words, "out=whole"], check=True, capture_output=True)

    process = subprocess.Popen([*command, *words, "out=part"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "part" / "resume.pt").is_file() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "part" / "outcome.json").is_file()
    subprocess.run([*command, "resume=part"], check=True, capture_output=True)

    record = json.loads((tmp_path / "part" / "run.json").read_text())
    assert record["status"] == "done"
    whole, part = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "part"))
    assert whole["metrics"]["AP"] == part["metrics"]["AP"]
    states = [torch.load(tmp_path / name / "resume.pt", weights_only=True)["model"] for name in ("whole", "part")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    again = subprocess.run([*command, "resume=part"], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is finished" in again.stderr


def limited(size: int) -> None:
    """Let no file of this process grow further, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "file"), [(200_000, "last.pt"), (3_000_000, "resume.pt")])
def test_a_training_whose_disk_is_full_says_so_once_and_goes_on_when_there_is_room(
    tmp_path: Path, repo: Path, size: int, file: str
) -> None:
    words = [
        "model=yolo26n_half", f"data={repo / 'data' / 'samples'}", "epochs=2", "imgsz=64", "batch=4", "augment=none",
        "device=cpu", "threads=1", "pictures=0", "trainer.val=false", "out=run",
    ]  # fmt: skip
    command = [sys.executable, "-m", "detkd", "train"]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, check=False, preexec_fn=lambda: limited(size)
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("detkd train:")]
    assert f"{file} (File too large); make room" in line
    assert "Traceback" not in done.stderr
    folder = tmp_path / "run"
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert [path for path in folder.rglob("*") if ".part" in path.name] == []
    assert not (folder / "resume.pt").exists()
    subprocess.run([*command, "resume=run"], check=True, capture_output=True)
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
