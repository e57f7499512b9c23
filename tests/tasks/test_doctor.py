"""`detkd doctor`: each verdict from hand-made numbers, and one look at a real pair."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import detkd.environment

import numpy as np
import pytest
import torch

from detkd import api
from detkd.config import compose
from detkd.data.coco import to_coco
from detkd.data.records import DataSpec, DetectionSet, ImageRecord
from detkd.errors import ConfigError
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from detkd.losses.base import DistillLoss
from detkd.losses.binary import BinaryLogits
from detkd.losses.recipe import Recipe
from detkd.models.pull import Pull
from detkd.models.teacher import LiveTeacher
from detkd.tasks import doctor_accuracy as accuracy
from detkd.tasks import doctor_checks as checks
from detkd.tasks import doctor_steps as steps
from detkd.tasks.doctor import DoctorResult, Finding, report_table, summary
from detkd.tasks.doctor_pixels import check_preprocessing
from detkd.tasks.teachers import Member
from detkd.training.rehearsal import full_strength
from detkd.training.step_times import Curve, StepTimes
from tests.inference.tiny import NAMES, picture, save, tiny_model


def recipe(**keys: Any) -> Recipe:
    return Recipe.from_parts({"cls": {"loss": BinaryLogits()}}, **keys)


def pull(task: float, head: float, **parts: float) -> Pull:
    return Pull({"head": task}, {"head": head}, parts, dict.fromkeys(parts, 1.0))


def curve(*values: float) -> Curve:
    return Curve(values)


def test_the_worst_finding_decides(tmp_path: Path) -> None:
    def result(*verdicts: Any) -> DoctorResult:
        return DoctorResult(tmp_path, tuple(Finding(f"check {v}", v, "text [x]", "do it") for v in verdicts))

    assert (result("ok", "skipped").verdict, result("ok").status) == ("ok", 0)
    assert (result("ok", "warning").verdict, result("warning").status) == ("warning", 0)
    assert (result("warning", "problem").verdict, result("problem", "ok").status) == ("problem", 1)
    assert result("ok", "problem").finding("check problem").advice == "do it"
    with pytest.raises(KeyError):
        result("ok").finding("nothing")
    assert report_table(result("ok", "warning")).row_count == 2
    assert summary(result("ok")) == "nothing stands in the way of this run"
    assert summary(result("warning", "ok")).startswith("problems: 0, warnings: 1;")
    assert summary(result("warning", "problem")).startswith("problems: 1, warnings: 1;")


@pytest.mark.parametrize(
    ("ap", "verdict"), [(None, "problem"), (0.0, "problem"), (0.9, "problem"), (1.1, "ok"), (50.0, "ok")]
)
def test_a_teacher_must_know_the_data(ap: float | None, verdict: str) -> None:
    found = accuracy.check_teacher({"AP": ap, "AP50": ap, "images": 7, "imgsz": 64, "split": "val"}, "t.pt")
    assert found.verdict == verdict
    assert "on 7 images of val at 64 pixels" in found.text


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        (None, "ok"),
        ((3.0, 1.0, 5.0), "ok"),
        ((3.0, -1.0, 7.0), "ok"),
        ((1.0, 0.5, 1.5), "warning"),
        ((-1.0, -3.0, 1.0), "warning"),  # the images can't tell
        ((-1.0, -1.5, -0.5), "problem"),
        ((-1.0, None, None), "warning"),
        ((-2.5, None, None), "problem"),
    ],
)
def test_a_teacher_must_be_better_than_its_student(gap: Any, verdict: str) -> None:
    found = accuracy.check_gap(None if gap is None else accuracy.Gap(*gap))
    assert found.verdict == verdict
    assert ("interval" in found.text) == (gap is not None and gap[1] is not None)


def answers(boxes: np.ndarray, classes: list[int], shift: float) -> list[dict[str, Any]]:
    return [
        {"image_id": image + 1, "category_id": number + 1, "score": 0.9, "bbox": [box[0] + shift, box[1], 20.0, 20.0]}
        for image, (box, number) in enumerate(zip(boxes, classes, strict=True))
    ]


def test_the_gap_counts_classes_that_the_teacher_knows() -> None:
    boxes = np.random.default_rng(0).uniform(0, 80, (24, 2)).round()
    classes = [number % 2 for number in range(24)]
    records = tuple(
        ImageRecord(
            i + 1, Path(f"{i}.png"), 100, 100, np.array([[x, y, x + 20, y + 20]]), np.array([c]), np.array([False]),
            np.array([400.0]),
        )
        for i, ((x, y), c) in enumerate(zip(boxes, classes, strict=True))
    )  # fmt: skip
    truth = load_truth(to_coco(DetectionSet("val", ("a", "b"), (1, 2), records)))
    right, off = (make_run(truth, answers(boxes, classes, shift)) for shift in (0.0, 3.0))
    half = make_run(truth, [row for row in answers(boxes, classes, 0.0) if row["category_id"] == 1])
    gap = accuracy.measure_gap(right, off, ("a", "b"))
    assert gap is not None
    assert gap.points == pytest.approx(right.metrics.AP - off.metrics.AP)  # type: ignore[operator]
    assert gap.low is not None
    assert 0 < gap.low <= gap.points
    assert accuracy.check_gap(gap).verdict == "ok"
    # Over all classes the teacher of one class looks worse than a student who is a little off in both.
    assert half.metrics.AP < off.metrics.AP + 1  # type: ignore[operator]
    alone = accuracy.measure_gap(half, off, ("a",))
    assert alone == (pytest.approx(100.0 - off.metrics.number("AP/a")), None, None)  # type: ignore[operator]
    assert accuracy.measure_gap(half, off, ()) is None
    assert accuracy.over_classes(half, ("a", "b")) == {}
    told = {"AP": half.metrics.AP, "AP50": half.metrics.AP50, "images": 24, "imgsz": 64, "split": "val"}
    told |= accuracy.over_classes(half, ("a",))
    assert told["AP"] == pytest.approx(100.0)
    assert "t: 100.0 AP, 100.0 AP50 over a on 24 images" in accuracy.check_teacher(told, "t").text
    assert accuracy.check_teacher({**told, **accuracy.over_classes(half, ("b",))}, "t").verdict == "problem"


def test_initial_weights_are_named() -> None:
    def text(found: Any = None, **node: Any) -> str:
        return accuracy.check_student(found, {"student": {"path": "a/yolo26.yaml", **node}}).text

    assert text() == "yolo26.yaml: initial weights are random, no weights"
    assert text(slice="x/yolo26n.pt") == "yolo26.yaml: initial weights are cut out of yolo26n.pt"
    assert text({"AP": 12.34}) == "yolo26.yaml: 12.3 AP before training"
    other = accuracy.check_student(None, {"student": {"path": "a/yolo26n.pt"}}, other_classes=True)
    assert (other.verdict, other.text) == (
        "ok",
        "yolo26n.pt: its weights know no class of the data, so its answers begin anew",
    )


def test_few_images_are_spread_over_the_split() -> None:
    records: Any = tuple(range(10))
    dataset = DetectionSet("val", ("a",), (1,), records)
    assert accuracy.few_images(dataset, 10) is dataset
    assert accuracy.few_images(dataset, 4).records == (0, 2, 5, 7)


def test_classes_are_listed_and_unknown_ones_named() -> None:
    one = LiveTeacher(tiny_model(), ("person", "car", "dog"), {"truck": "car"})
    found = checks.check_classes([(Member("a.pt"), one)], ("person", "car", "dog"))
    assert found.verdict == "warning"
    assert found.text == (
        "person = person; car = car + truck; 1 classes of the teacher are not used; not known to the teacher: dog"
    )
    assert found.facts["unknown"] == ["dog"]
    other = LiveTeacher(tiny_model(names=("dog",)), ("person", "car", "dog"))
    assert (
        checks.check_classes([(Member("a.pt"), one), (Member("b.pt"), other)], ("person", "car", "dog")).verdict == "ok"
    )


def test_heads_without_a_teacher_are_named() -> None:
    student, nms = tiny_model().model[-1], tiny_model("yolov8n.yaml").model[-1]
    node: dict[str, Any] = {"teacher": {"nms_conf": None}}
    assert checks.check_levels(student, student, node, recipe()).verdict == "ok"
    found = checks.check_levels(student, nms, node, recipe())
    assert found.verdict == "warning"
    assert "teacher.nms_conf=0.05" in found.advice
    assert found.facts["student"]["strides"] == [8, 16, 32]
    assert found.facts["teacher"]["heads"] == ["one2many"]
    assert (
        "taught by the teacher's objects"
        in checks.check_levels(student, nms, {"teacher": {"nms_conf": 0.05}}, recipe()).text
    )
    stored = {"teacher": {"nms_conf": 0.05}, "cache": {"kind": "views"}}
    assert "labels alone, as cache=views" in checks.check_levels(student, nms, stored, recipe()).text
    assert checks.check_levels(student, nms, node, recipe(heads={"one2one": 0})).verdict == "ok"
    assert checks.check_levels(nms, student, node, recipe()).verdict == "ok"


def test_the_size_of_the_teachers_training_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tiny_model(), tmp_path / "t.pt")
    monkeypatch.setattr("detkd.models.weights.checkpoint_imgsz", lambda path: 64)
    for asked, verdict in ((64, "ok"), (96, "ok"), (128, "warning"), (32, "warning")):
        found = checks.check_resolution([(Member(str(path), imgsz=asked), None)], {"imgsz": 64})  # type: ignore[list-item]
        assert found.verdict == verdict, asked
        assert f"t.pt was trained at 64 pixels and is asked at {asked}" in found.text


def test_other_pixels_and_other_networks_are_noticed(tmp_path: Path) -> None:
    import cv2

    model = tiny_model()
    for branch in model.model[-1].cv3:
        branch[-1].bias.data.fill_(0.0)  # scores around 0.5
    path = save(model, tmp_path / "t.pt")
    file = tmp_path / "a.png"
    image = picture(64, 64)
    image[..., 0] //= 2  # colours must differ for a swap to be seen
    cv2.imwrite(str(file), image)
    right = torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    teacher = LiveTeacher.load(str(path), NAMES)

    def look(pixels: torch.Tensor, who: LiveTeacher = teacher) -> Finding:
        return check_preprocessing(str(path), who, [{"img": pixels}], [file])

    found = look(right)
    assert (found.verdict, found.facts["pixels"]) == ("ok", 0.0)
    assert found.facts["compared"] > 0
    assert found.facts["again"] == found.facts["sure"] > 0
    assert found.facts["boxes"] < 0.01
    dark = look((right * 255).clamp(max=1))
    assert dark.verdict == "warning"
    assert dark.facts["pixels"] > 0.1
    assert look(right.flip(1)).advice == "the loader swaps red and blue; check trainer.bgr"
    other = look(right, LiveTeacher(tiny_model(seed=5), NAMES))
    assert other.verdict == "problem"
    assert "not the one that is deployed" in other.advice
    half_a_pixel = torch.nn.functional.interpolate(right, size=(66, 64), mode="bilinear")[..., 1:-1, :]
    assert look(half_a_pixel).verdict == "ok"  # sides are rounded differently
    larger = check_preprocessing(str(path), teacher, [{"img": right[..., ::2, ::2], "img_teacher": right}], [file])
    assert larger.facts["pixels"] == 0.0


def test_what_the_run_refuses_is_refused_here(tmp_path: Path) -> None:
    record = ImageRecord(
        1, Path("a.png"), 64, 64, *(np.zeros(shape) for shape in ((0, 4), 0)), np.zeros(0, bool), np.zeros(0)
    )
    one = DetectionSet("val", ("a",), (1,), (record,))
    spec = DataSpec("x", ("a",), {"train": replace(one, split="train"), "val": one})
    typed = ["teacher=t.pt", "student=s.pt", "data=d"]
    found = checks.check_settings(compose("doctor", typed), spec)
    assert found.verdict == "ok"
    assert found.text.endswith("the last weights will be reported on 1 images of val")
    for words, message in (
        (["checkpoint=best"], "checkpoint: best was chosen on val"),
        (["report.slices=[nonsense]"], "report.slices"),
        (["cache=views", "distill=pkd"], "distill.terms.pkd: reads feats, which no cache keeps"),
        (["teacher=answers.json"], "teacher: answers.json holds answers, not a network"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            checks.check_settings(
                compose("doctor", [*typed[1:], *words] if "teacher=" in words[0] else [*typed, *words]), spec
            )


def test_warnings_of_losses_and_idle_recipes_are_passed_on() -> None:
    def look(*words: str) -> Finding:
        typed = ["teacher=t.pt", "student=s.pt", "data=toy", *words]
        return steps.check_recipe(compose("doctor", typed))[0]

    assert look("distill.calibrate=null").verdict == "ok"
    trap = look("distill.terms.cls.loss.temperature=2")
    assert trap.verdict == "warning"
    assert "background regression" in trap.advice
    assert look("distill.lambda=0").verdict == "warning"
    assert look("distill=none").verdict == "warning"
    with pytest.raises(ConfigError, match="gamma: must be >= 0, got -1"):
        look("distill.terms.cls.loss.gamma=-1")


def test_dead_and_silent_terms_are_problems() -> None:
    columns = ["kd_cls", "kd_box"]
    fine = steps.check_gradients([pull(1, 1, kd_cls=0.5, kd_box=0.0), pull(1, 1, kd_cls=1.5, kd_box=2.0)], columns)
    assert fine.verdict == "ok"  # one empty batch is no fault
    assert fine.facts["norms"] == {"kd_cls": 1.0, "kd_box": 1.0}
    dead = steps.check_gradients([pull(1, 1, kd_cls=0.5, kd_box=0.0)] * 2, columns)
    assert dead.verdict == "problem"
    assert "exactly 0 though the term is not: kd_box" in dead.text
    silent = steps.check_gradients([Pull({}, {}, {"kd_cls": 0.0}, {"kd_cls": 0.0})] * 3, ["kd_cls"])
    assert silent.verdict == "problem"
    assert "exactly 0 on 3 batches: kd_cls" in silent.text
    off = steps.check_gradients([pull(1, 1, kd_cls=0.5)], columns)
    assert (off.verdict, off.text) == ("ok", "kd_cls 0.5; weight 0: kd_box")
    assert steps.check_gradients([], []).verdict == "skipped"


def test_share_and_the_factor_that_calibration_would_begin_with() -> None:
    pulls = [pull(2.0, head) for head in (0.1, 0.2, 4.0)]  # shares 0.05, 0.1, 2; median 0.1
    found = steps.check_share(pulls, recipe(kd_weight=2.0))
    assert found.facts["head"] == {"share": pytest.approx(0.1), "target": 0.3, "factor": pytest.approx(3.0)}
    assert "as distill.lambda=6 would" in found.text
    assert steps.check_share([pull(1.0, 11.0)], recipe()).verdict == "warning"
    assert steps.check_share([pull(1.0, 0.001)], recipe()).verdict == "warning"
    assert steps.check_share([pull(1.0, 11.0)], recipe(calibrate={"head": 0.5})).verdict == "ok"
    weak = steps.check_share([pull(1.0, 0.001)], recipe(calibrate={"head": 0.5}))
    assert (weak.verdict, "head: too weak" in weak.advice) == ("warning", True)
    assert steps.check_share([Pull({}, {}, {}, {})], recipe()).verdict == "skipped"


def test_a_batch_that_can_not_be_learned() -> None:
    def long(*values: float) -> Curve:
        return Curve((*values, *[values[-1]] * 30))

    good = {"kd_cls": long(1.0, 0.5, 0.2), "kd": long(1.0, 0.2), "loss": long(4.0, 2.0, 0.5)}
    assert good["kd_cls"].end == pytest.approx(0.2)
    assert good["kd_cls"].ratio == pytest.approx(0.2)
    assert steps.stubborn(good) == []
    assert steps.check_overfit(good, {}).verdict == "ok"
    flat = {**good, "loss": long(4.0, 4.0, 4.1)}
    assert steps.check_overfit(flat, {}).verdict == "problem"
    slow = {**good, "loss": long(4.0, 3.6)}
    assert steps.check_overfit(slow, {}).verdict == "warning"
    stuck = {**good, "kd_cls": long(1.0, 1.0)}
    assert steps.stubborn(stuck) == ["kd_cls"]
    assert steps.check_overfit(stuck, {"kd_cls": long(1.0, 1.0)}).verdict == "problem"
    assert steps.check_overfit(stuck, {"kd_cls": long(1.0, 0.4)}).verdict == "warning"
    assert steps.check_overfit({"kd": long(0.0), "loss": long(4.0, 1.0)}, {}).verdict == "ok"
    # On a slow machine the time is up before anything is proven.
    for some in ({**good, "loss": curve(4.0, 4.0, 4.1)}, {"kd_cls": curve(1.0, 1.0), "loss": curve(4.0, 1.0)}):
        few = steps.check_overfit(some, {})
        assert few.verdict == "warning"
        assert few.advice.startswith("too few steps to tell; use steps=40 or more and seconds=300")
    assert steps.check_overfit({"kd_cls": curve(1.0, 0.2), "loss": curve(4.0, 1.0)}, {}).verdict == "ok"
    assert curve(0.0, 0.0).ratio == 0.0
    assert curve(0.0, 1.0).ratio == float("inf")


def test_epochs_are_added_up() -> None:
    one = StepTimes(load=0.5, plain=1.0, distilled=1.6, teacher=0.4, batches=10, workers=0)
    assert one.epoch(distilled=False) == pytest.approx(15.0)
    assert one.epoch(distilled=True) == pytest.approx(21.0)
    assert one.epoch(distilled=True, stored=True) == pytest.approx(17.0)
    many = StepTimes(load=8.0, plain=1.0, distilled=1.6, teacher=1.0, batches=10, workers=2)
    assert many.epoch(distilled=True) == pytest.approx(40.0)  # loading is slower
    assert StepTimes(0.0, 1.0, 1.6, 0.9, 10, 2).epoch(distilled=True, stored=True) == pytest.approx(10.0)
    node: dict[str, Any] = {"epochs": 100, "control": True, "cache": {"kind": "none"}}
    found = steps.check_time(one, node)
    assert found.facts["total"] == pytest.approx(3600.0)
    assert "60 minutes with the control" in found.text
    slow = StepTimes(load=0.1, plain=1.0, distilled=4.0, teacher=3.0, batches=10, workers=0)
    assert steps.check_time(slow, node).verdict == "warning"
    assert steps.check_time(slow, {**node, "cache": {"kind": "views"}}).verdict == "ok"
    epochs = [
        steps.check_time(one, {**node, "cache": {"kind": kind}}).facts["epoch"] for kind in ("views", "instances")
    ]
    assert epochs == pytest.approx([17.0, 21.0])  # objects are spread over the anchors in every step


def test_memory_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps.check_memory(0.0, "unknown", None).verdict == "skipped"
    assert steps.check_memory(1e9, "GPU", 2e9).text == "at most 1.0 GB of GPU memory, there are 2.0 GB"
    assert steps.check_memory(1.9e9, "GPU", 2e9).verdict == "warning"
    node: dict[str, Any] = {"epochs": 10, "control": True, "trainer": {"save_period": 5}}
    spec: Any = SimpleNamespace()
    found = steps.check_disk(node, spec, 1_000_000, tmp_path)
    # Two runs, each with last, best and two more in half precision, and four copies in full precision to resume.
    assert found.facts["checkpoints"] == 2 * (4 * 2_000_000 + 16_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=50_000_000))
    assert steps.check_disk(node, spec, 1_000_000, tmp_path).verdict == "warning"
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=40_000_000))
    assert steps.check_disk(node, spec, 1_000_000, tmp_path).verdict == "problem"


def test_schedules_are_looked_at_where_they_are_strongest() -> None:
    assert full_strength(recipe(schedule={"kind": "linear", "warmup": 0.1, "end": 0.0})) == pytest.approx(0.1)
    late = {"loss": BinaryLogits(), "schedule": {"kind": "constant", "warmup": 0.5}}
    both = Recipe.from_parts({"a": late, "b": {"loss": BinaryLogits()}})
    assert full_strength(both) >= 0.5
    assert full_strength(Recipe.from_parts({}, alpha=1.0)) == 0.5


class Deaf(DistillLoss):
    """A loss that forgets the student's graph."""

    uses = frozenset({"logits"})

    def forward(self, student, teacher, context):  # type: ignore[no-untyped-def]
        return student.head(context.branch).logits.detach().square().mean()


