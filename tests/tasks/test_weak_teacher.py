from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from detkd.tasks import teachers
from detkd.tasks.teachers import weak_teacher

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
