"""Every configuration file composes, and mistakes in them are found before anything runs."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

import detkd.losses.base
from detkd import paths
from detkd.config import EXAMPLES, VERBS, build, compose, from_arguments, key_names
from detkd.errors import ConfigError, DetkdError, ShapeError
from detkd.quoting import RUN_GROUPS
from detkd.signature import call_problems, nearest

CONF = paths.config_folder()
NEEDED = {
    "train": ["model=a.pt", "data=d"],
    "distill": ["teacher=t.pt", "student=s.pt", "data=d"],
    "doctor": ["teacher=t.pt", "student=s.pt", "data=d"],
    "evaluate": ["model=a.pt", "data=d"],
    "compare": ["before=a", "after=b"],
    "watch": ["run=r"],
    "export": ["model=a.pt"],
    "predict": ["model=a.pt", "source=s"],
    "cache": ["build", "teacher=t.pt", "student=s.pt", "data=d"],
    "pseudolabel": ["teacher=t.pt", "data=d", "source=s"],
    "demo": [],
}
PLUGINS = {
    "launch/joblib": "hydra_plugins.hydra_joblib_launcher",
    "launch/local": "hydra_plugins.hydra_submitit_launcher",
    "launch/ray": "hydra_plugins.hydra_ray_launcher",
    "launch/slurm": "hydra_plugins.hydra_submitit_launcher",
    "sweep/optuna": "hydra_plugins.hydra_optuna_sweeper",
}
"""What a preset needs, by its name."""
PRESETS = sorted(
    file.relative_to(CONF).with_suffix("").as_posix()
    for file in CONF.rglob("*.yaml")
    if file.parent not in (CONF, CONF / "local")
)


@pytest.fixture(autouse=True)
def assets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKD_ASSETS", "/assets")


@pytest.mark.parametrize("verb", VERBS)
def test_verb_composes(verb: str) -> None:
    config = compose(verb, NEEDED[verb])
    assert set(paths.primary(verb)) <= set(config)
    assert "hydra" not in config
    assert compose(verb, shlex.split(EXAMPLES[verb])[2:])


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_composes(preset: str) -> None:
    group, _, choice = preset.partition("/")
    if group in {"experiment", *RUN_GROUPS}:
        pytest.importorskip(PLUGINS.get(preset, "hydra"))
        # The second line of an experiment is the command it is meant for.
        lines = (CONF / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "# @package _global_"
        command = re.match(rf"# detkd (\w+) (.*?{group}={re.escape(choice)}\b[^()]*?)(?:\s{{2,}}.*)?$", lines[1])
        assert command, lines[1]
        config = compose(
            command[1], [word for word in shlex.split(command[2]) if word not in {"--multirun", "seed=0,1,2"}]
        )
        own = yaml.safe_load((CONF / f"{preset}.yaml").read_text(encoding="utf-8"))
        plain = {key: value for key, value in own.items() if key != "defaults" and not isinstance(value, dict)}
        assert {key: config[key] for key in plain} == plain  # an experiment's values win
        return
    verbs = [verb for verb in VERBS if group in paths.verb_groups(verb)]
    assert verbs, f"no verb uses the group {group}"
    for verb in verbs:
        typed = [word for word in NEEDED[verb] if not word.startswith(f"{group}=")]
        if choice == "path":
            typed.append(f"{group}.path=x")
        config = compose(verb, [*typed, f"{group}={choice}"])
        assert isinstance(config[group], dict)
        if group in {"model", "student", "teacher", "data"}:
            assert config[group]["path"]
        if group == "cache":
            assert config[group]["kind"] == choice


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_says_what_it_means(file: Path) -> None:
    if file.parent.name == "experiment":
        pytest.skip("experiments hold differences; their keys are explained where they are defined")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    for number, line in enumerate(lines, 1):
        assert len(line) <= 130, f"{file.name}:{number}: {len(line)} characters"
        has_value = re.match(r"\s*(?!_target_)\w+: +(?!#)", line)  # list items are explained by their key
        assert not has_value or " # " in line or file.parent.name == "augment", f"{file.name}:{number}: {line}"


def test_shared_keys_are_the_same_everywhere() -> None:
    """A key means the same in every verb; `train` and `distill` share defaults, so control and student match."""
    lines = {
        verb: {
            line.split(":")[0]: re.sub(r"\s+", " ", line)
            for line in (CONF / f"{verb}.yaml").read_text(encoding="utf-8").splitlines()
            if re.match(r"\w+: .* # ", line)
        }
        for verb in VERBS
    }
    assert lines["train"].items() <= lines["distill"].items()
    assert set(lines["distill"]) - set(lines["train"]) == {"control", "dry_run"}
    # Only trainings share their work over several devices. What a cache is built from are keys of distill; those without a use there are given for its experiments.
    assert set(lines["distill"]) - set(lines["cache"]) == {"resume"}
    for key in set(lines["distill"]) & set(lines["cache"]) - {
        "checkpoint",
        "control",
        "pictures",
        "out",
        "name",
        "device",
    }:
        assert key == "dry_run" or lines["cache"][key] == lines["distill"][key], key
    assert set(lines["distill"]) - set(lines["doctor"]) == {"resume"}
    for key in set(lines["distill"]) & set(lines["doctor"]) - {"out", "name", "dry_run", "pictures", "device"}:
        assert lines["doctor"][key] == lines["distill"][key], key
    for one in ("evaluate", "compare"):
        for other in ("export", "predict"):
            # compare leaves them open: run folders bring detections made with values of their own
            for key in lines[one].keys() & lines[other].keys() - {"out", "conf", "iou", "max_det"}:
                assert lines[one][key] == lines[other][key]


def test_teacher_keys_of_caches_and_footage_agree() -> None:
    """Both ask teachers with the same passes; a cache of objects and a set of footage differ in nothing else."""
    files = [
        (CONF / name).read_text(encoding="utf-8").splitlines() for name in ("cache/instances.yaml", "pseudolabel.yaml")
    ]
    stored, footage = ({line.split(":")[0]: line for line in lines if re.match(r"\w+: .* # ", line)} for lines in files)
    shared = {"conf", "iou", "wbf_iou", "max_objects", "flip"}
    assert shared <= stored.keys() & footage.keys()
    assert [stored[key] for key in sorted(shared)] == [footage[key] for key in sorted(shared)]
    values = compose("pseudolabel", NEEDED["pseudolabel"]), compose("cache", [*NEEDED["cache"], "cache=instances"])
    assert values[0]["scales"] == values[1]["cache"]["scales"] == [1.0]
    assert values[0]["teachers"] == values[1]["cache"]["teachers"] == []


@pytest.mark.parametrize("verb", ["distill", "demo"])
def test_nothing_is_cached_or_unlabelled_unless_asked_for(verb: str) -> None:
    config = compose(verb, NEEDED[verb])
    assert config["cache"] == {"kind": "none"}
    assert config["unlabelled"] == {"path": None}
    assert compose("train", NEEDED["train"])["unlabelled"] == {"path": None}
    assert compose(verb, [*NEEDED[verb], "cache=null"])["cache"] is None


def test_cache_takes_the_overlays_of_distill() -> None:
    for name in ("cctv_half", "cctv_nano", "coco_26n_26x"):
        typed = [f"experiment={name}", "teacher=t.pt"]
        built = compose("cache", ["build", *typed, "cache=views", "cache.k=all", "cache.classes=4"])
        trained = compose("distill", [*typed, "cache=views", "cache.k=all", "cache.classes=4"])
        assert {key: value for key, value in built.items() if key in trained and key != "dry_run"} == {
            key: value for key, value in trained.items() if key in built and key != "dry_run"
        }
        assert (built["cache"]["k"], built["cache"]["classes"]) == ("all", 4)


def test_doctor_takes_the_words_of_distill() -> None:
    for words in (["experiment=cctv_half", "teacher=t.pt", "distill=classic"], [*NEEDED["distill"], "cache=views"]):
        looked, trained = compose("doctor", words), compose("distill", words)
        assert looked.items() >= {key: value for key, value in trained.items() if key != "resume"}.items()
    assert (looked["images"], looked["steps"], looked["seconds"], looked["json"]) == (200, 40, 60, False)


def test_words_of_cache() -> None:
    info = compose("cache", ["info", "runs/my caches", "json=true"])
    assert (info["action"], info["path"], info["json"]) == ("info", "runs/my caches", True)
    assert (info["teacher"], info["student"], info["data"]) == (None, None, None)
    assert compose("cache", ["prune", "older_days=30"])["older_days"] == 30
    for words, message in (
        ([], "action: missing; e.g. detkd cache build teacher="),
        (["biuld"], "action: must be one of build, info, verify, prune, got biuld; did you mean build"),
        (["build", "data=d", "student=s"], "teacher: missing; e.g. detkd cache build teacher="),
        (["verify", "a", "b"], "b: not of the form key=value"),
        (["build", "teacher=t", "student=s", "data=d", "cache=veiws"], "cache: no such choice, got veiws; did you mean views"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=re.escape(message)):
            compose("cache", words)


def test_unlabelled_takes_a_folder() -> None:
    config = compose("distill", [*NEEDED["distill"], "unlabelled=runs/my set", "unlabelled.share=0.5"])
    assert config["unlabelled"] == {"path": "runs/my set", "labels": "both", "share": 0.5, "weight": "quality"}
    with pytest.raises(ConfigError, match=r"unlabelled\.share: the choice made for unlabelled has no"):
        compose("distill", [*NEEDED["distill"], "unlabelled.share=0.5"])


def test_keys_of_pseudolabel() -> None:
    typed = [
        "teacher=t.pt", "data=toy", "source=[cam 1/*.mp4, b,c.jpg]", "thresholds={car: 0.4}", "reject=my rejects (1).json",
        "teachers=[b.pt,{path: my c.pt, imgsz: 640}]", "scales=[0.5,1.0]", "stage=form",
    ]  # fmt: skip
    config = compose("pseudolabel", typed)
    assert config["source"] == ["cam 1/*.mp4", "b", "c.jpg"]
    assert config["teachers"] == ["b.pt", {"path": "my c.pt", "imgsz": 640}]
    assert (config["thresholds"], config["reject"]) == ({"car": 0.4}, "my rejects (1).json")
    assert config["scales"] == [0.5, 1.0]
    with pytest.raises(ConfigError, match="stage: must be one of all, collect, answer, form, got ask"):
        compose("pseudolabel", [*typed[:3], "stage=ask"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["launch=joblb"],
            "launch: no such choice, got joblb; did you mean joblib? (choices: joblib, local, ray, slurm)",
        ),
        (["sweep=nope"], "sweep: no such choice, got nope"),
    ],
)
def test_presets_of_sweeps(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose("train", [*NEEDED["train"], *words])
    assert compose("train", [*NEEDED["train"], "launch=null"]) == compose("train", NEEDED["train"])


def test_experiment_comes_last() -> None:
    """Defaults are composed in order: a primary config after its experiment would take the experiment's values back."""
    for verb in VERBS:
        defaults = yaml.safe_load((CONF / f"{verb}.yaml").read_text(encoding="utf-8"))["defaults"]
        assert "_self_" in defaults[:-2]
        assert defaults[-2:] == [{"experiment": None}, {"optional local": "default"}]


