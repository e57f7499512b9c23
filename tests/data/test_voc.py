from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detkd.data.load import load_data
from detkd.errors import DataError
from tests.data.sets import draw, voc, voc_object, voc_xml, write_voc


def test_devkit_layout(tmp_path: Path) -> None:
    spec = load_data(voc(tmp_path))
    assert spec.names == ("car", "person", "truck")
    assert {split: [r.path.name for r in s.records] for split, s in spec.splits.items()} == {
        "train": ["a.jpg", "b.jpg"], "val": ["c.jpg"]
    }  # fmt: skip
    first, second = spec.splits["train"].records
    np.testing.assert_array_equal(first.boxes_xyxy, [[4, 5, 20, 30], [0, 0, 10, 10]])  # pixels counted from 1
    assert (first.classes.tolist(), first.crowd.tolist(), second.crowd.tolist()) == ([0, 2], [False, False], [True])
    assert "train: 1 objects marked difficult are ignored in evaluation and training" in spec.notes
    assert any("count from 1" in note for note in spec.notes)


def test_a_zero_corner_means_counting_from_zero(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_object(box=(0, 6, 20, 30)) + voc_object(box=(3.5, 6, 20, 30))})
    spec = load_data(root)
    np.testing.assert_array_equal(spec.splits["all"].records[0].boxes_xyxy, [[0, 6, 20, 30], [3.5, 6, 20, 30]])
    assert spec.notes == ()


def test_flat_folder_and_split_folders(tmp_path: Path) -> None:
    for folder in ("flat", "parts/train", "parts/valid"):
        draw(tmp_path / folder / "a b.PNG")
        (tmp_path / folder / "a b.xml").write_text(voc_xml("other name.png", voc_object()))
    draw(tmp_path / "flat/unlabelled.jpg")
    spec = load_data(tmp_path / "flat")
    assert list(spec.splits) == ["all"]
    assert "all: 1 images without an XML file are not used" in spec.notes
    assert list(load_data({"path": tmp_path / "parts", "leakage": "off"}).splits) == ["train", "val"]


def test_images_in_another_folder_and_lists(tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "JPEGImages").rename(tmp_path / "fotos")
    with pytest.raises(
        DataError, match=r"a\.xml: no image file .*a\.jpg \(missing-image\), and 2 more problems \(missing-image 2\)"
    ):
        load_data(root)
    (tmp_path / "mine.txt").write_text("b\n")
    spec = load_data(
        {
            "path": root,
            "images": "fotos",
            "train": "mine.txt",
            "val": "Annotations",
            "names": ["car", "person", "truck"],
        }
    )
    assert {name: len(s) for name, s in spec.splits.items()} == {"train": 1, "val": 3}


@pytest.mark.parametrize(
    ("objects", "problem", "words"),
    [
        (voc_object("bus"), "unknown-class", "class 'bus' is none of car"),
        (voc_object(box=(5, 6, 5, 2)), "empty-box", "no positive"),
        (voc_object(box=(70, 6, 80, 20)), "box-outside", "outside the image of 64x48"),
        (voc_object(box=("nan", 6, 80, 20)), "non-finite", "finite"),
        (voc_object(box=("x", 6, 80, 20)), "non-finite", "finite"),
        ("<object><name>car</name></object>", "non-finite", "finite"),
        ("<object>", "label-file", "isn't complete XML"),
    ],
)
def test_bad_objects(tmp_path: Path, objects: str, problem: str, words: str) -> None:
    root = write_voc(tmp_path, {"a": objects, "b": voc_object()})
    with pytest.raises(DataError, match=rf"^data: .*a\.xml.*{words}.*\({problem}\)"):
        load_data({"path": root, "names": ["car"]})
    spec = load_data({"path": root, "names": ["car"]}, on_bad="skip")
    assert [item.problem for item in spec.skipped] == [problem]


def test_size_mismatch_and_absent_size(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_object(), "b": voc_object()})
    (root / "Annotations/a.xml").write_text(voc_xml("a.jpg", voc_object(), (0, 0)))
    assert len(load_data(root).splits["all"]) == 2
    (root / "Annotations/a.xml").write_text(voc_xml("a.jpg", voc_object(), (640, 480)))
    with pytest.raises(DataError, match=r"labels are for an image of 640x480, but a\.jpg is 64x48"):
        load_data(root)


def test_a_listed_image_without_label(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_object()}, {"train": ["a", "b"]})
    with pytest.raises(DataError, match=r"b\.xml: no label file .*\(missing-label\)"):
        load_data(root)


def test_no_objects_no_classes(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": ""})
    with pytest.raises(DataError, match=r"data\.names: no labelled object"):
        load_data(root)
    assert len(load_data({"path": root, "names": ["car"]}).splits["all"].records[0].classes) == 0


def test_entity_bombs_are_refused(tmp_path: Path) -> None:
    layers = "".join(f'<!ENTITY l{k + 1} "{f"&l{k};" * 10}">' for k in range(12))
    root = write_voc(tmp_path, {"a": voc_object(), "b": voc_object()})
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "ha">{layers}]><annotation><filename>&l12;</filename></annotation>'
    (root / "Annotations/b.xml").write_text(bomb)
    spec = load_data(root, on_bad="skip")
    assert [item.problem for item in spec.skipped] == ["label-file"]
