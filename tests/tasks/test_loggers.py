from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detkd.errors import ConfigError
from detkd.tasks.loggers import check_loggers, log_numbers

NUMBERS = {"val/AP": 31.5, "slice/camera=gate/AP": 12.0, "slice/camera@gate/AP": 13.0}
CONFIG = {"epochs": 3, "teacher": {"path": "t.pt", "class_map": {}}, "note": "x" * 9000}

MLFLOW = """
calls, _active = [], None
class _Run:
    def __enter__(self):
        global _active
        _active = self
    def __exit__(self, kind, *rest):
        global _active
        _active = None
        calls.append(["end", kind is None])
def active_run(): return _active
def start_run(run_name):
    calls.append(["start", run_name])
    return _Run()
def set_experiment(name): calls.append(["experiment", name])
def log_params(params): calls.append(["params", params])
def log_metrics(metrics):
    if "boom" in metrics:
        raise RuntimeError("server is away\\nlong story")
    calls.append(["metrics", metrics])
def log_artifact(path): calls.append(["artifact", path])
"""

WANDB = """
calls, run = [], None
class _Run:
    def log(self, numbers):
        if "boom" in numbers:
            raise RuntimeError("no network")
        calls.append(["log", numbers])
    def log_artifact(self, artifact): calls.append(["artifact", artifact.name, artifact.files])
    def finish(self, exit_code): calls.append(["finish", exit_code])
class Artifact:
    def __init__(self, name, type): self.name, self.files = name, []
    def add_file(self, path): self.files.append(path)
def init(project, name, dir, config):
    calls.append(["init", project, name, config])
    return _Run()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Install a fake package for the time of a test."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    made: list[str] = []

    def install(name: str, code: str) -> Any:
        (site / f"{name}.py").write_text(code)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name)

    yield install
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def no_tracker_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def test_mlflow_gets_a_run_of_its_own(tmp_path: Path, package: Callable[[str, str], Any]) -> None:
    fake = package("mlflow", MLFLOW)
    page = tmp_path / "compare.html"
    assert log_numbers(NUMBERS, tmp_path / "distill", ["mlflow"], config=CONFIG, page=page) == ("mlflow",)
    params = {"epochs": "3", "teacher.path": "t.pt", "note": "x" * 500}
    metrics = {"val/AP": 31.5, "slice/camera_gate/AP": 12.0, "slice/camera_gate/AP_2": 13.0}
    assert fake.calls == [
        ["experiment", "/Shared/Ultralytics"], ["start", "distill"], ["params", params], ["metrics", metrics],
        ["artifact", str(page)], ["end", True],
    ]  # fmt: skip


def test_mlflow_uses_the_run_that_is_active_and_small_batches(
    tmp_path: Path, package: Callable[[str, str], Any]
) -> None:
    fake = package("mlflow", MLFLOW)
    with fake.start_run("mine"):
        log_numbers({f"k{n}": n for n in range(1200)}, tmp_path, ["mlflow"], config=CONFIG)
    names = [call[0] for call in fake.calls]
    assert names == ["start", "metrics", "metrics", "metrics", "end"]
    assert [len(call[1]) for call in fake.calls[1:4]] == [500, 500, 200]


def test_wandb_gets_numbers_and_page(tmp_path: Path, package: Callable[[str, str], Any]) -> None:
    fake = package("wandb", WANDB)
    page = tmp_path / "compare.html"
    folder = tmp_path / "my run"
    assert log_numbers(NUMBERS, folder, ["wandb"], config=CONFIG, page=page) == ("wandb",)
    assert fake.calls == [
        ["init", "Ultralytics", "my run", CONFIG], ["log", NUMBERS], ["artifact", "my_run-report", [str(page)]],
        ["finish", 0],
    ]  # fmt: skip
    fake.calls.clear()
    fake.run = fake._Run()
    log_numbers(NUMBERS, folder, ["wandb"], config=CONFIG)
    assert fake.calls == [["log", NUMBERS]]  # the user's own run stays open


def test_a_tracker_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, package: Callable[[str, str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow, wandb = package("mlflow", MLFLOW), package("wandb", WANDB)
    assert log_numbers({"boom": 1.0}, tmp_path, ["mlflow", "wandb"], config={}) == ()
    assert mlflow.calls[-1] == ["end", False]
    assert wandb.calls[-1] == ["finish", 1]
    text = " ".join(capsys.readouterr().err.split())
    assert "report.loggers: mlflow did not take the numbers (server is away)" in text
    assert "report.loggers: wandb did not take the numbers (no network)" in text
    assert "long story" not in text


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", exc_type=ImportError)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert log_numbers(NUMBERS, tmp_path, ["tensorboard"], config=CONFIG, page=tmp_path / "p.html") == ("tensorboard",)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {key: events.Scalars(key)[0].value for key in events.Tags()["scalars"]} == NUMBERS
    assert str(tmp_path / "p.html") in str(events.Tensors("report/text_summary")[0].tensor_proto)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("neptune", "must be some of tensorboard, mlflow, wandb, got 'neptune'"),
        (3, "must be some of"),
        (["mlflow", "comet"], "must be some of"),
        (["mlflow", "wandb"], "mlflow and wandb not installed; run pip install mlflow wandb"),
    ],
)
def test_unusable_loggers_are_refused(monkeypatch: pytest.MonkeyPatch, value: Any, message: str) -> None:
    monkeypatch.setattr("detkd.tasks.loggers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=message):
        check_loggers(value)


def test_a_folder_of_runs_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("wandb", None)
    with pytest.raises(ConfigError, match="wandb not installed"):
        check_loggers("wandb")


def test_chosen_loggers(package: Callable[[str, str], Any]) -> None:
    package("mlflow", MLFLOW)
    assert check_loggers(["mlflow", "mlflow"]) == ("mlflow",)
    assert check_loggers("mlflow") == ("mlflow",)
    assert check_loggers([]) == ()


def test_null_follows_ultralytics_settings(package: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from detkd.training.integrations import SETTINGS, switched, switched_on

    package("mlflow", MLFLOW)
    package("wandb", WANDB)
    saved = Path(SETTINGS.file).read_text()
    before = switched_on()
    with switched(["wandb", "mlflow"]):
        assert switched_on() == ("mlflow", "wandb")
        assert check_loggers(None) == ("wandb",)  # MLflow is on for everybody
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
        assert check_loggers(None) == ("mlflow", "wandb")
        with switched([]):
            assert check_loggers(None) == ()
        with switched(None):
            assert switched_on() == ("mlflow", "wandb")
    assert switched_on() == before
    assert Path(SETTINGS.file).read_text() == saved
    assert json.loads(saved)["wandb"] is False


def test_ultralytics_trainers_take_the_trackers_that_are_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import defaultdict

    from ultralytics.utils.callbacks import tensorboard
    from ultralytics.utils.callbacks.base import add_integration_callbacks

    from detkd.training.integrations import switched

    monkeypatch.setattr(tensorboard, "callbacks", {"teardown": tensorboard.teardown})

    class BoundTrainer:
        def __init__(self) -> None:
            self.callbacks: dict[str, list[Any]] = defaultdict(list)

    on, off = BoundTrainer(), BoundTrainer()
    with switched(["tensorboard"]):
        add_integration_callbacks(on)
    with switched([]):
        add_integration_callbacks(off)
    assert tensorboard.teardown in on.callbacks["teardown"]
    assert tensorboard.teardown not in off.callbacks["teardown"]
