"""What is typed, what Hydra reads, what arrives."""

from __future__ import annotations

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from detkd.errors import ConfigError
from detkd.quoting import as_typed, literal, name_words, quote, rewrite, split_commas, split_options, text

GROUPS = {
    "model": ("path", "yolo26n_half"),
    "data": ("path", "toy", "coco8"),
    "student": ("path", "yolo26n_half", "tiny"),
    "teacher": ("path",),
    "distill": ("binary", "none"),
    "cache": ("instances", "none", "views"),
    "unlabelled": ("none", "path"),
    "experiment": ("coco/a",),
}
PARSER = OverridesParser.create()


def arrives(typed: str, **options: object) -> dict[str, object]:
    """Return key -> value as Hydra's own parser and OmegaConf understand the rewritten override."""
    tree = OmegaConf.create({"seed": 7})
    for word in rewrite(typed, GROUPS, **options):  # type: ignore[arg-type]
        override = PARSER.parse_override(word)
        OmegaConf.update(tree, override.key_or_group.replace(".", "__"), override.value(), force_add=True)
    values = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(values, dict)
    del values["seed"]
    return {str(key).replace("__", "."): value for key, value in values.items()}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        # texts, whatever they look like
        ("out=runs/x", {"out": "runs/x"}),
        ("out=runs/a=1", {"out": "runs/a=1"}),
        ("out=runs/a (2)", {"out": "runs/a (2)"}),
        ("out=runs/[old]/x", {"out": "runs/[old]/x"}),
        ("out=[x]", {"out": "[x]"}),
        ("out={x}", {"out": "{x}"}),
        ("out={a: b}", {"out": "{a: b}"}),
        ("out=~/runs", {"out": "~/runs"}),
        ("out=$HOME/runs", {"out": "$HOME/runs"}),
        ("out=a,b", {"out": "a,b"}),
        ("out= padded ", {"out": " padded "}),
        ("out=Überwachung/监控", {"out": "Überwachung/监控"}),
        ("out=it's \"here\"", {"out": "it's \"here\""}),
        ("out=a\\b\\", {"out": "a\\b\\"}),
        ("out=123", {"out": "123"}),
        ("out=true", {"out": "true"}),
        ("out=1e3", {"out": "1e3"}),
        ("out=range(3)", {"out": "range(3)"}),
        ("out=null", {"out": None}),
        ("out='a,b'", {"out": "a,b"}),
        ('out="a b"', {"out": "a b"}),
        ("out=", {"out": ""}),
        ("out=runs/${seed}", {"out": "runs/7"}),
        ("out=runs/\\${seed}", {"out": "runs/${seed}"}),
        ("out=a${b", {"out": "a${b"}),
        ("out=a${", {"out": "a${"}),
        ("out=x${seed}y${", {"out": "x7y${"}),
        ("name=007", {"name": "007"}),
        ("device=0,1", {"device": "0,1"}),
        ("device=0", {"device": "0"}),
        ("device=cuda:1", {"device": "cuda:1"}),
        ("fail_if=AP<-0.5", {"fail_if": "AP<-0.5"}),
        ("fail_if='AP<-0.5'", {"fail_if": "AP<-0.5"}),
        ("fail_if=AP < 0, AP50 < 1", {"fail_if": "AP < 0, AP50 < 1"}),
        ("resume=runs/distill-2", {"resume": "runs/distill-2"}),
        ("control=true", {"control": True}),
        ("control=runs/a=b", {"control": "runs/a=b"}),
        ("source=street (1).mp4", {"source": "street (1).mp4"}),
        ("source=[a b/*.mp4,c=d.jpg]", {"source": ["a b/*.mp4", "c=d.jpg"]}),
        ("path=runs/cache/a=1", {"path": "runs/cache/a=1"}),
        ("reject=rejected (1).json", {"reject": "rejected (1).json"}),
        ("reject=[]", {"reject": []}),
        ("cache=views", {"cache": "views"}),
        ("cache.path=runs/my cache", {"cache.path": "runs/my cache"}),
        ("cache.k=all", {"cache.k": "all"}),
        ("unlabelled=runs/pseudo (2)", {"unlabelled": "path", "unlabelled.path": "runs/pseudo (2)"}),
        ("thresholds={traffic light: 0.4, car: .5}", {"thresholds": {"traffic light": 0.4, "car": 0.5}}),
        ("data.train=[a b.json,c=d.json]", {"data.train": ["a b.json", "c=d.json"]}),
        # types are kept
        ("epochs=3", {"epochs": 3}),
        ("conf=0.25", {"conf": 0.25}),
        ("conf=-1e-3", {"conf": -0.001}),
        ("trust=true", {"trust": True}),
        ("nms=null", {"nms": None}),
        ("plugins=[my_pkg,other]", {"plugins": ["my_pkg", "other"]}),
        ("plugins=[]", {"plugins": []}),
        ("epochs=int(3)", {"epochs": 3}),
        ("imgsz=${seed}", {"imgsz": 7}),
        ("split=a,b", {"split": "a,b"}),
        ("split=left camera", {"split": "left camera"}),
        ("distill.terms.cls.branches=[one2many]", {"distill.terms.cls.branches": ["one2many"]}),
        ("trainer.lr0=0.01", {"trainer.lr0": 0.01}),
        ("trainer.optimizer=SGD", {"trainer.optimizer": "SGD"}),
        ("trainer.classes=[0, 2]", {"trainer.classes": [0, 2]}),
        ("teacher.class_map={van: car}", {"teacher.class_map": {"van": "car"}}),
        ("teacher.class_map={'pickup truck': car, van (big): 'a, b'}",
         {"teacher.class_map": {"pickup truck": "car", "van (big)": "a, b"}}),
        ("teacher.class_map={a: [1, {b: c d}]}", {"teacher.class_map": {"a": [1, {"b": "c d"}]}}),
        ("teacher.class_map={}", {"teacher.class_map": {}}),
        # presets and paths
        ("data=toy", {"data": "toy"}),
        ("data=Toy", {"data": "toy"}),
        ("data='toy'", {"data": "toy"}),
        ("data=my set/data.yaml", {"data": "path", "data.path": "my set/data.yaml"}),
        ("data=./toy", {"data": "path", "data.path": "./toy"}),
        ("data=a=b,c[1].yaml", {"data": "path", "data.path": "a=b,c[1].yaml"}),
        ("data='odd, name'", {"data": "path", "data.path": "odd, name"}),
        ("teacher=yolo26x", {"teacher": "path", "teacher.path": "yolo26x"}),
        ("student=yolo26n_half", {"student": "yolo26n_half"}),
        ("model=1.pt", {"model": "path", "model.path": "1.pt"}),
        ("model=[a.pt,b (1).pt]", {"model": "path", "model.path": ["a.pt", "b (1).pt"]}),
        ("data=[x]", {"data": "path", "data.path": "[x]"}),
        ("data.path=x y", {"data.path": "x y"}),
        ("before=runs/x", {"before": "runs/x"}),
        ("experiment=coco/a", {"experiment": "coco/a"}),
    ],
)  # fmt: skip
def test_value_arrives_as_typed(typed: str, expected: dict[str, object]) -> None:
    got = arrives(typed)
    assert got == expected
    assert {key: type(value) for key, value in got.items()} == {key: type(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("seed=0,1,2", ["seed=0,1,2"]),
        ("seed=range(0,3)", ["seed=range(0,3)"]),
        ("device=0,1", ["device='0','1'"]),
        ("device='0,1'", ["device='0,1'"]),
        ("out=a b,c", ["out='a b','c'"]),
        ("out=a[1,2],b", ["out='a[1,2]','b'"]),
        ("out=a[1,b", ["out='a[1','b'"]),
        ("student=yolo26n,yolo11n", ["student=path", "student.path='yolo26n','yolo11n'"]),
        ("student=yolo26n_half,tiny", ["student=yolo26n_half,tiny"]),
        ("distill=binary,none", ["distill=binary,none"]),
        ("trainer.lr0=0.1,0.2", ["++trainer.lr0=0.1,0.2"]),
        ("plugins=[a,b],[c]", ["plugins=[a,b],[c]"]),
        ("~distill.terms.l1", ["~distill.terms.l1"]),
        ("data=null", ["~data"]),
        ("experiment=null", []),
    ],
)
def test_comma_sweeps_under_multirun(typed: str, expected: list[str]) -> None:
    words = rewrite(typed, GROUPS, sweep=True)
    assert words == expected
    for word in words:
        PARSER.parse_override(word)


