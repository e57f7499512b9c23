"""What is said of a distillation when it starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import detkd.environment

import pytest
import torch

from detkd.errors import PairError
from detkd.losses.base import DistillLoss
from detkd.losses.binary import BinaryLogits
from detkd.losses.crosshead import CrossHead
from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.teacher import LiveTeacher
from detkd.training.calibration import Calibrator
from detkd.training.notes import Notes, step_note, untaught_note
from tests.inference.tiny import NAMES, tiny_model


def probed(loss: DistillLoss, nms_conf: float | None, student: str = "yolo26n.yaml") -> tuple[Any, LiveTeacher]:
    """A student with a teacher without NMS-free head."""
    teacher = LiveTeacher(tiny_model("yolov8n.yaml", seed=2), NAMES, nms_conf=nms_conf)
    model = DistilledDetector(tiny_model(student, seed=1), teacher, Recipe.from_parts({"mine": {"loss": loss}}))
    model.probe(64, 64)
    return model, teacher


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"])
def test_a_common_factor_changes_nothing(name: str) -> None:
    """What the note relies on: ten steps on twice the loss end at the same place.

    RAdam's first few steps are plain momentum, so all begin with a learning rate of 0.
    """
    assert step_note(name, 0.5) is None
    ends = []
    for factor in (1.0, 0.5):
        x = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
        optimizer = getattr(torch.optim, name)([x], lr=0.0)
        for step in range(18):
            optimizer.param_groups[0]["lr"] = 0.01 * (step >= 8)
            optimizer.zero_grad()
            (factor * (x - 1).square().sum()).backward()
            optimizer.step()
        ends.append(x.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=0)


def test_a_step_that_grows_with_the_loss_is_named() -> None:
    said = step_note("SGD", 0.25, "SGD")
    assert said is not None
    assert "labels move the student by distill.alpha=0.25 times the step they give the control" in said
    assert "divide the student's trainer.lr0 by 0.25" in said
    assert "auto" not in said
    assert "auto ignores lr0" in str(step_note("MuSGD", 0.5, "auto"))
    assert "but for its orthogonalised part" in str(step_note("MuSGD", 0.5, "auto"))
    assert "divide" not in str(step_note("SGD", 0.0))
    assert step_note("SGD", 1.0) is None


def test_a_head_without_a_teacher_is_named() -> None:
    said = untaught_note(*probed(BinaryLogits(), None))
    assert said is not None
    assert said.startswith("the student's one2one head learns from labels alone: the teacher has no one2one head")
    assert "teacher.nms_conf=0.05" in said
    assert untaught_note(*probed(BinaryLogits(), 0.05)) is None
    assert untaught_note(*probed(BinaryLogits(), None, "yolov8n.yaml")) is None


def test_a_teacher_with_one_head_teaches_what_lies_inside_it() -> None:
    """By its one2many head; objects have nothing inside."""
    model, teacher = probed(CrossHead(), None)
    assert model.kd_names == ("kd_mine", "kd")
    assert "one2one head learns from labels alone" in str(untaught_note(model, teacher))
    with pytest.raises(PairError, match=r"made of objects .*set distill\.terms\.mine\.branches=\[one2many\]"):
        probed(CrossHead(), 0.05)


def test_said_once_and_doubts_are_alarms(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model, teacher = probed(BinaryLogits(temperature=2.0), None)
    weights = list(model.parameters())
    trainer = SimpleNamespace(
        model=model,
        calibrator=Calibrator(tmp_path),
        optimizer=torch.optim.SGD(weights, lr=0.1),
        plan=SimpleNamespace(arguments={"optimizer": "SGD"}),
    )
    notes = Notes()
    notes.source = teacher
    for _ in range(2):
        notes.start(trainer)
    assert [note.split(":")[0] for note in notes.said] == ["SGD", "the student's one2one head learns from labels alone"]
    (alarm,) = trainer.calibrator.alarms
    assert alarm.startswith("distill.terms.mine.loss.temperature: 2 with sigmoid scores")
    said = capsys.readouterr().err
    assert said.count("note: ") == 2
    assert said.count("alarm distill.terms.mine.loss.temperature") == 1
    trainer.model = model.student_model  # a control
    Notes().start(trainer)
    assert capsys.readouterr().err == ""
