"""What each of two processes does for tests/training/test_together.py: `torchrun --nproc-per-node 2 -m ... FOLDER`.

Each writes what it saw to FOLDER/rank-N.pt.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import detkd.environment

import torch
from torch import Tensor, nn

from detkd import ranks
from detkd.losses.balance import Balance
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU
from detkd.losses.cwd import ChannelWise
from detkd.losses.mgd import MaskedGeneration
from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.teacher import LiveTeacher
from detkd.models.weights import build_detector, quiet
from detkd.training import group, trainer, validation
from detkd.training.plan import Distillation, TrainPlan
from detkd.training.run import run_training
from tests.inference.tiny import tiny_model
from tests.training.test_dataset import dataset

SCALE = {"depth": 0.33, "width": 0.0625, "max_channels": 256}
NAMES = ("a", "b")
EPOCHS = 2


def recipe(calibrate: bool = False) -> Recipe:
    terms = {
        "cls": {"loss": BinaryLogits()},
        "giou": {"loss": BoxIoU()},
        "mgd": {"loss": MaskedGeneration(ratio=0.65), "branches": ["one2many"]},
        "cwd": {"loss": ChannelWise(), "branches": ["one2many"]},
    }
    return Recipe.from_parts(
        terms, calibrate=Balance(head=0.3, features=0.1, warmup=0.0, batches=2) if calibrate else None
    )


def plan(folder: Path, *, epochs: int = EPOCHS, **more: Any) -> TrainPlan:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    data = group.in_turn(lambda: dataset(folder / "images", 9))
    distillation = Distillation(lambda names: LiveTeacher(tiny_model(names=NAMES, seed=7), names), lambda: recipe(True))
    arguments = {
        "task": "detect", "mode": "train", "model": "student", "data": "records", "epochs": epochs, "batch": 4, "nbs": 4,
        "imgsz": 64, "device": "cpu", "save_dir": str(folder / "run" / "train"), "exist_ok": True, "plots": False,
        "verbose": False, "augmentations": [], "optimizer": "AdamW", "lr0": 0.01, "close_mosaic": 1,
    }  # fmt: skip
    return TrainPlan(
        data, data, "yolo26n.yaml", 64, 0, folder / "run", scale=SCALE, distillation=distillation, arguments=arguments,
        threads=1, **more,
    )  # fmt: skip


def wrapped(seed: int) -> DistilledDetector:
    """A student with its teacher; adapters and weights follow from the seed."""
    from ultralytics.cfg import get_cfg

    student = build_detector("yolo26n.yaml", NAMES, key="student", scale=SCALE, seed=seed)
    student.args = get_cfg()
    model = DistilledDetector(student, LiveTeacher(tiny_model(names=NAMES, seed=7), NAMES), recipe())
    model.probe(64, 64)
    for parameter in model.recipe.parameters():
        nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(seed))
    return model.train()


def half(number: int) -> dict[str, Tensor]:
    """Two drawn images with two boxes each."""
    rng = torch.Generator().manual_seed(number)
    centre = 0.3 + 0.4 * torch.rand(4, 2, generator=rng)
    return {
        "img": torch.rand(2, 3, 64, 64, generator=rng),
        "cls": torch.tensor([[0.0], [1.0], [0.0], [1.0]]),
        "bboxes": torch.cat([centre, torch.full((4, 2), 0.3)], 1),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0, 1.0]),
    }


def gradients(call: nn.Module, batch: dict[str, Tensor], *, only_kd: bool = False) -> tuple[dict[str, Tensor], float]:
    """Return the gradients of a step by name, and the distillation loss; what is hidden of maps is the same each time."""
    for parameter in call.parameters():
        parameter.grad = None
    torch.manual_seed(5)
    loss, items = call(batch)
    (loss[-1] if only_kd else loss.sum()).backward()
    found = {n.removeprefix("module."): p.grad.clone() for n, p in call.named_parameters() if p.grad is not None}
    return found, float(items["kd"])


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference between gradients, as a share of the largest gradient of the parameter's."""
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max() / other[n].abs().max().clamp(min=1e-6)) for n in one)


def steps() -> dict[str, Any]:
    """Compare the gradients of wrapped and plain networks."""
    plain = wrapped(seed=0)
    shared = group.wrap(wrapped(seed=ranks.rank()), torch.device("cpu"))  # other weights on each, until they meet
    alone = [gradients(copy_of(plain), half(number))[0] for number in (1, 2)]
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    alike, _ = gradients(shared, half(1))
    apart, kd = gradients(shared, half(1 + ranks.rank()))
    taught, _ = gradients(shared, half(1 + ranks.rank()), only_kd=True)
    with shared.no_sync():
        own, _ = gradients(shared, half(1 + ranks.rank()), only_kd=True)
    adapters = [name for name in own if name.startswith("recipe.")]
    return {
        "alike": far(alike, alone[0]), "apart": far(apart, mean), "halves": far(alone[0], alone[1]), "kd": kd,
        "taught": sum(float(g.norm()) for g in taught.values()),
        "own": {name: float(own[name].norm()) for name in (*adapters, "student_model.model.0.conv.weight")},
    }  # fmt: skip


def copy_of(model: DistilledDetector) -> DistilledDetector:
    twin = copy.deepcopy(model)
    twin._source = model._source
    return twin


class Watched(trainer.Trainer):
    """Notes what each process sees, and validates once more in one process at the end."""

    seen: dict[str, Any]

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.seen.setdefault("records", []).append((self.epoch, [tuple(key) for key in batch["record"]]))
        if ranks.rank() == 1 and len(self.seen["records"]) == 1:
            batch["taught"] = torch.zeros_like(batch["taught"])  # one process has nothing to measure in this step
        return super().preprocess_batch(batch)

    def optimizer_step(self) -> None:
        super().optimizer_step()
        self.seen.setdefault("kd", []).append(float(self.loss_items["kd"]))
        self.seen.setdefault("factors", []).append(self.student_and_teacher.recipe.factors.tolist())

    @property
    def student_and_teacher(self) -> DistilledDetector:
        return self.model.module if hasattr(self.model, "module") else self.model

    def final_eval(self) -> None:
        self.seen["parameters"] = {n: p.detach().clone() for n, p in self.student_and_teacher.named_parameters()}
        self.seen["folder"], self.seen["files"] = (
            str(self.plan.folder),
            sorted(p.name for p in self.plan.folder.iterdir()),
        )
        self.seen["metrics"] = self.validate()[0]
        if ranks.first():
            self.seen["alone"] = self.validate_alone()

    def validate_alone(self) -> dict[str, float]:
        import ultralytics.data.build as build
        import ultralytics.engine.validator as engine
        import ultralytics.models.yolo.detect.val as val

        build.RANK = engine.RANK = val.RANK = -1
        group._met = lambda: False
        self.test_loader = self.get_dataloader(self.data["val"], batch_size=4, rank=-1, mode="val")
        self.validator = self.get_validator()
        return self.validate()[0]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    group.join("cpu")
    seen: dict[str, Any] = {}
    Watched.seen = seen
    sys.modules["detkd.training.run"].Trainer = Watched
    met = group._met
    report = {"steps": steps(), "seen": seen, "validator": validation.Validator.__name__}
    with quiet():
        report["outcome"] = vars(run_training(plan(folder)))
    group._met = met
    torch.save(report, folder / f"rank-{ranks.rank()}.pt")
    group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
