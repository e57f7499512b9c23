"""The live teacher: classes it lacks, heads it lacks, speed."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import detkd.environment

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou
from ultralytics.cfg import get_cfg

from detkd.errors import ConfigError, PairError
from detkd.losses.binary import BinaryLogits
from detkd.losses.recipe import Recipe
from detkd.models.distilled import DistilledDetector
from detkd.models.head import raw_outputs, read_view
from detkd.models.objects import found_objects
from detkd.models.teacher import LiveTeacher
from detkd.types import HeadOutput, View
from tests.inference.tiny import NAMES, tiny_model


def images(size: int = 64, count: int = 2, seed: int = 5) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def look(config: str = "yolo26n.yaml", seed: int = 1, names: tuple[str, ...] = NAMES) -> View:
    """What an untrained student says about `images()`."""
    model = tiny_model(config, names=names, seed=seed)
    with torch.no_grad():
        return read_view(raw_outputs(model, images()), model.model[-1])


def test_classes_it_does_not_know_are_named_and_out_of_reach() -> None:
    names = ("dog", "truck", "person", "cat")
    student = look(names=names)
    full = LiveTeacher(tiny_model(seed=2), NAMES).answer({"img": images()}, look())
    teacher = LiveTeacher(tiny_model(seed=2), names)
    view = teacher.answer({"img": images()}, student)
    assert teacher.classes is not None
    assert teacher.classes.tolist() == [False, True, True, False]
    for branch in ("one2many", "one2one"):
        head, whole = view.heads[branch], full.heads[branch]
        assert head.classes is not None
        assert head.classes.tolist() == [False, True, True, False]
        assert bool((head.logits[..., [0, 3]] == -20).all())
        assert torch.equal(head.logits[..., [1, 2]], whole.logits[..., [2, 0]])
        assert torch.equal(head.boxes_xyxy, whole.boxes_xyxy)
        assert whole.classes is None


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_an_old_model_presses_on_no_class_that_is_new_to_it(alpha: float) -> None:
    """Class by class, in the last layer of the student: new ones learn from labels alone, old ones from both."""
    student = tiny_model(seed=1)
    student.args = get_cfg()
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    plain = copy.deepcopy(student).train()
    old = LiveTeacher(tiny_model(names=("truck", "person"), seed=2), NAMES)
    model = DistilledDetector(student, old, Recipe.from_parts({"cls": {"loss": BinaryLogits()}}, alpha=alpha))
    model.probe(64, 64)
    model.train()
    labels = torch.arange(4.0)
    batch = {"img": images(), "cls": labels[:, None], "bboxes": torch.full((4, 4), 0.5), "batch_idx": labels // 2}
    plain.loss(batch)[0].sum().backward()
    model.loss(batch)[0].sum().backward()
    for part in ("cv3", "one2one_cv3"):
        taught = False
        for ours, theirs in zip(*(getattr(m.model[-1], part) for m in (student, plain)), strict=True):
            found, detection = ours[-1].bias.grad, alpha * theirs[-1].bias.grad
            torch.testing.assert_close(found[[1, 3]], detection[[1, 3]])
            taught = taught or bool((found[[0, 2]] != detection[[0, 2]]).any())
        assert taught


def test_it_answers_for_chosen_classes_only() -> None:
    teacher = LiveTeacher(tiny_model(seed=2), NAMES, classes=["car"])
    head = teacher.answer({"img": images()}, look()).head("one2one")
    assert head.classes is not None
    assert head.classes.tolist() == [False, True, False, False]


def test_a_teacher_that_knows_nothing_of_the_data_is_refused() -> None:
    with pytest.raises(PairError, match=r"teacher\.class_map: the teacher knows no class of the data"):
        LiveTeacher(tiny_model(), ("dog", "cat"))
    with pytest.raises(PairError, match=r"teacher\.classes: the teacher knows none of them"):
        LiveTeacher(tiny_model(), ("car", "cat"), classes=["cat"])


def test_one_class() -> None:
    student = look(names=("car",))
    head = LiveTeacher(tiny_model(seed=2), ("car",)).answer({"img": images()}, student).head("one2many")
    assert head.logits.shape[-1] == 1
    assert head.classes is None


def test_objects_are_what_nms_leaves_of_one_head() -> None:
    """Four boxes of two classes, worked by hand: the second overlaps the first, the third too but of another class."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [20, 20, 30, 30.0]])
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.2, 0.7], [0.04, 0.02]])
    head = HeadOutput(probs.logit()[None], boxes[None], boxes[None])
    found = found_objects(head, conf=0.05, iou=0.7)
    assert found.present.tolist() == [[True, True]]
    torch.testing.assert_close(found.probs[0], probs[[0, 2]])
    assert torch.equal(found.boxes_xyxy[0], boxes[[0, 2]])
    assert found_objects(head, conf=0.05, iou=0.95).present.sum() == 3
    assert found_objects(head, conf=0.05, iou=0.7, most=1).probs.shape == (1, 1, 2)
    assert found_objects(head, conf=0.95, iou=0.7).probs.shape == (1, 0, 2)


