from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import detkd.environment

import pytest
import torch
from ultralytics.cfg import get_cfg

from detkd.errors import ModelError
from detkd.losses.base import DistillLoss
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU
from detkd.losses.recipe import Recipe, Schedule
from detkd.models.distilled import DistilledDetector
from detkd.models.pull import Pull
from detkd.models.teacher import LiveTeacher
from detkd.training.calibration import ALARMS_FILE, Calibrator, _together
from detkd.training.plan import Distillation
from tests.inference.tiny import NAMES, tiny_model
from tests.models.test_distilled import Adapted, batch
from tests.training.test_trainer import final_weights, plan, run

USUAL = {"head": 0.3, "features": None, "warmup": 0.0, "batches": 2, "bound": 2.0, "limit": 1000.0}


class Frozen(DistillLoss):
    """A loss that forgets the student's graph."""

    uses = frozenset({"logits"})

    def forward(self, student, teacher, context):
        return student.head(context.branch).logits.detach().square().mean()


class Nothing(DistillLoss):
    uses = frozenset({"logits"})

    def forward(self, student, teacher, context):
        return student.head(context.branch).logits.sum() * 0


class Broken(DistillLoss):
    uses = frozenset({"logits"})

    def forward(self, student, teacher, context):
        return student.head(context.branch).logits.mean() / 0


def parts(**losses: DistillLoss) -> dict:
    return {name: {"loss": loss} for name, loss in losses.items()}


def detector(calibrate=None, **losses: DistillLoss) -> DistilledDetector:
    student = tiny_model(seed=1)
    student.args = get_cfg()
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    recipe = Recipe.from_parts(parts(**(losses or {"cls": BinaryLogits(), "giou": BoxIoU()})), calibrate=calibrate)
    model = DistilledDetector(student, LiveTeacher(tiny_model(seed=2), NAMES), recipe)
    model.probe(64, 64)
    return model.train()


def measure(model: DistilledDetector, calibrator: Calibrator) -> None:
    calibrator.before_step(model)
    model.loss(batch())
    if model.pull is not None:
        calibrator.take(model, model.pull)


def test_the_share_is_the_target_after_the_first_measurement(tmp_path):
    model, calibrator = detector(USUAL), Calibrator(tmp_path)
    for _ in range(2):
        measure(model, calibrator)
    assert int(model.recipe.measured) == 1
    model.measure = True
    model.loss(batch())
    for group in ("head", "head_o2o"):
        assert model.pull.share(group) == pytest.approx(0.3, rel=1e-4)  # the batch is the same
    calibrator.before_step(model)
    assert not model.measure  # once per epoch
    calibrator.start_epoch()
    calibrator.before_step(model)
    assert model.measure


def test_alpha_and_lambda_don_t_matter_to_the_share(tmp_path):
    shares = []
    for alpha, weight in ((0.5, 1.0), (0.9, 0.01)):
        model = detector(USUAL)
        model.recipe.alpha, model.recipe.kd_weight = alpha, weight
        for _ in range(2):
            measure(model, calibrator := Calibrator(tmp_path))
            measure(model, calibrator)
        model.measure = True
        model.loss(batch())
        shares.append(model.pull.share("head"))
    assert shares == pytest.approx([0.3, 0.3], rel=1e-3)


def test_measuring_changes_neither_loss_nor_gradient():
    plain, measured = detector(), detector()
    measured.measure = True
    state = torch.get_rng_state()
    for model in (plain, measured):
        model.loss(batch())[0].sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert measured.pull is not None
    for a, b in zip(plain.parameters(), measured.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)