@pytest.mark.parametrize(
    ("typed", "options", "message"),
    [
        ("coco128", {}, "coco128: not of the form key=value"),
        ("=3", {}, "not of the form key=value"),
        ("two words=3", {}, "not of the form key=value"),
        ("seed=range(0,3)", {}, r"seed: one value expected, got range\(0,3\); add --multirun"),
        ("distill=binary,none", {}, "distill: one value expected, got binary,none; add --multirun"),
        ("student=yolo26n_half,a.pt", {"sweep": True}, r"student: .* yolo26n_half \(preset\) and a.pt \(path\)"),
        ("teacher.class_map={人: person}", {}, "人: a name with such letters"),
        ("distill=none", {"composed": ["distill"]}, "distill: this config is composed already"),
    ],
)
def test_refusals_name_key_and_fix(typed: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rewrite(typed, GROUPS, **options)  # type: ignore[arg-type]


def test_composed_config_takes_the_path() -> None:
    assert rewrite("data=a b", GROUPS, composed=["data"]) == ["data.path='a b'"]


# Characters a path can hold; `${` has a meaning of its own and a table above.
PATHS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=30).filter(
    lambda path: path.lower() != "null" and "${" not in path and not re.fullmatch(r"""(['"]).*\1""", path, re.DOTALL)
)
NASTY = st.text("\\'\"{}[]()=,~$ :a0<>*?#@\t\n", min_size=1, max_size=12).filter(
    lambda path: "${" not in path and not re.fullmatch(r"""(['"]).*\1""", path, re.DOTALL)
)


