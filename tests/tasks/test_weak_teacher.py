from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from detkd.tasks import distill, teachers
from detkd.tasks.teachers import weak_teacher
from detkd.training.calibration import ALARMS_FILE

ALONE = {"teacher": {"path": "t.pt"}}


@pytest.fixture(autouse=True)
def complete(monkeypatch) -> None:
    monkeypatch.setattr(teachers, "unknown_classes", lambda config, names: [])


def scored(ap: float) -> Any:
    return SimpleNamespace(metrics=SimpleNamespace(AP=ap))


def test_a_teacher_below_the_plain_student_is_named():
    (text,) = weak_teacher(ALONE, ("car",), scored(8.0), scored(9.5))
    assert "8.0 and 9.5 AP" in text
    assert "teacher.class_map" in text


def test_a_better_teacher_and_none_at_all_are_not():
    assert weak_teacher(ALONE, ("car",), scored(9.6), scored(9.5)) == []
    assert weak_teacher(ALONE, ("car",), None, scored(9.5)) == []


def test_without_a_control_nobody_knows_the_plain_student():
    assert weak_teacher(ALONE, ("car",), scored(8.0), None) == []


def test_one_of_several_teachers_is_not_judged_alone():
    assert weak_teacher({"teacher": {"path": "t.pt", "others": ["u.pt"]}}, ("car",), scored(8), scored(9)) == []


def test_a_teacher_that_lacks_a_class_is_not_judged_by_all_of_them(monkeypatch):
    monkeypatch.setattr(teachers, "unknown_classes", lambda config, names: ["bus"])
    assert weak_teacher(ALONE, ("car", "bus"), scored(8.0), scored(9.5)) == []


@dataclass(frozen=True)
class Compared:
    notes: tuple[Any, ...] = ()


def trained(ap: float, folder: Path) -> Any:
    run = SimpleNamespace(metrics=SimpleNamespace(AP=ap), truth=None)
    return SimpleNamespace(run=run, cost={}, weights=folder, outcome={"alarms": ["loud"]}, folder=folder)


@pytest.mark.parametrize(("known", "said"), [(3.0, True), (9.0, False)])
def test_the_alarm_is_printed_written_and_part_of_outcome_and_report(
    known: float, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("check_match", "report_settings", "slice_fields", "picture_settings", "write_report"):
        monkeypatch.setattr(distill, name, lambda *args, **more: None)
    monkeypatch.setattr(distill, "Side", lambda *args: args)
    monkeypatch.setattr(distill, "teacher_notes", lambda config, names: [])
    monkeypatch.setattr(distill, "compare", lambda *args, **more: Compared())
    monkeypatch.setattr(distill, "_teacher", lambda *args: (scored(known), {}))
    trainings = SimpleNamespace(
        config={**ALONE, "imgsz": 64}, spec=SimpleNamespace(names=("car",)), cached=None, control=None,
        earlier=trained(5.0, tmp_path), same_images=True, options={}, teacher="t.pt",
        student=SimpleNamespace(result=lambda resume: trained(6.0, tmp_path)),
    )  # fmt: skip
    result = distill.judge(cast(Any, trainings), tmp_path, False)
    text = "the teacher is worse here than the student without it (3.0 and 5.0 AP)"
    heard = "".join(capsys.readouterr())
    assert (text in heard, (tmp_path / ALARMS_FILE).is_file()) == (said, said)
    assert [alarm.partition(":")[0] for alarm in result.outcome["alarms"]] == ["loud", *[text] * said]
    notes = [note.text for note in result.comparison.notes]
    assert any(text in note for note in notes) == said
    if said:
        assert text in json.loads((tmp_path / ALARMS_FILE).read_text())["alarms"][0]
