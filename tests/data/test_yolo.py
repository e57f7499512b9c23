from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detkd.data.load import load_data
from detkd.data.yolo import LabelLineError, class_names, label_path, parse_label_line
from detkd.errors import DataError
from tests.data.sets import draw, write_yolo, yolo


def test_boxes_backgrounds_and_ids(tmp_path: Path) -> None:
    spec = load_data(yolo(tmp_path))
    train = spec.splits["train"]
    assert (spec.names, train.category_ids) == (("car", "truck"), (1, 2))
    assert [(r.image_id, r.path.name, len(r.classes)) for r in train.records] == [(1, "a.jpg", 2), (2, "b.jpg", 0)]
    np.testing.assert_allclose(train.records[0].boxes_xyxy, [[24, 12, 40, 36], [12, 6, 20, 18]])
    np.testing.assert_allclose(train.records[0].areas, [384, 96])
    assert train.records[0].classes.tolist() == [0, 1]
    assert not train.records[0].crowd.any()
    assert spec.name == tmp_path.name
    assert list(load_data(tmp_path).splits) == ["train", "val"]


@pytest.mark.parametrize(
    ("line", "corners"),
    [
        ("1 0.5 0.5 0.2 0.4", (0.4, 0.3, 0.6, 0.7)),
        ("  1.0\t0.5 0.5 0.2 0.4 ", (0.4, 0.3, 0.6, 0.7)),
        ("1 0.1 0.2 0.5 0.2 0.5 0.6", (0.1, 0.2, 0.5, 0.6)),
        ("1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6", (0.1, 0.2, 0.5, 0.6)),
        ("1 1.005 0.5 0.2 0.4", (0.905, 0.3, 1.105, 0.7)),
    ],
)
def test_label_lines(line: str, corners: tuple[float, ...]) -> None:
    row = parse_label_line(line, 2)
    assert row.class_index == 1
    assert row.corners == pytest.approx(corners)


def test_key_points_are_dropped_where_the_data_says_so() -> None:
    line = "0 0.5 0.5 0.2 0.2 0.9 0.9 0.1 0.1"  # five numbers and two key points of two
    assert parse_label_line(line, 1, (2, 2)).corners == pytest.approx((0.4, 0.4, 0.6, 0.6))
    assert parse_label_line(line, 1).corners == pytest.approx((0.1, 0.1, 0.9, 0.9))


