from __future__ import annotations

import hashlib
import os
import pickle
import random
from pathlib import Path
from typing import Any

import detkd.environment

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from ultralytics.cfg import get_cfg

from detkd.data.records import DetectionSet, ImageRecord
from detkd.training.dataset import RecordDataset, to_label
from detkd.training.sampler import EpochSampler
from tests.inference.tiny import picture
from tests.training import noise_set


def dataset(folder: Path, count: int = 6) -> DetectionSet:
    records = []
    for i in range(count):
        path = folder / f"{i}.jpg"
        cv2.imwrite(str(path), picture(48, 64, seed=i))
        boxes = np.array([[4.0, 6.0, 24.0, 30.0], [0.0, 0.0, 64.0, 48.0]])
        crowd = np.array([False, True])
        records.append(ImageRecord(i + 1, path, 64, 48, boxes, np.array([i % 2, 0]), crowd, np.array([480.0, 3072.0])))
    return DetectionSet("train", ("a", "b"), (1, 2), tuple(records))


def build(folder: Path, **more: Any) -> RecordDataset:
    hyp = get_cfg()
    hyp.augmentations = [A.to_dict(A.GaussNoise(std_range=(0.1, 0.3), p=0.7))]
    arguments = {
        "seed": 0,
        "imgsz": 64,
        "augment": True,
        "hyp": hyp,
        "batch_size": 2,
        "data": {"names": {0: "a", 1: "b"}},
    }
    return RecordDataset(**{"dataset": dataset(folder), **arguments, **more})


def digest(sample: dict[str, Any]) -> str:
    return hashlib.sha256(sample["img"].numpy().tobytes() + sample["bboxes"].numpy().tobytes()).hexdigest()


def test_label_of_a_record(tmp_path: Path) -> None:
    """Box 4..24 x 6..30 in a 64 x 48 picture: centre (14/64, 18/48), size (20/64, 24/48); no crowd region."""
    label = to_label(dataset(tmp_path).records[1])
    np.testing.assert_allclose(label["bboxes"], [[14 / 64, 18 / 48, 20 / 64, 24 / 48]])
    assert label["cls"].tolist() == [[1.0]]
    assert label["shape"] == (48, 64)


def test_a_view_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    data = build(tmp_path)
    first = digest(data[(3, 2)])
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    data[(0, 5)], data[(3, 1)]
    assert digest(data[(3, 2)]) == first
    assert digest(build(tmp_path)[(3, 2)]) == first
    assert digest(data[(4, 2)]) != first
    assert digest(build(tmp_path, seed=1)[(3, 2)]) != first


def test_drawing_a_view_does_not_disturb_other_random_numbers(tmp_path: Path) -> None:
    data = build(tmp_path)
    random.seed(5), np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5), np.random.seed(5)
    data[(0, 0)]
    assert (random.random(), np.random.rand()) == expected


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines with one core
def test_the_same_pixels_in_any_number_of_workers(tmp_path: Path) -> None:
    def all_hashes(workers: int) -> list[str]:
        loader = DataLoader(
            build(tmp_path),
            batch_size=2,
            sampler=EpochSampler(6, seed=0),
            num_workers=workers,
            collate_fn=RecordDataset.collate_fn,
        )
        return [hashlib.sha256(batch["img"].numpy().tobytes()).hexdigest() for batch in loader]

    assert all_hashes(0) == all_hashes(2)


def test_memory_cache_changes_nothing(tmp_path: Path) -> None:
    assert digest(build(tmp_path, cache="ram")[(1, 3)]) == digest(build(tmp_path)[(1, 3)])


def test_nothing_is_written_beside_the_images(tmp_path: Path) -> None:
    data = build(tmp_path, cache="ram")
    data[(0, 0)]
    assert sorted(os.listdir(tmp_path)) == [f"{i}.jpg" for i in range(6)]


def test_a_label_cache_is_never_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    for name in ("labels.cache", "train.cache", f"{tmp_path.name}.cache"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        np.save(tmp_path / "0.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    build(tmp_path)[(0, 0)]
    assert not (tmp_path / "executed").exists()


def test_fraction_takes_a_seeded_subset(tmp_path: Path) -> None:
    half = build(tmp_path, fraction=0.5)
    assert len(half) == 3
    assert half.im_files == build(tmp_path, fraction=0.5).im_files


def test_the_samples_of_earlier_results_are_kept(tmp_path: Path) -> None:
    """Hash of two epochs with mosaic and two without, of the first published version."""
    args = noise_set.arguments()
    data = noise_set.build(noise_set.noise_set(tmp_path), args)
    found = hashlib.sha256()
    for closed in (False, True):
        if closed:
            data.close_mosaic(args)
        for batch in noise_set.batches(data, epochs=2):
            for part in ("img", "cls", "bboxes", "batch_idx"):
                found.update(batch[part].numpy().tobytes())
    assert found.hexdigest() == "333281e3f2993d74ae5cc753358f88f0c2c281cd3114491fe1de9ae583086f2c"


def test_a_batch_says_what_its_images_are(tmp_path: Path) -> None:
    data = build(tmp_path)
    batch = data.collate_fn([data[(7, 4)], data[(2, 0)]])
    assert batch["record"] == [(4, 7), (0, 2)]
    assert batch["labelled"].tolist() == batch["taught"].tolist() == [True, True]
    assert "quality" not in batch
    assert "soft_boxes" not in batch


def test_a_sample_that_is_no_view_has_no_record(tmp_path: Path) -> None:
    """Images to validate with must not be looked up among those of the training set."""
    data = build(tmp_path, augment=False)
    assert "record" not in data.collate_fn([data[0], data[1]])


def test_the_seed_of_the_augmentation_can_be_another_one(tmp_path: Path) -> None:
    assert digest(build(tmp_path, seed=1, augment_seed=0)[(3, 2)]) == digest(build(tmp_path)[(3, 2)])


def test_records_follow_the_order_of_rectangular_batches(tmp_path: Path) -> None:
    records = []
    for i, (width, height) in enumerate([(64, 48), (48, 64), (64, 64)]):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), picture(height, width, seed=i))
        none = np.zeros(0)
        records.append(ImageRecord(i, tmp_path / f"{i}.jpg", width, height, np.zeros((0, 4)), none, none > 0, none))
    data = build(tmp_path, dataset=DetectionSet("val", ("a", "b"), (1, 2), tuple(records)), augment=False, rect=True)
    assert [str(record.path) for record in data.records] == data.im_files
    assert [record.image_id for record in data.records] == [0, 2, 1]
