from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.data.leakage import check_leakage, shared_groups
from detkd.data.load import load_data
from detkd.data.records import DetectionSet, ImageRecord
from detkd.data.split import SplitOptions, assign_groups, split_options, split_set, with_camera
from detkd.data.times import time_of
from detkd.errors import DataError
from tests.data.sets import coco, coco_content, draw, voc_object, write_coco, write_voc


def record(number: int, name: str, **meta: Any) -> ImageRecord:
    none = np.zeros(0)
    return ImageRecord(
        number, Path("/set") / name, 64, 48, np.zeros((0, 4)), none.astype(int), none.astype(bool), none, meta
    )


def dataset(*records: ImageRecord) -> DetectionSet:
    return DetectionSet("all", ("car",), (1,), records)


def cameras(counts: dict[str, int]) -> DetectionSet:
    names = [camera for camera, count in counts.items() for _ in range(count)]
    return dataset(*(record(number, f"{name}-{number}.jpg", camera=name) for number, name in enumerate(names, 1)))


MANY = {f"c{number}": 5 + 7 * number % 23 for number in range(20)}


def test_no_camera_on_both_sides_sizes_near_the_fractions_and_the_seed_decides() -> None:
    whole = cameras(MANY)
    made = split_set(whole, SplitOptions("camera"))
    assert list(made) == ["train", "val", "test"]
    assert sorted(r.image_id for part in made.values() for r in part.records) == list(range(1, len(whole) + 1))
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert shared_groups(made[a], made[b], "camera") == []
    for name, share in SplitOptions().fractions.items():
        assert len(made[name]) / len(whole) == pytest.approx(share, abs=0.02)
    again = split_set(whole, SplitOptions("camera"))
    other = split_set(whole, SplitOptions("camera", seed=1))
    assert [r.image_id for r in made["val"].records] == [r.image_id for r in again["val"].records]
    assert [r.image_id for r in made["val"].records] != [r.image_id for r in other["val"].records]


@pytest.mark.parametrize("counts", [{"a": 90, "b": 5, "c": 5}, {"a": 1, "b": 1, "c": 1}, {"a": 300, "b": 1, "c": 300}])
def test_no_split_is_empty(counts: dict[str, int]) -> None:
    assert set(assign_groups(counts, {"train": 0.7, "val": 0.15, "test": 0.15}, 0).values()) == {"train", "val", "test"}


def test_too_few_groups() -> None:
    with pytest.raises(
        DataError, match=r"data\.split\.by: camera gives 2 groups \(a, b\), too few for 3 splits.*fraction to 0"
    ):
        split_set(cameras({"a": 5, "b": 3}), SplitOptions("camera"))
    made = split_set(cameras({"a": 5, "b": 3}), SplitOptions("camera", fractions={"train": 0.6, "val": 0.4, "test": 0}))
    assert {name: len(part) for name, part in made.items()} == {"train": 5, "val": 3}


def test_by_pattern_folder_field_and_random() -> None:
    whole = dataset(*(record(k, f"d{k % 4}/cam{k % 5}_{k}.jpg", site=f"s{k % 3}") for k in range(1, 61)))
    options = {
        "camera": SplitOptions("camera", pattern=r"^(cam\d+)"),
        "folder": SplitOptions("folder"),
        "site": SplitOptions("image-field", field="site"),
    }
    for kind, option in options.items():
        made = split_set(whole, option)
        groups = [
            {
                (r.path.name.split("_")[0], r.path.parent.name, r.meta["site"])[list(options).index(kind)]
                for r in part.records
            }
            for part in made.values()
        ]
        assert sum(map(len, groups)) == len(set.union(*groups)), kind
    assert {name: len(part) for name, part in split_set(whole, SplitOptions("random")).items()} == {
        "train": 42, "val": 9, "test": 9
    }  # fmt: skip
    with pytest.raises(
        DataError, match=r"data\.split\.by: cam1_1\.jpg has no field 'camera'; set data\.split\.pattern"
    ):
        split_set(whole, SplitOptions("camera"))
    assert with_camera(whole, r"^(cam\d+)").records[0].meta == {"site": "s1", "camera": "cam1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1001-2021_03_20_064254", (2021, 3, 20, 6, 42, 54)),
        ("cam2 2021-03-20T06:42", (2021, 3, 20, 6, 42, 0)),
        ("20210320.jpg", (2021, 3, 20, 0, 0, 0)),
        ("x_1616222574123", (0, 1616222574, 123)),
        ("frame_000012", None),
        ("20219999", None),
    ],
)
def test_times(text: str, expected: tuple[int, ...] | None) -> None:
    assert time_of(text) == expected


