"""The drawn frames: repeatable, correctly labelled and varied enough to learn from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from detkd.data.toy import CAMERAS, SPLITS, TOY_NAMES, Frame, draw_frame
from detkd.data.toy.camera import Camera, View
from detkd.data.toy.compose import look
from detkd.data.toy.crowd import DIFFICULTIES
from detkd.data.toy.light import build_backdrop
from detkd.data.toy.models import Drawable, Thing
from detkd.data.toy.scenes import build_scene
from detkd.data.toy.stage import build_stage, to_pixels
from detkd.errors import DataError


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [draw_frame(camera, index) for camera in CAMERAS for index in range(6)]


def test_same_arguments_give_the_same_pixels_in_any_order() -> None:
    wanted = [("alley", 3), ("bridge", 1), ("alley", 4)]
    first = {job: draw_frame(*job, seed=2) for job in wanted}
    build_stage.cache_clear()
    build_backdrop.cache_clear()
    np.random.seed(7)
    for job in reversed(wanted):
        again = draw_frame(*job, seed=2)
        assert np.array_equal(again.image, first[job].image)
        assert np.array_equal(again.boxes, first[job].boxes)
        assert again.meta == first[job].meta


def test_seed_index_camera_and_difficulty_change_the_picture() -> None:
    base = draw_frame("crossing", 0).image
    others = [
        draw_frame("crossing", 1),
        draw_frame("crossing", 0, seed=1),
        draw_frame("school", 0),
        draw_frame("crossing", 0, difficulty="hard"),
    ]
    assert all(not np.array_equal(base, other.image) for other in others)


def test_drawing_leaves_global_random_state_alone() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    draw_frame("shop", 0)
    assert np.array_equal(before, np.random.get_state()[1])


def test_labels_are_inside_large_enough_and_visible_enough(frames: list[Frame]) -> None:
    level = DIFFICULTIES["normal"]
    for frame in frames:
        assert frame.image.shape == (192, 320, 3)
        assert frame.image.dtype == np.uint8
        assert 1 <= len(frame.boxes) == len(frame.classes) == len(frame.meta["visibility"]) <= 12
        assert (frame.boxes[:, :2] >= 0).all()
        assert (frame.boxes[:, 2:] <= (320, 192)).all()
        assert (frame.boxes[:, 2:] - frame.boxes[:, :2] >= level.side).all()
        assert all(level.visible <= share <= 1 for share in frame.meta["visibility"])


def test_all_classes_sizes_lights_and_weathers_occur(frames: list[Frame]) -> None:
    classes = Counter(int(kind) for frame in frames for kind in frame.classes)
    total = sum(classes.values())
    assert set(classes) == set(range(len(TOY_NAMES)))
    assert classes[3] / total >= 0.12
    assert min(classes.values()) / total >= 0.08
    assert {frame.meta["light"] for frame in frames} == {"day", "dusk", "night"}
    assert {frame.meta["weather"] for frame in frames} == {"clear", "overcast", "rain", "fog"}
    sides = np.concatenate([np.sqrt(np.prod(frame.boxes[:, 2:] - frame.boxes[:, :2], axis=1)) for frame in frames])
    assert sides.min() < 12
    assert sides.max() > 90


def test_night_is_darker_than_day(frames: list[Frame]) -> None:
    level = {
        light: np.mean([frame.image.mean() for frame in frames if frame.meta["light"] == light])
        for light in ("day", "night")
    }
    assert level["night"] < 0.7 * level["day"]


def test_larger_pictures_show_the_same_world() -> None:
    small, large = build_stage("depot", 320, 192), build_stage("depot", 640, 384)
    spot = np.array([2.0, 18.0, 1.0])
    assert np.allclose(2 * small.view.project(spot)[0], large.view.project(spot)[0])


@pytest.mark.parametrize("camera", CAMERAS)
def test_every_camera_can_show_every_class(camera: str) -> None:
    kinds = {spawn.kind for spawn in build_scene(camera).spawns}
    assert kinds & {"walk"}
    assert kinds & {"ride", "rack"}
    assert kinds & {"drive", "park"}
    assert kinds & {"drive", "dock"}


def test_splits_share_no_camera() -> None:
    names = [camera for cameras in SPLITS.values() for camera in cameras]
    assert len(names) == len(set(names)) == 14


def test_projection_of_known_points() -> None:
    view = View(Camera(0, 0, 5, 0, 0, 90), 200, 100)  # focal length = half the width = 100 px
    pixel, depth = view.project(np.array([2.0, 10.0, 5.0]))
    assert np.allclose(pixel, (100 + 100 * 2 / 10, 50))
    assert depth == pytest.approx(10)
    pixel, _ = view.project(np.array([0.0, 10.0, 0.0]))
    assert np.allclose(pixel, (100, 50 + 100 * 5 / 10))
    place, reach = view.ground
    assert np.isinf(reach[10]).all()
    row = 74  # ground under pixel row 74.5: 5 m down over 24.5 px
    assert place[row, 99, 1] == pytest.approx(5 * 100 / 24.5, rel=1e-4)


def test_outline_is_cut_at_the_lens_and_keeps_straight_edges() -> None:
    view = View(Camera(0, 0, 5, 30, 20, 70), 320, 192)
    road = np.array([[-4, -50, 0], [4, -50, 0], [4, 400, 0], [-4, 400, 0]], float)
    outline = view.outline(road)
    assert len(outline) >= 3
    assert np.abs(outline).max() < 1000
    assert len(view.outline(np.array([[-1, -9, 0], [1, -9, 0], [0, -20, 0]], float))) == 0


def _square(stage, x: float, y: float, side: float) -> Thing:
    corners = np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float)
    place = stage.view.position + stage.view.ahead * 8
    return Thing(1, place, 0.0, 1.0, [Drawable(to_pixels(corners), 0, (9, 9, 9))], corners, 1.0, [], 0.0)


def test_box_and_visibility_of_a_known_shape() -> None:
    stage = build_stage("car_park", 640, 384)
    stage_block = stage.block.copy()
    try:
        stage.block[:] = np.inf
        taken = np.zeros((384, 640), np.uint8)
        whole = look(stage, _square(stage, 100, 60, 39), taken, DIFFICULTIES["normal"])
        assert whole is not None
        assert whole.box == (50.0, 30.0, 70.0, 50.0)  # canvas pixels 100..139, at half size
        assert whole.share == 1.0
        behind = look(stage, _square(stage, 120, 60, 39), taken, DIFFICULTIES["normal"])
        assert behind is not None
        assert behind.box == (60.0, 30.0, 80.0, 50.0)  # hidden part included
        assert behind.share == pytest.approx(0.5)
        assert look(stage, _square(stage, 101, 60, 39), taken, DIFFICULTIES["normal"]) is None  # all but hidden
        outside = look(stage, _square(stage, -10, 200, 39), taken, DIFFICULTIES["normal"])
        assert outside is not None
        assert outside.box == (0.0, 100.0, 15.0, 120.0)  # cut at the border
        assert outside.share == pytest.approx(30 / 40)
        assert look(stage, _square(stage, 300, 300, 6), taken, DIFFICULTIES["normal"]) is None  # 3.5 px
        stage.block[:] = 4.0  # something static stands in front of everything
        assert look(stage, _square(stage, 400, 60, 39), taken, DIFFICULTIES["normal"]) is None
    finally:
        stage.block[:] = stage_block


@pytest.mark.parametrize(
    ("camera", "difficulty", "match"),
    [("attic", "normal", r"data\.splits: .*'attic'.*crossing"), ("alley", "mean", r"data\.difficulty: .*'mean'.*hard")],
)
def test_unknown_names_are_refused_with_the_known_ones(camera: str, difficulty: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        draw_frame(camera, 0, difficulty=difficulty)
