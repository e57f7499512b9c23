"""`detkd pseudolabel` from footage to a training set, with a teacher that knows the answers by heart."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detkd.caching.objects import SoftObjects
from detkd.caching.store import CacheReader
from detkd.config import compose
from detkd.data.records import ImageRecord
from detkd.errors import ConfigError, DataError, DetkdError
from detkd.footage.form import load_formed
from detkd.io import read_json, write_json
from detkd.progress import out
from detkd.tasks import pseudolabel as module
from detkd.tasks.footage_answers import teacher_specs
from detkd.tasks.pseudolabel import pseudolabel

NAMES = ("car", "bus")
BOX = (10.0, 20.0, 50.0, 60.0)
SIZE = (96, 72)


class Oracle:
    """Finds the same car in every picture, with a score that depends on the file's name; buses where there are none."""

    names = NAMES
    looks = 1

    def __init__(self, *, flip: bool = False, silent: bool = False, stop_after: int | None = None) -> None:
        self.flip, self.silent, self.stop_after = flip, silent, stop_after
        self.asked: list[str] = []

    def fingerprint(self) -> dict[str, Any]:
        return {"teachers": [{"weights": "abc"}], "flip": self.flip}

    def describe(self) -> dict[str, Any]:
        return {"teachers": [{"path": "oracle.pt"}], "looks": 1}

    def check_images(self, items: Iterable[ImageRecord]) -> None:
        assert all(isinstance(item, ImageRecord) for item in items)

    def answer(self, items: Sequence[ImageRecord]) -> Iterator[SoftObjects]:
        for item in items:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(item.path.name)
            number = int(item.path.stem.lstrip("abcdefghijklmnopqrstuvwxyz"))
            scores = [] if self.silent else [0.9 if number % 4 else 0.4, 0.3]
            probs = np.array([[score, 0.1] if i == 0 else [0.05, score] for i, score in enumerate(scores)])
            boxes = np.array([BOX, (60.0, 5.0, 90.0, 30.0)])[: len(scores)]
            yield SoftObjects(
                boxes.reshape(-1, 4).astype(np.float32),
                probs.reshape(-1, 2).astype(np.float32),
                np.array(scores, np.float32),
            )


def picture(path: Path, seed: int) -> Path:
    """Write a picture of random blocks, so that no two are alike and none is blurred."""
    blocks = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(blocks, SIZE, interpolation=cv2.INTER_NEAREST))
    return path