def test_by_time_keeps_order_and_equal_times_together() -> None:
    names = [f"c{k % 2}-2021_03_{1 + k // 2:02d}_060000.jpg" for k in range(40)]
    whole = dataset(*(record(k + 1, name) for k, name in enumerate(reversed(names))))
    made = split_set(whole, SplitOptions("time"))
    days = {name: {time_of(r.path.name) for r in part.records} for name, part in made.items()}
    assert max(days["train"]) < min(days["val"])  # type: ignore[type-var]
    assert max(days["val"]) < min(days["test"])  # type: ignore[type-var]
    assert {name: len(part) for name, part in made.items()} == {"train": 28, "val": 6, "test": 6}
    frames = dataset(*(record(k, f"frame_{k}.jpg") for k in range(1, 11)))
    assert [r.image_id for r in split_set(frames, SplitOptions("time"))["test"].records] == [10]
    fields = dataset(*(record(k, f"{k}x.jpg", timestamp=100.5 - k) for k in range(1, 11)))
    assert [r.image_id for r in split_set(fields, SplitOptions("time"))["test"].records] == [1]
    with pytest.raises(DataError, match=r"data\.split\.by: no time found for a\.jpg"):
        split_set(dataset(record(1, "a.jpg"), record(2, "b.jpg")), SplitOptions("time"))
    with pytest.raises(DataError, match=r"only 2 different times for 3 splits"):
        split_set(dataset(record(1, "a1.jpg"), record(2, "a2.jpg")), SplitOptions("time"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"by": "camara"}, r"data\.split\.by: must be one of camera, folder.*got 'camara'"),
        ({"bye": "camera"}, r"data\.split\.bye: no such key; did you mean by\?"),
        ({"by": "image-field"}, r"data\.split\.field: needed"),
        ({"by": "camera", "pattern": "("}, r"data\.split\.pattern: no regular expression"),
        ({"by": "camera", "seed": "x"}, r"data\.split\.seed"),
        ({"by": "camera", "fractions": {"train": -1}}, r"data\.split\.fractions: shares must be"),
        ({"by": "camera", "fractions": {"train": float("nan")}}, r"data\.split\.fractions"),
        ({"by": "camera", "fractions": 0.7}, r"data\.split\.fractions: must map"),
        (5, r"data\.split: must be a mapping"),
    ],
)
def test_options_are_checked(value: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        split_options(value)


def test_loading_with_a_split(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {f"cam{k % 4}_{k}": voc_object() for k in range(20)})
    spec = load_data(
        {"path": root, "split": {"by": "camera", "pattern": "^(cam.)", "fractions": {"train": 0.5, "val": 0.5}}}
    )
    assert {name: len(part) for name, part in spec.splits.items()} == {"train": 10, "val": 10}
    assert "all was split by camera: train 10, val 10 images (seed 0)" in spec.notes
    assert Counter(r.meta["camera"] for r in spec.splits["train"].records).values()
    assert list(load_data({"path": root, "split": {"by": "random"}}, splits=["val"]).splits) == ["val"]
    with pytest.raises(DataError, match=r"data\.split\.by: the data already has train and val"):
        load_data({"path": coco(tmp_path / "coco"), "split": {"by": "folder"}})
    root = write_coco(tmp_path / "two", train=coco_content(6), test=coco_content(2, 11))
    spec = load_data({"path": root, "split": {"by": "time", "pattern": r"(\d+)"}})
    assert {name: len(part) for name, part in spec.splits.items()} == {"train": 5, "val": 1, "test": 2}


def test_leaks_are_reported(tmp_path: Path) -> None:
    root = write_coco(
        tmp_path,
        train=coco_content(3, camera="c1"),
        val=coco_content(2, 11, camera="c1"),
        pool=coco_content(2, 21, camera="c1"),
    )
    draw(root / "images/12.jpg", seed=5)
    (root / "images/2.jpg").write_bytes((root / "images/12.jpg").read_bytes())
    spec = load_data(root, splits=["train", "val", "pool"])
    assert spec.notes == (
        "LEAK: train and val share 1 camera value (c1)",
        "LEAK: val and pool share 1 camera value (c1)",
        "LEAK: train and val share 1 identical picture (2.jpg = 12.jpg)",
    )
    assert check_leakage(spec, fields=()) == (spec.notes[2],)
    with pytest.raises(
        DataError, match=r"data\.leakage: train and val share 1 camera value \(c1\) \(and 2 more.*leakage=warn"
    ):
        load_data({"path": root, "leakage": "error"}, splits=["train", "val", "pool"])
    assert load_data({"path": root, "leakage": "off"}, splits=["train", "val"]).notes == ()