@settings(max_examples=150, deadline=None)
@given(PATHS | NASTY)
@example("\\'")
@example("'\\")
@example("\\\\'x\\")
def test_any_path_survives(path: str) -> None:
    assert arrives(f"out={path}") == {"out": path}
    assert arrives(f"data={path}") == {"data": "path", "data.path": path}


@settings(max_examples=100, deadline=None)
@given(st.text("\\${}ab:.'", max_size=12))
def test_text_is_always_readable(value: str) -> None:
    override = PARSER.parse_override(f"out={text(value)}")
    tree = OmegaConf.create({"out": override.value(), "a": "A", "b": "B", "ab": "AB", "ba": "BA"})
    if re.search(r"\$\{[ab]+\}", value) or re.search(r"\$\{\.*[ab]", value):
        return  # a real interpolation: where it leads is not our matter here
    assert tree.out == value


@settings(max_examples=100, deadline=None)
@given(st.lists(PATHS.filter(lambda word: word.strip(" \t") != ""), min_size=1, max_size=4))
def test_list_of_quoted_items_keeps_each(items: list[str]) -> None:
    override = PARSER.parse_override(f"plugins={literal('[' + ', '.join(quote(item) for item in items) + ']')}")
    assert override.value() == items


def test_bare_words_get_names() -> None:
    names = ("action", "path")
    assert name_words(["verify", "runs/x", "checks=2"], names) == ["action=verify", "path=runs/x", "checks=2"]
    assert name_words(["checks=2", "verify", "~/x"], names) == ["checks=2", "action=verify", "path=~/x"]
    assert name_words(["action=info", "runs/x"], names) == ["action=info", "path=runs/x"]
    assert name_words(["~distill.terms.l1", "a", "b", "c"], names) == ["~distill.terms.l1", "action=a", "path=b", "c"]
    assert name_words(["a"], ()) == ["a"]


def test_python_values_as_typed() -> None:
    assert [as_typed(value) for value in (None, True, 0.5, "a b", [1, "b c"], {"x": "y z"})] == [
        "null", "true", "0.5", "a b", "[1,'b c']", "{x: 'y z'}",
    ]  # fmt: skip


def test_split_commas() -> None:
    assert split_commas("a,[b,c],'d,e',f(1,2)") == ["a", "[b,c]", "'d,e'", "f(1,2)"]
    assert split_commas("it's,fine") == ["it's", "fine"]
    assert split_commas("a],b") == ["a]", "b"]


def test_options_in_any_order() -> None:
    assert split_options(["a=1", "--cfg", "job", "b=2", "-m", "--config-dir=x", "--info", "c=3"]) == (
        ["a=1", "b=2", "c=3"],
        ["--cfg", "job", "-m", "--config-dir=x", "--info"],
    )
    with pytest.raises(ConfigError, match="--epochs: no such option; keys are written epochs=VALUE"):
        split_options(["--epochs", "3"])
    with pytest.raises(ConfigError, match="--cfg: needs a value"):
        split_options(["--cfg"])
