from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detkd.diagnosis.slices import make_slices
from detkd.evaluation.side import Run, make_run
from detkd.evaluation.truth import load_truth
from detkd.report.gallery import choose_frames, choose_objects, fields_of, found, make_gallery
from detkd.report.pictures import crop_window, locate

RED, BLUE = (0, 0, 255), (255, 0, 0)


def world(folder: Path, images: int = 6) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Images with two objects each: red ones only `before` finds, blue ones only `after`; the last one both."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    gt: dict[str, Any] = {
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}],
        "images": [], "annotations": [],
    }  # fmt: skip
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = []
    for number in range(1, images + 1):
        picture = np.full((240, 320, 3), 90, np.uint8)
        places = {1: ([20.0 + number, 40.0, 60.0, 30.0], RED), 2: ([200.0, 100.0 + number, 20.0, 50.0], BLUE)}
        name = f"{number:03}.png"
        record = {"id": number, "file_name": name, "width": 320, "height": 240, "camera": "ab"[number % 2]}
        gt["images"].append({**record, "license": 1, "date_captured": str(number), "shot": number, "light": "day"})
        for label, (box, color) in places.items():
            x, y, w, h = map(int, box)
            picture[y : y + h, x : x + w] = color
            size = {"image_id": number, "category_id": label, "bbox": box, "area": w * h, "iscrowd": 0}
            gt["annotations"].append({"id": len(gt["annotations"]) + 1, **size})
            answer = {"image_id": number, "category_id": label, "bbox": box, "score": 0.9}
            both = number == images
            if label == 1 or both:
                before.append(answer)
            if label == 2 or both:
                after.append(answer)
            if label == 1 and not both:
                after.append({**answer, "score": 0.2})  # below its working threshold
        after.append({"image_id": number, "category_id": 1, "bbox": [150.0, 10.0, 40.0, 40.0], "score": 0.8})
        cv2.imwrite(str(folder / "images" / name), picture)
    gt["annotations"].append(
        {"id": 999, "image_id": 1, "category_id": 1, "bbox": [100, 150, 80, 80], "area": 6400, "iscrowd": 1}
    )
    before.append({"image_id": 1, "category_id": 1, "bbox": [110.0, 160.0, 40.0, 40.0], "score": 0.99})
    return gt, before, after


def setting(folder: Path, **more: Any) -> tuple[Any, dict[str, tuple[Run, float | None]], dict[str, Any]]:
    gt, before, after = world(folder, **more)
    (folder / "gt.json").write_text(json.dumps(gt))
    truth = load_truth(folder / "gt.json")
    sides: dict[str, tuple[Run, float | None]] = {
        "before": (make_run(truth, before), 0.5),
        "after": (make_run(truth, after), 0.5),
    }
    was, now = (found(*sides[role]) for role in ("before", "after"))
    items = [
        {"kind": kind, "truth": row, "image": int(truth.image[row]), "class": truth.names[truth.label[row]],
         "size": "medium", "score_before": None, "score_after": None}
        for kind, rows in (("gained", now - was), ("lost", was - now)) for row in sorted(rows)
    ]  # fmt: skip
    return truth, sides, {"flips": {"items": items}}