def test_half_width_student_and_model_agree() -> None:
    student = compose("distill", [*NEEDED["distill"][:1], "student=yolo26n_half", "data=d"])["student"]
    model = compose("train", ["model=yolo26n_half", "data=d"])["model"]
    scale = {"depth": 0.5, "width": 0.125, "max_channels": 1024}
    assert student == model == {"path": "yolo26.yaml", "scale": scale, "slice": None, "slice_by": "power"}


def test_from_arguments_takes_python_values() -> None:
    config = from_arguments(
        "distill",
        {
            "teacher": Path("my runs/t=1.pt"), "student": "yolo26n_half", "data": "d, e.yaml", "epochs": 3,
            "control": True, "nms": None, "out": "x,y", "trainer.lr0": 0.01, "plugins": ["one", "two"],
            "teacher.class_map": {"van (big)": "car, small", "x": None},
        },
    )  # fmt: skip
    assert config["teacher"]["path"] == "my runs/t=1.pt"
    assert config["teacher"]["class_map"] == {"van (big)": "car, small", "x": None}
    assert config["data"]["path"] == "d, e.yaml"
    assert (config["epochs"], config["control"], config["nms"], config["out"]) == (3, True, None, "x,y")
    assert (config["trainer"]["lr0"], config["plugins"]) == (0.01, ["one", "two"])


