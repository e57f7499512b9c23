from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import detkd.environment

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory
from ultralytics.data.augment import Mosaic, RandomPerspective

from detkd.errors import ConfigError, DataError
from detkd.training import rows
from detkd.training.augmentation import SeededAlbumentations, walk
from detkd.training.dataset import SampleKey
from detkd.training.rows import MAX_ROWS, RowTable
from tests.training.noise_set import SIDE, WILD, arguments, batches, build, noise_set, twins

SPATIAL = [
    A.to_dict(A.Affine(rotate=(-30, 30), p=0.7)),
    A.to_dict(A.RandomResizedCrop((64, 64), scale=(0.03, 0.3), p=0.5)),
]
SHARED = ("img", "cls", "bboxes", "batch_idx")


def crowd_of_objects(index: int) -> Any:
    """More objects than labels, everywhere in the image, also reaching out of it or without any area."""
    rng = np.random.default_rng(index)
    corner = rng.uniform(-8, SIDE, (12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 30, (12, 2))], 1)
    boxes[3, 2:] = boxes[3, :2]
    return SimpleNamespace(boxes_xyxy=boxes.astype(np.float32), probs=rng.random((12, 2)), quality=rng.random(12))


def digest(joined: list[dict[str, Any]], parts: tuple[str, ...] = SHARED) -> str:
    found = hashlib.sha256()
    for batch in joined:
        for part in parts:
            found.update(batch[part].numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("augmentations", [[], SPATIAL], ids=["plain", "spatial"])
def test_pixels_and_labels_are_the_controls(tmp_path: Path, augmentations: list[dict[str, Any]]) -> None:
    """Equal to the bit, before and after mosaic is closed, although some images lose all labels and keep objects."""
    args = arguments(augmentations, **{**WILD, "scale": 0.5, "translate": 0.1})
    data = noise_set(tmp_path)
    control, student = build(data, args), build(data, args, soft=crowd_of_objects)
    objects = 0
    for closed in (False, True):
        if closed:
            control.close_mosaic(copy(args)), student.close_mosaic(copy(args))
        seen = batches(student, epochs=6)
        assert digest(seen) == digest(batches(control, epochs=6))
        objects += sum(len(batch["soft_idx"]) for batch in seen)
    assert objects > 100


def test_labels_are_the_controls_where_rounding_depends_on_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a matrix product may: it is computed in blocks of rows."""
    exact = RandomPerspective.apply_bboxes
    monkeypatch.setattr(
        RandomPerspective, "apply_bboxes", lambda self, b, m: exact(self, b, m) + len(b) * np.float32(1e-5)
    )
    data = noise_set(tmp_path)
    assert digest(batches(build(data, soft=crowd_of_objects), epochs=2)) == digest(batches(build(data), epochs=2))


def test_rows_of_earlier_samples_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample is made of 4 images with at most 12 objects each."""
    monkeypatch.setattr(rows, "MAX_ROWS", 48)
    student = build(noise_set(tmp_path), soft=crowd_of_objects)
    assert len(batches(student, epochs=3)) == 9


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines with one core
def test_objects_are_the_same_in_any_number_of_workers(tmp_path: Path) -> None:
    args = arguments(SPATIAL, **WILD)
    data = noise_set(tmp_path)
    parts = (*SHARED, "quality", "soft_boxes", "soft_probs", "soft_quality", "soft_idx")
    found = {digest(batches(build(data, args, soft=twins(data)), workers=n, epochs=2), parts) for n in (0, 1, 2)}
    assert len(found) == 1


def test_objects_are_the_same_in_batches_of_any_size(tmp_path: Path) -> None:
    data = noise_set(tmp_path)
    of_three, of_eight = (batches(build(data, soft=crowd_of_objects), batch=n) for n in (3, 8))
    for part in ("img", "soft_boxes", "soft_probs"):
        torch.testing.assert_close(
            torch.cat([b[part] for b in of_three]), torch.cat([b[part] for b in of_eight]), rtol=0, atol=0
        )
    assert [key for batch in of_three for key in batch["record"]] == of_eight[0]["record"]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("augmentations", [[], SPATIAL], ids=["plain", "spatial"])
def test_an_object_goes_where_its_label_goes(tmp_path: Path, augmentations: list[dict[str, Any]], closed: bool) -> None:
    args = arguments(augmentations, **{**WILD, "scale": 0.5, "translate": 0.1, "mosaic": 1.0})
    data = noise_set(tmp_path)
    student = build(data, args, soft=twins(data))
    if closed:
        student.close_mosaic(copy(args))
    moved = 0
    for batch in batches(student, epochs=4):
        for n in range(len(batch["img"])):
            labels, objects = batch["batch_idx"] == n, batch["soft_idx"] == n
            alone = not augmentations or labels.any()  # when all labels are lost the image stays, see below
            if alone:
                torch.testing.assert_close(batch["soft_boxes"][objects], batch["bboxes"][labels], rtol=0, atol=1e-6)
                moved += int(labels.sum())
    assert moved > 20


def test_a_label_keeps_its_class_and_quality(tmp_path: Path) -> None:
    """Quality says which image and box a label is; class and object tell the same."""
    data = noise_set(tmp_path, quality=lambda i: 0.01 + i / 10 + np.arange(i % 4) / 100)
    seen = batches(build(data, arguments(**WILD), soft=twins(data)), epochs=4)
    checked = 0
    for batch in seen:
        image, box = (
            torch.round(batch["quality"] * 100).long() // 10,
            torch.round(batch["quality"] * 100).long() % 10 - 1,
        )
        assert torch.equal(batch["cls"][:, 0].long(), box % 2)
        torch.testing.assert_close(batch["soft_probs"][:, 1], image / 100)
        torch.testing.assert_close(batch["soft_probs"][:, 0], torch.full((len(image),), 0.25))
        checked += len(box)
    assert checked > 50


def test_quality_follows_the_classes_that_are_kept(tmp_path: Path) -> None:
    """Image 3 has classes 0, 1, 0, the last one a crowd."""
    data = noise_set(tmp_path, count=4, quality=lambda i: np.arange(1, i % 4 + 1) / 10)
    records = [replace(r, crowd=np.arange(len(r.crowd)) == 2) for r in data.records]
    data = replace(data, records=tuple(records))
    for classes, expected in ((None, [0.1, 0.2]), ([0], [0.1]), ([1], [0.2])):
        sample = build(data, augment=False, classes=classes)[3]
        torch.testing.assert_close(sample["quality"], torch.tensor(expected))


def test_images_are_mixed_with_their_kind_only(tmp_path: Path) -> None:
    """Even images have labels; a box of image i is told by its quality, and large enough to be seen in any mosaic."""
    data = noise_set(
        tmp_path,
        quality=lambda i: np.full(i % 4, (i + 1) / 100),
        labelled=lambda i: i % 2 == 0,
        boxes_xyxy=lambda i: np.tile([[1.0, 1.0, 63.0, 63.0]], (i % 4, 1)),
    )
    student = build(data, arguments(mosaic=1.0, mixup=0.5))
    partners: dict[bool, set[int]] = {True: set(), False: set()}
    for batch in batches(student, epochs=6):
        kinds = batch["labelled"][batch["batch_idx"].long()]
        images = torch.round(batch["quality"] * 100).long() - 1
        assert torch.equal(images % 2 == 0, kinds)
        for kind in (True, False):
            partners[kind] |= set(images[kinds == kind].tolist())
        assert batch["labelled"].tolist() == [key.image % 2 == 0 for key in batch["record"]]
    assert partners == {True: {2, 6}, False: {1, 3, 5, 7}}  # 0 and 4 have no boxes


def test_one_kind_is_mixed_as_ever(tmp_path: Path) -> None:
    data = noise_set(tmp_path)
    args = arguments(**WILD)
    sure = replace(data, records=tuple(replace(r, quality=np.ones(len(r.classes))) for r in data.records))
    assert digest(batches(build(sure, args), epochs=3)) == digest(batches(build(data, args), epochs=3))


def test_images_without_boxes_are_transformed_too(tmp_path: Path) -> None:
    """Whether an image has labels or objects changes nothing about its pixels."""
    args = arguments([A.to_dict(A.HorizontalFlip(p=1.0))], mosaic=0.0, fliplr=0.0, flipud=0.0)
    data = noise_set(tmp_path, count=4)
    bare = replace(
        data,
        records=tuple(
            replace(r, boxes_xyxy=r.boxes_xyxy[:0], classes=r.classes[:0], crowd=r.crowd[:0]) for r in data.records
        ),
    )
    seen = {
        (name, soft): build(source, args, soft=crowd_of_objects if soft else None)[(0, 3)]["img"]
        for name, source in (("full", data), ("bare", bare))
        for soft in (False, True)
    }
    still = build(data, arguments(mosaic=0.0, fliplr=0.0, flipud=0.0))[(0, 3)]["img"]
    for image in seen.values():
        assert torch.equal(image, still.flip(2))


@pytest.mark.parametrize(("with_label", "flips"), [(True, False), (False, True)])
def test_when_all_labels_get_lost_the_objects_stay_with_the_image(
    tmp_path: Path, with_label: bool, flips: bool
) -> None:
    """The transform cuts the only label (top left) off and Ultralytics takes it back; without labels it holds."""
    cut = A.to_dict(A.Crop(32, 32, 64, 64, pad_if_needed=False, p=1.0))
    args = arguments([cut, A.to_dict(A.Resize(64, 64, p=1.0))], mosaic=0.0, fliplr=0.0, flipud=0.0)
    data = noise_set(tmp_path, count=2)
    box = np.array([[2.0, 2.0, 20.0, 20.0]])[: int(with_label)]
    n = len(box)
    only = replace(data.records[1], boxes_xyxy=box, classes=np.zeros(n, int), crowd=np.zeros(n, bool))
    data = replace(data, records=(data.records[0], only))

    def soft(index: int) -> Any:
        return SimpleNamespace(
            boxes_xyxy=np.array([[40.0, 40.0, 56.0, 48.0]]), probs=np.ones((1, 2)), quality=np.ones(1)
        )

    sample = build(data, args, soft=soft)[(0, 1)]
    assert torch.equal(sample["img"], build(data, args)[(0, 1)]["img"])
    expected = [[32 / 64, 24 / 64, 32 / 64, 16 / 64]] if flips else [[48 / 64, 44 / 64, 16 / 64, 8 / 64]]
    torch.testing.assert_close(sample["soft_boxes"], torch.tensor(expected))


@pytest.mark.parametrize("soft", [True, False])
def test_cutmix_is_refused(tmp_path: Path, soft: bool) -> None:
    data = noise_set(tmp_path, **({} if soft else {"taught": lambda i: i > 2}))
    with pytest.raises(ConfigError, match=r"^trainer.cutmix: .* got 0.3; set it to 0"):
        build(data, arguments(cutmix=0.3), soft=twins(data) if soft else None)
    assert len(build(data, arguments(cutmix=0.3), soft=twins(data) if soft else None, augment=False)) == 8


@pytest.mark.parametrize("more", [{"single_cls": True}, {"classes": [0]}])
def test_options_that_change_the_classes_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    data = noise_set(tmp_path)
    with pytest.raises(ConfigError, match=f"^trainer.{next(iter(more))}: "):
        build(data, soft=twins(data), **more)


@pytest.mark.parametrize("nested", [False, True])
def test_transforms_that_look_at_the_boxes_are_refused(tmp_path: Path, nested: bool) -> None:
    crop = A.RandomSizedBBoxSafeCrop(64, 64, p=1.0)
    args = arguments([A.to_dict(A.OneOf([crop, A.HorizontalFlip()], p=1.0) if nested else crop)])
    data = noise_set(tmp_path)
    assert len(build(data, args)) == 8
    with pytest.raises(ConfigError, match=r"^augment: RandomSizedBBoxSafeCrop "):
        build(data, args, soft=twins(data))


def test_a_transform_of_ones_own_that_looks_at_the_boxes_is_found_out(tmp_path: Path) -> None:
    class Crop(A.DualTransform):
        _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.BBOXES)

        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            return {"value": len(data["bboxes"])}

        def apply(self, img: np.ndarray, value: int, **params: Any) -> np.ndarray:
            return np.full_like(img, value)

        def apply_to_bboxes(self, bboxes: np.ndarray, **params: Any) -> np.ndarray:
            return bboxes

        def apply_to_keypoints(self, keypoints: np.ndarray, **params: Any) -> np.ndarray:
            return keypoints

    data = noise_set(tmp_path)
    student = build(data, arguments(mosaic=0.0), soft=crowd_of_objects)
    for transform in walk(student.transforms):
        if isinstance(transform, SeededAlbumentations):
            transform.contains_spatial = True
            transform.transform = A.Compose(
                [Crop(p=1.0)],
                bbox_params=A.BboxParams(format="yolo", label_fields=["class_labels", "idx"]),
                keypoint_params=A.KeypointParams(format="xy", remove_invisible=False, label_fields=["pidx"]),
            )
    with pytest.raises(ConfigError, match=r"^augment: a transform looks at the boxes"):
        student[(0, 3)]