def decode(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_found_counts_each_object_once_and_no_crowd_region(tmp_path: Path) -> None:
    truth, sides, _ = setting(tmp_path)
    rows = {role: {(int(truth.image[r]), int(truth.label[r])) for r in found(*side)} for role, side in sides.items()}
    assert rows["before"] == {*((i, 0) for i in range(6)), (5, 1)}
    assert rows["after"] == {*((i, 1) for i in range(6)), (5, 0)}
    assert found(sides["after"][0], 0.1) == found(*sides["after"]) | found(*sides["before"])
    assert found(sides["after"][0], None) == set()


def test_boxes_lie_on_the_objects_they_belong_to(tmp_path: Path) -> None:
    truth, sides, pair = setting(tmp_path)
    gallery = make_gallery(truth, {**sides, "teacher": (sides["before"][0], None)}, pair)
    assert gallery["note"] == ""
    assert [item["kind"] for item in gallery["objects"]] == ["gained", "lost"] * 5
    for item in gallery["objects"]:
        picture = decode(item["uri"])
        assert picture.shape[:2] == (item["height"], item["width"])
        assert max(item["width"], item["height"]) == 160
        (target,) = [box for box in item["boxes"]["truth"] if box["target"]]
        x, y, w, h = (round(v) for v in target["box"])
        color = BLUE if item["kind"] == "gained" else RED
        assert np.abs(picture[y + 3 : y + h - 3, x + 3 : x + w - 3].astype(int) - color).mean() < 12
        sides_with_it = "after" if item["kind"] == "gained" else "before"
        (hit,) = [box for box in item["boxes"][sides_with_it] if box["hit"]]
        np.testing.assert_allclose(hit["box"], target["box"], atol=0.2)
        other = item["boxes"]["before" if sides_with_it == "after" else "after"]
        assert not [box for box in other if box["hit"]]
        assert set(item["boxes"]) == {"truth", "before", "after"}
    for frame in gallery["frames"]:
        assert (frame["gained"], frame["lost"]) == (1, 1)
        assert (frame["width"], frame["height"]) == (320, 240)  # never enlarged
        assert frame["boxes"]["teacher"] == []
        assert [box["hit"] for box in frame["boxes"]["after"]] == [True, False]
        assert len(frame["boxes"]["before"]) == 1  # the detection on the crowd region does not count
    assert len(gallery["frames"]) == 5
    json.dumps(gallery, allow_nan=False)


def test_same_result_twice_and_within_the_budget(tmp_path: Path) -> None:
    truth, sides, pair = setting(tmp_path)
    whole = make_gallery(truth, sides, pair)
    assert whole == make_gallery(truth, sides, pair)
    size = sum(len(item["uri"]) for item in [*whole["objects"], *whole["frames"]])
    small = make_gallery(truth, sides, pair, budget=size // 2)
    kept = [*small["objects"], *small["frames"]]
    assert 0 < sum(len(item["uri"]) for item in kept) <= size // 2
    assert small["objects"] == whole["objects"][: len(small["objects"])]
    left = len(whole["objects"]) + len(whole["frames"]) - len(kept)
    assert f"{left} pictures left out" in small["note"]


def test_missing_broken_and_foreign_images_are_named_in_the_note(tmp_path: Path) -> None:
    truth, sides, pair = setting(tmp_path)
    folder = tmp_path / "images"
    (folder / "001.png").unlink()
    (folder / "002.png").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "003.png"), np.zeros((50, 50, 3), np.uint8))
    gallery = make_gallery(truth, sides, pair)
    assert {item["image"] for item in gallery["objects"]} == {"004.png", "005.png"}
    assert gallery["note"] == (
        "2 of 5 gained and 2 of 5 lost objects are shown. 3 of 5 images could not be shown (1 missing, 1 of another "
        "size than their labels say, 1 unreadable); name the folder they are in with report.images=FOLDER."
    )
    moved = folder.rename(tmp_path / "elsewhere")
    assert make_gallery(truth, sides, pair)["objects"] == []
    assert make_gallery(truth, sides, pair, images=moved)["objects"] == gallery["objects"]


def test_each_image_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, sides, pair = setting(tmp_path)
    read: list[str] = []
    from detkd.report import gallery, pictures

    def count(path: Path) -> np.ndarray | None:
        read.append(path.name)
        return pictures.read_picture(path)

    monkeypatch.setattr(gallery, "read_picture", count)
    make_gallery(truth, sides, pair)
    assert read == ["001.png", "002.png", "003.png", "004.png", "005.png"]


def test_nothing_to_show_without_a_pair(tmp_path: Path) -> None:
    truth, sides, pair = setting(tmp_path)
    empty: dict[str, Any] = {"objects": [], "frames": [], "note": ""}
    assert make_gallery(truth, sides, None) == empty
    assert make_gallery(truth, {"before": sides["before"]}, pair) == empty
    assert make_gallery(truth, sides, pair, objects=0, frames=0) == empty
    alike = dict.fromkeys(sides, sides["before"])
    made = make_gallery(truth, alike, {"flips": {"items": []}})
    assert made == {**empty, "note": "No object is found by one of the two only: nothing to show."}


def test_pictures_carry_the_slices_they_are_in(tmp_path: Path) -> None:
    truth, sides, pair = setting(tmp_path)
    slices = make_slices(truth, ["camera"])
    assert fields_of(truth, slices) == [{"camera": "ab"[n % 2]} for n in range(1, 7)]
    made = make_gallery(truth, sides, pair, slices=slices)
    assert {entry["fields"]["camera"] for entry in made["frames"]} == {"a", "b"}
    assert fields_of(truth, ()) == [{}] * 6