def test_compose_inside_a_hydra_job_keeps_its_state() -> None:
    state = GlobalHydra.instance()
    marker: Any = object()
    before, state.hydra = state.hydra, marker
    try:
        compose("train", NEEDED["train"])
        with pytest.raises(ConfigError, match="epcohs: no such key; did you mean epochs"):
            compose("train", [*NEEDED["train"], "epcohs=3"])
        assert state.hydra is marker
    finally:
        state.hydra = before


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("distill.terms.cls.loss.gama=2", "distill.terms.cls.loss.gama: no such key; did you mean gamma? (below distill.terms.cls.loss: gamma, "),
        ("distill.terms.clss.loss.gamma=2", "distill.terms.clss.loss.gamma: no such key; did you mean cls? (below distill.terms: cls, giou, l1)"),
        ("distill.region.fraction.x=2", "distill.region.fraction.x: no such key (below distill.region.fraction: no keys)"),
        ("distill.regoin.fraction=1", "distill.regoin.fraction: no such key; did you mean distill.region?"),
    ],
)  # fmt: skip
def test_compose_knows_what_is_deep_inside(typed: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("distill", [*NEEDED["distill"], typed])
    assert str(caught.value).startswith(message)


def test_compose_with_a_folder_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "my conf" / "data").mkdir(parents=True)
    (tmp_path / "my conf" / "data" / "gate.yaml").write_text("path: /data/gate\nname: gate\n")
    config = compose("train", ["model=a.pt", "data=gate"], config_dir=tmp_path / "my conf")
    assert config["data"] == {"path": "/data/gate", "name": "gate"}


