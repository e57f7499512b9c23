from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from detkd.errors import DataError
from detkd.footage.overlap import Overlap, check_overlap, find_overlap
from tests.footage.clips import scene, with_object, write_image


@pytest.fixture
def held_out(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / "val" / f"{index}.jpg", scene(index)) for index in range(5)]


def test_strangers_do_not_overlap(tmp_path: Path, held_out: list[Path]) -> None:
    pool = [write_image(tmp_path / "pool" / f"{index}.jpg", scene(index)) for index in range(10, 15)]
    assert find_overlap(pool, held_out) == []
    check_overlap(pool, held_out)


@pytest.mark.parametrize(("left", "right"), [(False, True), (True, False)])
def test_nothing_overlaps_with_nothing(held_out: list[Path], left: bool, right: bool) -> None:
    assert find_overlap(held_out if left else [], held_out if right else []) == []


def test_a_copy_under_another_name_is_found(tmp_path: Path, held_out: list[Path]) -> None:
    copy = tmp_path / "copy.jpg"
    shutil.copy(held_out[3], copy)
    assert find_overlap([copy, held_out[1]], held_out) == [
        Overlap(copy, held_out[3], 0.0, True),
        Overlap(held_out[1], held_out[1], 0.0, True),
    ]


def test_copies_are_found_though_they_can_not_be_read_as_pictures(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jpg", "b.jpg", "empty.jpg", "void.jpg")]
    for file, content in zip(files, (b"same", b"same", b"", b""), strict=True):
        file.write_bytes(content)
    missing = tmp_path / "missing.jpg"
    assert find_overlap([files[0], files[2], missing], [files[1], files[3], missing]) == [
        Overlap(files[0], files[1], 0.0, True)
    ]


@pytest.mark.parametrize("how", ["quality", "png", "smaller", "larger"])
def test_a_picture_saved_again_is_found(tmp_path: Path, held_out: list[Path], how: str) -> None:
    image = cv2.imread(str(held_out[2]))
    scale = {"smaller": 0.75, "larger": 2.0}.get(how, 1.0)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    path = tmp_path / "pool" / ("again.png" if how == "png" else "again.jpg")
    write_image(path, image, quality=40 if how == "quality" else 85)
    (pair,) = find_overlap([path], held_out)
    assert (pair.pool, pair.held_out, pair.same_bytes) == (path, held_out[2], False)
    assert pair.difference < 25


def test_another_moment_of_the_same_scene_is_no_overlap(tmp_path: Path, held_out: list[Path]) -> None:
    moment = with_object(with_object(scene(2), 60, 60, 24), 200, 150, 24)
    assert find_overlap([write_image(tmp_path / "moment.jpg", moment)], held_out) == []


def test_black_pictures_are_not_compared(tmp_path: Path) -> None:
    black = np.zeros((48, 64, 3), np.uint8)
    pool, held_out = (write_image(tmp_path / name, black, quality) for name, quality in (("a.jpg", 95), ("b.jpg", 20)))
    assert pool.read_bytes() != held_out.read_bytes()
    assert find_overlap([pool], [held_out]) == []


def test_the_most_alike_is_named(tmp_path: Path) -> None:
    near, nearest = scene(), scene()
    near[::2] = np.clip(near[::2].astype(int) + 12, 0, 255)
    held_out = [write_image(tmp_path / "val" / name, image) for name, image in (("a.png", near), ("b.png", nearest))]
    path = write_image(tmp_path / "pool.jpg", scene())
    (pair,) = find_overlap([path], held_out)
    assert pair.held_out == held_out[1]
    (pair,) = find_overlap([path], held_out[:1])
    assert pair.held_out == held_out[0]


def test_overlap_is_refused(tmp_path: Path, held_out: list[Path]) -> None:
    stranger = write_image(tmp_path / "stranger.jpg", scene(50))
    with pytest.raises(DataError) as caught:
        check_overlap([stranger, *held_out], held_out, key="unlabelled.path", held_out="validation set")
    message = str(caught.value)
    assert message.startswith("unlabelled.path: 5 of 6 pictures are also in the validation set (")
    assert f"{held_out[0]} = {held_out[0]} (same file content)" in message
    assert message.endswith("and 2 more); take them out of the footage, else its scores say nothing")
    again = write_image(tmp_path / "again.png", cv2.imread(str(held_out[0])))
    with pytest.raises(
        DataError, match=r"source: 1 of 1 pictures is also in the test set \(.*nearly the same pixels\)"
    ):
        check_overlap([again], held_out, held_out="test set")


@pytest.mark.slow
def test_the_pool_of_the_traffic_cameras_overlaps_with_no_split(assets: Path) -> None:
    folder = assets / "data" / "sg_traffic_cctv"
    images = sorted((folder / "images").glob("*.jpg"))
    held = {"1003", "1502", "2708", "3705", "8702", "9704", "1002", "1503", "2703", "3704", "8704", "9706"}
    pool = [path for path in images if path.name[:4] not in held]
    held_out = [path for path in images if path.name[:4] in held]
    assert len(held_out) == 376
    assert find_overlap(pool, held_out) == []
    # Nor do the pictures of one camera with each other.
    one = [path for path in images if path.name.startswith("1001")]
    assert find_overlap(one[::2], one[1::2]) == []
