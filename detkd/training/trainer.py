"""Ultralytics' trainer with our data, our wrapper and our checkpoints: one class for control and student alike."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import detkd.environment

import torch
from torch import nn
from ultralytics.data.build import build_dataloader
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from detkd import ranks
from detkd.errors import ConfigError, ModelError
from detkd.io import atomic_path
from detkd.losses.balance import GROUPS
from detkd.models.distilled import DistilledDetector
from detkd.models.trust import BoxTrust
from detkd.models.weights import build_detector, detect_head, state_hash
from detkd.training import group
from detkd.training.calibration import Calibrator
from detkd.training.checkpoint import (
    RESUME_FILE,
    check_epochs,
    load_state,
    random_state,
    save_plain,
    save_state,
)
from detkd.training.dataset import RecordDataset
from detkd.training.loader import data_facts, make_set, resized, training_loader
from detkd.training.monitor import Monitor
from detkd.training.notes import Notes
from detkd.training.plan import TrainPlan, usable_cores
from detkd.training.resuming import give_gradients, restore, state_of
from detkd.training.validation import Validator

__all__ = ["Trainer"]

_HASHED_BATCHES = 3


class Trainer(DetectionTrainer):
    """Trains what `plan` says. `plan` is a class attribute because Ultralytics refuses arguments it does not know.

    Attributes:
        initial_hash: Hash of the student's initial weights.
        batch_hash: Hash of the pixels of the first batches; equal for runs that see the same data.
        random_states: Of each process that shares the batches, after the last epoch.
        last_update: Number of the batch, counted over all epochs, after which the weights were updated last.
    """

    plan: ClassVar[TrainPlan]
    model: Any
    amp: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.initial_hash = ""
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._step = 0
        self._resumed_hash = ""
        self.last_update = -1
        self._accumulate = 1
        self._lag = 0
        self._gradients: dict[str, torch.Tensor] = {}
        self._trust: BoxTrust | None = None
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self.random_states: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)
        shutil.rmtree(self.save_dir / "weights", ignore_errors=True)  # Ultralytics' own weights folder stays empty
        self.wdir = self.plan.folder / "weights"
        self.last, self.best = self.wdir / "last.pt", self.wdir / "best.pt"
        if self.device.type == "cpu":
            self.args.amp = False  # as Ultralytics finds out itself, but in the first process only
            # Ultralytics leaves one core idle; the number of threads is part of what a run is compared by.
            torch.set_num_threads(self.plan.threads or usable_cores())
        if ranks.first():
            Monitor(self.plan.description).attach(self)
        self.calibrator = Calibrator(self.plan.folder, resume=self.plan.resume)
        self.notes = Notes()
        if self.plan.distillation is not None:
            self.calibrator.attach(self)
            self.notes.attach(self)
        self.add_callback("on_train_start", _go_on_accumulating)
        self.add_callback("on_train_epoch_start", _restart_steps)

    @property
    def batch_hash(self) -> str:
        """Hash of the first batches seen."""
        return self._resumed_hash or self._digest.hexdigest()[:16]

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, all parts of an interrupted run together."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def accumulate(self) -> int:
        """Batches per update of the weights; after an interruption the first update waits for what it lacks."""
        return self._accumulate + self._lag

    @accumulate.setter
    def accumulate(self, batches: int) -> None:
        self._accumulate = batches

    def optimizer_step(self) -> None:
        """Update the weights, and note when that was."""
        super().optimizer_step()
        self.last_update = self.epoch * len(self.train_loader) + self._step - 1
        self._lag = 0

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Add a row to results.csv; its time is that of all parts of a run, whatever the clock was set to."""
        self.train_time_start = time.time() - self.seconds
        super().save_metrics(metrics)

    @property
    def student(self) -> nn.Module:
        """The network being trained, without wrapper."""
        model: Any = unwrap_model(self.model)
        student: nn.Module = getattr(model, "student_model", model)
        return student

    def get_dataset(self) -> dict[str, Any]:
        """Describe the records to Ultralytics; no file is looked at."""
        return data_facts(self.plan)

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> RecordDataset:
        """Build the data set of a split."""
        stride = int(detect_head(self.student, key=self.plan.key, source="the student").stride.max())
        return make_set(self.plan, self.args, stride=stride, training=mode == "train", batch=batch)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Build a loader; the training order follows from seed and epoch alone."""
        dataset = self.build_dataset(dataset_path, mode, batch_size)
        if mode != "train":
            return build_dataloader(
                dataset, batch_size, self.args.workers, shuffle=False, rank=rank, device=self.device
            )
        return training_loader(self.plan, dataset, batch_size, self.args.workers, pin=self.device.type == "cuda")

    def _build_train_pipeline(self) -> None:
        """Refuse Ultralytics' second try with half the batch: control and student would no longer be matched.

        Several processes meet here: until now the trainer was told that it is alone, as Ultralytics' own wrapper knows
        GPUs of one machine only.
        """
        if self.optimizer is not None:
            raise ConfigError("batch: does not fit the device's memory; use a smaller batch= or imgsz= for both runs")
        if RANK != -1:
            group.bring_together(self)
        super()._build_train_pipeline()

    def setup_model(self) -> None:
        """Build the student from seed or weights and, when distilling, put it together with its teacher."""
        plan = self.plan
        build = partial(
            build_detector,
            plan.student,
            plan.train.names,
            key=plan.key,
            scale=plan.scale,
            seed=plan.seed,
            slice_from=plan.slice_from,
            slice_by=plan.slice_by,
        )
        student = group.in_turn(build)  # it may be downloaded
        student.args = self.args
        self.initial_hash = state_hash(student)
        student = student.to(self.device)
        self.model = student
        if plan.distillation is None:
            return
        self.notes.source = source = plan.distillation.source(plan.train.names)
        self.model = DistilledDetector(student, source, plan.distillation.recipe())
        self.model.probe(plan.imgsz, plan.distillation.imgsz or plan.imgsz)

    def set_model_attributes(self) -> None:
        """Attach class names and arguments to the student as well as to its wrapper."""
        super().set_model_attributes()
        student = self.student
        student.nc, student.names, student.args = self.data["nc"], self.data["names"], self.args

    def get_validator(self) -> Validator:
        """Return Ultralytics' validator, for the curve during training; results come from our own evaluator."""
        return Validator(self.test_loader, save_dir=self.save_dir, args=copy(self.args), _callbacks=self.callbacks)

    def validate(self) -> Any:
        """Validate the averaged weights, on all processes with the statistics of the first one."""
        with group.validation(self):
            return super().validate()

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Scale to 0..1 and, where images are loaded larger than the student sees them, reduce them."""
        if self._hashed < _HASHED_BATCHES and self.epoch == 0:
            for part in ("img", "cls", "bboxes"):
                self._digest.update(batch[part].cpu().numpy().tobytes())
            self._hashed += 1
        batch = resized(super().preprocess_batch(batch), self.plan)
        model = unwrap_model(self.model)
        if isinstance(model, DistilledDetector):
            done = self.epoch + self._step / max(len(self.train_loader), 1)
            model.progress = min(done / max(self.epochs, 1), 1.0)
            self.calibrator.before_step(model)
        if self.plan.trust_boxes:
            if self._trust is None:
                self._trust = BoxTrust(model)
            self._trust.set(batch)
        self._step += 1
        return batch

    def save_model(self) -> bool:
        """Write plain students and the resume file."""
        ema: Any = self.ema.ema
        plain = getattr(ema, "student_model", ema)
        metrics = {k: float(v) for k, v in self.metrics.items()}
        save_plain(plain, self.last, train_args=dict(vars(self.args)), metrics=metrics)
        if self.best_fitness == self.fitness:
            _copy(self.last, self.best)
        if self.save_period > 0 and self.epoch % self.save_period == 0:
            _copy(self.last, self.wdir / f"epoch{self.epoch}.pt")
        save_state(self.plan.folder / RESUME_FILE, state_of(self))
        return True

    def factors(self) -> dict[str, float]:
        """Return what calibration multiplied each group of terms with, nothing where it never measured."""
        recipe = getattr(unwrap_model(self.model), "recipe", None)
        if recipe is None or not int(recipe.measured):
            return {}
        return dict(zip(GROUPS, recipe.factors.tolist(), strict=True))

    def resume_training(self, ckpt: Any) -> None:
        """Continue after the last finished epoch, with the same weights, optimizer, schedule and random state."""
        file = self.plan.folder / RESUME_FILE
        state = group.share(lambda: load_state(file) if self.plan.resume and file.is_file() else None)
        if state is None:
            return
        check_epochs(state, self.epochs)
        try:
            restore(self, state)
        except (RuntimeError, ValueError) as err:
            raise ModelError(f"resume: {file} belongs to another model or configuration; start the run anew") from err
        self.initial_hash, self._resumed_hash = state["hashes"]
        self._seconds_before = state["seconds"]
        self._gradients = state.get("gradients", {})

    def _close_dataloader_mosaic(self) -> None:
        super()._close_dataloader_mosaic()
        # The trainer restarts the loader next; workers may already have asked for a later epoch.
        self.train_loader.sampler.go_to(self.epoch)

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Stop with advice instead of retrying silently: a repeated epoch would break the match with the control."""
        self.random_states = group.gather(random_state())  # the first process is about to save
        losses = group.gather(0.0 if self.loss is None else float(self.loss.detach()))
        worst = next((loss for loss in losses if not math.isfinite(loss)), None)
        if worst is None:
            return False
        raise ModelError(
            f"trainer.lr0: the loss became {worst} in epoch {epoch + 1}; lower trainer.lr0 "
            f"(now {self.args.lr0}) or, with calibration, distill.calibrate.head / features (else distill.lambda), and "
            "start again"
        )

    def final_eval(self) -> None:
        """Leave the final numbers to our evaluator."""


def _restart_steps(trainer: Trainer) -> None:
    trainer._step = 0
    if trainer._gradients:  # Ultralytics clears them after it has resumed
        give_gradients(trainer.model, trainer._gradients)
        trainer._gradients = {}


def _go_on_accumulating(trainer: Trainer) -> None:
    """Ultralytics counts from the batch before the first one, also where a run is resumed."""
    trainer._lag = trainer.last_update + 1


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
