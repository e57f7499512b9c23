"""What a distillation trains: the student with its teacher and, where asked for, the matched control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detkd import ranks
from detkd.data.coco import to_coco
from detkd.data.records import DataSpec
from detkd.errors import PairError
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from detkd.io import read_json
from detkd.progress import console
from detkd.runs import read_config, start_run
from detkd.tasks.arguments import check_sizes
from detkd.tasks.caches import Prepared, prepare
from detkd.tasks.common import report_set, split_of
from detkd.tasks.compare import check_report
from detkd.tasks.pool import control_set, with_unlabelled
from detkd.tasks.recipes import make_recipe
from detkd.tasks.results import TrainResult
from detkd.tasks.teachers import teacher_file, teacher_sizes, teacher_source, with_packaged_teacher
from detkd.tasks.train import epoch_samples, train_alone, train_and_evaluate

__all__ = ["Job", "Trainings", "check_match", "set_up"]


@dataclass(frozen=True)
class Job:
    """One training of a distillation.

    Attributes:
        config: The configuration it is made from.
        spec: Its data.
        folder: Its run folder.
        more: Further fields of `TrainPlan`.
        record: What `config.yaml` of a run folder of its own holds; None where the folder is the distillation's.
    """

    config: Mapping[str, Any]
    spec: DataSpec
    folder: Path
    more: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] | None = None

    def begin(self, resume: bool) -> None:
        """Open the run folder, unless it is there and goes on; nothing is done where another process does it."""
        if self.record is not None and ranks.first() and not (resume and self._begun):
            self.folder.mkdir(parents=True, exist_ok=True)
            start_run(self.folder, "train", self.record)

    @property
    def _begun(self) -> bool:
        return (self.folder / "run.json").is_file()

    def train(self, resume: bool) -> None:
        """Train, if that is not done yet."""
        train_alone(self.config, self.config["student"], self.spec, self.folder, resume=resume, **self.more)

    def result(self, resume: bool) -> TrainResult:
        """Train, if that is not done yet, and evaluate."""
        return train_and_evaluate(
            self.config, self.config["student"], self.spec, self.folder, resume=resume, **self.more
        )


@dataclass(frozen=True)
class Trainings:
    """A distillation whose every setting has been checked.

    Attributes:
        config: Its configuration, sizes settled.
        spec: The data, images without labels included.
        student: The student's training.
        control: The control's; None without one, or where an earlier one is read.
        cached: The teacher's stored answers, or None.
        teacher: The teacher's file.
        options: The `report` group.
        images: Images that the control and the student learn from.
        earlier: The control where it was trained before.
    """

    config: Mapping[str, Any]
    spec: DataSpec
    student: Job
    control: Job | None
    cached: Prepared | None
    teacher: str
    options: Mapping[str, Any]
    images: tuple[int, int]
    earlier: TrainResult | None = None

    @property
    def same_images(self) -> bool:
        """Whether both learn from the same images."""
        return self.images[0] == self.images[1]


def set_up(config: Mapping[str, Any], spec: DataSpec, folder: Path, *, again: bool = False) -> Trainings:
    """Check a distillation and build what is missing of its cache.

    Args:
        config: A resolved `distill` configuration.
        spec: The data.
        folder: Run folder.
        again: Whether that was done a moment ago, so that the stored answers need not be checked.

    Raises:
        DetkdError: Naming the key that can't be used, before any work is done.
    """
    from detkd.tasks.estimate import estimate
    from detkd.training.group import in_turn
    from detkd.training.plan import Distillation

    config = with_packaged_teacher(config)
    node = config["distill"]
    plugins = tuple(config.get("plugins") or ())
    make_recipe(node, plugins)
    check_sizes(config)
    reported = report_set(spec, str(config.get("checkpoint") or "last"))
    options = check_report(config.get("report") or {}, load_truth(to_coco(reported)))
    spec = with_unlabelled(spec, config)
    teacher_imgsz: int | None = None
    if (config.get("cache") or {}).get("kind") != "instances":  # objects are found in clean images of any size
        teacher_imgsz, load_imgsz = teacher_sizes(config)
        config = {**config, "load_imgsz": load_imgsz}
    teacher_path = in_turn(lambda: teacher_file(config))  # it may be downloaded
    cached = prepare(config, spec, check=not again)
    distillation = Distillation(
        source=cached.source if cached else teacher_source(config),
        recipe=lambda: make_recipe(node, plugins),
        imgsz=teacher_imgsz,
    )
    shown = cached.plan if cached else {}
    train = split_of(spec, "train", key="data")
    if not console.quiet:  # counting the operations takes a moment
        console.print(f"[dim]{estimate(config, len(train), live=cached is None)}[/dim]")
    student = Job(config, spec, folder, {"distillation": distillation, "description": "distilled", **shown})
    control, earlier, wanted = None, None, config.get("control")
    if wanted is True:
        control = _control(config, spec, folder, {k: v for k, v in shown.items() if k != "soft"})
    elif wanted and ranks.first():
        earlier = _read_control(Path(str(wanted)), spec, config)
        if not again and (count := earlier.outcome.get("processes", 1)) != ranks.world_size():
            raise PairError(
                f"control: {wanted} was trained by {count} processes, this run has {ranks.world_size()}, and each "
                "normalises over its own part of a batch; use as many, or control=true"
            )
    images = (len(control_set(train)), len(train))
    return Trainings(config, spec, student, control, cached, teacher_path, options, images, earlier)


def _control(config: Mapping[str, Any], spec: DataSpec, folder: Path, shown: Mapping[str, Any]) -> Job:
    """Return the training of the matched plain student in `folder/control`."""
    target = folder / "control"
    dropped = {"teacher", "distill", "control", "student", "dry_run", "cache", "unlabelled"}
    record = {k: v for k, v in config.items() if k not in dropped}
    record = {**record, "model": config["student"], "out": str(target)}
    train = split_of(spec, "train", key="data")
    labelled = control_set(train)
    more = {**shown, "description": "control"}
    if labelled is not train:  # fewer images, shown as often as it takes to make as many steps
        more["samples"] = epoch_samples(config, train)
    spec = replace(spec, splits={**spec.splits, "train": labelled})
    return Job({**config, "unlabelled": None}, spec, target, more, record)


def _read_control(folder: Path, spec: DataSpec, config: Mapping[str, Any]) -> TrainResult:
    """Read an earlier control; its detections are evaluated on the labels of this run."""
    record, started = read_json(folder / "metrics.json"), read_config(folder)
    if (epochs := started.get("epochs", config["epochs"])) != config["epochs"]:
        raise PairError(
            f"control: {folder} was trained for {epochs} epochs, this run is to have {config['epochs']}, so a gain "
            f"would mean nothing; use epochs={epochs} or control=true"
        )
    truth = load_truth(to_coco(report_set(spec, str(config.get("checkpoint") or "last"))))
    protocol = record["metrics"]["protocol"]
    if protocol.get("gt_sha256") != truth.sha256:
        raise PairError(
            f"control: {folder} was evaluated on other images or labels than this run reports on; use control=true, or "
            "train it with the same data and checkpoint"
        )
    run = make_run(
        truth,
        folder / "detections.json",
        source=str(folder),
        seed=started.get("seed"),
        settings=protocol.get("settings"),
    )
    return TrainResult(folder, run, record["cost"], Path(record["weights"]), read_json(folder / "outcome.json"))


def check_match(control: Mapping[str, Any], student: Mapping[str, Any], *, same_images: bool = True) -> None:
    """Make sure that control and student differ in the teacher alone.

    Args:
        control: Outcome of the control.
        student: Outcome of the student.
        same_images: False where the student learns from images without labels too; the number of steps is the same.

    Raises:
        PairError: Naming what else differs.
    """
    facts = [("initial_hash", "initial weights"), ("epochs", "the number of epochs"), ("amp", "mixed precision")]
    if same_images:
        facts.append(("batch_hash", "the pixels and labels of the first batches"))
    for key, meaning in (
        ("steps", "the number of steps"),
        ("processes", "the number of processes that share a batch"),
        ("labels_hash", "the labelled images"),
        ("shown", "the views of each image that are shown"),
    ):
        if key in control:  # controls of earlier versions don't say
            facts.append((key, meaning))
    for key, meaning in facts:
        if control.get(key) != student.get(key):
            raise PairError(
                f"control: differs from the student in {meaning} ({control.get(key)} and {student.get(key)}), so a "
                "gain would mean nothing; use control=true, or train it with the same data, seed, sizes and epochs"
            )
