from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from detkd.tasks.distill import weak_teacher


def scored(ap: float) -> Any:
    return SimpleNamespace(metrics=SimpleNamespace(AP=ap))


def test_a_teacher_below_the_plain_student_is_named():
    (text,) = weak_teacher((scored(8.0), {}), scored(9.5))
    assert "8.0 and 9.5 AP" in text
    assert "teacher.class_map" in text


def test_a_better_teacher_and_none_at_all_are_not():
    assert weak_teacher((scored(9.6), {}), scored(9.5)) == []
    assert weak_teacher(None, scored(9.5)) == []
