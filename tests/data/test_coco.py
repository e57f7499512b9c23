from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.data.coco import from_coco, to_coco
from detkd.data.load import load_data
from detkd.errors import DataError
from tests.data.sets import coco, coco_content, draw, sideways, write_coco


def edited(**changes: Any) -> dict[str, Any]:
    """A two-image content whose first annotation has other values."""
    content = coco_content(2)
    content["annotations"][0].update(changes)
    return content


def test_boxes_classes_and_fields(tmp_path: Path) -> None:
    content = edited(iscrowd=1, category_id=8)
    content["images"][0].update(camera="c1", note={"x": [1, float("nan")]})
    dataset = from_coco(write_coco(tmp_path, train=content) / "annotations/train.json")
    record = dataset.records[0]
    assert (dataset.names, dataset.category_ids) == (("car", "truck"), (3, 8))
    assert (record.image_id, record.width, record.height) == (1, 64, 48)
    assert record.path == tmp_path / "images/1.jpg"
    assert record.meta == {"camera": "c1", "note": {"x": [1, None]}}
    np.testing.assert_array_equal(record.boxes_xyxy, [[8, 4, 24, 16]])
    assert record.boxes_xyxy.dtype == np.float64
    assert (record.classes.tolist(), record.crowd.tolist(), record.areas.tolist()) == ([1], [True], [100.0])


def test_round_trip(tmp_path: Path) -> None:
    content = edited(iscrowd=1, category_id=8, bbox=[0.1, 0.2, 30.3, 40.7])
    content["images"][1]["camera"] = "c2"
    first = from_coco(write_coco(tmp_path, val=content) / "annotations/val.json", split="val")
    written = to_coco(first)
    assert written["images"][1]["file_name"] == str(tmp_path / "images/2.jpg")
    assert [item["id"] for item in written["annotations"]] == [1, 2]
    second = from_coco(json.loads(json.dumps(written)), split="val", verify=None)
    assert (second.names, second.category_ids, second.split) == (first.names, first.category_ids, "val")
    for a, b in zip(first.records, second.records, strict=True):
        assert (a.image_id, a.path, a.width, a.height, a.meta) == (b.image_id, b.path, b.width, b.height, b.meta)
        np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, rtol=0, atol=1e-12)
        for name in ("classes", "crowd", "areas"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize(
    ("changes", "problem", "words"),
    [
        ({"bbox": [8, 4, 0, 12]}, "empty-box", "no positive width"),
        ({"bbox": [8, 4, -3, 12]}, "empty-box", "no positive width"),
        ({"bbox": [64, 4, 5, 12]}, "box-outside", "outside the image of 64x48"),
        ({"bbox": [float("nan"), 4, 5, 12]}, "non-finite", "not made of finite numbers"),
        ({"bbox": [1e308, 4, 1e308, 12]}, "non-finite", "not made of finite"),
        ({"bbox": [10**400, 4, 5, 12]}, "non-finite", "not made of finite"),
        ({"bbox": ["8", 4, 5, 12]}, "non-finite", "not made of finite"),
        ({"bbox": [8, 4, 5]}, "bad-record", r"bbox must be \[x, y, width, height\], got \[8, 4, 5\]"),
        ({"bbox": None}, "bad-record", "got None"),
        ({"category_id": 7}, "unknown-class", "category_id 7 is no class"),
        ({"category_id": None}, "unknown-class", "category_id None"),
        ({"image_id": 99}, "unknown-image", "image_id 99"),
        ({"image_id": [1]}, "unknown-image", "image_id"),
        ({"id": 11}, "duplicate-annotation-id", "annotation id 11 is used twice"),
    ],
)
def test_bad_annotations(tmp_path: Path, changes: dict[str, Any], problem: str, words: str) -> None:
    root = write_coco(tmp_path, train=edited(**changes))
    with pytest.raises(
        DataError, match=rf"^data: train\.json: annotation.*{words}.*\({problem}\).*data\.on_bad=skip"
    ) as caught:
        load_data(root)
    assert "\n" not in str(caught.value)
    spec = load_data(root, on_bad="skip")
    assert [item.problem for item in spec.skipped] == [problem]
    assert sum(len(record.classes) for record in spec.splits["train"].records) == 1
    assert len(spec.splits["train"]) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": 2}, "duplicate-image-id"),
        ({"file_name": "none.jpg"}, "missing-image"),
        ({"file_name": "nul\0.jpg"}, "missing-image"),
        ({"file_name": "x" * 400}, "missing-image"),
        ({"file_name": ""}, "bad-record"),
        ({"file_name": 5}, "bad-record"),
        ({"width": 0}, "bad-record"),
        ({"width": float("inf")}, "bad-record"),
        ({"id": -4}, "bad-record"),
        ({"width": 65}, "size-mismatch"),
    ],
)
def test_bad_images(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    good = coco_content(3)
    root = write_coco(tmp_path, train=good)
    bad = copy.deepcopy(good)
    bad["images"][0].update(changes)
    bad["annotations"] = [item for item in bad["annotations"] if item["image_id"] != 1]
    (root / "annotations/train.json").write_text(json.dumps(bad))
    with pytest.raises(DataError, match=rf"^data: train\.json: image.*\({problem}\)"):
        load_data(root)
    spec = load_data(root, on_bad="skip")
    assert [item.problem for item in spec.skipped] == [problem]
    assert len(spec.splits["train"]) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "holds a list"),
        ({}, "must hold a list `images`, got nothing"),
        ({"images": {}, "annotations": [], "categories": []}, "must hold a list `images`, got a dict"),
        ({"images": [], "annotations": {"a": 1}, "categories": []}, "list `annotations`, got a dict"),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "no usable images"),
        (
            {"images": [1], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
            r"no usable images .*must be an object",
        ),
        ({"images": [1], "annotations": [], "categories": []}, "no classes"),
        (
            {"images": [1], "annotations": [], "categories": [{"id": "x", "name": "a"}]},
            r"categories\[0\] needs an integer id",
        ),
        ({"images": [1], "annotations": [], "categories": [{"id": 1, "name": ""}]}, r"categories\[0\] needs"),
        ({"images": [1], "annotations": [], "categories": [{"id": 1, "name": "a"}] * 2}, "used twice"),
    ],
)
def test_what_is_no_coco_is_refused_whatever_on_bad(tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(content))
    for on_bad in ("error", "skip"):
        with pytest.raises(DataError, match=rf"data\.train: .*{words}"):
            load_data(tmp_path / "train.json", on_bad=on_bad)