def test_what_fades_on_purpose_is_not_made_up_for(tmp_path):
    """Neither a schedule, nor the weight of a head, nor the detector's shift from one head to the other."""
    factors = []
    for faded in (False, True):
        model, calibrator = detector(USUAL), Calibrator(tmp_path)
        model.loss(batch())
        if faded:
            model.recipe.schedule = replace(model.recipe.schedule, kind="linear", end=0.5)
            model.progress = 1.0  # half of the weight is left
            model.recipe.head_weights["one2many"] = 0.2
            model.criterion.o2m, model.criterion.o2o = 0.1, 0.9
        for _ in range(2):
            measure(model, calibrator)
        factors.append(model.recipe.factors.tolist()[:2])
    assert factors[0] == pytest.approx(factors[1], rel=1e-3)
    assert 1.0 not in factors[0]


def test_one_head_alone_is_calibrated(tmp_path):
    model, calibrator = detector(USUAL), Calibrator(tmp_path)
    model.recipe.head_weights["one2many"] = 0.0
    for _ in range(2):
        measure(model, calibrator)
    assert model.recipe.factors[0] == 1.0
    assert model.recipe.factors[1] != 1.0
    model.measure = True
    model.loss(batch())
    assert model.pull.share("head_o2o") == pytest.approx(0.3, rel=1e-4)


def test_a_term_without_a_gradient_raises_an_alarm(tmp_path):
    model, calibrator = detector(cls=BinaryLogits(), frozen=Frozen()), Calibrator(tmp_path)
    measure(model, calibrator)
    named = [text.split(":")[0] for text in calibrator.alarms]
    assert named == ["kd_frozen", "kd_frozen_o2o"]
    assert json.loads((tmp_path / ALARMS_FILE).read_text())["alarms"] == calibrator.alarms
    assert Calibrator(tmp_path, resume=True).alarms == calibrator.alarms


def test_a_term_that_stays_exactly_0_raises_an_alarm(tmp_path):
    model, calibrator = detector(cls=BinaryLogits(), nothing=Nothing()), Calibrator(tmp_path)
    _, items = model.loss(batch())
    for _ in range(19):
        calibrator._watch(model, items)
    assert calibrator.alarms == []
    calibrator._watch(model, items)
    assert {text.split(":")[0] for text in calibrator.alarms} == {"kd_nothing", "kd_nothing_o2o"}


def test_distillation_that_drowns_the_labels_raises_an_alarm(tmp_path):
    calibrator = Calibrator(tmp_path)
    calibrator.take(detector(), Pull({"head": 0.1}, {"head": 2.0}, {}, {}))
    assert "20 times as hard" in calibrator.alarms[0]


def test_calibration_that_can_t_keep_up_raises_an_alarm(tmp_path):
    model, calibrator = detector({**USUAL, "batches": 1}), Calibrator(tmp_path)
    loud = Pull({"head": 0.1}, {"head": 2.0}, {}, {})
    calibrator.take(model, loud)
    assert calibrator.alarms == []  # corrected by this very measurement
    assert float(model.recipe.factors[0]) == pytest.approx(0.3 / 20)
    calibrator.take(model, loud)
    assert "20 times as hard" in calibrator.alarms[0]
    assert "distill.calibrate.bound" in calibrator.alarms[0]


def test_a_group_that_said_nothing_at_first_is_set_freely_later(tmp_path):
    model, calibrator = detector({**USUAL, "batches": 1}), Calibrator(tmp_path)
    for share, factor in ((0.0, 1.0), (0.01, 30.0), (0.01, 60.0)):  # nothing; 0.3 / 0.01; then at most twice
        calibrator.take(model, Pull({"head": 1.0}, {"head": share}, {}, {}))
        assert float(model.recipe.factors[0]) == pytest.approx(factor)


def test_frozen_layers_leave_the_heads_to_compare(tmp_path):
    model, calibrator = detector(USUAL), Calibrator(tmp_path)
    for parameter in model.student_model.model[:-1].parameters():
        parameter.requires_grad_(False)
    for _ in range(2):
        measure(model, calibrator)
    assert calibrator.alarms == []
    assert 1.0 not in model.recipe.factors.tolist()[:2]