def test_key_names_cover_groups() -> None:
    names = key_names("distill")
    assert {"epochs", "data", "data.on_bad", "teacher.imgsz", "distill.alpha"} <= set(names)


class Thing:
    """A target for `build`."""

    def __init__(
        self,
        size: int,
        ratio: float = 0.5,
        kind: Literal["a", "b"] = "a",
        names: list[str] | None = None,
        part: object = None,
    ) -> None:
        self.size, self.ratio, self.kind, self.names, self.part = size, ratio, kind, names, part
        if size < 0:
            raise ShapeError("size: must not be negative, got -1; use 0")
        if size > 99:
            raise ValueError("too big")


HERE = f"{__name__}.Thing"
ALLOW = (f"{__name__}.",)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are imported under a name of their own; dotted names must find this module."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, _module()))


def _module() -> Any:
    import types

    module = types.ModuleType(__name__)
    module.Thing = Thing  # type: ignore[attr-defined]
    return module


def test_build_makes_nested_objects() -> None:
    part = {"_target_": HERE, "size": 1}
    thing = build({"_target_": HERE, "size": 3, "ratio": 1, "names": ["x"], "part": part}, allow=ALLOW)
    assert (thing.size, thing.ratio, thing.names, thing.part.size) == (3, 1, ["x"], 1)
    assert type(thing.names) is list


def test_build_reports_all_problems_in_config_language() -> None:
    part = {"_target_": HERE, "size": True}
    node = {"_target_": HERE, "siz": 3, "ratio": "much", "kind": "c", "names": 5, "part": part}
    with pytest.raises(ConfigError) as caught:
        build(node, key="distill.terms.x.loss", allow=ALLOW)
    assert str(caught.value).splitlines() == [
        "distill.terms.x.loss.siz: no such key; did you mean size? (known: size, ratio, kind, names, part)",
        "distill.terms.x.loss.ratio: must be a number, got 'much'",
        "distill.terms.x.loss.kind: must be one of a, b, got 'c'",
        "distill.terms.x.loss.names: must be a list or null, got 5",
        "distill.terms.x.loss.size: missing; Thing needs it",
        "distill.terms.x.loss.part.size: must be a whole number, got True",
    ]


def test_build_puts_the_key_before_what_an_object_says_of_its_argument() -> None:
    with pytest.raises(ShapeError, match=r"^distill\.terms\.x\.loss\.size: must not be negative"):
        build({"_target_": HERE, "size": -1}, key="distill.terms.x.loss", allow=ALLOW)
    part = {"_target_": HERE, "size": -1}
    with pytest.raises(ShapeError, match=r"^x\.part\.size: must not be negative"):
        build({"_target_": HERE, "size": 1, "part": part}, key="x", allow=ALLOW)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", r"x._target_: must start with detkd\., got os.system; add its package to plugins="),
        ("detkd.io.os.system", r"x._target_: must be a function or class of detkd\., got detkd.io.os.system"),
        ("detkd.losses.base.DistilLoss", "detkd.losses.base has no DistilLoss; did you mean DistillLoss?"),
        ("detkd.losess.base.X", "x._target_: detkd has no losess"),
        ("detkd.errors.__all__", "must be a function or class"),
        (None, "must start with"),
    ],
)
def test_build_calls_only_what_is_allowed(target: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": target}, key="x")


def test_build_says_when_a_plugin_can_not_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no module of that name, got not_there_at_all\.Loss"):
        build({"_target_": "not_there_at_all.Loss"}, key="x", allow=("not_there_at_all.",))
    (tmp_path / "half_a_plugin.py").write_text("import a_module_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"importing half_a_plugin\.Loss failed .*a_module_nobody_has"):
        build({"_target_": "half_a_plugin.Loss"}, key="x", allow=("half_a_plugin.",))


def test_build_passes_our_errors_on_and_wraps_others() -> None:
    with pytest.raises(ShapeError, match="must not be negative"):
        build({"_target_": HERE, "size": -1}, key="x", allow=ALLOW)
    with pytest.raises(ConfigError, match=r"x: can't build .*Thing \(too big\)") as caught:
        build({"_target_": HERE, "size": 100}, key="x", allow=ALLOW)
    assert isinstance(caught.value, DetkdError)


def test_build_of_ours() -> None:
    assert type(build({"_target_": "detkd.losses.base.DistillLoss"})) is detkd.losses.base.DistillLoss


def test_call_problems_of_odd_callables() -> None:
    assert call_problems(dict, {"anything": 1}, "x") == []
    assert call_problems(functools.partial(Thing, size=1), {"ratio": 2.0}, "") == []

    def free(**options: int) -> None: ...

    def unknown_hint(value: NotImportedHere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert call_problems(free, {"anything": 1}, "x") == []
    assert call_problems(unknown_hint, {"value": 1}, "x") == []
    assert nearest("zzz", ["alpha"]) == ""
