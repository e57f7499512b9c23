"""One look of `detkd doctor` at a configuration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detkd.data.records import DataSpec
from detkd.errors import DetkdError, PairError
from detkd.evaluation.side import Run
from detkd.progress import stages
from detkd.tasks import doctor_accuracy as accuracy
from detkd.tasks import doctor_checks as checks
from detkd.tasks import doctor_steps as steps
from detkd.tasks.common import split_of
from detkd.tasks.doctor_checks import Finding
from detkd.tasks.doctor_pixels import check_preprocessing
from detkd.tasks.teachers import teacher_members, teacher_sizes, teacher_source
from detkd.tasks.train import make_plan

__all__ = ["Visit"]

_BATCHES = 4
"""Batches on which gradients are measured, as a calibration does."""
_REPEATS = 5
"""Steps of each kind that are timed."""
_LOOKED_AT = 4
"""Images on which training and run time are compared."""

_REHEARSED = ("levels and heads", "preprocessing", "gradients", "share of the gradient", "one batch", "time", "memory",
              "disk")  # fmt: skip

Report = Callable[[str, int, int], None]


class Visit:
    """One look at a configuration; a check that fails becomes a finding, and the others go on.

    Attributes:
        findings: What was found so far.
    """

    def __init__(self, config: Mapping[str, Any], spec: DataSpec, folder: Path) -> None:
        self.config = dict(config)
        self.spec = spec
        self.folder = folder
        self.findings: list[Finding] = []
        self._live = True
        self._teacher: Run | None = None
        self._student: Run | None = None

    def run(self) -> None:
        """Do all checks."""
        self._live = self._is_network()
        self._try("settings", lambda: self._add(checks.check_settings(self.config, self.spec)))
        recipe = self._try("recipe", lambda: self._note_first(steps.check_recipe(self.config)))
        loaded = None
        if self._live:
            loaded = self._try("teacher", lambda: checks.load_members(self.config, self.spec.names))
        self._try("teacher", lambda: self._accuracy_of_teacher(loaded))
        self._try("student", self._accuracy_of_student)
        if self._teacher is not None and any(one.check == "student" and one.verdict == "ok" for one in self.findings):
            self._try("teacher above student", lambda: self._gap(loaded))
        self._skip("teacher above student")
        if loaded is None:
            self._skip("classes", "resolution")
        else:
            self._add(checks.check_classes(loaded, self.spec.names))
            self._try("resolution", lambda: self._add(checks.check_resolution(loaded, self.config)))
        if recipe is not None and (loaded is not None or not self._live):
            with stages() as report:
                self._try("set-up", lambda: self._rehearse(recipe, loaded or [], report))
        self._skip(*_REHEARSED)

    def _is_network(self) -> bool:
        """Return whether the teacher can be asked in training; a cache of objects takes any that answers."""
        from detkd.models.weights import is_rtdetr, load_detector

        if (self.config.get("cache") or {}).get("kind") != "instances":
            return True
        path = teacher_members(self.config["teacher"])[0].path
        if path.endswith((".json", ".onnx", "_openvino_model")):
            return False
        try:
            return not is_rtdetr(load_detector(path, key="teacher", rtdetr=True))
        except DetkdError:  # said below, where it belongs
            return True

    def _known(self, loaded: list[Any] | None, number: int = 0) -> list[str]:
        """Return the classes of the data that one of the teachers answers for; all where that isn't known."""
        if not loaded:
            return list(self.spec.names)
        return [name for name, sources in zip(self.spec.names, loaded[number][1].mapping, strict=True) if sources]

    def _accuracy_of_teacher(self, loaded: list[Any] | None) -> None:
        from detkd.models.weights import resolve

        val = split_of(self.spec, "val", "test", key="data")
        dataset = accuracy.few_images(val, self.config["images"])
        members = teacher_members(self.config["teacher"])
        for number, member in enumerate(members):
            if member.path.endswith(".json"):
                self._add(Finding("teacher", "skipped", f"{member.name} holds answers, not a network"))
                continue
            path = str(resolve(member.path, key="teacher"))
            size = int(member.imgsz or self.config["imgsz"])
            found, run = accuracy.accuracy(path, dataset, self.config, size, member.class_map)
            found |= accuracy.over_classes(run, self._known(loaded, number))
            self._add(accuracy.check_teacher({**found, "split": val.split}, member.name))
            if number == 0:
                self._teacher = run

    def _accuracy_of_student(self) -> None:
        path = str(self.config["student"]["path"])
        found, other_classes = None, False
        if not path.endswith((".yaml", ".yml")):
            from detkd.models.weights import resolve

            file = resolve(path, key="student")
            if file.suffix == ".pt":
                dataset = accuracy.few_images(split_of(self.spec, "val", "test", key="data"), self.config["images"])
                try:
                    found, self._student = accuracy.accuracy(str(file), dataset, self.config, int(self.config["imgsz"]))
                except PairError:  # usual for weights of another set
                    other_classes = True
        self._add(accuracy.check_student(found, self.config, other_classes=other_classes))

    def _gap(self, loaded: list[Any] | None) -> None:
        """Compare the first teacher with the student over the classes it answers for."""
        gap = None
        if self._teacher is not None and self._student is not None:
            gap = accuracy.measure_gap(self._teacher, self._student, self._known(loaded))
        self._add(accuracy.check_gap(gap))

    def _rehearse(self, recipe: Any, loaded: list[Any], report: Report) -> None:
        """Set the run up as its trainer would, and do what needs a network in training."""
        from detkd.models.weights import detect_head
        from detkd.training.plan import Distillation
        from detkd.training.rehearsal import Rehearsal

        scratch = self.folder / "rehearsal"
        report("set-up", 0, 1)
        config, objects = self.config, None
        more: dict[str, Any] = {}
        if (config.get("cache") or {}).get("kind") == "instances":
            from detkd.tasks.doctor_objects import AskedObjects

            objects = AskedObjects(config, self.spec)
            distillation = Distillation(source=objects.teacher, recipe=lambda: recipe)
            more = {"soft": objects}
        else:
            imgsz, load = teacher_sizes(config)
            config = {**config, "load_imgsz": load}
            distillation = Distillation(source=teacher_source(config), recipe=lambda: recipe, imgsz=imgsz)
        plan = make_plan(config, config["student"], self.spec, scratch, distillation=distillation, **more)
        try:
            rehearsal = Rehearsal.of(plan)
            report("set-up", 1, 1)
            student: Any = detect_head(rehearsal.model.student_model, key="student", source="the student")
            if loaded:
                member, teacher = loaded[0]
                self._add(checks.check_levels(student, teacher.head, config, recipe))
                self._try("preprocessing", lambda: self._same_pixels(plan, student, str(member.path), teacher))
            self._steps(rehearsal, recipe, report, objects)
            self._try("memory", lambda: self._add(steps.check_memory(*rehearsal.memory(), _limit(rehearsal.trainer))))
            count = sum(part.numel() for part in rehearsal.model.parameters())
            self._try("disk", lambda: self._add(steps.check_disk(config, self.spec, count, self.folder)))
            rehearsal.close()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _same_pixels(self, plan: Any, student: Any, path: str, teacher: Any) -> None:
        from detkd.training.rehearsal import clean_views

        val = plan.val.records
        numbers = [count * len(val) // _LOOKED_AT for count in range(min(_LOOKED_AT, len(val)))]
        views = clean_views(plan, numbers, stride=int(student.stride.max()))
        self._add(check_preprocessing(path, teacher, views, [val[number].path for number in numbers]))

    def _steps(self, rehearsal: Any, recipe: Any, report: Report, objects: Any) -> None:
        """Measure gradients, overfit one batch, and time steps."""
        batches = rehearsal.batches(_BATCHES)
        if objects is not None:  # in the run they are read from a store
            asked = objects.seconds / max(len(batches), 1)
            rehearsal.load_seconds = [max(took - asked, 0.0) for took in rehearsal.load_seconds]
        columns = [name for name in rehearsal.model.kd_names if name != "kd"]

        def gradients() -> None:
            pulls = rehearsal.pulls(batches)
            self._add(steps.check_gradients(pulls, columns))
            self._add(steps.check_share(pulls, recipe))

        def overfit() -> None:
            count, most = self.config["steps"], self.config["seconds"]

            def told(label: str) -> Callable[[int], None]:
                return lambda done: report(label, done, count)

            curves = rehearsal.overfit(batches[0], count, seconds=most, report=told("one batch"))
            alone = {}
            if held := steps.stubborn(curves):
                names = {column.removeprefix("kd_").removesuffix("_o2o") for column in held}
                only = [name for name in recipe.terms if name in names]
                alone = rehearsal.overfit(batches[0], count, only=only, seconds=most, report=told("terms alone"))
            self._add(steps.check_overfit(curves, alone))

        def clock() -> None:
            times = rehearsal.times(batches[0], _REPEATS, report=lambda done: report("step times", done, _REPEATS + 1))
            self._add(steps.check_time(times, self.config))

        for name, call in (("gradients", gradients), ("one batch", overfit), ("time", clock)):
            self._try(name, call)

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)

    def _note_first(self, pair: tuple[Finding, Any]) -> Any:
        self._add(pair[0])
        return pair[1]

    def _skip(self, *names: str) -> None:
        why = "needs what failed above"
        if not self._live:
            why = "only objects of this teacher are taught"
        done = {finding.check for finding in self.findings}
        for name in names:
            if name not in done:
                self._add(Finding(name, "skipped", why))

    def _try(self, check: str, call: Callable[[], Any]) -> Any:
        """Return what a call returns; what would stop the run becomes a finding."""
        try:
            return call()
        except DetkdError as err:
            text, _, advice = str(err).partition("; ")
            if not any(one.text == text for one in self.findings):  # one mistake, met twice
                self._add(Finding(check, "problem", text, advice))
        except RuntimeError as err:
            text, advice = "the device ran out of memory", "use a smaller batch= or imgsz="
            if type(err).__name__ != "OutOfMemoryError":
                text = next(iter(str(err).splitlines()), type(err).__name__)
                advice = "the run would stop with this; DETKD_TRACEBACK=1 shows where"
                if os.environ.get("DETKD_TRACEBACK") == "1":
                    raise
            self._add(Finding(check, "problem", text, advice))
        return None


def _limit(trainer: Any) -> float | None:
    """Return the bytes of memory there are on the trainer's device, None where the system does not say."""
    if trainer.device.type == "cuda":
        import torch

        return float(torch.cuda.get_device_properties(trainer.device).total_memory)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return None
