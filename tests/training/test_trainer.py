from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import detkd.environment

import pytest
import torch

from detkd.errors import ConfigError, ModelError
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU
from detkd.losses.recipe import Recipe
from detkd.models.teacher import LiveTeacher
from detkd.models.weights import quiet
from detkd.training.checkpoint import RESUME_FILE, load_state
from detkd.training.plan import Distillation, TrainPlan
from detkd.training.run import Outcome, run_training
from detkd.training.trainer import Trainer
from tests.inference.tiny import tiny_model
from tests.training.test_dataset import dataset

pytestmark = pytest.mark.slow  # trains

SCALE = {"depth": 0.33, "width": 0.125, "max_channels": 256}


def plan(folder: Path, images: Path, *, distil: bool, epochs: int = 3, **more: Any) -> TrainPlan:
    images.mkdir(exist_ok=True)
    data = dataset(images, 6)
    distillation = None
    if distil:
        distillation = Distillation(
            source=lambda names: LiveTeacher(tiny_model(names=("a", "b"), seed=7), names),
            recipe=lambda: Recipe.from_parts({"cls": {"loss": BinaryLogits()}, "giou": {"loss": BoxIoU()}}),
        )
    arguments = {
        "task": "detect", "mode": "train", "model": "student", "data": "records", "epochs": epochs, "batch": 2, "nbs": 2,
        "imgsz": 64, "device": "cpu", "save_dir": str(folder / "train"), "exist_ok": True, "plots": False, "val": False,
        "verbose": False, "augmentations": [], "optimizer": "AdamW", "lr0": 0.01, "close_mosaic": 1,
    }  # fmt: skip
    arguments.update(more.pop("arguments", {}))
    return TrainPlan(
        data, data, "yolo26n.yaml", 64, 0, folder, scale=SCALE, distillation=distillation, arguments=arguments,
        threads=1, **more,
    )  # fmt: skip


def run(wanted: TrainPlan) -> Outcome:
    with quiet():
        return run_training(wanted)


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_state(folder / RESUME_FILE)["model"]


def test_control_and_student_start_alike_and_see_the_same_pixels(tmp_path: Path) -> None:
    control = run(plan(tmp_path / "c", tmp_path / "i", distil=False, epochs=1))
    student = run(plan(tmp_path / "s", tmp_path / "i", distil=True, epochs=1))
    assert control.initial_hash == student.initial_hash
    assert control.batch_hash == student.batch_hash
    header = (tmp_path / "s" / "train" / "results.csv").read_text().splitlines()[0]
    for column in ("train/box_loss", "train/kd_cls", "train/kd_giou", "train/kd_cls_o2o", "train/kd"):
        assert column in header.split(",")
    assert "kd" not in (tmp_path / "c" / "train" / "results.csv").read_text()


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_checkpoints_are_plain_students_for_anybody(tmp_path: Path, name: str) -> None:
    run(plan(tmp_path / "s", tmp_path / "i", distil=True, epochs=1))
    code = (
        "import sys; sys.modules['detkd'] = None\n"  # any import of detkd would raise
        "from ultralytics import YOLO\n"
        f"model = YOLO({str(tmp_path / 's' / 'weights' / name)!r})\n"
        "print(type(model.model).__name__, len(model.names))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-2:] == ["DetectionModel", "2"], done.stderr
    state = load_state(tmp_path / "s" / RESUME_FILE)
    assert not [key for part in ("model", "ema") for key in state[part] if "teacher" in key]


@pytest.mark.parametrize("distil", [False, True])
@pytest.mark.parametrize("stop_after", [0, 1])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distil: bool, stop_after: int
) -> None:
    whole = run(plan(tmp_path / "whole", tmp_path / "i", distil=distil))
    with monkeypatch.context() as patch:
        save = Trainer.save_model

        def die(self: Trainer) -> bool:
            save(self)
            if self.epoch == stop_after:
                raise KeyboardInterrupt
            return True

        patch.setattr(Trainer, "save_model", die)
        with pytest.raises(KeyboardInterrupt):
            run(plan(tmp_path / "part", tmp_path / "i", distil=distil))
    resumed = run(plan(tmp_path / "part", tmp_path / "i", distil=distil, resume=True))
    assert (resumed.initial_hash, resumed.batch_hash, resumed.epochs) == (whole.initial_hash, whole.batch_hash, 3)
    expected, got = final_weights(tmp_path / "whole"), final_weights(tmp_path / "part")
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name
    drop_time = [
        [
            line.split(",")[:1] + line.split(",")[2:]
            for line in (tmp_path / f / "train" / "results.csv").read_text().splitlines()
        ]
        for f in ("whole", "part")
    ]
    assert drop_time[0] == drop_time[1]


def test_resuming_before_the_first_save_starts_anew_and_after_the_last_is_done(tmp_path: Path) -> None:
    fresh = run(plan(tmp_path / "r", tmp_path / "i", distil=False, epochs=1, resume=True))
    assert fresh.epochs == 1
    again = run(plan(tmp_path / "r", tmp_path / "i", distil=False, epochs=1, resume=True))
    assert (again.initial_hash, again.batch_hash, again.epochs) == (fresh.initial_hash, fresh.batch_hash, 1)
    assert 0 < again.seconds <= fresh.seconds  # as of the last save


def test_resuming_with_another_plan_is_refused(tmp_path: Path) -> None:
    run(plan(tmp_path / "r", tmp_path / "i", distil=False, epochs=1))
    with pytest.raises(ConfigError, match="epochs: the run was planned for 1, got 2"):
        run(plan(tmp_path / "r", tmp_path / "i", distil=False, epochs=2, resume=True))


def test_a_loss_that_is_not_a_number_stops_the_run_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.preprocess_batch

    def poison(self: Trainer, batch: dict[str, Any]) -> dict[str, Any]:
        batch = original(self, batch)
        batch["img"] = batch["img"] * float("nan")
        return batch

    monkeypatch.setattr(Trainer, "preprocess_batch", poison)
    with pytest.raises(ModelError, match=r"trainer\.lr0: the loss became nan in epoch 1; .*distill\.calibrate"):
        run(plan(tmp_path / "r", tmp_path / "i", distil=False, epochs=1))


def test_a_larger_view_for_the_teacher(tmp_path: Path) -> None:
    wanted = plan(tmp_path / "r", tmp_path / "i", distil=True, epochs=1, load_imgsz=128)
    assert wanted.distillation is not None
    wide = Distillation(wanted.distillation.source, wanted.distillation.recipe, 128)
    outcome = run(TrainPlan(**{**vars(wanted), "distillation": wide}))
    control = run(plan(tmp_path / "c", tmp_path / "i", distil=False, epochs=1, load_imgsz=128))
    assert outcome.batch_hash == control.batch_hash