@pytest.mark.parametrize(
    ("line", "problem", "words"),
    [
        ("0 0.5 0.5 0.2", "label-line", "has 4 numbers"),
        ("0", "label-line", "has 1 numbers"),
        ("0 0.5 0.5 0.2 0.2 0.9", "label-line", "prediction saved with its score"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "label-line", "has 8 numbers"),
        ("car 0.5 0.5 0.2 0.2", "label-line", "not a row of numbers"),
        ("0 0.5 0.5 0.2 0.", "", ""),
        ("0 0_5 0.5 0.2 0.2", "label-line", "not a row"),
        ("0 0,5 0,5 0,2 0,2", "label-line", "not a row"),
        ("0 nan 0.5 0.2 0.2", "non-finite", "NaN"),
        ("0 0.5 0.5 inf 0.2", "non-finite", "infinity"),
        ("2 0.5 0.5 0.2 0.2", "unknown-class", "class 2 is not one of 0 to 1"),
        ("-1 0.5 0.5 0.2 0.2", "unknown-class", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "unknown-class", "class 0.5"),
        ("0 320 240 64 48", "not-normalised", "320 is above 1: pixels"),
        ("0 0.5 0.5 -0.2 0.2", "empty-box", "must be positive"),
        ("0 -0.5 0.5 0.2 0.2", "box-outside", "outside the image"),
        ("0 0.5 0.5 0 0.2", "empty-box", "no positive width"),
        ("0 0 0.5 0.00000000000000000001 0.2", "empty-box", "no positive"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path: Path, line: str, problem: str, words: str) -> None:
    good = "0 0.5 0.5 0.5 0.5"
    file = write_yolo(tmp_path, {"train/a": f"{good}\n{line}\n", "val/b": good})
    if not problem:
        with pytest.raises(DataError, match="empty-box"):  # "0." is a complete number: the height is zero
            load_data(file)
        return
    with pytest.raises(
        DataError, match=rf"^data: .*/labels/train/a\.txt:2: .*{words}.*\({problem}\); .*data\.on_bad=skip"
    ):
        load_data(file)
    spec = load_data(file, on_bad="skip")
    assert [(item.split, item.problem) for item in spec.skipped] == [("train", problem)]
    assert len(spec.splits["train"].records[0].classes) == 1


def test_repeated_lines_missing_files_and_clipping_are_noted(tmp_path: Path) -> None:
    line = "0 0.95 0.5 0.5 0.5\n"
    spec = load_data(write_yolo(tmp_path, {"train/a": line + line, "train/b": None, "val/c": ""}))
    assert spec.notes == (
        "train: 1 label lines are repeated and count once",
        "train: 1 images have no label file and count as background",
        "train: 1 boxes reached over the image's edge and were clipped",
    )
    assert [len(r.classes) for r in spec.splits["train"].records] == [1, 0]


def test_label_file_that_is_no_text(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train/a": "0 0.5 0.5 0.5 0.5", "train/b": "", "val/c": ""})
    (tmp_path / "labels/train/b.txt").write_bytes(b"\x80\x04\xff")
    with pytest.raises(DataError, match=r"b\.txt: .*isn't UTF-8 text .*\(label-file\)"):
        load_data(file)
    assert [r.path.name for r in load_data(file, on_bad="skip").splits["train"].records] == ["a.jpg"]


def test_no_label_file_anywhere(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.path: none of 2 images has a label file \(looked for .*/labels/train/a\.txt\)"
    ):
        load_data(write_yolo(tmp_path, {"train/a": None, "val/b": None}))


def test_an_unlabelled_test_set_is_left_alone(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train/a": "0 0.5 0.5 0.5 0.5", "val/b": "", "test/c": None})
    spec = load_data(file)
    assert list(spec.splits) == ["train", "val"]
    assert "test is not used: none of its 1 images has a label file" in spec.notes
    assert len(load_data(file, splits=["train", "test"]).splits["test"]) == 1


def test_byte_order_mark_and_capitals(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train/a": "", "val/c": ""})
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xef\xbb\xbf0 0.5 0.5 0.5 0.5\r\n\r\n")
    (tmp_path / "images/train/a.jpg").rename(tmp_path / "images/train/a.JPG")
    draw(tmp_path / "images/train/.hidden.jpg")
    (tmp_path / "images/train/._a.jpg").write_text("resource fork")
    (tmp_path / "images/train/readme.md").write_text("no image")
    assert [len(r.classes) for r in load_data(file).splits["train"].records] == [1]


def test_label_path_swaps_the_last_images_folder() -> None:
    assert label_path(Path("/images/x/images/train/a.b.jpg")) == Path("/images/x/labels/train/a.b.txt")
    assert label_path(Path("/data/flat/a.PNG")) == Path("/data/flat/a.txt")


@pytest.mark.parametrize(
    "where", ["absolute", "yaml folder", "working folder", "moved", "dots", "list", "lists of files", "one image"]
)
def test_roots_and_kinds_of_entries(tmp_path: Path, where: str) -> None:
    root = tmp_path / "my set"
    file = yolo(root)
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    if where == "absolute":
        content["path"] = str(root)
        file = tmp_path / "elsewhere.yaml"
    elif where == "yaml folder":
        content["path"] = "."
    elif where == "working folder":
        content["path"] = "my set"
        (tmp_path / "conf").mkdir()
        file = tmp_path / "conf/a.yaml"
    elif where == "moved":
        content["path"] = "../datasets/my set"  # as downloaded by others: the YAML's folder is the root
    elif where == "dots":
        content.update(train="../images/train", val="../images/val")
    elif where == "list":
        content["train"] = ["images/train", "images/val"]
    elif where == "lists of files":
        (root / "train.txt").write_text(f"./images/train/a.jpg\n\n{root}/images/train/b.jpg\nimages/val/c.jpg\n")
        content["train"] = "train.txt"
    else:
        content["train"] = "images/train/a.jpg"
    file.write_text(yaml.safe_dump(content))
    expected = {"list": 3, "lists of files": 3, "one image": 1}.get(where, 2)
    assert len(load_data({"path": file, "leakage": "off"}).splits["train"]) == expected


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    yolo(tmp_path / "real")
    root = tmp_path / "linked"
    (root / "labels").mkdir(parents=True)
    (root / "images").symlink_to(tmp_path / "real/images")
    for name in ("train", "val"):
        (root / "labels" / name).symlink_to(tmp_path / "real/labels" / name)
    (root / "data.yaml").write_text((tmp_path / "real/data.yaml").read_text())
    assert len(load_data(root).splits["train"].records[0].classes) == 2
    bare = tmp_path / "bare"  # only the images are linked, the labels stay where the images really are
    bare.mkdir()
    (bare / "images").symlink_to(tmp_path / "real/images")
    (bare / "data.yaml").write_text((tmp_path / "real/data.yaml").read_text())
    assert len(load_data(bare).splits["train"].records[0].classes) == 2
    os.symlink(tmp_path / "real/images", tmp_path / "real/images/train/loop")
    assert len(load_data(tmp_path / "real").splits["val"]) == 1


@pytest.mark.parametrize(
    ("value", "count", "words"),
    [
        ([], None, "there are no classes"),
        ({}, None, "there are no classes"),
        (None, None, "must be a list"),
        (None, 0, "there are no classes"),
        ("car", None, "must be a list"),
        (["car", "car"], None, "used twice"),
        (["car", ""], None, "class 1 has no name"),
        (["car", None], None, "class 1 has no name"),
        (["car", ["x"]], None, "class 1 has no name"),
        ({0: "a", 2: "b"}, None, "without gaps"),
        ({"x": "a"}, None, "without gaps"),
        (["car"], 2, "1 names but nc is 2"),
    ],
)
def test_class_lists_that_cant_be_used(value: object, count: object, words: str) -> None:
    with pytest.raises(DataError, match=rf"data\.names: .*{words}"):
        class_names(value, count)


def test_class_lists() -> None:
    assert class_names({1: "b", 0: "a"}) == class_names({"1": "b", "0": "a"}) == class_names(["a", " b "]) == ("a", "b")
    assert class_names(None, 2) == ("class_0", "class_1")


def test_names_given_beside_the_yaml(tmp_path: Path) -> None:
    file = yolo(tmp_path)
    with pytest.raises(DataError, match=r"data\.names: got \['truck', 'car'\], but .*data\.yaml says"):
        load_data({"path": file, "names": ["truck", "car"]})
    write_yolo(tmp_path, {"train/a": "", "val/c": ""}, names=None)
    with pytest.raises(DataError, match=r"data\.names: .*data\.yaml names no classes"):
        load_data(file)
    assert load_data({"path": file, "names": ["x", "y"]}).names == ("x", "y")


def test_a_folder_without_yaml(tmp_path: Path) -> None:
    yolo(tmp_path).unlink()
    (tmp_path / "labels/classes.txt").write_text("car\ntruck\n")
    spec = load_data(tmp_path)
    assert (list(spec.splits), spec.names) == (["train", "val"], ("car", "truck"))


def test_yaml_that_cant_be_used(tmp_path: Path) -> None:
    file = yolo(tmp_path)
    marker = tmp_path / "ran"
    for text, words in (
        ("names: [a", r"isn't plain YAML at line"),
        (f"!!python/object/apply:os.mkdir ['{marker}']", "isn't plain YAML"),
        ("- a\n- b\n", "holds a list"),
        ("", "holds a NoneType"),
        ("names: [a]", "names no train, val or test"),
        ("names: [a]\ntrain: {x: 1}", r"data\.train: must be a folder"),
        (
            "names: [a]\ntrain: none/here",
            r"data\.train: no such folder or file, got none/here; looked for .*/none/here",
        ),
        ("names: [a]\ntrain: data.yaml", "must list one image a line"),
        ("names: []\ntrain: images/train", r"data\.names: .*there are no classes"),
        ("when: 0000-00-00", "isn't plain YAML"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            load_data(file)
    assert not marker.exists()
    (tmp_path / "empty").mkdir()
    file.write_text("names: [a]\ntrain: empty\n")
    with pytest.raises(DataError, match=r"data\.train: no images in empty"):
        load_data(file)


def test_numbered_files_keep_their_number(tmp_path: Path) -> None:
    names = {"train/000000000139": "", "train/000000000285": "", "val/x": "", "val/7": ""}
    spec = load_data(write_yolo(tmp_path, names))
    assert [r.image_id for r in spec.splits["train"].records] == [139, 285]
    assert [r.image_id for r in spec.splits["val"].records] == [1, 2]


def test_line_errors_carry_slug_and_sentence() -> None:
    with pytest.raises(LabelLineError) as caught:
        parse_label_line("", 1)
    assert caught.value.args[0] == "label-line"