def test_an_epoch_shorter_than_a_measurement_is_measured_whole(tmp_path):
    model, calibrator = detector({**USUAL, "batches": 4}), Calibrator(tmp_path)
    trainer = SimpleNamespace(model=model)
    for share, factor in ((0.1, 3.0), (0.6, 1.5)):  # 0.3 / 0.1; then 0.3 / 0.6
        calibrator.start_epoch()
        for _ in range(3):
            calibrator.take(model, Pull({"head": 1.0}, {"head": share}, {}, {}))
        calibrator.end_epoch(trainer)
        assert float(model.recipe.factors[0]) == pytest.approx(factor)
    assert int(model.recipe.measured) == 2
    calibrator.start_epoch()
    calibrator.end_epoch(trainer)  # of which nothing was measured
    assert int(model.recipe.measured) == 2


def test_what_overflowed_has_no_say(tmp_path):
    model, calibrator = detector({**USUAL, "batches": 3}), Calibrator(tmp_path)
    for _ in range(2):
        calibrator.start_epoch()
        for norm in (math.inf, math.nan, 0.1):
            calibrator.take(model, Pull({"head": 1.0}, {"head": norm}, {}, {}))
    assert float(model.recipe.factors[0]) == pytest.approx(6.0)
    assert calibrator.alarms == []


def test_a_silent_term_is_counted_across_an_interruption(tmp_path):
    model, first = detector(cls=BinaryLogits(), nothing=Nothing()), Calibrator(tmp_path)
    items = {name: torch.tensor(0.0 if "nothing" in name else 1.0) for name in model.kd_names}
    for _ in range(12):
        first._watch(model, items)
    again = Calibrator(tmp_path, resume=True)
    again.state = first.state
    for _ in range(8):
        again._watch(model, items)
    assert len(again.alarms) == sum("nothing" in name for name in model.kd_names)


def test_terms_and_labels_that_both_pull_nothing_are_frozen_not_uncomparable(tmp_path):
    model, calibrator = detector({**USUAL, "batches": 1}), Calibrator(tmp_path)
    calibrator.take(model, Pull({"head": 0.0}, {"head": 0.0}, {}, {}))
    assert calibrator.alarms == []


def test_terms_too_weak_for_the_limit_raise_an_alarm(tmp_path):
    model, calibrator = detector({**USUAL, "batches": 1, "limit": 10.0}), Calibrator(tmp_path)
    for _ in range(2):
        calibrator.start_epoch()
        share = 0.001 * float(model.recipe.factors[0])
        calibrator.take(model, Pull({"head": 1.0}, {"head": share}, {}, {}))
    assert float(model.recipe.factors[0]) == 10.0
    (alarm,) = calibrator.alarms
    assert alarm.startswith("head: these terms are so weak that their target would take a factor of 300")
    assert "share of 0.01, not 0.3" in alarm


def test_a_negative_term_raises_an_alarm(tmp_path):
    model, calibrator = detector(), Calibrator(tmp_path)
    calibrator.take(
        model, Pull({"head": 1.0}, {"head": 1.0}, {"kd_cls": 2.0, "kd_giou": 1.0}, {"kd_cls": -3.0, "kd_giou": -1e-8})
    )
    assert [alarm.split(" (")[0] for alarm in calibrator.alarms] == ["kd_cls: is negative"]


def test_nothing_to_compare_raises_an_alarm(tmp_path):
    model, calibrator = detector(USUAL), Calibrator(tmp_path)
    for _ in range(2):
        calibrator.take(model, Pull({"head": 0.0}, {"head": 1.0}, {}, {}))
    assert model.recipe.factors.tolist() == [1.0, 1.0, 1.0]
    assert [text.split(":")[0] for text in calibrator.alarms] == ["calibrate.head"]


def test_a_term_without_weight_may_be_0(tmp_path):
    model, calibrator = detector(cls=BinaryLogits(), nothing=Nothing()), Calibrator(tmp_path)
    model.recipe.weights["nothing"] = 0.0
    _, items = model.loss(batch())
    for _ in range(20):
        calibrator._watch(model, items)
    assert calibrator.alarms == []
    model.recipe.weights["nothing"] = 1.0
    model.recipe.schedules["nothing"] = Schedule(stop=0.5)
    for progress, silent in ((0.6, set()), (0.4, {"kd_nothing", "kd_nothing_o2o"})):
        model.progress = progress
        for _ in range(20):
            calibrator._watch(model, items)
        assert {text.split(":")[0] for text in calibrator.alarms} == silent


