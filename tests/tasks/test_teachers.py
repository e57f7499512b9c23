"""The `teacher` group: several teachers, some classes, and what caches are known by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import detkd.environment

import pytest
import torch

from detkd import api
from detkd.config import compose
from detkd.errors import ConfigError, PairError
from detkd.models.ensemble import EnsembleTeacher
from detkd.models.teacher import LiveTeacher
from detkd.tasks.estimate import estimate
from detkd.tasks.footage_answers import teacher_specs
from detkd.tasks.teachers import (
    Member,
    live_teacher,
    teacher_facts,
    teacher_members,
    teacher_notes,
    teacher_sizes,
    teacher_source,
    unknown_classes,
)
from tests.inference.tiny import NAMES, save, tiny_model


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        name: save(tiny_model(seed=seed, names=names), tmp_path / f"{name}.pt")
        for seed, (name, names) in enumerate({"all": NAMES, "old": ("person", "auto"), "pets": ("dog",)}.items())
    }


def config(files: dict[str, Path], **teacher: Any) -> dict[str, Any]:
    return {"imgsz": 64, "teacher": {"path": str(files["all"]), "imgsz": None, "class_map": {}, **teacher}}


def test_keys_of_the_group_and_of_the_others() -> None:
    node = {"path": "a.pt", "imgsz": None, "class_map": {"van": "car"}, "weight": 2.0, "classes": ["car"], "half": None}
    node["others"] = ["b.pt", {"path": "c.pt", "imgsz": 320, "weight": 0.5, "class_map": {}, "classes": None}]
    assert teacher_members(node) == [
        Member("a.pt", class_map={"van": "car"}, weight=2.0, classes=["car"]),
        Member("b.pt"),
        Member("c.pt", imgsz=320, weight=0.5),
    ]
    assert teacher_members({"path": "a.pt"}) == [Member("a.pt")]  # a configuration of an earlier version


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ("b.pt", r"teacher\.others: must be a list, got 'b.pt'; e\.g\. teacher\.others=\[other\.pt\]"),
        ([3], r"teacher\.others\[0\]: must be a path or \{path, imgsz, .*got 3"),
        ([{"pth": "b.pt"}], r"teacher\.others\[0\]\.pth: no such key; did you mean path"),
        (["b.pt", {"path": "c.pt", "weight": 0}], r"teacher\.others\[1\]\.weight: must be above 0, got 0"),
        ([{"path": "c.pt", "classes": []}], r"teacher\.others\[0\]\.classes: names no class"),
    ],
)
def test_mistakes_in_others_are_named(others: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        teacher_members({"path": "a.pt", "others": others})


def test_the_command_line_takes_all_keys() -> None:
    words = ["teacher=a.pt", "student=yolo26n.yaml", "data=toy", "teacher.weight=2", "teacher.classes=[car]"]
    words += ["teacher.others=[{path: b.pt, weight: 0.5, classes: [person], class_map: {van: car}}, c.pt]"]
    node = compose("distill", words)["teacher"]
    assert [(m.path, m.weight, m.classes) for m in teacher_members(node)] == [
        ("a.pt", 2, ["car"]),
        ("b.pt", 0.5, ["person"]),
        ("c.pt", 1.0, None),
    ]
    assert (node["nms_conf"], node["nms_iou"], node["half"], node["compile"]) == (0.05, 0.7, None, False)


def test_sizes() -> None:
    def sizes(first: int | None, *others: int, load: int | None = None) -> tuple[int, int | None]:
        node = {"path": "a.pt", "imgsz": first, "others": [{"path": "b.pt", "imgsz": size} for size in others]}
        return teacher_sizes({"imgsz": 320, "load_imgsz": load, "teacher": node})

    assert sizes(None) == (320, None)
    assert sizes(640) == (640, 640)
    assert sizes(None, 640, 320) == (640, 640)
    assert sizes(None, load=640) == (320, 640)
    with pytest.raises(ConfigError, match=r"^teacher\.imgsz: must be imgsz \(320\) or load_imgsz \(640\), got 1280"):
        sizes(1280, load=640)
    with pytest.raises(ConfigError, match=r"^teacher\.others\[1\]\.imgsz: must be imgsz \(320\) or .*1280\), got 640"):
        sizes(None, 1280, 640)


def test_one_teacher_or_several(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one = teacher_source(config(files))(NAMES)
    assert isinstance(one, LiveTeacher)
    assert capsys.readouterr().err == ""
    others = [{"path": str(files["old"]), "class_map": {"auto": "car"}, "weight": 3.0}]
    several = teacher_source(config(files, others=others))(NAMES)
    assert isinstance(several, EnsembleTeacher)
    assert several.classes is None
    said = capsys.readouterr().err
    assert "the teacher old.pt does not know every class; learnt without it: truck, bicycle" in said
    with pytest.raises(PairError, match="the teacher knows no class of the data"):
        live_teacher(config(files, others=[str(files["pets"])]), NAMES)
    with pytest.raises(PairError, match=r"^teacher\.others\[0\]\.classes: no class 'cra' in the data"):
        live_teacher(config(files, others=[{"path": str(files["old"]), "classes": ["cra"]}]), NAMES)
    more = [str(files["old"]), {"path": str(files["old"]), "class_map": {"lorry": "truck"}}]
    with pytest.raises(PairError, match=r"^teacher\.others\[1\]\.class_map: no class 'lorry'"):
        live_teacher(config(files, others=more), NAMES)
    alone = live_teacher(config(files, classes=["car"]), NAMES)
    assert alone.classes is not None
    assert alone.classes.tolist() == [False, True, False, False]
    assert "answers for chosen classes only; learnt without it: person, truck, bicycle" in capsys.readouterr().err


def test_names_tell_teachers_apart() -> None:
    paths = ("runs/day/weights/last.pt", "runs/night/weights/last.pt", "nets/yolo26n.pt", "a/answers.json", "yolo26m")
    assert [Member(path).name for path in paths] == ["day", "night", "yolo26n.pt", "answers.json", "yolo26m"]


def test_settings_reach_the_teacher_and_a_cache_asks_exactly(tmp_path: Path) -> None:
    path = save(tiny_model("yolov8n.yaml"), tmp_path / "nms.pt")
    node = {"path": str(path), "nms_conf": 0.05, "nms_iou": 0.6, "half": True, "compile": False}
    asked = {"imgsz": 64, "teacher": node}
    assert live_teacher(asked, NAMES).teaches("one2one")
    exact = live_teacher(asked, NAMES, exact=True)
    assert not exact.teaches("one2one")  # what it would say depends on the student of the moment
    assert isinstance(exact, LiveTeacher)
    assert {p.dtype for p in exact.to(torch.device("cpu")).model.parameters()} == {torch.float32}
    for recipe, wanted in (("binary", True), ("crosshead", False), ("pkd", False)):
        typed = ["teacher=t.pt", "student=yolo26n.yaml", "data=toy", f"distill={recipe}"]
        found = live_teacher({**asked, "distill": compose("distill", typed)["distill"]}, NAMES)
        assert found.teaches("one2one") is wanted, recipe  # nobody would read what costs NMS in every step
    old = live_teacher({"imgsz": 64, "teacher": {"path": str(path)}}, NAMES)
    assert not old.teaches("one2one")  # a run resumed from an earlier version goes on as it began


def test_a_cache_is_known_by_all_members(files: dict[str, Path]) -> None:
    plain = teacher_facts(config(files), 64)
    assert set(plain) == {"weights", "imgsz", "class_map"}  # as caches of earlier versions
    found = [
        plain,
        teacher_facts(config(files, classes=["car"]), 64),
        teacher_facts(config(files, others=[str(files["old"])]), 64),
        teacher_facts(config(files, others=[{"path": str(files["old"]), "weight": 2.0}]), 64),
        teacher_facts(config(files, others=[{"path": str(files["old"]), "classes": ["car"]}]), 64),
        teacher_facts(config(files, others=[str(files["pets"])]), 64),
        teacher_facts(config(files, others=[str(files["old"])], weight=2.0), 64),
    ]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    # Alone, a weight changes nothing.
    assert teacher_facts(config(files, weight=2.0), 64) == plain


def test_what_a_report_must_say(files: dict[str, Path]) -> None:
    assert teacher_notes(config(files), NAMES) == []
    assert unknown_classes(config(files), ("person", "dog")) == ["dog"]
    first, second = teacher_notes(config(files, others=[str(files["old"])]), ("person", "dog"))
    assert first == "the student had 2 teachers; the teacher's row is that of the first, all.pt"
    assert "does not know dog; its average precision counts them as 0" in second
    assert unknown_classes(config(files) | {"teacher": {"path": str(files["old"])}}, ("person", "car")) == ["car"]


def test_the_estimate_counts_every_teacher(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detkd.tasks.estimate._gflops", lambda path, scale, imgsz, key: 2.0 * (key == "teacher") + 1.0)
    student = {"student": {"path": "yolo26n.yaml"}, "epochs": 1}
    one = estimate({**config(files), **student}, 10)
    two = estimate({**config(files, others=[str(files["all"])]), **student}, 10)
    assert (one.teacher_gflops, two.teacher_gflops) == (3.0, 6.0)
    assert two.ratio == 3.0  # (3 * 1 + 6) / (3 * 1)


@pytest.mark.parametrize("key", ["others", "classes"])
def test_objects_have_teachers_of_their_own(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"teacher\.{key}: .*teachers=\[\.\.\.\]"):
        teacher_specs({"path": "a.pt", key: ["x"]}, [])
    (spec,) = teacher_specs({"path": "a.pt", "nms_conf": 0.05, "half": None, "others": [], "weight": 2.0}, [])
    assert (spec.path, spec.weight) == ("a.pt", 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "views"])
def test_two_teachers_of_parts_of_the_classes_train_a_student(tmp_path: Path, repo: Path, kind: str) -> None:
    """Old classes from a former model, the rest from another one, live and from a cache."""
    old = save(tiny_model(names=("person",), seed=1), tmp_path / "old.pt")
    new = save(tiny_model("yolov8n.yaml", names=("car", "dog"), seed=2), tmp_path / "new.pt")
    words = [
        f"teacher={old}", f"teacher.others=[{{path: {new}, weight: 2.0}}]", "student=yolo26n.yaml",
        f"data={repo / 'data' / 'samples'}", "epochs=1", "imgsz=64", "batch=4", "augment=none", "device=cpu",
        "pictures=0", "trainer.val=false", f"out={tmp_path / 'run'}", f"cache={kind}",
        *([f"cache.path={tmp_path / 'cache'}", "cache.views=1", "cache.k=all"] if kind == "views" else []),
    ]  # fmt: skip
    result = api.distill(compose("distill", words))
    assert result is not None
    assert result.comparison is not None
    text = " ".join(note.text for note in result.comparison.notes)
    assert "the student had 2 teachers" in text
    rows = (tmp_path / "run" / "train" / "results.csv").read_text().splitlines()
    values = dict(zip(rows[0].split(","), map(float, rows[1].split(",")), strict=True))
    assert values["train/kd_cls"] > 0
