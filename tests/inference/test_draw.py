from __future__ import annotations

import numpy as np
import pytest

from detkd.inference.draw import class_colour, draw_boxes, label_place, side_by_side

BOXES = np.array([[30.0, 40.0, 90.0, 80.0], [-5.0, -5.0, 20.0, 10.0], [100.0, 90.0, 140.0, 130.0]])


def test_the_picture_passed_in_is_not_changed() -> None:
    image = np.full((120, 120, 3), 90, np.uint8)
    drawn = draw_boxes(image, BOXES, np.array([0, 1, 2]), np.array([0.9, 0.5, 0.3]), ("car", "Fußgänger", "自転車"))
    assert (image == 90).all()
    assert drawn.shape == image.shape
    assert (drawn != image).any()


def test_boxes_have_the_colour_of_their_class() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[50.0, 60.0, 150.0, 180.0]]), np.array([3]), None, ("a", "b", "c", "d"))
    assert tuple(drawn[100, 50]) == class_colour(3)
    assert (drawn[100, 100] == 0).all()


def test_no_boxes_no_change() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    drawn = draw_boxes(image, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), ())
    np.testing.assert_array_equal(drawn, image)


def test_colours_differ() -> None:
    assert len({class_colour(i) for i in range(80)}) == 80


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2000, 3000)])
def test_any_size_can_be_drawn_on(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    box = np.array([[0.0, 0.0, size[1], size[0]]])
    assert draw_boxes(image, box, np.array([0]), np.array([1.0]), ("person",)).shape == image.shape


def test_labels_make_room_for_each_other() -> None:
    """Two boxes at one place: the second label goes below, the third inside; where all is full, above."""
    box, size, shape = (40, 50, 120, 130), (30, 10), (200, 200)
    taken = np.zeros((0, 4), int)
    places = []
    for _ in range(9):
        left, top = label_place(box, size, shape, taken)
        places.append((left, top))
        taken = np.vstack([taken, [left, top, left + size[0], top + size[1]]])
    assert places[:4] == [(40, 40), (40, 130), (40, 50), (40, 120)]  # above, below, inside at the top, at the bottom
    assert places[4:8] == [(90, 40), (90, 130), (90, 50), (90, 120)]  # the same at the right edge
    assert places[8] == (40, 40)


@pytest.mark.parametrize("box", [(0, 0, 200, 200), (-30, 2, 20, 300), (180, 195, 260, 199), (5, 5, 8, 8)])
def test_labels_stay_in_the_picture(box: tuple[int, int, int, int]) -> None:
    left, top = label_place(box, (60, 12), (200, 200), np.array([[0, 0, 60, 12]]))
    assert 0 <= left <= 140
    assert 0 <= top <= 188


def test_panes_stand_side_by_side_under_their_titles() -> None:
    left, right = np.full((101, 150, 3), 10, np.uint8), np.full((202, 300, 3), 200, np.uint8)
    picture = side_by_side([left, right], ["teacher", "student"])
    height, width = picture.shape[:2]
    assert height % 2 == 0
    assert width % 2 == 0
    assert height > 101
    assert (picture[-20, 10] == 10).all()
    assert (picture[-20, -10] == 200).all()
    assert picture[:20].max() > 200  # the title's letters


def test_wide_rows_are_scaled_down() -> None:
    panes = [np.zeros((1080, 1920, 3), np.uint8)] * 4
    assert side_by_side(panes, ["a", "b", "c", "d"], max_width=1000).shape[1] <= 1060
