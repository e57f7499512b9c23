from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkd.caching.objects import (
    SoftObjects,
    decode_objects,
    empty_record,
    encode_objects,
    no_objects,
    object_bytes,
)
from detkd.errors import DataError, ShapeError


def some(count: int, num_classes: int, size: tuple[int, int], seed: int = 0) -> SoftObjects:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2)), axis=1) * size
    probs = rng.random((count, num_classes)) ** 4
    quality = np.sort(rng.random(count))[::-1]
    return SoftObjects(corners.reshape(-1, 4).astype(np.float32), probs.astype(np.float32), quality.astype(np.float32))


@pytest.mark.parametrize(("num_classes", "size"), [(1, (64, 48)), (4, (1920, 1080)), (300, (5, 4000))])
def test_all_classes_come_back_within_the_rounding(num_classes: int, size: tuple[int, int]) -> None:
    given = some(20, num_classes, size)
    payload = encode_objects(given, size=size, classes=num_classes, max_objects=100)
    back = decode_objects(payload, size=size, num_classes=num_classes)
    step = np.array([*size, *size]) / 65535
    assert (np.abs(back.boxes_xyxy - given.boxes_xyxy) <= 1.51 * step + 1e-3).all()
    stored = np.sort(given.probs, 1)[:, ::-1][:, :255]
    np.testing.assert_allclose(np.sort(back.probs, 1)[:, ::-1][:, :255], stored, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(back.quality, given.quality, atol=0.5 / 255 + 1e-6)
    assert {part.dtype for part in (back.boxes_xyxy, back.probs, back.quality)} == {np.dtype(np.float32)}


def test_a_record_by_hand() -> None:
    """A quarter of the width is step 16384, half of the height 32768; 0.2 of 255 is 51. Ids and numbers by certainty."""
    objects = SoftObjects(
        np.array([[10, 0, 20, 25]], np.float32), np.array([[0.2, 0.0, 0.6]], np.float32), np.array([1], np.float32)
    )
    payload = encode_objects(objects, size=(40, 50), classes=2, max_objects=5)
    assert payload[:3] == bytes([1, 0, 2])
    assert np.frombuffer(payload, "<u2", 4, 3).tolist() == [16384, 0, 32768, 32768]
    assert list(payload[11:]) == [2, 0, 153, 51, 255]


def test_an_object_of_80_classes_takes_25_bytes() -> None:
    payload = encode_objects(some(50, 80, (640, 480)), size=(640, 480), classes=8, max_objects=100)
    assert object_bytes(8, 80) == 25
    assert len(payload) == 3 + 50 * 25


def test_the_best_objects_and_the_likeliest_classes_are_kept() -> None:
    given = some(30, 10, (100, 100))
    shuffled = given.take(np.random.default_rng(1).permutation(30))
    back = decode_objects(
        encode_objects(shuffled, size=(100, 100), classes=3, max_objects=7), size=(100, 100), num_classes=10
    )
    np.testing.assert_allclose(back.boxes_xyxy, given.boxes_xyxy[:7], atol=0.01)
    top = np.sort(given.probs[:7], 1)[:, -3:]
    np.testing.assert_allclose(np.sort(back.probs, 1)[:, -3:], top, atol=0.002)
    assert ((back.probs > 0).sum(1) <= 3).all()


def test_equal_numbers_give_equal_records() -> None:
    tied = SoftObjects(np.tile([[0.0, 0, 5, 5]], (9, 1)), np.full((9, 40), 0.5), np.full(9, 0.5))
    payload = encode_objects(tied, size=(10, 10), classes=4, max_objects=5)
    assert list(decode_objects(payload, size=(10, 10), num_classes=40).probs[0].nonzero()[0]) == [0, 1, 2, 3]
    assert payload == encode_objects(tied, size=(10, 10), classes=4, max_objects=5)


@pytest.mark.parametrize(
    "box", [[3, 3, 3, 3], [9.99999, 9.99999, 10, 10], [10, 10, 10, 10], [0, 0, 1e-9, 1e-9], [-4, -4, 12, 12]]
)
def test_a_box_keeps_an_area_inside_the_image(box: list[float]) -> None:
    objects = SoftObjects(np.array([box], np.float32), np.ones((1, 2), np.float32), np.ones(1, np.float32))
    payload = encode_objects(objects, size=(10, 10), classes=2, max_objects=5)
    found = decode_objects(payload, size=(10, 10), num_classes=2).boxes_xyxy[0]
    assert (found[2:] > found[:2]).all()
    assert (found >= 0).all()
    assert (found <= 10).all()


def test_nothing_found_is_a_record_too() -> None:
    assert encode_objects(no_objects(5), size=(8, 8), classes=8, max_objects=9) == empty_record() != b""
    back = decode_objects(memoryview(empty_record()), size=(8, 8), num_classes=5)
    assert len(back) == 0
    assert back.probs.shape == (0, 5)
    assert back.classes.tolist() == []


@given(st.binary(max_size=120), st.integers(1, 300))
def test_any_bytes_are_objects_or_refused(payload: bytes, num_classes: int) -> None:
    try:
        found = decode_objects(payload, size=(10, 10), num_classes=num_classes)
    except DataError:
        found = no_objects(num_classes)
    assert found.probs.shape == (len(found), num_classes)
    assert found.probs.max(initial=0) <= 1


def test_records_of_other_classes_are_refused() -> None:
    payload = encode_objects(some(3, 80, (64, 64)), size=(64, 64), classes=8, max_objects=9)
    for num_classes in (4, 300):
        with pytest.raises(DataError, match=rf"^cache: a record of 78 bytes holds no objects of {num_classes} classes"):
            decode_objects(payload, size=(64, 64), num_classes=num_classes)


@pytest.mark.parametrize("part", range(3))
def test_numbers_that_are_none_are_refused(part: int) -> None:
    arrays = [np.ones((2, 4)), np.ones((2, 3)), np.ones(2)]
    arrays[part] = arrays[part] * np.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        encode_objects(SoftObjects(*arrays), size=(8, 8), classes=3, max_objects=9)


def test_shapes_and_sizes_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"got \[\[2, 4\], \[3, 5\], \[2\]\]"):
        SoftObjects(np.ones((2, 4)), np.ones((3, 5)), np.ones(2))
    with pytest.raises(DataError, match="got 0 x 8 pixels"):
        encode_objects(some(1, 2, (8, 8)), size=(0, 8), classes=2, max_objects=9)
