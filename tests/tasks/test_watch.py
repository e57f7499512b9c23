from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import detkd.environment

import pytest
import torch
from rich.console import Console

from detkd.errors import ConfigError
from detkd.runs import process_start
from detkd.tasks.watch import watch
from detkd.tasks.watch_state import find_run, process_lives, read_parts, remaining, status
from detkd.tasks.watch_view import duration, sparkline, view
from detkd.training import live
from detkd.training.live import HISTORY_FILE, LIVE_FILE, History, Live

NOW = 1_800_000_000.0


def write_run(folder: Path, *, verb: str = "distill", started: float = NOW - 100, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    when = datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")
    record = {"schema": 1, "verb": verb, "status": "running", "started": when, **more}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def process(*, lives: bool = True) -> dict[str, Any]:
    ticks = process_start(os.getpid())
    return {"pid": os.getpid(), "process_started": ticks if lives else 1, "host": platform.node()}


def live_state(**more: Any) -> dict[str, Any]:
    return {
        "schema": 1, "name": "x", "pid": os.getpid(), "process_started": process_start(os.getpid()),
        "host": platform.node(), "phase": "training", "started": NOW - 90, "updated": NOW - 1, "epoch": 3, "epochs": 10,
        "step": 20, "steps": 50, "done": 120, "batch": 8, "validates": True, "validation_seconds": 4.0,
        "step_seconds": 0.5, "lr": 0.00123, "rss_mb": 1234, "gpu_mb": 3400,
        "losses": {"box_loss": 1.2345, "cls_loss": 0.5, "kd_cls": 0.25, "kd": 0.25},
        "validations": [[1, 10.0, 20.0], [2, 12.5, 25.0]], **more,
    }  # fmt: skip


def write_live(folder: Path, **more: Any) -> None:
    (folder / LIVE_FILE).write_text(json.dumps(live_state(**more)))
    lines = [{"done": n, "losses": {"box_loss": 3 - n / 60, "cls_loss": 0.5, "kd_cls": n / 120}} for n in range(120)]
    (folder / HISTORY_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"done": 120, "lo')


def shown(folder: Path, width: int = 80, now: float = NOW) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(view(read_parts(folder, now), width))
    return console.export_text()


def states(folder: Path, now: float = NOW) -> list[str]:
    return [part.status for part in read_parts(folder, now)]


def test_a_distillation_shows_control_and_student_in_80_columns(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d")
    control = write_run(folder / "control", verb="train", status="done", AP=31.24, AP50=50.5)
    write_live(control, phase="trained", epoch=10, done=500)
    write_live(folder)
    text = shown(folder)
    assert max(map(len, text.splitlines())) <= 80
    first, second = text.split("distilled")
    assert "control  finished" in first
    assert "test AP 31.24  AP50 50.50" in first
    assert "eta" not in first
    assert "epoch 3/10  step 20/50" in second
    assert "24%" in second
    assert "eta 3 min 42 s" in second  # 380 steps of 0.5 s and 8 validations of 4 s
    assert "16 images/s  memory 1.2 GB  GPU 3.4 GB  lr 0.0012" in second
    assert "last seen" not in second
    assert "last seen 31 s ago" in " ".join(shown(folder, 100, NOW + 30).split())
    rows = {line.split()[1]: line for line in second.splitlines() if len(line.split()) > 3}
    assert list(rows)[2:7] == ["loss", "box", "cls", "kd_cls", "kd"]
    assert "1.234" in rows["box"] or "1.235" in rows["box"]
    assert rows["box"].index("█") < rows["box"].index("▁")  # falls
    assert rows["kd_cls"].index("▁") < rows["kd_cls"].index("█")  # rises
    assert "val AP 12.50  AP50 25.00  in epoch 2; best AP 12.50 in epoch 2" in second


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    folder = write_run(tmp_path / "a run with a rather long name [which] is no markup")
    write_live(folder, phase="failed", error="batch: does not fit [bold]the[/bold] device")
    text = shown(folder, width)
    assert max(map(len, text.splitlines())) <= width
    assert "[bold]the[/bold]" in " ".join(text.replace("│", " ").split()) or width == 40


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({"phase": "failed", "error": "the loss became nan"}, ["failed", "the loss became nan", "resume="]),
        ({"phase": "interrupted"}, ["interrupted", "go on with: detkd distill resume="]),
        ({"process_started": 1}, ["killed: its process is gone", "resume="]),
        ({"phase": "trained"}, ["trained, evaluating"]),
        ({"phase": "validation"}, ["validation"]),
        ({"host": "elsewhere", "updated": NOW - 3700}, ["no sign of life", "for 1 h 02 min"]),
        ({"host": "elsewhere", "updated": NOW - 60}, ["training"]),
        ({"host": "elsewhere", "updated": NOW - 600, "step_seconds": 30.0}, ["training"]),
    ],
)
def test_states(tmp_path: Path, live: dict[str, Any], expected: list[str]) -> None:
    folder = write_run(tmp_path / "d", started=NOW - 5000)
    write_live(folder, **{"started": NOW - 4000, **live})
    text = shown(folder, 200)
    for words in expected:
        assert words in text


def test_before_the_first_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d")
    assert "starting" in shown(folder)
    write_run(folder / "control", verb="train")
    write_live(folder / "control")
    parts = read_parts(folder, NOW)
    assert [(part.name, part.status) for part in parts] == [("control", "training"), ("distilled", "waiting")]
    assert "waiting for the control" in shown(folder)
    assert "no sign of life" in shown(write_run(tmp_path / "old", started=NOW - 9000))


def test_a_student_has_time_to_start_after_a_long_control(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d", started=NOW - 9000)
    write_run(folder / "control", verb="train", started=NOW - 8990, status="done", finished=iso(NOW - 60))
    assert states(folder) == ["finished", "starting"]
    assert states(folder, NOW + 800) == ["finished", "starting"]
    assert states(folder, NOW + 900) == ["finished", "silent"]  # of an older version, so its process is not known
    write_run(folder, started=NOW - 9000, **process())
    assert states(folder, NOW + 9000) == ["finished", "starting"]
    write_run(folder, started=NOW - 9000, **process(lives=False))
    assert states(folder) == ["finished", "killed"]
    assert "go on with: detkd distill resume=" in shown(folder, 200)


def test_a_resumed_run_starts_anew(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d", started=NOW - 9000, **process(lives=False))
    write_live(folder, process_started=1, started=NOW - 8000, updated=NOW - 5000)
    assert states(folder) == ["killed"]
    write_run(folder, started=NOW - 9000, resumed=iso(NOW - 20), **process())
    part = read_parts(folder, NOW)[0]
    assert (part.status, part.live, part.history) == ("starting", {}, ())
    write_run(folder, started=NOW - 9000, resumed=iso(NOW - 20), **process(lives=False))
    assert states(folder) == ["killed"]  # before its first step
    write_run(folder, started=NOW - 9000, resumed=iso(NOW - 20), **{**process(), "host": "elsewhere"})
    assert states(folder) == ["starting"]
    write_live(folder, started=NOW - 10)
    assert states(folder) == ["training"]


def test_a_resumed_distillation_starts_its_control_anew(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d", started=NOW - 9000, resumed=iso(NOW - 20), **process())
    control = write_run(folder / "control", verb="train", started=NOW - 8990, **process(lives=False))
    write_live(control, process_started=1, started=NOW - 8980, updated=NOW - 5000)
    assert states(folder) == ["starting", "waiting"]
    assert states(control) == ["starting"]
    write_live(control, started=NOW - 10)
    assert states(folder) == ["training", "waiting"]
    write_live(control, started=NOW - 10, phase="failed")
    assert states(folder) == ["failed", "waiting"]


def test_a_run_resumed_after_its_last_step_is_evaluated(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d", started=NOW - 9000, resumed=iso(NOW - 20), **process())
    write_live(folder, process_started=1, phase="trained", started=NOW - 8000, updated=NOW - 5000)
    assert states(folder) == ["starting"]
    (folder / "outcome.json").write_text("{}")
    assert states(folder) == ["evaluating"]
    write_run(folder, started=NOW - 9000, resumed=iso(NOW - 20), **process(lives=False))
    assert states(folder) == ["killed"]


def test_a_refused_resume_does_not_hide_the_process_that_trains(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d", started=NOW - 9000, resumed=iso(NOW - 1), **{**process(lives=False), "pid": 1})
    write_live(folder, started=NOW - 8000, updated=NOW - 5)
    assert states(folder) == ["training"]


def test_files_of_an_earlier_run_in_the_same_folder_do_not_count(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d", started=NOW - 10)
    write_live(folder, started=NOW - 90)
    assert [(part.status, part.live) for part in read_parts(folder, NOW)] == [("starting", {})]


def test_damaged_files_are_survived(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d")
    (folder / LIVE_FILE).write_text("{")
    assert read_parts(folder, NOW)[0].status == "starting"
    write_live(folder)
    assert len(read_parts(folder, NOW)[0].history) == 120  # its last line is cut off


def test_a_process_is_known_by_more_than_its_number() -> None:
    assert process_lives(live_state()) is True
    assert process_lives(live_state(process_started=None)) is True
    assert process_lives(live_state(host="elsewhere")) is None
    assert process_lives({}) is None
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert process_lives(live_state(pid=int(done.stdout))) is False
    assert process_lives(live_state(pid=int(done.stdout), process_started=None)) is False
    assert status({"status": "done"}, live_state(), NOW, False) == "finished"


def test_time_left() -> None:
    assert remaining(live_state()) == 380 * 0.5 + 8 * 4.0
    assert remaining(live_state(validates=False)) == 190.0
    assert remaining(live_state(done=500)) == 0.0
    assert remaining({"steps": 5}) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (200000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sparklines() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([float(n) for n in range(1000)], 4)[0] == "▁"
    assert len(sparkline([float(n) for n in range(1000)], 33)) == 33
    assert sparkline([2.0, 2.0, None], 9) == "▄▄"
    assert sparkline([5.0], 9) == sparkline([], 9) == ""
    falling = sparkline([1000.0, *(40.0 - n for n in range(39))], 40)
    assert len(set(falling)) == 8  # the first steps don't flatten the rest


def test_runs_are_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training under"):
        find_run(None)
    write_run(Path("runs/new-done"), status="done", started=NOW)
    write_run(Path("runs/old"), started=NOW - 50)
    write_run(Path("runs/older"), verb="train", started=NOW - 70)
    write_run(Path("runs/export"), verb="export", started=NOW + 1)
    assert find_run(None, now=NOW) == Path("runs/old")
    assert find_run(None, now=NOW + 9000) == Path("runs/new-done")  # nothing is known of the others any more
    assert find_run("runs/older") == Path("runs/older")
    assert find_run("runs/older/run.json") == Path("runs/older")
    with pytest.raises(ConfigError, match="run: runs/export is of detkd export"):
        find_run("runs/export")
    with pytest.raises(ConfigError, match=r"it holds the runs runs/export, runs/new-done"):
        find_run("runs")
    with pytest.raises(ConfigError, match="no run folder"):
        find_run("elsewhere")


def test_the_newest_run_is_one_that_goes_on_else_the_last_to_give_a_sign() -> None:
    dead = write_run(Path("runs/dead"), started=NOW - 90000, **process(lives=False))
    write_live(dead, process_started=1, started=NOW - 90000, updated=NOW - 80000)
    done = write_run(Path("runs/done"), started=NOW - 95000, status="done", finished=iso(NOW - 60))
    assert find_run(None, now=NOW) == done
    write_live(dead, process_started=1, started=NOW - 90000, updated=NOW - 30, phase="failed")
    assert find_run(None, now=NOW) == dead  # it failed after the other had finished
    away = write_run(Path("runs/away"), started=NOW - 96000)
    write_live(away, host="elsewhere", started=NOW - 96000, updated=NOW - 50)
    assert find_run(None, now=NOW) == away
    write_live(away, host="elsewhere", started=NOW - 96000, updated=NOW - 7000)
    assert find_run(None, now=NOW) == dead
    write_run(dead, started=NOW - 90000, status="done", finished=iso(NOW - 100))
    assert find_run(None, now=NOW) == done
    write_run(away, started=NOW - 96000, resumed=iso(NOW - 2000), **process())
    assert find_run(None, now=NOW) == away


def test_watch_looks_again_until_the_run_is_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d")
    write_live(folder)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            write_run(folder, status="done", AP=40.5, AP50=60.0, gain=1.25)

    watch({"run": str(folder), "refresh": 0.5, "once": False}, console=console, clock=lambda: NOW, sleep=sleep)
    assert waited == [0.5] * 3
    assert "test AP 40.50 (+1.25 against its control)  AP50 60.00" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_result_of_a_demo_is_read_from_its_metrics(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d", verb="demo", status="done", gain=4.7)
    assert "+4.70 AP against its control" in shown(folder)
    (folder / "metrics.json").write_text("[1]")
    assert "+4.70 AP against its control" in shown(folder)
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"AP": 13.82, "AP50": 30.7}, "split": "val"}))
    assert "val AP 13.82 (+4.70 against its control)  AP50 30.70" in shown(folder)


def test_watch_ends_quietly_on_interrupt_and_at_once_without_a_terminal(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "d")
    write_live(folder)

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    terminal = Console(file=io.StringIO(), force_terminal=True)
    watch({"run": str(folder), "refresh": 2, "once": False}, console=terminal, sleep=interrupt)
    for settings, console in (
        ({"once": True}, terminal),
        ({"once": False}, Console(file=io.StringIO(), force_terminal=False, width=80)),
    ):
        watch({"run": str(folder), "refresh": 2, **settings}, console=console, clock=lambda: NOW, sleep=interrupt)
    assert "epoch 3/10" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"refresh: must be 0\.1 to 3600"):
        watch({"run": str(folder), "refresh": 0, "once": True})


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class FakeTrainer:
    """Runs the callbacks in the order of Ultralytics' trainer, on losses that are given."""

    def __init__(self, clock: Clock, *, epochs: int, steps: int, start: int = 0, pace: float = 0.4) -> None:
        self.clock, self.pace = clock, pace
        self.epochs, self.start_epoch, self.epoch = epochs, start, start
        self.train_loader = range(steps)
        self.batch_size, self.device = 4, torch.device("cpu")
        self.args = SimpleNamespace(val=True)
        weight, bias = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        self.optimizer = torch.optim.SGD(
            [{"params": [bias], "lr": 0.1, "param_group": "bias"}, {"params": [weight], "lr": 0.02}]
        )
        self.tloss: dict[str, torch.Tensor] | None = None
        self.metrics: dict[str, float] = {}
        self.callbacks: dict[str, list[Any]] = {}

    def add_callback(self, event: str, callback: Any) -> None:
        self.callbacks.setdefault(event, []).append(callback)

    def run_callbacks(self, event: str) -> None:
        for callback in self.callbacks.get(event, []):
            callback(self)

    def train(self, fail: BaseException | None = None) -> None:
        try:
            self.run_callbacks("on_train_start")
            for epoch in range(self.start_epoch, self.epochs):
                self.epoch = epoch
                self.run_callbacks("on_train_epoch_start")
                self.tloss = None
                for i in self.train_loader:
                    self.clock.now += self.pace
                    value = torch.tensor(float(self.epoch * len(self.train_loader) + i))
                    self.tloss = {
                        "box_loss": value if self.tloss is None else (self.tloss["box_loss"] * i + value) / (i + 1)
                    }
                    self.run_callbacks("on_train_batch_end")
                if fail is not None:
                    raise fail
                self.run_callbacks("on_val_start")
                self.clock.now += 10.0
                self.run_callbacks("on_val_batch_end")
                self.run_callbacks("on_val_end")
                self.metrics = {"metrics/mAP50-95(B)": 0.1 * (self.epoch + 1), "metrics/mAP50(B)": 0.5}
                self.run_callbacks("on_fit_epoch_end")
            self.run_callbacks("on_train_end")
        finally:
            self.run_callbacks("teardown")


def trained(folder: Path, clock: Clock, fail: BaseException | None = None, **more: Any) -> dict[str, Any]:
    trainer = FakeTrainer(clock, **{"epochs": 2, "steps": 10, **more})
    Live(folder, "distilled", clock=clock).attach(trainer)
    trainer.train(fail)
    state: dict[str, Any] = json.loads((folder / LIVE_FILE).read_text())
    return state


def test_live_file_of_a_training(tmp_path: Path) -> None:
    state = trained(tmp_path, Clock())
    assert (state["phase"], state["epoch"], state["step"], state["done"]) == ("trained", 2, 10, 20)
    assert state["validations"] == [[1, 10.0, 50.0], [2, 20.0, 50.0]]
    assert state["validation_seconds"] == 10.0
    assert state["step_seconds"] == pytest.approx(0.4)  # the validation does not count
    assert state["lr"] == 0.02
    assert state["rss_mb"] > 10
    points = [json.loads(line) for line in (tmp_path / HISTORY_FILE).read_text().splitlines()]
    # Every third step of 0.4 s ends a second; a point is the mean over the steps since the one before.
    assert [point["done"] for point in points] == [3, 6, 9, 11, 14, 17, 20]
    assert [point["losses"]["box_loss"] for point in points] == pytest.approx([1, 4, 7, 10, 12, 15, 18])
    parts = read_parts(write_run(tmp_path, verb="train"), NOW)
    assert parts[0].status == "evaluating"


def test_a_clock_that_is_set_back_by_an_hour(tmp_path: Path) -> None:
    """Durations come from a clock that nobody can set; only dates follow the other one."""
    clock = Clock()
    writer = Live(tmp_path, "distilled")
    writer.clock = clock
    writer.date = lambda: clock.now if clock.now < NOW + 2 else clock.now - 3600
    trainer = FakeTrainer(clock, epochs=2, steps=10)
    writer.attach(trainer)
    trainer.add_callback("on_train_batch_end", lambda _: seen.append(json.loads((tmp_path / LIVE_FILE).read_text())))
    seen: list[dict[str, Any]] = []
    trainer.train()
    speeds = [state["step_seconds"] for state in seen if "step_seconds" in state]
    assert speeds == pytest.approx([0.4] * len(speeds))
    assert max(state["done"] for state in seen) == 20  # it went on being written
    assert all((remaining(state) or 0) >= 0 for state in seen)
    assert seen[-1]["updated"] < seen[0]["started"]
    folder = write_run(tmp_path, verb="train", started=NOW + 1000, **process())  # noted before the clock was set
    assert states(folder, NOW - 3590) == ["evaluating"]
    assert "ran for 0 s" in shown(write_over(folder), now=NOW - 3000)


def write_over(folder: Path) -> Path:
    state = json.loads((folder / LIVE_FILE).read_text())
    (folder / LIVE_FILE).write_text(json.dumps({**state, "phase": "interrupted"}))
    return folder


def test_writing_is_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    real = live.write_text

    def count(path: Path, text: str) -> Path:
        written.append(Path(path).name)
        return real(path, text)

    monkeypatch.setattr(live, "write_text", count)
    trained(tmp_path, Clock(), epochs=1, steps=1000, pace=0.01)
    assert written.count(LIVE_FILE) <= 10 + 5  # 10 s of training
    assert written.count(HISTORY_FILE) == 1


def test_a_full_disk_does_not_stop_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = FakeTrainer(clock := Clock(), epochs=1, steps=10)
    Live(tmp_path, "x", clock=clock).attach(trainer)
    trainer.add_callback("on_train_start", lambda _: monkeypatch.setattr(live, "write_text", full))
    trainer.train()
    assert json.loads((tmp_path / LIVE_FILE).read_text())["step"] == 0


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("error", "phase", "message"),
    [
        (RuntimeError("batch: too large\nand more"), "failed", "batch: too large"),
        (ValueError(), "failed", "ValueError"),
        (KeyboardInterrupt(), "interrupted", None),
    ],
)
def test_why_a_training_ended_early(tmp_path: Path, error: BaseException, phase: str, message: str | None) -> None:
    with pytest.raises(type(error)):
        trained(tmp_path, Clock(), error)
    state = json.loads((tmp_path / LIVE_FILE).read_text())
    assert (state["phase"], state.get("error")) == (phase, message)


def test_a_resumed_training_goes_on_with_its_curve(tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, clock, KeyboardInterrupt(), start=0)
    trained(tmp_path, clock, epochs=1)
    with (tmp_path / HISTORY_FILE).open("a") as stream:
        stream.write('{"done": 13, "losses": {}}\n{"do')  # killed in the second epoch
    state = trained(tmp_path, clock, epochs=3, start=1)
    points = [json.loads(line)["done"] for line in (tmp_path / HISTORY_FILE).read_text().splitlines()]
    assert points[:5] == [3, 6, 9, 13, 16]
    assert points == sorted(points)
    assert [entry[0] for entry in state["validations"]] == [1, 2, 3]
    state = trained(tmp_path, clock, epochs=1)
    assert [entry[0] for entry in state["validations"]] == [1]  # a new run forgets the old one


def test_history_stays_small(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    history = History(file, points=10)
    for n in range(1000):
        history.add({"done": n})
        assert len(file.read_text().splitlines()) < 20
    kept = [json.loads(line)["done"] for line in file.read_text().splitlines()]
    assert kept == sorted(kept)
    assert len(kept) >= 10
    assert kept[-1] > 900
    gaps = {b - a for a, b in pairwise(kept)}
    assert max(gaps) <= 4 * min(gaps)
    assert [json.loads(line)["done"] for line in History(file, points=10, before=300).lines] == [
        n for n in kept if n <= 300
    ]