def test_an_alarm_is_raised_once(tmp_path, capsys):
    calibrator = Calibrator(tmp_path)
    for share in (20, 30):
        calibrator.alarm("head share", f"head: these terms pull {share} times as hard as the labels")
    assert len(calibrator.alarms) == 1
    assert len(Calibrator(tmp_path, resume=True).alarms) == 1
    calibrator.alarm("head labels", "head: something else")
    assert len(calibrator.alarms) == 2
    assert "".join(capsys.readouterr()).count("alarm head: these terms pull 20 times") == 1
    Calibrator(tmp_path)
    assert not (tmp_path / ALARMS_FILE).exists()  # a new run starts with a clean sheet


def test_a_term_that_is_no_number_stops_the_run_before_the_step():
    with pytest.raises(ModelError, match=r"kd_broken.*lower trainer.lr0"):
        detector(cls=BinaryLogits(), broken=Broken()).loss(batch())


@pytest.mark.slow
def test_a_run_keeps_its_factors_when_it_is_resumed(tmp_path: Path):
    def wanted(name: str, **more):
        made = plan(tmp_path / name, tmp_path / "images", distil=True, **more)
        recipe = Recipe.from_parts
        source = made.distillation.source
        return replace(
            made,
            distillation=Distillation(
                source,
                lambda: recipe(
                    {**parts(cls=BinaryLogits(), giou=BoxIoU()), "neck": {"loss": Adapted(), "branches": ["one2many"]}},
                    calibrate={**USUAL, "features": 0.1},
                ),
            ),
        )

    whole = run(wanted("whole"))
    assert whole.factors["head"] not in (0.0, 1.0)
    assert whole.factors["features"] not in (0.0, 1.0)

    class Killed(Exception):
        pass

    from detkd.training import calibration

    before = calibration.Calibrator.start_epoch

    def die(self, trainer=None):
        if trainer is not None and trainer.epoch == 1:
            raise Killed
        before(self, trainer)

    calibration.Calibrator.start_epoch = die
    try:
        with pytest.raises(Killed):
            run(wanted("parts"))
    finally:
        calibration.Calibrator.start_epoch = before
    again = run(wanted("parts", resume=True))
    assert again.factors == whole.factors
    first, second = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "recipe.terms.neck.adapter.weight" in first
    for name in ("last", "best"):
        plain = torch.load(tmp_path / "parts" / "weights" / f"{name}.pt", weights_only=False)["model"]
        assert not [key for key in plain.state_dict() if "recipe" in key or "adapter" in key]


def test_single_terms_are_measured_once_an_epoch(tmp_path):
    model, calibrator = detector(USUAL), Calibrator(tmp_path)
    seen = []
    for _ in range(2):
        calibrator.before_step(model)
        model.loss(batch())
        seen.append((bool(model.pull.parts), bool(model.pull.groups)))
        calibrator.take(model, model.pull)
    assert seen == [(True, True), (False, True)]


def test_processes_measure_together_and_one_without_taught_images_does_not_count(monkeypatch):
    one, other = (
        Pull({"head": 2.0}, {"head": 1.0}, {"kd": 0.0}, {"kd": 1.0}),
        Pull({"head": 4.0}, {"head": 5.0}, {}, {}),
    )
    monkeypatch.setattr("detkd.training.calibration.gather", lambda mine: [mine, None, other])
    assert _together(one) == Pull({"head": 3.0}, {"head": 3.0}, {"kd": 0.0}, {"kd": 1.0})
    assert _together(None) == other
    monkeypatch.setattr("detkd.training.calibration.gather", lambda mine: [None, None])
    assert _together(None) is None
