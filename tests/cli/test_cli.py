"""The `detkd` command from what is typed to what the API gets, with a stand-in for the API."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from detkd import cli, paths
from detkd.config import EXAMPLES, VERBS
from detkd.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["train", "model=a.pt", "data=toy"]


class Calls(list[tuple[str, dict[str, Any]]]):
    """What the API was called with; `answer` is returned, or raised when it is an error."""

    answer: Any = None

    @property
    def config(self) -> dict[str, Any]:
        assert len(self) == 1
        return self[0][1]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETKD_TRUST", raising=False)
    monkeypatch.delenv("DETKD_TRACEBACK", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    made = Calls()
    api = types.ModuleType("detkd.api")

    def call(verb: str, config: dict[str, Any]) -> Any:
        made.append((verb, config))
        if isinstance(made.answer, BaseException):
            raise made.answer
        return made.answer

    for verb in VERBS:
        setattr(api, verb, lambda config, verb=verb: call(verb, config))
    monkeypatch.setitem(sys.modules, "detkd.api", api)
    return made


def test_config_arrives_as_plain_containers(calls: Calls, tmp_path: Path) -> None:
    status = cli.main(
        ["distill", "teacher=big=x.pt", "student=yolo26n_half", "--run", "data=my set.yaml", "trainer.lr0=0.01",
         "epochs=3", "device=0,1", "teacher.class_map={van: car}", "student.scale.width=0.25"]
    )  # fmt: skip
    assert status == 0
    config = calls.config
    assert calls[0][0] == "distill"
    assert config["teacher"].items() >= {"path": "big=x.pt", "imgsz": None, "class_map": {"van": "car"}}.items()
    scale = {"depth": 0.5, "width": 0.25, "max_channels": 1024}
    assert config["student"].items() >= {"path": "yolo26.yaml", "scale": scale}.items()
    assert config["data"]["path"] == "my set.yaml"
    assert config["trainer"]["lr0"] == 0.01
    assert config["device"] == "0,1"
    assert (config["epochs"], config["seed"], config["out"]) == (3, 0, None)
    assert type(config) is dict
    assert type(config["distill"]["terms"]) is dict
    assert list(tmp_path.iterdir()) == []  # Hydra leaves nothing behind


def test_other_verbs(calls: Calls) -> None:
    assert cli.main(["compare", "before=runs/a", "after=b.json", "teacher=c.pt", "gt=g.json", "fail_if=AP<-0.5"]) == 0
    assert cli.main(["evaluate", "detections=d.json", "gt=g.json"]) == 0
    assert cli.main(["evaluate", "model=m.pt", "data=toy"]) == 0
    assert cli.main(["predict", "model=[a.pt,b (1).pt]", "source=clip [1].mp4"]) == 0
    assert cli.main(["export", "model=a.pt", "format=openvino_int8"]) == 0
    assert cli.main(["demo"]) == 0
    compare, evaluate, evaluate_model, predict, export, demo = [config for _, config in calls]
    assert (compare["teacher"]["path"], compare["fail_if"], compare["data"]) == ("c.pt", "AP<-0.5", None)
    assert (evaluate["model"], evaluate["data"], evaluate["gt"]) == (None, None, "g.json")
    assert (evaluate_model["model"]["path"], evaluate_model["detections"]) == ("m.pt", None)
    assert (predict["model"]["path"], predict["source"]) == (["a.pt", "b (1).pt"], "clip [1].mp4")
    assert (export["data"], export["tolerance"]) == (None, {"ap": None, "raw": None})
    assert demo["out"] == "runs/demo"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([*TRAIN, "epcohs=3"], "detkd train: epcohs: no such key; did you mean epochs?"),
        ([*TRAIN, "data.on_bda=skip"], "detkd train: data.on_bda: no such key; did you mean data.on_bad?"),
        (["distill", "teacher=a", "student=b", "data=toy", "distill.alhpa=1"], "did you mean distill.alpha?"),
        (["distill", "teacher=a", "student=b", "data=toy", "distill=binry"],
         "distill: no such choice, got binry; did you mean binary? (choices: "),
        (["distill", "teacher=a", "student=b"], "detkd distill: data: missing; e.g. detkd distill teacher="),
        (["train", "data=toy", "model=null"], "detkd train: model: missing; e.g. detkd train model="),
        (["evaluate", "data=toy"], "model: missing; e.g. detkd evaluate model=runs/train data=toy (or detections=...)"),
        (["compare", "before=x"], "detkd compare: after: missing; e.g. detkd compare before="),
        (["predict", "model=a.pt"], "detkd predict: source: missing"),
        ([*TRAIN, "epochs=abc"], "detkd train: epochs: must be a whole number, got 'abc'"),
        ([*TRAIN, "seed=0,1"], "seed: must be a whole number, got '0,1'; add --multirun to sweep over several values"),
        ([*TRAIN, "trust=maybe"], "trust: must be true or false, got 'maybe'"),
        ([*TRAIN, "+mine=1"], "mine: no such key of detkd train"),
        ([*TRAIN, "+epochs=1"], "epochs: exists already; leave out the +"),
        ([*TRAIN, "~epcohs"], "~epcohs: no such key; did you mean epochs?"),
        ([*TRAIN, "out=runs/${sede}"], "out: ${sede} names no key; fix the name, or write \\${ to mean ${ itself"),
        ([*TRAIN, "out=${oc.env:DETKD_NOT_SET}"], "out: the environment variable DETKD_NOT_SET is not set"),
        ([*TRAIN, "experiment=nope"], "experiment: no such choice, got nope"),
        ([*TRAIN, "toy"], "toy: not of the form key=value"),
        ([*TRAIN, "--epochs", "3"], "--epochs: no such option; keys are written epochs=VALUE"),
        ([*TRAIN, "--config-name", "mine"], "--config-name: no config called mine"),
        ([*TRAIN, "--config-dir", "not_there"], "not_there"),
        ([*TRAIN, "resume=not_there"], "resume: no config.yaml in not_there; give the folder of a run"),
        ([*TRAIN, "trust=true,false", "-m"], "trust: can't be swept"),
        (["cache"], "detkd cache: action: missing; e.g. detkd cache build teacher="),
        (["cache", "verfy", "x"], "action: must be one of build, info, verify, prune, got verfy; did you mean verify?"),
        (["cache", "build", "teacher=t", "student=s"], "detkd cache: data: missing; e.g. detkd cache build teacher="),
        (["cache", "info", "a", "b"], "detkd cache: b: not of the form key=value"),
        ([*TRAIN, "unlabelled.labels=hard"], "detkd train: unlabelled.labels: the choice made for unlabelled has no such key; "),
        (["doctor", "teacher=t", "student=s"], "detkd doctor: data: missing; e.g. detkd doctor teacher="),
        (["doctor", "teacher=t", "student=s", "data=d", "stpes=3"], "detkd doctor: stpes: no such key; did you mean steps?"),
        (["pseudolabel", "teacher=t", "data=d"], "detkd pseudolabel: source: missing; e.g. detkd pseudolabel teacher="),
        (["pseudolabel", "teacher=t", "data=d", "source=s", "stage=colect"], "got colect; did you mean collect?"),
        (["trian"], "detkd: trian: no such verb; did you mean train?"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_the_fix(
    calls: Calls, capfd: pytest.CaptureFixture[str], typed: list[str], message: str
) -> None:
    assert cli.main(typed) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    assert calls == []


def test_words_behind_cache(calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "info"]) == 0
    assert cli.main(["cache", "verify", "runs/cache/my views (1)", "checks=0"]) == 0
    assert cli.main(["cache", "older_days=30", "prune"]) == 0
    assert cli.main(["cache", "build", "teacher=t.pt", "student=s.pt", "data=toy", "cache=instances"]) == 0
    info, verify, prune, build = [config for _, config in calls]
    assert (info["action"], info["path"], info["teacher"], info["data"]) == ("info", None, None, None)
    assert (verify["action"], verify["path"], verify["checks"]) == ("verify", "runs/cache/my views (1)", 0)
    assert (prune["action"], prune["older_days"]) == ("prune", 30)
    assert (build["action"], build["cache"]["kind"], build["data"]["name"]) == ("build", "instances", "toy")
    calls.clear()
    calls.answer = KeyboardInterrupt()
    assert cli.main(["cache", "build", "teacher=t.pt", "student=s.pt", "data=toy"]) == 130
    assert capfd.readouterr().err == "detkd cache: stopped; the same command again goes on where it stopped\n"


def test_all_missing_keys_at_once(calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["distill"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["teacher", "student", "data"]


def test_wrong_keys_in_files_are_refused(calls: Calls, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "typo.yaml").write_text("# @package _global_\nepcohs: 3\n")
    (folder / "broken.yaml").write_text("# @package _global_\nepochs: [3\n")
    (folder / "good.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: yolo26n_half\nepochs: 3\ntrainer: {lr0: 0.5}\n"
    )
    options = ["--config-dir", str(tmp_path / "mine")]
    assert cli.main([*TRAIN, "experiment=typo", *options]) == 2
    assert "epcohs: no such key of detkd train; did you mean epochs?" in capfd.readouterr().err
    assert cli.main([*TRAIN, "experiment=broken", *options]) == 2
    err = capfd.readouterr().err
    assert "broken.yaml, line" in err
    assert "not valid YAML" in err
    assert err.count("\n") == 1
    # An experiment's choices and values win over the defaults, and what is typed wins over the experiment.
    assert cli.main(["train", "data=toy", "experiment=good", *options]) == 0
    assert (calls.config["epochs"], calls.config["trainer"]["lr0"]) == (3, 0.5)
    assert calls.config["model"]["path"] == "yolo26.yaml"
    calls.clear()
    assert cli.main([*TRAIN, "experiment=good", "epochs=4", *options]) == 0
    assert (calls.config["epochs"], calls.config["model"]["path"]) == (4, "a.pt")


def test_errors_of_the_job(calls: Calls, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls.answer = DataError("data.path: no such file, got x; check the path")
    assert cli.main(TRAIN) == 2
    assert capfd.readouterr().err == "detkd train: data.path: no such file, got x; check the path\n"
    calls.answer = OSError(28, "No space left on device", "runs/x")
    assert cli.main(TRAIN) == 2
    assert "runs/x: No space left on device" in capfd.readouterr().err
    calls.answer = OSError(28, "No space left on device")  # of a library that does not say where
    assert cli.main(TRAIN) == 2
    assert capfd.readouterr().err.startswith("detkd train: out: can't write there (No space left on device); make room")
    calls.answer = KeyError("surprise")
    assert cli.main(TRAIN) == 1
    err = capfd.readouterr().err
    assert err.startswith("detkd train: internal error: KeyError: 'surprise'")
    assert err.count("\n") == 1
    calls.answer = KeyboardInterrupt("runs/train-2")
    assert cli.main(TRAIN) == 130
    assert "go on with: detkd train resume='runs/train-2'" in capfd.readouterr().err
    calls.answer = DataError("data.path: gone")
    monkeypatch.setenv("DETKD_TRACEBACK", "1")
    assert cli.main(TRAIN) == 2
    assert "Traceback (most recent call last)" in capfd.readouterr().err
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_condition_of_compare_sets_the_exit_status(calls: Calls) -> None:
    typed = ["compare", "before=a", "after=b", "fail_if=AP<-0.5"]
    calls.answer = types.SimpleNamespace(failed=True)
    assert cli.main(typed) == cli.CONDITION_MET
    calls.answer = types.SimpleNamespace(failed=False)
    assert cli.main(typed) == 0


def test_problems_of_doctor_set_the_exit_status(calls: Calls) -> None:
    typed = ["doctor", "teacher=t.pt", "student=s.pt", "data=toy", "distill.alpha=0.3"]
    for status in (0, 1):
        calls.answer = types.SimpleNamespace(status=status)
        assert cli.main(typed) == status
    assert calls[0][1]["distill"]["alpha"] == 0.3


def test_the_job_sees_what_was_typed(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["something", "else"])
    monkeypatch.setattr(sys.modules["detkd.api"], "train", lambda config: seen.append(list(sys.argv)))
    assert cli.main([*TRAIN, "out=a b"]) == 0
    assert seen == [["detkd", *TRAIN, "out=a b"]]
    assert sys.argv == ["something", "else"]


def test_trust_is_set_before_anything_is_imported(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKD_TRUST", "")  # restored afterwards
    assert cli.main(TRAIN) == 0
    assert os.environ["DETKD_TRUST"] == ""
    assert cli.main([*TRAIN, "trust=true"]) == 0
    assert os.environ["DETKD_TRUST"] == "1"


def test_sweep_gives_each_job_a_folder(calls: Calls, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*TRAIN, "seed=0,1", "--multirun"]) == 0
    outs = [Path(config["out"]) for _, config in calls]
    assert [config["seed"] for _, config in calls] == [0, 1]
    assert [out.name for out in outs] == ["0", "1"]
    assert outs[0].parent == outs[1].parent
    assert outs[0].parent.parent == tmp_path / "runs" / "train-sweep"
    assert "job 1: model=path" in capfd.readouterr().err
    calls.clear()
    assert cli.main([*TRAIN, "-m", "seed=0,1", "out=my sweep"]) == 0
    assert [Path(config["out"]) for _, config in calls] == [tmp_path / "my sweep" / "0", tmp_path / "my sweep" / "1"]
    calls.clear()
    assert cli.main([*TRAIN, "-m", "seed=0,1", "out=runs/s${seed}"]) == 0
    assert [config["out"] for _, config in calls] == ["runs/s0", "runs/s1"]
    calls.clear()
    assert cli.main(["demo", "-m", "seed=0,1"]) == 0
    assert [config["out"] for _, config in calls] == ["runs/demo/0", "runs/demo/1"]
    assert not (tmp_path / "multirun").exists()
    assert not (tmp_path / "outputs").exists()


def test_sweep_over_paths(calls: Calls) -> None:
    typed = ["distill", "teacher=t.pt", "data=toy", "student=a=1.pt,b.pt", "distill=binary,none", "--multirun"]
    assert cli.main(typed) == 0
    assert [config["student"]["path"] for _, config in calls] == ["a=1.pt", "a=1.pt", "b.pt", "b.pt"]


def test_sweep_reports_the_job_that_failed(calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    calls.answer = DataError("data.path: gone; check it")
    assert cli.main([*TRAIN, "seed=0,1", "-m"]) == 2
    assert len(calls) == 2  # one failure does not take the others with it
    err = capfd.readouterr().err
    for number in (0, 1):
        assert (
            f"detkd train: job {number} failed (model=path model.path='a.pt' data=toy seed={number}): data.path: gone"
            in err
        )
    assert "Traceback" not in err


def test_objective_reaches_the_sweeper(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    import hydra.core.utils

    seen: list[Any] = []
    real = hydra.core.utils.JobReturn.return_value.fset
    assert real is not None
    monkeypatch.setattr(
        hydra.core.utils.JobReturn,
        "return_value",
        hydra.core.utils.JobReturn.return_value.setter(lambda self, value: (seen.append(value), real(self, value))[1]),
    )
    calls.answer = types.SimpleNamespace(objective=12)
    assert cli.main(TRAIN) == 0
    calls.answer = object()
    assert cli.main(TRAIN) == 0
    assert seen == [12.0, None]


def test_resume_takes_the_saved_config(calls: Calls, tmp_path: Path) -> None:
    assert cli.main([*TRAIN, "epochs=7", "name=${oc.env:HOME}x"]) == 0
    run = tmp_path / "runs" / "train"
    run.mkdir(parents=True)
    saved = calls.config | {"out": "runs/train", "name": "literal ${brace}"}
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    calls.clear()
    assert cli.main(["train", "resume=runs/train", "workers=2", "trainer.lr0=0.5"]) == 0
    expected = saved | {"resume": "runs/train", "workers": 2}
    expected["trainer"] = expected["trainer"] | {"lr0": 0.5}
    assert calls.config == expected
    calls.clear()
    (run / "resume.pt").write_bytes(b"")
    assert cli.main(["train", "resume=runs/train/resume.pt", "data=other set"]) == 0
    assert calls.config["resume"] == "runs/train"
    assert (calls.config["epochs"], calls.config["data"]["path"]) == (7, "other set")


def test_run_again_from_the_saved_config(calls: Calls, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["distill", "teacher=t.pt", "student=s.pt", "data=toy", "epochs=7"]) == 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(calls.config))
    again = ["distill", "--config-path", "run", "--config-name", "config"]
    first = calls.config
    calls.clear()
    assert cli.main([*again, "out=elsewhere", "student=other student.pt"]) == 0
    assert calls.config == first | {"out": "elsewhere", "student": first["student"] | {"path": "other student.pt"}}
    assert cli.main([*again, "distill=none"]) == 2
    assert "distill: this config is composed already, got none" in capfd.readouterr().err


def test_show_config(calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["distill", "--cfg", "job", "trainer.lr0=0.1", "data=a b"]) == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert shown["trainer"]["lr0"] == 0.1
    assert shown["data"]["path"] == "a b"
    assert shown["teacher"]["path"] == "???"
    assert cli.main(["distill", "--info", "defaults-tree", "data=toy"]) == 0
    assert "data: toy" in capfd.readouterr().out
    assert calls == []


def test_overview_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    bare = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    rows = {line.split()[0]: line for line in bare.splitlines() if line.startswith("  ")}
    assert list(rows) == list(VERBS)
    assert all(len(line.split()) > 3 for line in rows.values())
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("detkd ")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    for key in paths.primary(verb):
        assert re.search(rf"\n  {key}[=.]", text), key
    for group in paths.verb_groups(verb):
        for choice in paths.group_choices(group):
            assert choice in text
    assert text.count(f"  detkd {verb}") >= 3
    assert ("--multirun seed=0,1,2" in text) == ("seed" in paths.primary(verb) and verb != "cache")
    assert "--cfg job" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    reports = [line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  report.")]
    shown = "report" in paths.verb_groups(verb) and verb not in {"cache", "doctor"}
    assert reports == (paths.preset_keys("report", "default") if shown else [])
    stored = {line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  cache.")}
    known = {*paths.preset_keys("cache", "views"), *paths.preset_keys("cache", "instances")}
    assert stored == (known if verb == "cache" else set())


def test_help_shows_presets_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "my_own.yaml").write_text("# @package _global_\n")
    assert cli.main(["train", "--config-dir", str(tmp_path), "-h"]) == 0
    assert "my_own" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_examples_in_messages_and_help_work(verb: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    cli.main([verb, "--help"])
    typed = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith(f"  detkd {verb}")]
    for command in [*typed, EXAMPLES[verb]]:
        if "resume=" not in command:  # needs a run folder; tested above
            assert cli.main(shlex.split(command)[1:]) == 0, command
    assert {name for name, _ in calls} <= {verb}
    assert calls


def test_command_is_light_and_exits_with_the_status(tmp_path: Path) -> None:
    code = (
        "import sys; from detkd.cli import main; status = main(sys.argv[1:]); "
        "print(sorted({'torch', 'ultralytics', 'hydra', 'cv2', 'numpy'} & set(sys.modules)), file=sys.stderr); "
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "distill", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    done = subprocess.run(
        [sys.executable, "-m", "detkd", "train", "modle=x"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "detkd train: modle: no such key; did you mean model?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_script_is_the_same_as_the_verb(verb: str, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", [f"scripts/{verb}.py", "--cfg", "job"])
    with pytest.raises(SystemExit) as leave:
        runpy.run_path(str(ROOT / "scripts" / f"{verb}.py"), run_name="__main__")
    assert leave.value.code == 0
    assert calls == []


def test_bare_clone_finds_its_configs(tmp_path: Path) -> None:
    """Without any installation the tree beside the package is used."""
    (tmp_path / "detkd").symlink_to(ROOT / "detkd")
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f)]; "
        "import detkd.paths as p; print(p.CONFIG_PATH); from detkd.cli import main; "
        "sys.exit(main(['train', '--cfg', 'job']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(ROOT / "conf")
    assert "epochs: 100" in lines


def test_a_second_clone_beside_an_installed_one_finds_its_own(tmp_path: Path) -> None:
    for name in ("detkd", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("assets", "__pycache__", "local"))
    done = subprocess.run(
        [sys.executable, "-c", "import detkd.paths as p; print(p.CONFIG_PATH)"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (str(tmp_path.resolve() / "conf"), "")
