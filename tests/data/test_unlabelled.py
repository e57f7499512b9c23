from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detkd.data.load import load_data
from detkd.data.records import DetectionSet
from detkd.data.unlabelled import add_pool, hide_labels, labelled_only, plain_records
from detkd.errors import ConfigError, DataError
from tests.data.sets import coco_content, draw, write_coco


@pytest.fixture
def train(tmp_path: Path) -> DetectionSet:
    root = write_coco(tmp_path / "set", train=coco_content(20), val=coco_content(2, 50))
    return load_data(root).splits["train"]


def test_hidden_labels_leave_the_images_and_their_order(train: DetectionSet) -> None:
    hidden = hide_labels(train, 0.25, seed=0)
    assert [r.path for r in hidden.records] == [r.path for r in train.records]
    assert sum(r.labelled for r in hidden.records) == 5
    for before, after in zip(train.records, hidden.records, strict=True):
        assert len(after.boxes_xyxy) == (len(before.boxes_xyxy) if after.labelled else 0)
        assert len(after.classes) == len(after.areas) == len(after.crowd) == len(after.boxes_xyxy)


def test_a_smaller_share_is_part_of_a_larger_one(train: DetectionSet) -> None:
    kept = [{r.image_id for r in hide_labels(train, s, seed=3).records if r.labelled} for s in (0.05, 0.1, 0.5, 1.0)]
    assert [len(ids) for ids in kept] == [1, 2, 10, 20]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert kept[2] != {r.image_id for r in hide_labels(train, 0.5, seed=4).records if r.labelled}


@pytest.mark.parametrize("share", [0, 1.1, True, "half", -0.1])
def test_a_share_that_is_none_is_refused(train: DetectionSet, share: object) -> None:
    with pytest.raises(ConfigError, match=r"data\.labelled: must be a share in \(0, 1\]"):
        hide_labels(train, share, seed=0)


def test_a_pool_is_added_for_its_use(train: DetectionSet, tmp_path: Path) -> None:
    paths = [draw(tmp_path / "pool" / f"{i}.jpg") for i in range(2)]
    boxed = [
        replace(r, boxes_xyxy=np.array([[1.0, 2.0, 9.0, 9.0]]), classes=np.array([1]), crowd=np.array([False]),
                areas=np.array([56.0]), quality=np.array([0.7]), labelled=True)
        for r in plain_records(paths, first_id=1)
    ]  # fmt: skip
    for use, boxes, labelled, taught in (
        ("hard", 1, True, False),
        ("soft", 0, False, True),
        ("both", 1, True, True),
    ):
        merged = add_pool(train, boxed, use)
        added = merged.records[len(train) :]
        assert len(added) == 2
        assert all(len(r.boxes_xyxy) == boxes and r.labelled is labelled and r.taught is taught for r in added), use
        assert len({r.image_id for r in merged.records}) == 22
        assert labelled_only(merged).records == train.records
    assert labelled_only(train) is train


def test_a_labelled_image_in_the_pool_is_refused(train: DetectionSet) -> None:
    pool = plain_records([train.records[4].path], first_id=1)
    with pytest.raises(DataError, match="1 images are in the labelled training set too"):
        add_pool(train, pool, "soft")


def test_an_unknown_use_and_a_broken_image_are_refused(train: DetectionSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unlabelled\.labels: unknown choice, got 'pseudo'"):
        add_pool(train, (), "pseudo")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"unlabelled\.path: .*broken\.jpg"):
        plain_records([broken], first_id=1)