def test_a_batch_of_images_without_anything(tmp_path: Path) -> None:
    data = noise_set(tmp_path)

    def nothing(index: int) -> Any:
        return SimpleNamespace(boxes_xyxy=np.zeros((0, 4)), probs=np.zeros((0, 2)), quality=np.zeros(0))

    student = build(data, arguments(mosaic=0.0), soft=nothing)
    batch = student.collate_fn([student[(0, 0)], student[(0, 4)]])
    shapes = {
        key: tuple(batch[key].shape)
        for key in ("cls", "bboxes", "batch_idx", "quality", "soft_boxes", "soft_probs", "soft_quality", "soft_idx")
    }
    assert shapes == {
        "cls": (0, 1),
        "bboxes": (0, 4),
        "batch_idx": (0,),
        "quality": (0,),
        "soft_boxes": (0, 4),
        "soft_probs": (0, 2),
        "soft_quality": (0,),
        "soft_idx": (0,),
    }


def test_objects_of_other_classes_are_refused(tmp_path: Path) -> None:
    data = noise_set(tmp_path)

    def soft(index: int) -> Any:
        return SimpleNamespace(boxes_xyxy=np.array([[1, 1, 9, 9]]), probs=np.ones((1, 3)), quality=np.ones(1))

    with pytest.raises(DataError, match=r"^cache: .*0\.png must have 2 class probabilities, got 3"):
        build(data, arguments(mosaic=0.0), soft=soft)[(0, 0)]


def test_more_rows_than_float32_can_count_are_refused() -> None:
    table = RowTable(1, soft=True)
    half = np.broadcast_to(np.float32(1), (MAX_ROWS // 2,))
    for _ in range(2):
        last = table.add_soft(half.reshape(-1, 1), half, where="x")[-1, 0]
    assert last == -MAX_ROWS
    with pytest.raises(DataError, match=f"^data: .* got {MAX_ROWS + 1} of at most {MAX_ROWS}"):
        table.add_soft(np.ones((1, 1)), np.ones(1), where="x")


def test_the_record_survives_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self)
    assert pin_memory({"record": [SampleKey(3, 1)]})["record"] == [(3, 1)]


def test_plain_sets_keep_ultralytics_transforms(tmp_path: Path) -> None:
    kinds = {type(transform) for transform in walk(build(noise_set(tmp_path)).transforms)}
    assert Mosaic in kinds