def test_broken_json(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    for text, words in (
        (b'{"images": [', "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 100_000, "usable JSON"),
        (b"", "line 1"),
    ):
        file.write_bytes(text)
        with pytest.raises(DataError, match=words):
            load_data(file)


def test_a_box_over_the_edge_is_clipped_and_noted(tmp_path: Path) -> None:
    spec = load_data(write_coco(tmp_path, train=edited(bbox=[60, 40, 20, 20], area=400)))
    record = spec.splits["train"].records[0]
    np.testing.assert_array_equal(record.boxes_xyxy, [[60, 40, 64, 48]])
    assert record.areas.tolist() == [32.0]
    assert spec.notes == ("train: 1 boxes reached over the image's edge and were clipped",)


def test_class_lists_of_the_splits(tmp_path: Path) -> None:
    train, val = coco_content(2), coco_content(2, 11)
    val["categories"].reverse()
    spec = load_data(write_coco(tmp_path / "same", train=train, val=val))
    assert spec.splits["val"].names == spec.names == ("car", "truck")
    assert spec.splits["val"].records[0].classes.tolist() == [0]
    val["categories"].pop(0)
    root = write_coco(tmp_path / "other", train=train, val=val)
    with pytest.raises(
        DataError, match=r"data\.val: class lists of val and train differ: truck \(id none and 8\).*data\.names"
    ):
        load_data(root)
    spec = load_data({"path": root, "names": ["car"]})
    assert (spec.names, spec.splits["train"].category_ids) == (("car",), (3,))
    with pytest.raises(DataError, match=r"data\.names: train\.json has no class \['bus'\]"):
        load_data({"path": root, "names": ["bus"]})


def test_names_choose_and_order_classes(tmp_path: Path) -> None:
    content = edited(category_id=8)
    spec = load_data({"path": write_coco(tmp_path, train=content), "names": ["truck", "car"]})
    assert [record.classes.tolist() for record in spec.splits["train"].records] == [[0], [1]]
    assert spec.splits["train"].category_ids == (8, 3)


@pytest.mark.parametrize(
    "layout",
    [
        "annotations/instances_train2017.json images",
        "annotations/train.json train2017",
        "train/_annotations.coco.json train",
        "train.json images/train",
        "annotations/a_train.json images",
    ],
)
def test_usual_layouts_are_found(tmp_path: Path, layout: str) -> None:
    label, images = layout.split()
    for item in coco_content(2)["images"]:
        draw(tmp_path / images / item["file_name"])
    (tmp_path / label).parent.mkdir(exist_ok=True)
    (tmp_path / label).write_text(json.dumps(coco_content(2)))
    if label.startswith("annotations/instances"):
        (tmp_path / "annotations/captions_train2017.json").write_text("{}")
    spec = load_data(tmp_path)
    assert list(spec.splits) == (["a_train"] if "a_train" in label else ["train"])
    assert len(next(iter(spec.splits.values()))) == 2


def test_two_files_for_one_split(tmp_path: Path) -> None:
    root = write_coco(tmp_path, instances_val2014=coco_content(1), instances_val2017=coco_content(1))
    with pytest.raises(DataError, match=r"data\.val: two files.*instances_val2014\.json and instances_val2017\.json"):
        load_data(root)
    spec = load_data({"path": root, "val": "instances_val2017.json"})
    assert len(spec.splits["val"]) == 1
    spec = load_data(
        {"annotations": {"val": str(root / "annotations/instances_val2017.json")}, "images": str(root / "images")}
    )
    assert list(spec.splits) == ["val"]


def test_a_turned_picture(tmp_path: Path) -> None:
    root = coco(tmp_path)
    draw(root / "images/1.jpg", exif=sideways())
    with pytest.raises(DataError, match="labels are for 64x48, but the file's EXIF note turns it to 48x64"):
        load_data(root)
    content = coco_content(3)
    content["images"][0].update(width=48, height=64)
    (root / "annotations/train.json").write_text(json.dumps(content))
    record = load_data(root).splits["train"].records[0]
    assert (record.width, record.height) == (48, 64)


def test_ids_zero_missing_sizes_and_text_ids(tmp_path: Path) -> None:
    content = coco_content(2, 0)
    for item in content["images"]:
        del item["width"], item["height"]
    spec = load_data(write_coco(tmp_path / "zero", train=content))
    assert [(r.image_id, r.width) for r in spec.splits["train"].records] == [(0, 64), (1, 64)]
    content = coco_content(2)
    for item in content["images"] + content["annotations"]:
        key = "file_name" if "file_name" in item else "image_id"
        item["id" if key == "file_name" else key] = f"id-{item[key]}".removesuffix(".jpg")
    spec = load_data(write_coco(tmp_path / "text", train=content))
    assert [(r.image_id, r.meta["source_id"], len(r.classes)) for r in spec.splits["train"].records] == [
        (1, "id-1", 1), (2, "id-2", 1)
    ]  # fmt: skip


def test_windows_paths_and_unicode(tmp_path: Path) -> None:
    content = coco_content(2)
    content["images"][0]["file_name"] = "hof süd\\kamera 1.JPG"
    content["images"][1]["file_name"] = "入口/二.png"
    for name in ("hof süd/kamera 1.JPG", "入口/二.png"):
        draw(tmp_path / "images" / name)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    assert [r.path.name for r in load_data(tmp_path).splits["train"].records] == ["kamera 1.JPG", "二.png"]


def test_other_splits_are_loaded_when_named(tmp_path: Path) -> None:
    root = write_coco(tmp_path, train=coco_content(2), pool=coco_content(2, 5))
    spec = load_data(root)
    assert list(spec.splits) == ["train"]
    assert spec.notes == ("not loaded: pool (only train, val and test are, unless named)",)
    assert list(load_data(root, splits=["pool"]).splits) == ["pool"]
    with pytest.raises(DataError, match=r"data\.val: the data has no split 'val', only train, pool"):
        load_data(root, splits=["val"])