def test_an_nms_teacher_teaches_the_nms_free_head_by_its_objects() -> None:
    """Against a slow search: per object the one student anchor that fits best, with the object's own vector and box."""
    student = look()
    teacher = LiveTeacher(tiny_model("yolov8n.yaml", seed=2), NAMES, nms_conf=0.12, nms_iou=0.5)
    view = teacher.answer({"img": images()}, student)
    dense, head = view.head("one2many"), view.head("one2one")
    assert teacher.branches == ("one2many",)
    assert head.known is not None
    assert dense.known is None
    objects = found_objects(dense, conf=0.12, iou=0.5)
    assert objects.present.any()
    assert 0 < head.known.sum() < head.known.numel() / 2
    own = student.head("one2one")
    for image in range(2):
        taken = (head.logits[image].sigmoid().amax(-1) > 1e-3) & head.known[image]
        assert taken.sum() <= objects.present[image].sum(), "a duplicate is taught"
        for anchor in taken.nonzero()[:, 0].tolist():
            overlap = box_iou(head.boxes_xyxy[image, anchor, None], objects.boxes_xyxy[image])[0]
            number = int(overlap.argmax())
            assert float(overlap[number]) == pytest.approx(1, abs=1e-3)
            torch.testing.assert_close(
                head.logits[image, anchor].sigmoid(), objects.probs[image, number], rtol=1e-3, atol=1e-4
            )
            # No anchor whose centre lies in the box fits the object better in the student's own eyes.
            label = int(objects.probs[image, number].argmax())
            fit = own.logits[image, :, label].sigmoid() ** 0.5
            fit = fit * box_iou(objects.boxes_xyxy[image, number, None], own.boxes_xyxy[image])[0] ** 6
            best = fit[head.known[image]].max()
            assert float(fit[anchor]) <= float(best) + 1e-6


