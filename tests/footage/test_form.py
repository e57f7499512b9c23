from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detkd.data.load import load_data
from detkd.data.records import DataSpec
from detkd.diagnosis.precision import ClassThreshold
from detkd.errors import ConfigError, DataError, ShapeError
from detkd.footage.collection import Item
from detkd.footage.form import FormResult, form, image_ids, load_formed
from detkd.footage.reject import IMAGES_FROM, ROWS, read_rejected
from tests.data.sets import coco_content, draw, write_coco

NAMES = ("car", "truck")
LIMITS = {"car": 0.5, "truck": 0.6}


@dataclass(frozen=True)
class Found:
    """What `form` needs to know of an answer."""

    boxes_xyxy: np.ndarray
    probs: np.ndarray
    quality: np.ndarray


def found(*rows: tuple[list[float], list[float]]) -> Found:
    boxes = np.array([row[0] for row in rows], dtype=np.float32).reshape(len(rows), 4)
    probs = np.array([row[1] for row in rows], dtype=np.float32).reshape(len(rows), len(NAMES))
    return Found(boxes, probs, np.linspace(0.5, 0.9, len(rows), dtype=np.float32))


ANSWERS = [
    found(([4, 4, 20, 20], [0.9, 0.05]), ([30, 10, 60, 40], [0.3, 0.7]), ([1, 1, 9, 9], [0.49, 0.2])),
    found(),
    found(([-5, 2, 70, 60], [0.5, 0.005])),
]