def test_objects_are_spread_over_kinds_classes_and_images() -> None:
    items = [
        {"kind": "gained", "class": "car", "image": image, "n": n} for image in (1, 1, 1, 2) for n in (0,)
    ] + [{"kind": "gained", "class": "dog", "image": 9}, {"kind": "lost", "class": "car", "image": 3}]  # fmt: skip
    chosen = choose_objects(items, 4)
    assert [(i["kind"], i["class"], i["image"]) for i in chosen] == [
        ("gained", "car", 1), ("lost", "car", 3), ("gained", "dog", 9), ("gained", "car", 2),
    ]  # fmt: skip
    assert len(choose_objects(items, 100)) == len(items)
    assert choose_objects(items, 0) == []


def flips(gained: int, lost: int) -> list[dict[str, Any]]:
    kinds = ["gained"] * gained + ["lost"] * lost
    return [{"kind": kind, "class": "car", "image": image} for image, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("there", "totals", "count", "shares"),
    [
        ((103, 61), None, 120, (75, 45)),
        ((61, 103), None, 120, (45, 75)),
        ((200, 200), (900, 300), 100, (75, 25)),  # the listed ones are not in the true ratio
        ((200, 200), (5000, 200), 120, (90, 30)),  # a quarter at least
        ((200, 4), None, 120, (116, 4)),
        ((4, 200), None, 10, (3, 7)),
        ((20, 0), None, 10, (10, 0)),
        ((0, 0), None, 10, (0, 0)),
        ((5, 5), None, 1, (0, 1)),
        ((9, 1), None, 2, (1, 1)),
        ((20, 20), (1000, 10), 15, (11, 4)),
        ((10, 10), (1000, 10), 18, (10, 8)),
    ],
)
def test_gained_and_lost_are_mixed_in_their_true_ratio(
    there: tuple[int, int], totals: tuple[int, int] | None, count: int, shares: tuple[int, int]
) -> None:
    chosen = choose_objects(flips(*there), count, totals)
    kinds = [item["kind"] for item in chosen]
    assert (kinds.count("gained"), kinds.count("lost")) == shares
    if min(shares) > 0:
        assert set(kinds[:2]) == {"gained", "lost"}
        for part in range(1, len(kinds)):
            assert abs(kinds[:part].count("gained") - part * shares[0] / len(kinds)) <= 1
    for kind in ("gained", "lost"):
        images = [item["image"] for item in chosen if item["kind"] == kind]
        assert images == sorted(images)  # the clearest first


def test_note_says_how_many_of_the_changed_objects_are_shown(tmp_path: Path) -> None:
    truth, sides, pair = setting(tmp_path)
    assert make_gallery(truth, sides, pair, objects=4)["note"] == ("2 of 5 gained and 2 of 5 lost objects are shown.")
    pair["flips"] |= {"only_after": 15, "only_before": 5}
    note = make_gallery(truth, sides, pair, objects=4)["note"]
    assert note == "3 of 15 gained and 1 of 5 lost objects are shown."


def test_first_frames_have_losses_as_well_as_gains() -> None:
    gained, lost = {0: 9, 1: 8, 2: 3, 3: 1}, {2: 2, 3: 1, 4: 7}
    alone = [(str(index),) for index in range(5)]
    assert choose_frames(gained, lost, alone, 5) == [2, 3, 0, 1, 4]
    assert choose_frames(gained, lost, alone, 2) == [2, 0]
    assert choose_frames(gained, {}, alone, 2) == [0, 1]


def test_frames_are_spread_over_cameras() -> None:
    gained, lost = {0: 9, 1: 8, 2: 3, 3: 2}, {2: 2}
    groups = [("a",), ("a",), ("b",), ("b",)]
    assert choose_frames(gained, lost, groups, 3) == [2, 0, 1]
    assert choose_frames(gained, lost, groups, 9) == [2, 0, 1, 3]


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ([100, 100, 40, 20], (70, 85, 170, 135)),  # 2.5 times, at least half as high as wide
        ([0, 0, 4, 4], (0, 0, 48, 48)),  # at least 48 px, moved into the image
        ([10, 10, 300, 200], (0, 0, 320, 240)),
    ],
)
def test_window_around_an_object(box: list[float], window: tuple[int, int, int, int]) -> None:
    assert crop_window(np.array(box, dtype=float), 320, 240) == window


def test_images_are_found_beside_and_above_the_label_file(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    file = tmp_path / "images" / "a.jpg"
    file.touch()
    source = str(tmp_path / "annotations" / "val.json")
    assert locate({"file_name": "a.jpg"}, source) == file
    assert locate({"file_name": "images/a.jpg"}, source) == file
    assert locate({"file_name": str(file)}, "gt") == file
    assert locate({"file_name": "x/a.jpg"}, "gt", tmp_path / "images") == file
    assert locate({"file_name": "b.jpg"}, source) is None
    assert locate({}, source) is None