def test_a_teacher_of_twice_the_size_finds_objects_in_the_students_pixels() -> None:
    student, large = look(), images(128)
    teacher = LiveTeacher(tiny_model("yolov8n.yaml", seed=2), NAMES, nms_conf=0.12)
    head = teacher.answer({"img": images(), "img_teacher": large}, student).head("one2one")
    own = raw_outputs(teacher.model, large)
    found = found_objects(read_view(own, teacher.head).head("one2many"), conf=0.12, iou=0.7)
    assert head.known is not None
    for image in range(2):
        boxes = head.boxes_xyxy[image][head.known[image]]
        overlap = box_iou(boxes * 2, found.boxes_xyxy[image])
        assert len(boxes)
        torch.testing.assert_close(overlap.amax(1), torch.ones(len(boxes)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("half", "device", "wants", "expected"),
    [
        (None, "cuda", None, (torch.float16, True)),
        (None, "cpu", None, (torch.float32, False)),
        (False, "cuda", None, (torch.float32, True)),
        (True, "cpu", None, (torch.float16, False)),
        (None, "cuda", frozenset({"towers"}), (torch.float32, True)),  # a gradient passes through it
    ],
)
def test_precision_and_memory_layout_follow_the_device(
    half: bool | None, device: str, wants: frozenset[str] | None, expected: tuple[torch.dtype, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    teacher = LiveTeacher(tiny_model(seed=2), NAMES, half=half)
    if wants:
        teacher.wants = wants
    asked: dict[str, object] = {}
    monkeypatch.setattr(teacher.model, "to", lambda **given: asked.update(given))
    teacher.to(torch.device(device))
    assert (asked["dtype"], asked.get("memory_format") is torch.channels_last) == expected


@pytest.mark.parametrize("names", [("truck",), ("dog", "truck")])
def test_a_class_the_data_lacks_does_not_choose_the_cell_of_a_finer_grid(names: tuple[str, ...]) -> None:
    """Slow search: of the four teacher cells in a student cell of 8 pixels, the one surest of a class of the data."""
    student, large = look(names=names), images(128)
    teacher = LiveTeacher(tiny_model(seed=2), names)
    view = teacher.answer({"img": images(), "img_teacher": large}, student)
    own = read_view(raw_outputs(teacher.model, large), teacher.head)
    sides, truck, moved = (128 // 8, 128 // 16, 64 // 8), NAMES.index("truck"), 0
    for branch, head in view.heads.items():
        logits = own.heads[branch].logits
        start = sides[0] ** 2  # the teacher's level of 16 pixels has the cells of the student's level of 8
        for image, row, column in itertools.product(range(2), range(sides[2]), range(sides[2])):
            coarse = [start + row * sides[1] + column]
            fine = [(2 * row + dy) * sides[0] + 2 * column + dx for dy in (0, 1) for dx in (0, 1)]
            cells = logits[image, [*coarse, *fine]]
            wanted = cells[cells[:, truck].argmax()]
            got = head.logits[image, row * sides[2] + column]
            assert float(got[names.index("truck")]) == pytest.approx(float(wanted[truck]), abs=1e-6)
            moved += int(cells.amax(1).argmax() != cells[:, truck].argmax())
        assert (head.classes is None) == (len(names) == 1)
        if head.classes is not None:
            assert head.classes.tolist() == [False, True]
    assert moved > 10, "no other class was ever surer, so this would pass without the translation"


def test_distributions_of_a_finer_grid_are_lost_and_it_says_so() -> None:
    student, batch = look("yolov8n.yaml"), {"img": images()}
    teacher = LiveTeacher(tiny_model("yolov8n.yaml", seed=2), NAMES)
    assert teacher.answer(batch, student).lost is None
    view = teacher.answer({**batch, "img_teacher": images(128)}, student)
    assert view.head("one2many").dist is None
    assert view.lost == {"dist": "it belongs to cells of another resolution; set teacher.imgsz to imgsz"}


def test_objects_need_a_head_to_teach() -> None:
    batch = {"img": images()}
    nms, free = (tiny_model(config, seed=2) for config in ("yolov8n.yaml", "yolo26n.yaml"))
    assert "one2one" not in LiveTeacher(copy.deepcopy(nms), NAMES).answer(batch, look()).heads
    without = LiveTeacher(copy.deepcopy(nms), NAMES, nms_conf=0.05).answer(batch, look("yolov8n.yaml"))
    assert list(without.heads) == ["one2many"]
    # A teacher with such a head uses its own.
    assert LiveTeacher(free, NAMES, nms_conf=0.05).answer(batch, look()).head("one2one").known is None
    nothing = LiveTeacher(nms, NAMES, nms_conf=0.999).answer(batch, look()).head("one2one")
    assert nothing.known is not None
    assert not nothing.known.any()
    with pytest.raises(ConfigError, match=r"teacher\.nms_conf: must be between 0 and 1, got 0; e\.g\."):
        LiveTeacher(tiny_model(), NAMES, nms_conf=0)


def test_nothing_of_it_has_a_gradient() -> None:
    student = look()
    for config in ("yolo26n.yaml", "yolov8n.yaml"):
        teacher = LiveTeacher(tiny_model(config, seed=2), NAMES, nms_conf=0.05)
        view = teacher.answer({"img": images()}, student)
        assert not any(part.requires_grad for head in view.heads.values() for part in head if part is not None)
        assert all(not p.requires_grad for p in teacher.model.parameters())


def test_feature_maps_only_where_they_are_read() -> None:
    teacher = LiveTeacher(tiny_model(seed=2), NAMES)
    batch, student = {"img": images()}, look()
    before = teacher.answer(batch, student)
    assert teacher.wants is None
    assert before.feats is not None
    teacher.wants = frozenset({"logits", "boxes"})
    view = teacher.answer(batch, student)
    assert view.feats is None
    assert torch.equal(view.head("one2many").logits, before.head("one2many").logits)
    teacher.wants = frozenset({"feats"})
    assert teacher.answer(batch, student).feats is not None


def test_one_of_several_sees_the_image_of_its_size() -> None:
    batch = {"img": images(), "img_teacher": images(128)}
    student = look()
    small = LiveTeacher(tiny_model(seed=2), NAMES, imgsz=64).answer(batch, student)
    alone = LiveTeacher(tiny_model(seed=2), NAMES).answer({"img": batch["img"]}, student)
    assert torch.equal(small.head("one2many").logits, alone.head("one2many").logits)
    large = LiveTeacher(tiny_model(seed=2), NAMES, imgsz=128).answer(batch, student)
    usual = LiveTeacher(tiny_model(seed=2), NAMES).answer(batch, student)
    assert torch.equal(large.head("one2many").logits, usual.head("one2many").logits)


def test_half_precision_says_the_same_and_hands_out_full_precision() -> None:
    batch, student = {"img": images()}, look()
    full = LiveTeacher(tiny_model(seed=2), NAMES).to(torch.device("cpu")).answer(batch, student)
    teacher = LiveTeacher(tiny_model(seed=2), NAMES, half=True).to(torch.device("cpu"))
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float16}
    view = teacher.answer(batch, student)
    assert view.feats is not None
    assert all(maps.dtype == torch.float32 for maps in view.feats)
    for branch in ("one2many", "one2one"):
        head, exact = view.heads[branch], full.heads[branch]
        assert head.logits.dtype == head.boxes_xyxy.dtype == torch.float32
        torch.testing.assert_close(head.logits, exact.logits, rtol=0.02, atol=0.02)
        torch.testing.assert_close(head.boxes_xyxy, exact.boxes_xyxy, rtol=0.02, atol=0.3)
    # A gradient through its own head needs full precision; on a CPU nobody asked for less.
    teacher.wants = frozenset({"towers"})
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float32}
    automatic = LiveTeacher(tiny_model(seed=2), NAMES, half=None).to(torch.device("cpu"))
    assert {p.dtype for p in automatic.model.parameters()} == {torch.float32}


def test_without_a_compiler_it_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda function: broken)
    batch, student = {"img": images()}, look()
    teacher = LiveTeacher(tiny_model(seed=2), NAMES, compiled=True)
    usual = LiveTeacher(tiny_model(seed=2), NAMES).answer(batch, student)
    for _ in range(2):
        view = teacher.answer(batch, student)
        assert torch.equal(view.head("one2many").logits, usual.head("one2many").logits)
    said = capsys.readouterr().err
    assert said.count("teacher.compile: torch can't compile it here (RuntimeError: no C++ compiler found)") == 1


@pytest.mark.slow
def test_traced_by_the_compiler_it_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch makes of the forward pass, run without generating code for it: that takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    student = look()
    usual, teacher = (LiveTeacher(tiny_model(seed=2), NAMES, compiled=compiled) for compiled in (False, True))
    for seed in (5, 6):
        batch = {"img": images(seed=seed)}
        plain, view = usual.answer(batch, student), teacher.answer(batch, student)
        assert "predict" in vars(teacher.model), "it fell back"
        for branch in ("one2many", "one2one"):
            torch.testing.assert_close(view.heads[branch].logits, plain.heads[branch].logits)
            torch.testing.assert_close(view.heads[branch].boxes_xyxy, plain.heads[branch].boxes_xyxy)


def test_the_rest_of_its_head_answers_in_the_classes_of_the_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own maps, put back into its own head, give its own answers; a gradient goes to the maps alone."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    student = look(names=("dog", "truck", "car"))
    teacher = LiveTeacher(tiny_model(seed=2), ("dog", "truck", "car"), compiled=True)
    assert LiveTeacher(tiny_model(seed=2), NAMES).answer({"img": images()}, look()).towers is None
    teacher.wants = frozenset({"logits", "boxes", "towers"})
    assert "teacher.compile: a loss reads inside its head, so it runs uncompiled" in capsys.readouterr().err
    view = teacher.answer({"img": images()}, student)
    assert view.towers is not None
    assert view.finish is not None
    for branch, own in view.towers.items():
        maps = own._replace(classes=tuple(x.clone().requires_grad_() for x in own.classes))
        head, known = view.finish(branch, maps), view.heads[branch]
        torch.testing.assert_close(head.logits, known.logits)
        torch.testing.assert_close(head.boxes_xyxy, known.boxes_xyxy)
        assert head.classes is not None
        assert head.classes.tolist() == [False, True, True]
        head.logits.sum().backward()
        assert all(x.grad is not None and bool(x.grad.any()) for x in maps.classes)
    assert all(p.grad is None for p in teacher.model.parameters())
