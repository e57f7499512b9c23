"""The toy set on disk: complete, readable by others, drawn once and never half."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from detkd.data.toy import SPLITS, TOY_NAMES, draw_frame, draw_toy
from detkd.data.toy.__main__ import main
from detkd.data.toy.write import plan_toy
from detkd.errors import DataError

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
ONE_EACH = {"train": ("crossing", "alley"), "val": ("market",)}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_toy(tmp_path_factory.mktemp("toy") / "set", images={"train": 5, "val": 2}, splits=ONE_EACH)


def test_layout_and_counts(drawn: Path) -> None:
    names = sorted(path.name for path in (drawn / "images").iterdir())
    assert names == [
        "alley_00000.jpg", "alley_00001.jpg", "crossing_00000.jpg", "crossing_00001.jpg", "crossing_00002.jpg",
        "market_00000.jpg", "market_00001.jpg",
    ]  # fmt: skip
    assert sorted(path.stem for path in (drawn / "labels").iterdir()) == [Path(name).stem for name in names]
    assert not [path for path in drawn.parent.iterdir() if path != drawn]  # no draft left behind


def test_coco_and_yolo_say_the_same(drawn: Path) -> None:
    for split, cameras in ONE_EACH.items():
        coco = json.loads((drawn / "annotations" / f"{split}.json").read_text())
        assert [category["name"] for category in coco["categories"]] == list(TOY_NAMES)
        assert [box["id"] for box in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        for image in coco["images"]:
            assert image["camera"] in cameras
            assert {"light", "weather", "time"} <= set(image)
            picture = cv2.imread(str(drawn / "images" / image["file_name"]))
            assert picture.shape[:2] == (image["height"], image["width"])
            boxes = [box for box in coco["annotations"] if box["image_id"] == image["id"]]
            lines = (drawn / "labels" / f"{Path(image['file_name']).stem}.txt").read_text().splitlines()
            assert len(lines) == len(boxes) >= 1
            for line, box in zip(lines, boxes, strict=True):
                kind, *shares = line.split()
                x, y, width, height = np.array(shares, float) * [320, 192, 320, 192]
                assert int(kind) + 1 == box["category_id"]
                assert [x - width / 2, y - height / 2, width, height] == pytest.approx(box["bbox"], abs=1e-3)
                assert box["area"] == pytest.approx(box["bbox"][2] * box["bbox"][3])
                assert 0.35 <= box["visibility"] <= 1


def test_files_hold_what_draw_frame_returns(drawn: Path) -> None:
    frame = draw_frame("alley", 1)
    saved = cv2.imread(str(drawn / "images" / "alley_00001.jpg"))
    assert np.abs(saved.astype(int) - frame.image).mean() < 8  # JPEG


def test_data_yaml_lists_existing_images(drawn: Path) -> None:
    text = yaml.safe_load((drawn / "toy.yaml").read_text())
    assert list(text["names"].values()) == list(TOY_NAMES)
    assert "path" not in text  # so that paths count from the YAML, wherever the folder is moved to
    for split in ONE_EACH:
        for line in (drawn / text[split]).read_text().splitlines():
            assert line.startswith("./images/")
            assert (drawn / line).is_file()


def test_same_arguments_draw_nothing_again(drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    draw_toy(drawn, images={"train": 5, "val": 2}, splits=ONE_EACH)
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_a_lost_image_or_other_arguments_draw_anew(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(drawn, folder)
    (folder / "images" / "alley_00000.jpg").unlink()
    draw_toy(folder, images={"train": 5, "val": 2}, splits=ONE_EACH)
    assert digest(folder) == digest(drawn)
    draw_toy(folder, images=2, splits={"train": ("shop",)}, seed=4)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["shop_00000.jpg", "shop_00001.jpg"]
    assert not (folder / "annotations" / "val.json").exists()


def test_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    splits = {"train": ("crossing", "bridge", "shop"), "val": ("market",)}
    one = draw_toy(tmp_path / "one", images=96, size=128, splits=splits, workers=1)
    three = draw_toy(tmp_path / "three", images=96, size=(128, 76), splits=splits, workers=3)
    assert digest(one) == digest(three)


def test_failing_workers_are_one_error_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detkd.data.toy.parts.sys.executable", "/bin/false")
    with pytest.raises(DataError, match="workers=1"):
        draw_toy(tmp_path / "set", images=96, size=128, workers=2)
    assert not list(tmp_path.iterdir())


def test_foreign_folders_are_left_alone(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "holiday.jpg").write_text("x")
    with pytest.raises(DataError, match=r"data\.path: .*no toy set"):
        draw_toy(folder, images=20)
    mixed = tmp_path / "set"
    shutil.copytree(drawn, mixed)
    (mixed / "notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"data\.path: .*notes\.md"):
        draw_toy(mixed, images=20)
    assert (folder / "holiday.jpg").exists()
    assert (mixed / "notes.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"images": 2}, r"data\.images: split .* empty"),
        ({"images": {"train": 3}}, r"data\.images: .*test, val"),
        ({"size": 33}, r"data\.size: .*33"),
        ({"size": [320, 192, 3]}, r"data\.size"),
        ({"size": (320, 191)}, r"data\.size"),
        ({"difficulty": "mean"}, r"data\.difficulty: .*'mean'"),
        ({"seed": -1}, r"data\.seed: .*-1"),
        ({"workers": 0}, r"data\.workers: .*0"),
        ({"splits": {"train": ("alley",), "val": ("alley",)}}, r"data\.splits: camera 'alley' is in"),
        ({"splits": {"train": ()}}, r"data\.splits: .*no camera"),
        ({"splits": {"train": ("attic",)}}, r"data\.splits: .*'attic'"),
    ],
)
def test_bad_arguments_name_their_key(arguments: dict, match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match):
        draw_toy(tmp_path / "set", **{"images": 20, **arguments})
    assert not list(tmp_path.iterdir())


def test_images_are_shared_out_over_splits_and_cameras() -> None:
    jobs = plan_toy(600, SPLITS)
    assert len(jobs) == len(set(jobs)) == 600
    per_camera = {camera: sum(job[1] == camera for job in jobs) for cameras in SPLITS.values() for camera in cameras}
    assert max(per_camera.values()) - min(per_camera.values()) <= 1
    assert all(camera in SPLITS[split] for split, camera, _ in jobs)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    options = ["--size", "128", "--seed", "3", "--splits", "train=shop", "val=market,bridge"]
    assert main(["--folder", str(folder), "--images", "train=1", "val=2", *options]) == 0
    assert len(list((folder / "images").iterdir())) == 3
    assert main(["--folder", str(folder), "--images", "9", "--difficulty", "mean"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("data.difficulty: unknown, got 'mean'")


def test_samples_are_what_their_command_draws(tmp_path: Path) -> None:
    stamp = json.loads((SAMPLES / "toy.json").read_text())
    keys = ("images", "size", "difficulty", "seed", "splits")
    folder = draw_toy(tmp_path / "samples", **{key: stamp[key] for key in keys})
    assert json.loads((folder / "toy.json").read_text()) == stamp
    for split in ("train", "val"):
        ours, theirs = (
            json.loads((place / "annotations" / f"{split}.json").read_text()) for place in (folder, SAMPLES)
        )
        assert ours["images"] == theirs["images"]
        for one, other in zip(ours["annotations"], theirs["annotations"], strict=True):
            assert one["category_id"] == other["category_id"]
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1.0)  # another OpenCV may round differently
    for path in (SAMPLES / "images").iterdir():
        ours, theirs = (cv2.imread(str(place / "images" / path.name)).astype(int) for place in (folder, SAMPLES))
        assert np.abs(ours - theirs).mean() < 3


def test_samples_are_small_and_complete() -> None:
    files = [path for path in SAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 600_000
    sizes = {}
    for split in ("train", "val"):
        coco = json.loads((SAMPLES / "annotations" / f"{split}.json").read_text())
        assert {box["category_id"] for box in coco["annotations"]} == {1, 2, 3, 4}
        sizes[split] = len(coco["images"])
    assert sizes == {"train": 8, "val": 4}
