"""Sweeps through Hydra's real launchers and sweeper: jobs in processes of their own, the leaderboard, what failed."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from detkd import cli, faults
from detkd.config import compose
from detkd.errors import DataError
from detkd.sweeps import begin_job
from detkd.tasks.compare import compare_models
from detkd.tasks.sweep import Job, entries, read_jobs, write_job
from tests.evaluation.worlds import make_detections
from tests.report.conftest import world
from tests.tasks.test_compare import FEW, fake_run

ROOT = Path(__file__).resolve().parents[2]
TAUGHT = ["teacher=t.pt", "student=s.pt", "data=toy"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Labels, two results files and a broken one."""
    gt = world(20)
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    for seed, (name, noise) in enumerate({"poor": 0.25, "good": 0.03}.items()):
        (tmp_path / f"{name}.json").write_text(json.dumps(make_detections(gt, seed, noise=noise, decimals=4)))
    (tmp_path / "bad.json").write_text("{")
    return tmp_path


@pytest.fixture
def objectives(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand-in for the API: `distill` answers with a function of its keys at once; returns what it was called with."""
    made: list[dict[str, Any]] = []

    def distill(config: dict[str, Any]) -> Any:
        made.append(config)
        if config["epochs"] == 13:
            raise DataError("epochs: 13 brings bad luck; use another number")
        return types.SimpleNamespace(objective=50 - 100 * (config["distill"]["alpha"] - 0.4) ** 2)

    monkeypatch.setitem(sys.modules, "detkd.api", types.SimpleNamespace(distill=distill))  # type: ignore[arg-type]
    return made


def installed(name: str) -> Any:
    return pytest.importorskip(f"hydra_plugins.hydra_{name}", reason="needs a plugin of Hydra")


@pytest.mark.parametrize(
    ("launch", "plugin"),
    [
        (None, "joblib_launcher"),
        pytest.param("joblib", "joblib_launcher", marks=pytest.mark.slow),
        pytest.param("local", "submitit_launcher", marks=pytest.mark.slow),
        pytest.param("ray", "ray_launcher", marks=pytest.mark.slow),
    ],
)
def test_launcher_runs_jobs_and_ends_with_a_leaderboard(
    launch: str | None,
    plugin: str,
    results: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    installed(plugin)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    words = [f"gt={results / 'gt.json'}", "detections=poor.json,bad.json,good.json", f"out={results / 'sweep'}", *FEW]
    if launch:
        words.append(f"launch={launch}")
    if launch == "ray":
        request.addfinalizer(pytest.importorskip("ray").shutdown)
        words += ["hydra.launcher.ray.init.num_cpus=2", "hydra.launcher.ray.remote.num_cpus=1"]
    assert cli.main(["evaluate", "--multirun", *words]) == 2
    sweep = results / "sweep"
    jobs = read_jobs(sweep)
    assert [job.status for job in jobs] == ["done", "failed", "done"]
    assert jobs[0].objective is not None
    assert all((sweep / str(number) / "metrics.json").is_file() for number in (0, 2))
    board = json.loads((sweep / "leaderboard.json").read_text())
    assert [entry["name"] for entry in board["entries"]] == ["detections=good.json", "detections=poor.json"]
    assert board["reference"] == "detections=poor.json"
    (failed,) = board["failed"]
    assert failed["name"] == "detections=bad.json"
    assert "bad.json" in failed["reason"]
    assert "\n" not in failed["reason"]
    assert "failed: " in (sweep / "leaderboard.md").read_text()
    assert "detections=bad.json failed: " in (sweep / "leaderboard.html").read_text()
    assert list(csv.reader((sweep / "leaderboard.csv").read_text().splitlines()))[-1][1] == "detections=bad.json"
    err = capfd.readouterr().err
    assert "detkd evaluate: job 1 failed (" in err
    assert "Traceback" not in err
    if launch is None:  # the board can be made again, and the sweep goes on where it stopped
        before = (sweep / "0" / "metrics.json").stat().st_mtime_ns
        (results / "bad.json").write_text((results / "good.json").read_text())
        assert cli.main(["evaluate", "--multirun", *words]) == 0
        assert (sweep / "0" / "metrics.json").stat().st_mtime_ns == before
        again = compare_models(compose("compare", [f"runs={sweep}", f"out={results / 'again'}", *FEW]))
        assert len(again.comparison.sides) == 3
        assert again.comparison.failed == ()


@pytest.mark.slow
def test_trainings_side_by_side_share_data_and_cache(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.inference.tiny import save, tiny_model

    installed("joblib_launcher")
    importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown()  # those of another test
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    words = [
        f"teacher={save(tiny_model(seed=3), tmp_path / 'teacher.pt')}", "student=yolo26n_half", "data=toy",
        "data.images={train: 8, val: 4, test: 4}", "data.use_test=false", "epochs=1", "imgsz=64", "batch=4", "augment=none",
        "device=cpu", "threads=1", "workers=0", "pictures=0", "trainer.val=false", "trainer.optimizer=AdamW",
        "cache=views", "cache.views=2", "distill=none,binary", "launch=joblib", "out=sweep", *FEW,
    ]  # fmt: skip
    assert cli.main(["distill", "-m", *words]) == 0
    board = json.loads(Path("sweep/leaderboard.json").read_text())
    assert {entry["name"] for entry in board["entries"]} == {"distill=none", "distill=binary"}
    assert board["reference"] == "distill=none"
    assert board["failed"] == []
    (cache,) = [folder for folder in Path("runs/cache").iterdir() if (folder / "cache.json").is_file()]
    built = re.findall(r"cache: (\d+) of (\d+) records to store", " ".join(capfd.readouterr().err.split()))
    assert len(built) == 1  # the other waited
    assert built[0][0] == built[0][1]
    for job in ("0", "1"):
        assert json.loads(Path("sweep", job, "metrics.json").read_text())["split"] == "val"
        assert Path(json.loads(Path("sweep", job, "cache.json").read_text())["folder"]).name == cache.name


def test_search_proposes_goes_on_and_names_the_best(
    objectives: list[dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    installed("optuna_sweeper")
    words = [
        *TAUGHT,
        "sweep=optuna",
        "out=my search",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.sampler.seed=1",
        "seed=5",
    ]
    assert cli.main(["distill", "-m", *words, "distill.alpha=choice(0.1,0.4)"]) == 0
    assert len(objectives) == 3
    assert all(0.05 <= config["distill"]["calibrate"]["head"] <= 2.0 for config in objectives)
    assert len({config["distill"]["calibrate"]["head"] for config in objectives}) == 3
    assert {config["data"]["use_test"] for config in objectives} == {False}
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("  detkd distill"))
    best = shlex.split(line)[2:]
    assert not any(word.startswith(("sweep=", "out=", "hydra", "-")) for word in best)
    config = compose("distill", best)
    assert (config["distill"]["alpha"], config["seed"], config["data"]["use_test"]) == (0.4, 5, True)
    assert cli.main(["distill", "-m", *words, "distill.alpha=choice(0.1,0.4)", "epochs=13"]) == 2  # goes on, and fails
    assert [job.name for job in read_jobs(tmp_path / "my search")] == ["0", "1", "2", "2-0", "2-1", "2-2"]
    assert len({config["out"] for config in objectives}) == 6
    err = capfd.readouterr().err
    assert "epochs: 13 brings bad luck" in err
    assert "Traceback" not in err
    board = json.loads((tmp_path / "my search" / "leaderboard.json").read_text())
    assert [job["status"] for job in board["jobs"]] == ["done"] * 3 + ["failed"] * 3
    assert board["jobs"][0]["objective"] == 50


def test_search_without_a_single_result_says_why(
    objectives: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    installed("optuna_sweeper")
    words = [*TAUGHT, "sweep=optuna", "hydra.sweeper.storage=null", "hydra.sweeper.n_trials=1", "epochs=13"]
    assert cli.main(["distill", "-m", *words]) == 2
    err = capfd.readouterr().err
    assert "job 0 failed" in err
    assert "internal error" not in err


def test_ablation_is_that_of_the_benchmark(objectives: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job of the preset has the configuration of the benchmark's arm."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import distillation_arms as bench

    assert cli.main(["distill", "-m", "sweep=ablation", "experiment=toy_ablation", "seed=2"]) == 0
    _, names, seeds = bench.PLANS["ablation"]
    preset = yaml.safe_load((ROOT / "conf" / "sweep" / "ablation.yaml").read_text(encoding="utf-8"))
    assert preset["hydra"]["sweeper"]["params"]["seed"] == ",".join(map(str, seeds))
    arms = [bench.parse_arm(name) for name in names]
    wanted = [bench.resolve_config(bench.arm_words(bench.PRESETS["toy"], arm, teacher=None, seed=2)) for arm in arms]
    for config in (*objectives, *wanted):
        config.pop("out")
        config["distill"]["terms"] = {name: term for name, term in config["distill"]["terms"].items() if term}
    assert objectives == wanted


def test_presets_of_sweeps_need_multirun(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["distill", *TAUGHT, "sweep=ablation"]) == 2
    assert capfd.readouterr().err == "detkd distill: sweep: ablation is for several runs; add --multirun\n"


@pytest.mark.parametrize(
    ("group", "choice", "message"),
    [
        ("hydra/launcher", "ray", "launch: needs Hydra's plugin for ray, which is not installed; pip install 'detkd[ray]'"),
        ("hydra/sweeper", "optuna", "sweep: needs Hydra's plugin for optuna, which is not installed; pip install 'detkd[sweep]'"),
    ],
)  # fmt: skip
def test_missing_plugin_names_the_extra(
    group: str,
    choice: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key = message.partition(":")[0]
    mine = tmp_path / key / "mine.yaml"  # a preset that asks for a plugin nobody has, called like ours in the message
    mine.parent.mkdir()
    mine.write_text(f"# @package _global_\ndefaults:\n  - override /{group}: {choice}_\n")
    monkeypatch.setitem(faults._EXTRAS[group], f"{choice}_", faults._EXTRAS[group][choice])
    words = ["train", "-m", "model=a.pt", "data=toy", "--config-dir", str(tmp_path), f"{key}=mine", "seed=0,1"]
    assert cli.main(words) == 2
    assert capfd.readouterr().err.replace(f"{choice}_", choice) == f"detkd train: {message}\n"


def test_entries_are_seeds_together_and_plain_training_is_the_reference(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for number, (recipe, seed) in enumerate([("none", 0), ("none", 1), ("binary", 0), ("binary", 1), ("cwd", 0)]):
        out = fake_run(sweep, str(number), seed)
        words = ("data=toy", f"distill={recipe}", f"seed={seed}")
        broken = {"status": "failed", "error": "teacher: gone", "code": 2} if number == 3 else {"status": "done"}
        write_job(sweep, Job(str(number), words, str(out), **broken))  # type: ignore[arg-type]
    write_job(sweep, Job("5", ("data=toy", "distill=cwd", "seed=1"), str(sweep / "5")))
    found = entries(sweep)
    assert {name: [Path(run).name for run in runs] for name, runs in found.runs.items()} == {
        "distill=none": ["0", "1"], "distill=binary": ["2"], "distill=cwd": ["4"],
    }  # fmt: skip
    assert found.reference == "distill=none"
    assert found.failed == (
        ("distill=binary (seed 1)", "teacher: gone"),
        ("distill=cwd (seed 1)", "no result: its process was stopped, or still runs"),
    )


def test_controls_of_the_runs_are_one_entry(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for number, (alpha, seed) in enumerate([(0.3, 0), (0.3, 1), (0.5, 0)]):
        out = fake_run(sweep, str(number), seed)
        fake_run(out, "control", seed)
        write_job(sweep, Job(str(number), (f"distill.alpha={alpha}", f"seed={seed}"), str(out), "done"))
    found = entries(sweep)
    assert found.reference == "control"
    assert found.runs["control"] == [str(sweep / "0" / "control"), str(sweep / "1" / "control")]
    out = fake_run(sweep, "3", 0)
    fake_run(out, "control", 0)
    write_job(sweep, Job("3", ("distill.alpha=0.3", "epochs=3", "seed=0"), str(out), "done"))
    assert entries(sweep).reference is None  # its control is another one


def test_interrupted_job_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "0"
    words = ["seed=0"]
    write_job(tmp_path, Job("0", tuple(words), str(out)))
    out.mkdir()
    (out / "run.json").write_text('{"status": "running"}')
    values: dict[str, Any] = {"out": None, "resume": None}
    begin_job(values, words, 0, str(out), str(tmp_path))
    assert values == {"out": str(out), "resume": None}
    assert not (out / "run.json").exists()  # nothing to go on with: it starts anew
    (out / "run.json").write_text('{"status": "failed"}')
    (out / "resume.pt").touch()
    values["out"] = None
    begin_job(values, words, 0, str(out), str(tmp_path))
    assert values["resume"] == str(out)
    begin_job(other := {"out": None, "resume": None}, ["seed=1"], 0, str(out), str(tmp_path))
    assert other["resume"] is None  # another sweep in the same folder is refused by the run itself