def words(tmp_path: Path, repo: Path, teacher: Path, *more: str) -> list[str]:
    return [
        f"teacher={teacher}", "student=yolo26n_half", f"data={repo / 'data' / 'samples'}", "epochs=3", "imgsz=64",
        "batch=4", "augment=none", "device=cpu", "threads=1", f"out={tmp_path / 'look'}", "images=4", "steps=8", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [("steps", 3), ("images", 0), ("seconds", 0)])
def test_keys_of_its_own_are_checked(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: must be a whole number of \d or more, got {value}"):
        api.doctor({"images": 1, "steps": 8, "seconds": 1, key: value})


@pytest.mark.slow
def test_a_look_at_a_pair(tmp_path: Path, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save(tiny_model(seed=3), tmp_path / "teacher.pt")
    result = api.doctor(compose("doctor", words(tmp_path, repo, teacher, "json=true")))
    names = [one.check for one in result.findings]
    assert names == [
        "settings", "recipe", "teacher", "student", "teacher above student", "classes", "resolution", "levels and heads",
        "preprocessing", "gradients", "share of the gradient", "one batch", "time", "memory", "disk",
    ]  # fmt: skip
    assert result.finding("teacher").verdict == "problem"  # it was never trained
    assert result.status == 1
    assert result.finding("gradients").verdict == "ok"
    assert set(result.finding("gradients").facts["norms"]) >= {"kd_cls", "kd_cls_o2o"}
    assert result.finding("time").facts["steps"] > 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "look" / "doctor" / "doctor.json").read_text())
    assert printed["verdict"] == "problem"
    assert {one["check"] for one in printed["findings"]} == set(names)
    assert json.loads((tmp_path / "look" / "doctor" / "run.json").read_text())["status"] == "done"
    assert sorted(file.name for file in result.folder.iterdir()) == ["config.yaml", "doctor.json", "run.json"]