class World:
    """A labelled set, and three images nobody labelled: a frame below the output folder, two elsewhere."""

    def __init__(self, root: Path) -> None:
        self.out = root / "out"
        write_coco(root / "set", train=coco_content(3), val=coco_content(2, first=10), pool=coco_content(1, first=20))
        self.labelled = load_data(root / "set")
        pool = [
            draw(self.out / "images" / "street" / "1500.jpg"),
            draw(root / "pool" / "images" / "a.jpg"),
            draw(root / "pool" / "images" / "b b.png"),
        ]
        # A label of a person beside an image of the pool: nobody may take it for the teacher's.
        (root / "pool" / "labels").mkdir()
        (root / "pool" / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
        video = (str(root / "street.mp4"), 1.5)
        origins: list[tuple[str, float | None]] = [video, (str(root / "pool"), None), (str(root / "pool"), None)]
        self.items = [
            Item(path.resolve(), *origin, 64, 48, 100.0, 120.0) for path, origin in zip(pool, origins, strict=True)
        ]

    def form(self, answers: Any = ANSWERS, thresholds: Any = LIMITS, **options: Any) -> FormResult:
        options = {"labelled": self.labelled, "folder": self.out, "provenance": {"teacher": "t.pt"}, **options}
        return form(options.pop("items", self.items), answers, thresholds, NAMES, (3, 8), **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def content_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_labels_by_hand(world: World) -> None:
    """Of four boxes one is below its threshold, one reaches over the image's edge."""
    result = world.form(iter(ANSWERS))
    assert (result.images, result.boxes, result.empty) == (3, 3, 1)
    assert result.per_class == {"car": 2, "truck": 1}
    content = json.loads(result.annotations.read_text())
    first, second, third = content["annotations"]
    assert (first["bbox"], first["category_id"], first["score"], first["quality"]) == ([4, 4, 16, 16], 3, 0.9, 0.5)
    assert first["probs"] == {"car": 0.9, "truck": 0.05}
    assert (second["category_id"], second["probs"]) == (8, {"truck": 0.7, "car": 0.3})
    assert (third["bbox"], third["probs"]) == ([0, 2, 64, 46], {"car": 0.5})
    street, still, _ = content["images"]
    assert (street["source"], street["time_s"]) == (world.items[0].source, 1.5)
    assert "time_s" not in still
    assert [image["id"] for image in content["images"]] == image_ids(world.items)
    assert [one["id"] % ROWS for one in content["annotations"]] == [0, 1, 0]


def test_every_file_says_the_same(world: World) -> None:
    result = world.form()
    formed = load_formed(world.out, NAMES)
    yolo = load_data(result.yolo)
    merged = load_data(world.out / "merged").splits["train"]
    by_path = {record.path.resolve(): record for record in yolo.splits["train"].records}
    assert len(by_path) == len(formed) == 3
    for record in formed.records:
        other = by_path[record.path.resolve()]
        twin = next(one for one in merged.records if one.path == record.path)
        for same in (other, twin):
            np.testing.assert_allclose(same.boxes_xyxy, record.boxes_xyxy, atol=0.011)
            assert same.classes.tolist() == record.classes.tolist()
    assert yolo.names == NAMES
    assert yolo.notes == ()


def test_merged_is_labelled_and_formed(world: World) -> None:
    world.form()
    merged = load_data(world.out / "merged")
    labelled = world.labelled
    assert list(merged.splits) == ["train", "val"]
    assert (merged.names, merged.splits["train"].category_ids) == (labelled.names, (3, 8))
    assert len(merged.splits["train"]) == 3 + 3
    for split, count in (("train", 3), ("val", 2)):
        for mine, theirs in zip(merged.splits[split].records[:count], labelled.splits[split].records, strict=True):
            assert (mine.image_id, mine.path, mine.classes.tolist()) == (theirs.image_id, theirs.path, [0])
            np.testing.assert_array_equal(mine.boxes_xyxy, theirs.boxes_xyxy)
            assert mine.areas.tolist() == theirs.areas.tolist()
    content = json.loads((world.out / "merged" / "train.json").read_text())
    ids = [one["id"] for one in content["annotations"]]
    assert len(set(ids)) == len(ids) == 6
    assert [one.get("score") is None for one in content["annotations"]] == [True] * 3 + [False] * 3


def test_labelled_files_and_footage_stay_as_they_are(world: World, tmp_path: Path) -> None:
    before = content_of(tmp_path / "set") | content_of(tmp_path / "pool")
    world.form()
    world.form()
    assert content_of(tmp_path / "set") | content_of(tmp_path / "pool") == before


def test_yolo_for_ultralytics(world: World) -> None:
    """Its own rule finds the labels: in the last folder `images` of the listed path."""
    result = world.form()
    content = yaml.safe_load(result.yolo.read_text())
    assert content == {"train": "train.txt", "val": "val.txt", "names": {0: "car", 1: "truck"}}
    for split, count in (("train", 3), ("val", 2)):
        lines = (world.out / content[split]).read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            image = world.out / line.removeprefix("./")
            assert image.is_file()
            label = Path("/labels/".join(str(image).rsplit("/images/", 1))).with_suffix(".txt")
            assert label.is_file()
    assert (world.out / "labels" / "street" / "1500.txt").read_text().splitlines()[0] == "0 0.1875 0.25 0.25 0.3333333"


def test_copies_where_there_are_no_links(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    result = world.form()
    linked = list((world.out / "images" / "linked").iterdir())
    assert len(linked) == 2
    assert not any(path.is_symlink() for path in linked)
    assert len(load_data(result.yolo).splits["train"]) == 3


def test_formed_set_for_training(world: World) -> None:
    world.form()
    plain, turned = load_formed(world.out, NAMES), load_formed(world.out, NAMES[::-1], category_ids=(1, 2))
    assert (plain.names, plain.category_ids, turned.category_ids) == (NAMES, (3, 8), (1, 2))
    assert [record.classes.tolist() for record in plain.records] == [[0, 1], [], [0]]
    assert [record.classes.tolist() for record in turned.records] == [[1, 0], [], [1]]
    assert [record.quality.tolist() for record in plain.records] == [[0.9, 0.7], [], [0.5]]  # type: ignore[union-attr]
    assert plain.records[0].meta == {"source": world.items[0].source, "time_s": 1.5}
    assert all(record.labelled and record.taught for record in plain.records)


@pytest.mark.parametrize("names", [("car",), ("car", "bus"), ("car", "truck", "bus")])
def test_other_classes_are_refused(world: World, names: tuple[str, ...]) -> None:
    world.form()
    with pytest.raises(DataError, match=r"unlabelled.path: the classes of .* are \['car', 'truck'\]"):
        load_formed(world.out, names)


def test_an_interrupted_set_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("detkd.footage.form.write_yolo", broken)
    with pytest.raises(KeyboardInterrupt):
        world.form()
    with pytest.raises(DataError, match="was not finished; run detkd pseudolabel"):
        load_formed(world.out, NAMES)
    monkeypatch.undo()
    world.form()
    assert len(load_formed(world.out, NAMES)) == 3


def test_what_a_killed_attempt_was_writing_is_removed(world: World) -> None:
    world.form()
    left = [
        "labels/linked/.1-abcd1234.part.txt",
        "images/linked/.1-abcd1234.part.jpg",
        "merged/.train-abcd1234.part.json",
    ]
    for name in left:
        (world.out / name).write_text("x")
    world.form()
    assert [name for name in left if (world.out / name).exists()] == []


def test_ids_depend_on_nothing_else(world: World) -> None:
    before = json.loads(world.form().annotations.read_text())["annotations"]
    world.items.pop(1)
    lower = {"car": 0.3, "truck": 0.3}
    after = json.loads(world.form([ANSWERS[0], ANSWERS[2]], lower).annotations.read_text())["annotations"]
    assert {one["id"]: one["bbox"] for one in before}.items() <= {one["id"]: one["bbox"] for one in after}.items()
    assert len(after) == 4


def test_ids_clash_with_nobody(world: World) -> None:
    first = image_ids(world.items)
    other = image_ids([*world.items, *world.items], taken=first)
    assert len({*first, *other}) == 9
    assert all(IMAGES_FROM <= number < 2 * IMAGES_FROM for number in [*first, *other])
    assert (max(other) * ROWS + ROWS) < 2**53


def test_rejected_stays_rejected(world: World) -> None:
    content = json.loads(world.form().annotations.read_text())
    image, box = content["images"][2]["id"], content["annotations"][1]
    rejected = [image, {"id": box["id"], "bbox": box["bbox"]}]
    file = world.out / "rejected.json"
    file.write_text(json.dumps(rejected))
    for _ in range(2):
        result = world.form(reject=file)
        assert (result.images, result.boxes, result.rejected_images, result.rejected_boxes) == (2, 1, 1, 1)
        assert [one["id"] for one in json.loads(result.annotations.read_text())["annotations"]] == [box["id"] - 1]
        listed = {record.image_id for record in load_data(world.out / "merged").splits["train"].records}
        assert image not in listed
    facts = json.loads((world.out / "provenance.json").read_text())
    assert facts["rejected"] == rejected
    # A reader of the folder finds neither the image nor its label any more.
    assert not any(path.stem == str(image) for path in (world.out / "images" / "linked").iterdir())
    assert len(list((world.out / "images" / "linked").iterdir())) == 1
    assert not (world.out / "labels" / "linked" / f"{image}.txt").exists()


def test_rejection_follows_the_box_not_the_row(world: World) -> None:
    """Another teacher gives the rows in another order; what lies elsewhere is not meant."""
    box = json.loads(world.form().annotations.read_text())["annotations"][0]
    rejected = [{"id": box["id"], "bbox": box["bbox"]}]
    rows = ([30, 10, 60, 40], [0.3, 0.7]), ([5, 4, 20, 20], [0.8, 0.05])
    result = world.form([found(*rows), *ANSWERS[1:]], reject=rejected)
    left = [one["bbox"] for one in json.loads(result.annotations.read_text())["annotations"]]
    assert left == [[30, 10, 30, 30], [0, 2, 64, 46]]
    gone = world.form([found(rows[0]), *ANSWERS[1:]], reject=rejected)
    assert gone.boxes == 2
    assert any("1 of 1 rejections fit no label" in note for note in gone.notes)


def test_rejected_by_bare_id(world: World) -> None:
    box = json.loads(world.form().annotations.read_text())["annotations"][0]
    assert world.form(reject=[box["id"]]).rejected_boxes == 1


@pytest.mark.parametrize(
    "entry", ["x", {"bbox": [1, 2, 3, 4]}, {"id": 5, "bbox": [1, 2, 3]}, None, {"id": 1, "bbox": 2}]
)
def test_rejections_that_are_none(entry: Any) -> None:
    with pytest.raises(DataError, match="reject: entry 0 of the list must be an id"):
        read_rejected([entry])


def test_rejections_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="must hold a list of ids, got a dict"):
        read_rejected(tmp_path / "r.json")


def test_no_label_at_all_names_the_scores(world: World) -> None:
    with pytest.raises(DataError, match=r"no box of 3 images .* car 0.90 \(needs 0.95\), truck 0.70 \(no threshold\)"):
        world.form(thresholds={"car": 0.95, "truck": None})
    with pytest.raises(DataError, match=r"truck none \(needs 0.60\)"):
        world.form([found()] * 3)


def test_everything_rejected(world: World) -> None:
    content = json.loads(world.form().annotations.read_text())
    with pytest.raises(DataError, match="reject: all 3 boxes were rejected"):
        world.form(reject=[one["id"] for one in content["annotations"]])
    with pytest.raises(DataError, match="source: none of the 3 images is left"):
        world.form(reject=[one["id"] for one in content["images"]])


def test_no_class_has_a_threshold(world: World) -> None:
    none = ClassThreshold(None, 0.6, 0.4, 0.5, 6, 4, 12, "its precision reaches 0.60 at most")
    with pytest.raises(DataError, match=r"precision: no class has a threshold \(car: its precision reaches 0.60"):
        world.form(thresholds={"car": none, "truck": none})


def test_a_class_without_labels_is_said(world: World) -> None:
    none = ClassThreshold(None, None, None, None, 0, 0, 0, "nothing was detected")
    cut = ClassThreshold(0.5, 0.9, 0.8, 0.7, 9, 1, 13)
    result = world.form(thresholds={"car": cut, "truck": none})
    assert result.per_class == {"car": 2, "truck": 0}
    assert result.notes[0].startswith("truck gets no labels: nothing was detected")
    facts = json.loads((world.out / "provenance.json").read_text())
    assert facts["thresholds"] == {"car": cut.to_dict(), "truck": none.to_dict()}
    assert (facts["teacher"], facts["complete"], facts["boxes"]) == ("t.pt", True, 2)


def test_labelled_images_in_the_footage_are_left_out(world: World) -> None:
    known = world.labelled.splits["train"].records[0]
    world.items[1] = Item(known.path, "set", None, 64, 48, 1.0, 1.0)
    result = world.form()
    assert result.images == 2
    assert "left out, because they are in the labelled data: 1 images" in result.notes


@pytest.mark.parametrize(("answers", "word"), [(ANSWERS[:2], "fewer"), ([*ANSWERS, found()], "more")])
def test_answers_for_other_images(world: World, answers: list[Found], word: str) -> None:
    with pytest.raises(DataError, match=f"answers: {word} than"):
        world.form(answers)


def test_answers_of_another_shape(world: World) -> None:
    odd = Found(np.zeros((2, 4)), np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ShapeError, match=r"answers: 1500.jpg must have boxes \(N, 4\), probabilities \(N, 2\)"):
        world.form([odd, *ANSWERS[1:]])


def test_boxes_no_one_could_use(world: World) -> None:
    """Outside, thinner than a pixel, not finite: none of them reaches a file, the good one does."""
    nan = float("nan")
    rows = [[70, 5, 90, 20], [5, 5, 5.5, 30], [nan, 1, 20, 20], [4, 4, 20, 20]]
    result = world.form([found(*((row, [0.9, 0.0]) for row in rows)), found(), found()])
    assert result.boxes == 1
    assert "left out, because they are thinner than a pixel: 3 boxes" in result.notes
    assert len(load_formed(world.out, NAMES).records[0].classes) == 1


def test_other_thresholds_and_names(world: World) -> None:
    with pytest.raises(ConfigError, match=r"thresholds: none for \['truck'\]"):
        world.form(thresholds={"car": 0.5})
    other = DataSpec("x", ("car", "bus"), world.labelled.splits)
    with pytest.raises(ConfigError, match="names: must be the classes of the labelled data"):
        world.form(labelled=other)


def test_other_data_in_the_folder(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine" / "labels").mkdir(parents=True)
    with pytest.raises(DataError, match=r"out: .* holds labels of another data set"):
        world.form(folder=tmp_path / "mine")
    with pytest.raises(DataError, match="out: labelled images lie in"):
        world.form(folder=tmp_path / "set")


def test_without_val_and_without_train(world: World) -> None:
    splits = world.labelled.splits
    only_val = DataSpec("x", NAMES, {"val": splits["val"]})
    result = world.form(labelled=only_val)
    assert len(load_data(world.out / "merged").splits["train"]) == 3
    assert set(result.merged) == {"train", "val"}
    only_train = DataSpec("x", NAMES, {"train": splits["train"]})
    assert "val" not in yaml.safe_load(world.form(labelled=only_train).yolo.read_text())