def labels(folder: Path, split: str, count: int, seed: int) -> Path:
    """Write a labelled split; where the oracle is sure of its car it is right, elsewhere it is wrong."""
    images, annotations = [], []
    for number in range(count):
        file = picture(folder / split / f"{split}{number}.png", seed + number)
        images.append({"id": number + 1, "file_name": str(file), "width": SIZE[0], "height": SIZE[1]})
        x1, y1, x2, y2 = BOX if number % 4 else (0.0, 0.0, 8.0, 8.0)
        box = [x1, y1, x2 - x1, y2 - y1]
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 7, "bbox": box, "area": 1.0})
    categories = [{"id": 7, "name": "car"}, {"id": 9, "name": "bus"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write_json(folder / f"{split}.json", content)


class Workshop:
    """A labelled set, some footage, and the verb with the oracle in place of a network."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        labels(folder / "data", "train", 4, 100)
        labels(folder / "data", "val", 12, 200)
        for number in range(8):
            picture(folder / "footage" / f"f{number}.png", 300 + number)

    def run(self, *words: str, oracle: Oracle | None = None, val: bool = True) -> Any:
        self.oracle = oracle or Oracle()
        self.patch.setattr(module, "load_teachers", lambda config, names, ids: self.oracle)
        data = ["data=data", "data.format=coco", "data.train=train.json", *(["data.val=val.json"] if val else [])]
        typed = ["teacher=oracle.pt", *data, "source=footage", "min_hits=2", "device=cpu", "review=0", *words]
        self.patch.setattr(sys, "argv", ["detkd", "pseudolabel", *typed])
        return pseudolabel(compose("pseudolabel", typed))


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr(out, "width", 160)
    return Workshop(tmp_path, monkeypatch)


def test_from_footage_to_a_training_set(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    result = workshop.run()
    assert result.images == 8
    # In val 9 cars score 0.9 and are right, 3 score 0.4 and are wrong, as all buses are.
    cut = result.thresholds["car"]
    assert cut.threshold is not None
    assert 0.4 < cut.threshold <= 0.9
    assert (cut.hits, cut.false_alarms, cut.objects) == (9, 0, 12)
    assert result.thresholds["bus"].threshold is None
    assert result.boxes == {"car": 6, "bus": 0}
    folder = result.folder
    for name in ("collect.json", "contact.jpg", "thresholds.json", "annotations.json", "data.yaml", "provenance.json"):
        assert (folder / name).is_file(), name
    assert len(CacheReader(folder / "answers")) == 8
    assert len(CacheReader(folder / "answers-val")) == 12
    written = read_json(folder / "thresholds.json")
    assert (written["precision"], written["classes"]["car"]["by_hand"]) == (0.8, False)
    formed = load_formed(folder, NAMES)
    assert sum(len(record.classes) for record in formed.records) == result.boxes["car"]
    assert np.abs(next(r for r in formed.records if len(r.classes)).boxes_xyxy[0] - BOX).max() < 0.02
    provenance = read_json(folder / "provenance.json")
    assert provenance["fingerprint"]["teachers"]["teachers"] == [{"weights": "abc"}]
    assert provenance["collect"]["every"] == 1
    assert read_json(folder / "run.json")["status"] == "done"
    text, progress = capsys.readouterr()
    assert "runs/pseudo: 8 images" in text
    assert "next: detkd distill teacher=oracle.pt data=data data.format=coco" in progress
    assert "unlabelled=runs/pseudo student=yolo26n control=true" in progress


def test_labelled_data_are_not_touched(workshop: Workshop) -> None:
    before = {path: path.read_bytes() for path in (workshop.folder / "data").rglob("*") if path.is_file()}
    before |= {path: path.read_bytes() for path in (workshop.folder / "footage").rglob("*")}
    result = workshop.run()
    assert {path: path.read_bytes() for path in before} == before
    assert {
        path for place in ("data", "footage") for path in (workshop.folder / place).rglob("*") if path.is_file()
    } == set(before)
    merged = read_json(result.folder / "merged" / "train.json")
    assert len(merged["images"]) == 4 + 8


def test_the_same_command_again_asks_nobody(workshop: Workshop) -> None:
    first = workshop.run()
    annotations = (first.folder / "annotations.json").read_bytes()
    assert len(workshop.oracle.asked) == 20
    again = workshop.run()
    assert workshop.oracle.asked == []
    assert (again.boxes, again.thresholds) == (first.boxes, first.thresholds)
    assert (first.folder / "annotations.json").read_bytes() == annotations


def test_interrupted_answers_go_on(workshop: Workshop) -> None:
    with pytest.raises(KeyboardInterrupt):
        workshop.run(oracle=Oracle(stop_after=5))
    workshop.run()
    assert sorted(workshop.oracle.asked[:3]) == ["f5.png", "f6.png", "f7.png"]
    assert len(workshop.oracle.asked) == 3 + 12


def test_stages_one_by_one(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    whole = workshop.run("out=whole")
    with pytest.raises(ConfigError, match=r"stage: nothing is collected in .*parts yet; use stage=collect first"):
        workshop.run("out=parts", "stage=answer")
    capsys.readouterr()
    assert workshop.run("out=parts", "stage=collect").thresholds == {}
    assert workshop.oracle.asked == []
    text, progress = capsys.readouterr()
    assert "threshold" not in text
    assert "out=parts stage=answer" in progress
    with pytest.raises(ConfigError, match=r"stage: no answers in .*parts yet; use stage=answer"):
        workshop.run("out=parts", "stage=form")
    answered = workshop.run("out=parts", "stage=answer")
    assert answered.thresholds == whole.thresholds
    assert not (answered.folder / "annotations.json").exists()
    assert "out=parts stage=form" in capsys.readouterr().err
    formed = workshop.run("out=parts", "stage=form")
    assert workshop.oracle.asked == []
    assert formed.boxes == whole.boxes
    files = [json.loads((result.folder / "annotations.json").read_text()) for result in (whole, formed)]
    assert files[0]["annotations"] == files[1]["annotations"]


def test_precision_decides_how_many_labels(workshop: Workshop) -> None:
    lax = workshop.run("precision=0.5")
    strict = workshop.run("stage=form", "precision=0.8")
    assert lax.boxes["car"] == 8
    assert lax.thresholds["car"].precision == pytest.approx(9 / 12)
    assert strict.thresholds["car"].precision == 1
    assert strict.boxes["car"] == 6
    assert read_json(strict.folder / "thresholds.json")["precision"] == 0.8


def test_what_was_rejected_stays_out(workshop: Workshop) -> None:
    first = workshop.run("review=3")
    assert first.page == first.folder / "review.html"
    assert len(list((first.folder / "review").glob("*.jpg"))) == 3
    content = read_json(first.folder / "annotations.json")
    box, image = content["annotations"][0], content["annotations"][-1]["image_id"]
    write_json(workshop.folder / "down loads.json", [{"id": box["id"], "bbox": box["bbox"]}, image])
    without = workshop.run("stage=form", "reject=down loads.json")
    assert without.boxes["car"] == first.boxes["car"] - 2
    assert without.page is None
    assert not (first.folder / "review.html").exists()
    (workshop.folder / "down loads.json").unlink()
    assert workshop.run("precision=0.5").boxes["car"] == 8 - 2
    assert workshop.run("stage=form", "reject=[]").boxes["car"] == first.boxes["car"]
    assert workshop.run("stage=form").boxes["car"] == first.boxes["car"]


def test_thresholds_by_hand(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    result = workshop.run("thresholds={car: 0.2, bus: 0.25}")
    assert (result.boxes["car"], result.boxes["bus"]) == (8, 8)
    assert result.thresholds["bus"].precision == 0
    assert result.thresholds["car"].recall == pytest.approx(9 / 12)
    assert capsys.readouterr().out.count("set by hand") == 2
    assert workshop.run("stage=form", "thresholds={car: null, bus: 0.25}").boxes == {"car": 0, "bus": 8}


def test_without_a_val_split_all_thresholds_are_set_by_hand(workshop: Workshop) -> None:
    with pytest.raises(ConfigError, match=r"precision: the data has no val split .*thresholds=\{car: 0.5, bus: 0.5\}"):
        workshop.run("thresholds={car: 0.5}", val=False)
    assert workshop.oracle.asked == []
    result = workshop.run("thresholds={car: 0.5, bus: null}", val=False)
    assert result.boxes == {"car": 6, "bus": 0}
    assert result.thresholds["car"].precision is None
    assert len(workshop.oracle.asked) == 8


def test_answers_of_other_teachers_are_kept_and_refused(workshop: Workshop) -> None:
    folder = workshop.run().folder
    with pytest.raises(ConfigError, match=r"out: .*answers holds answers made with teachers\.flip False, got True"):
        workshop.run(oracle=Oracle(flip=True))
    with pytest.raises(ConfigError, match=r"stored\.max_objects 100, got 50"):
        workshop.run("max_objects=50")
    assert len(CacheReader(folder / "answers")) == 8


def test_other_footage_is_asked_about_anew(workshop: Workshop) -> None:
    workshop.run()
    picture(workshop.folder / "footage" / "f8.png", 999)
    workshop.run("stage=collect")
    with pytest.raises(ConfigError, match="stage: the images have changed since"):
        workshop.run("stage=form")
    assert workshop.run().images == 9
    assert len(workshop.oracle.asked) == 9


@pytest.mark.parametrize("split", ["val", "test"])
def test_footage_with_held_out_pictures_is_refused(workshop: Workshop, split: str) -> None:
    labels(workshop.folder / "data", "test", 3, 400)
    (workshop.folder / "footage" / "f99.png").write_bytes(
        (workshop.folder / "data" / split / f"{split}1.png").read_bytes()
    )
    with pytest.raises(DataError, match=f"source: 1 of 9 pictures is also in the {split} split of the data"):
        workshop.run("data.test=test.json")
    assert workshop.oracle.asked == []


def test_teachers_that_find_nothing(workshop: Workshop) -> None:
    with pytest.raises(DataError, match="precision: the teachers found nothing on the val split"):
        workshop.run(oracle=Oracle(silent=True))
    with pytest.raises(DataError, match=r"highest scores: .*none"):
        workshop.run("stage=form", "thresholds={car: 0.5, bus: 0.5}")
    with pytest.raises(DataError, match="precision: no class has a threshold"):
        workshop.run("out=other", "min_hits=100")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["precision=0"], r"precision: must be a share in \(0, 1\], got 0"),
        (["min_hits=0"], "min_hits: must be 1 or more, got 0"),
        (["review=-1"], "review: must be 0 or more, got -1"),
        (["reject=gone.json"], "reject: no such file, got gone.json"),
        (["data.labelled=0.5"], "data.labelled: hides labels in a training"),
        (["thresholds={cra: 0.5}"], r"thresholds: the data has no class cra; did you mean car\? \(classes: car, bus\)"),
        (["thresholds={car: 2}"], r"thresholds\.car: must be a score in \[0, 1\], or null"),
        (["thresholds=0.5"], "thresholds: must be a score per class, got 0.5"),
        (["source=nowhere"], "source: no such file or folder nowhere"),
        (["every=-1"], "every: must be"),
    ],
)
def test_mistakes_are_found_before_anybody_is_asked(workshop: Workshop, words: list[str], message: str) -> None:
    with pytest.raises(DetkdError, match=message):
        workshop.run(*words)
    assert workshop.oracle.asked == []


def test_folder_of_another_run_is_refused(workshop: Workshop) -> None:
    write_json(workshop.folder / "taken" / "run.json", {"verb": "distill"})
    with pytest.raises(ConfigError, match="holds a distill run"):
        workshop.run("out=taken")


def test_next_command_takes_the_teachers_along(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.run("teachers=[b.pt]", "flip=true")
    assert "cache=instances 'cache.teachers=[b.pt]' cache.flip=true unlabelled=runs/pseudo" in capsys.readouterr().err
    workshop.run("teacher=demo")
    assert "teacher=demo" not in capsys.readouterr().err


def test_teachers_of_a_configuration() -> None:
    first = {"path": "a.pt", "imgsz": None, "class_map": {"van": "car"}}
    specs = teacher_specs(first, ["b.pt", {"path": "c.onnx", "imgsz": 320, "weight": 0.5}])
    assert [(spec.path, spec.imgsz, dict(spec.class_map), spec.weight) for spec in specs] == [
        ("a.pt", None, {"van": "car"}, 1.0), ("b.pt", None, {}, 1.0), ("c.onnx", 320, {}, 0.5),
    ]  # fmt: skip
    for further, message in (
        ("b.pt", r"teachers: must be a list, got 'b.pt'; e.g. teachers=\[other.pt\]"),
        ([3], r"teachers: must hold paths or \{path, imgsz, class_map\}, got 3"),
        ([{"pth": "b.pt"}], r"teachers\[0\]\.pth: no such key; did you mean path"),
        ([{"path": "b.pt", "imgsz": "big"}], r"teachers\[0\]\.imgsz: must be a whole number or null, got 'big'"),
    ):
        with pytest.raises(ConfigError, match=message):
            teacher_specs(first, further)


@pytest.mark.slow
def test_with_a_real_teacher(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged teacher on the drawn set and a video of other drawings: all three stages, nothing replaced."""
    from detkd.data.load import load_data
    from detkd.data.toy import draw_toy

    drawn = draw_toy("other", images={"train": 12, "val": 2, "test": 2}, size=320, difficulty="normal", seed=77)
    records = load_data({"format": "coco", "path": str(drawn)}).splits["train"].records
    video = cv2.VideoWriter("street.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 5, (records[0].width, records[0].height))
    for record in records:
        frame = cv2.imread(str(record.path))
        assert frame is not None
        for _ in range(5):
            video.write(frame)
    video.release()
    typed = [
        "teacher=demo", "data=toy_demo", "data.images={train: 20, val: 24, test: 4}", "source=street.mp4", "imgsz=192",
        "device=cpu", "min_hits=2", "precision=0.5",
    ]  # fmt: skip
    result = pseudolabel(compose("pseudolabel", typed))
    assert 10 <= result.images <= 12
    assert result.page is not None
    assert result.page.is_file()
    assert sum(result.boxes.values()) >= result.images
    assert {record.path.parent.name for record in load_formed(result.folder, list(result.boxes)).records} == {"street"}