@pytest.mark.slow
def test_a_deaf_term_and_a_cache_that_is_not_built(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import detkd.losses.binary

    monkeypatch.setattr(detkd.losses.binary, "Deaf", Deaf, raising=False)
    monkeypatch.setattr(Deaf, "__module__", "detkd.losses.binary")
    teacher = save(tiny_model(seed=3), tmp_path / "teacher.pt")
    deaf = "+distill.terms.deaf={loss: {_target_: detkd.losses.binary.Deaf}}"
    typed = words(tmp_path, repo, teacher, "cache=views", "cache.views=2", "control=true", deaf)
    result = api.doctor(compose("doctor", typed))
    found = result.finding("gradients")
    assert found.verdict == "problem"
    assert "exactly 0 though the term is not: kd_deaf, kd_deaf_o2o" in found.text
    assert result.finding("disk").facts["cache"] > 0
    assert "not built here" in result.finding("time").text
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_would_stop_the_run_is_a_finding(tmp_path: Path, repo: Path) -> None:
    teacher = save(tiny_model(names=("dog",)), tmp_path / "teacher.pt")
    result = api.doctor(compose("doctor", words(tmp_path, repo, teacher)))
    assert result.status == 1
    assert "knows no class of the data" in result.finding("teacher").text
    assert result.finding("one batch").verdict == "skipped"


@pytest.mark.slow
@pytest.mark.parametrize("network", [True, False])
def test_a_cache_of_objects_is_tried_without_building_it(tmp_path: Path, repo: Path, network: bool) -> None:
    """The objects themselves are taught, whoever says them."""
    teacher = save(tiny_model(seed=3), tmp_path / "teacher.pt")
    if not network:
        labels = json.loads((repo / "data" / "samples" / "annotations" / "train.json").read_text())["annotations"]
        rows = [{**{key: row[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9} for row in labels]
        teacher = tmp_path / "answers.json"
        teacher.write_text(json.dumps(rows))
    result = api.doctor(compose("doctor", words(tmp_path, repo, teacher, "cache=instances", "control=true")))
    assert set(result.finding("gradients").facts["norms"]) >= {"kd_cls", "kd_cls_o2o"}
    assert result.finding("one batch").verdict in ("ok", "warning")
    assert "not built here" in result.finding("time").text
    assert result.finding("disk").facts["cache"] > 0
    assert (result.finding("preprocessing").verdict == "skipped") == (not network)
    assert not (tmp_path / "runs").exists()
    if not network:
        assert result.finding("gradients").verdict == "ok"
        assert result.finding("teacher").verdict == "skipped"
        assert result.finding("levels and heads").text == "only objects of this teacher are taught"
        assert result.status == 0
