from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detkd.errors import ConfigError, DataError
from detkd.footage import collect as module
from detkd.footage.collect import Collection, Item, collect, contact_sheet, load_collection
from detkd.footage.frames import Clock, Picture, describe_pace, sample_video
from detkd.footage.similar import Thumbnails, measure
from tests.footage.clips import HEIGHT, WIDTH, scene, vary_pace, with_object, write_clip, write_image


def names(collection: Collection) -> list[str]:
    return [item.file.name for item in collection.items]


def changing(path: Path, frames: int = 30, start: int = 0) -> Path:
    """A clip at 10 frames per second of which no two frames look alike."""
    return write_clip(path, frames, lambda index: scene(start + index))


# Video times


def test_a_frame_is_taken_every_so_many_seconds(tmp_path: Path) -> None:
    clip = changing(tmp_path / "cam.mp4", 25)
    made = collect(clip, folder=tmp_path / "out", every=0.6)
    assert [item.time_s for item in made.items] == [0, 0.6, 1.2, 1.8, 2.4]
    assert [str(item.file.relative_to(tmp_path / "out")) for item in made.items[:2]] == [
        "images/cam/000000000.jpg",
        "images/cam/000000600.jpg",
    ]
    assert {item.source for item in made.items} == {str(clip)}
    assert {(item.width, item.height) for item in made.items} == {(WIDTH, HEIGHT)}
    for item, index in zip(made.items, (0, 6, 12, 18, 24), strict=True):
        stored = cv2.imread(str(item.file)).astype(int)
        assert np.abs(stored - scene(index)).mean() < 10  # the picture of that time; others differ by about 60


def test_zero_seconds_takes_every_frame(tmp_path: Path) -> None:
    made = collect(changing(tmp_path / "cam.mp4", 7), folder=tmp_path / "out", every=0)
    assert [item.time_s for item in made.items] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_a_variable_frame_rate_is_noted_and_sampled_by_time(tmp_path: Path) -> None:
    clip = changing(tmp_path / "cam.mp4", 40)
    vary_pace(clip, [(20, 0.5), (20, 1.5)])  # 1 s at 20 frames per second, then 3 s at 6.7
    made = collect(clip, folder=tmp_path / "out", every=0.5)
    assert [item.time_s for item in made.items] == [0, 0.5, 1.0, 1.6, 2.05, 2.5, 3.1, 3.55]
    assert made.notes == ["cam.mp4: variable frame rate (50 to 150 ms between frames); sampled by time"]


def test_a_steady_clip_has_no_notes(tmp_path: Path) -> None:
    assert collect(changing(tmp_path / "cam.mp4"), folder=tmp_path / "out").notes == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (np.arange(50) * 0.04, None),
        (np.round(np.arange(300) / 29.97, 3), None),  # 33 and 34 ms
        (np.delete(np.arange(100) * 0.04, [20, 60]), None),  # two lost frames
        (np.arange(3) ** 2, None),  # too few to tell
        (np.cumsum([0.03, 0.03, 0.2] * 10), "variable frame rate (30 to 200 ms between frames)"),
    ],
)
def test_pace(times: np.ndarray, expected: str | None) -> None:
    assert describe_pace(times) == expected


@pytest.mark.parametrize(
    ("stamps", "expected", "repaired"),
    [
        ([0, 100, 200], [0, 0.1, 0.2], 0),
        ([1400, 1500, 1700], [0, 0.1, 0.3], 0),  # recordings that start late
        ([0, 0, 0], [0, 0.1, 0.2], 2),  # no times at all
        ([0, 100, 50, 300], [0, 0.1, 0.2, 0.3], 1),
        ([0, float("nan"), 200, float("inf")], [0, 0.1, 0.2, 0.3], 2),
        ([float("nan"), 100], [0, 0.1], 0),
    ],
)
def test_times_of_frames_always_increase(stamps: list[float], expected: list[float], repaired: int) -> None:
    clock = Clock(10)
    assert [clock.tick(stamp) for stamp in stamps] == pytest.approx(expected)
    assert clock.repaired == repaired


@pytest.mark.parametrize("fps", [0.0, -1.0, 90000.0, float("nan")])
def test_an_impossible_frame_rate_is_replaced(fps: float) -> None:
    assert Clock(fps).fps == 25


def test_missing_times_and_frames_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Video:
        """A video of 20 frames that promises 100, knows no times, and whose third frame is broken."""

        def __init__(self, path: str) -> None:
            self.index = -1

        def isOpened(self) -> bool:
            return True

        def get(self, field: int) -> float:
            return {cv2.CAP_PROP_FPS: 10.0, cv2.CAP_PROP_FRAME_COUNT: 100.0}.get(field, 0.0)

        def grab(self) -> bool:
            self.index += 1
            return self.index < 20

        def retrieve(self) -> tuple[bool, np.ndarray | None]:
            return (False, None) if self.index == 2 else (True, scene(self.index))

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Video)
    notes: list[str] = []
    pictures = list(sample_video(tmp_path / "cam.avi", 0, notes))
    assert [picture and picture.time_s for picture in pictures[:4]] == [0, 0.1, None, pytest.approx(0.3)]
    assert len(pictures) == 20
    assert notes == [
        "cam.avi: 19 of 20 frames have no usable time; 10 frames per second assumed",
        "cam.avi: 1 frames can't be decoded",
        "cam.avi: ends after 20 of 100 frames; is the file complete?",
    ]


# What is dropped


def test_a_still_scene_gives_one_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def noisy(index: int) -> np.ndarray:
        return np.clip(scene() + rng.normal(0, 4, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)

    made = collect(write_clip(tmp_path / "cam.mp4", 30, noisy), folder=tmp_path / "out", every=0.5)
    assert names(made) == ["000000000.jpg"]
    assert made.dropped == {"similar": 5}
    assert made.looked_at == 6


def test_a_small_thing_that_moves_keeps_the_picture(tmp_path: Path) -> None:
    # 10 pixels of 320x240: 0.13 % of the picture, invisible in its mean. The back and forth shows each place twice.
    places = [20, 120, 220, 120, 20]
    clip = write_clip(tmp_path / "cam.mp4", 5, lambda index: with_object(scene(), places[index], 100))
    made = collect(clip, folder=tmp_path / "out", every=0)
    assert names(made) == ["000000000.jpg", "000000100.jpg", "000000200.jpg"]
    assert made.dropped == {"similar": 2}


def test_similarity_can_be_switched_off(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "cam.mp4", 5, lambda index: scene())
    assert len(collect(clip, folder=tmp_path / "out", every=0, similar=0)) == 5


def test_dark_and_blurred_pictures_are_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_image(folder / "good.jpg", scene())
    write_image(folder / "night.jpg", (scene(1) * 0.05).astype(np.uint8))
    write_image(folder / "soft.jpg", cv2.GaussianBlur(scene(2), (0, 0), 12))
    made = collect(folder, folder=tmp_path / "out")
    assert names(made) == ["good.jpg"]
    assert made.dropped == {"blur": 1, "dark": 1}
    assert len(collect(folder, folder=tmp_path / "all", blur=0, dark=0)) == 3


def test_measures_do_not_depend_on_the_size(tmp_path: Path) -> None:
    large = cv2.resize(scene(), (2560, 1920), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(large, (640, 480), interpolation=cv2.INTER_AREA)
    left, right = measure(large), measure(small)
    assert left.sharpness == pytest.approx(right.sharpness, rel=0.02)
    assert left.brightness == pytest.approx(right.brightness, abs=0.1)
    assert np.abs(left.thumbnail.astype(int) - right.thumbnail).max() <= 1


def test_the_quick_comparison_misses_nothing() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (36, 48))
    known = Thumbnails()
    pictures = [np.clip(base + rng.integers(-n, n + 1, base.shape), 0, 255).astype(np.uint8) for n in range(1, 150)]
    for picture in pictures:
        known.add(picture)
    wanted = base.astype(np.uint8)
    for below in (0, 5, 10, 10.5, 80):
        worst = np.array([np.abs(picture.astype(int) - wanted).max() for picture in pictures])
        assert known.near(wanted, below).tolist() == np.flatnonzero(worst < below).tolist()
    assert len(known) == 149


@pytest.mark.slow
def test_pictures_of_fixed_cameras_minutes_apart_are_all_kept(assets: Path, tmp_path: Path) -> None:
    made = collect(assets / "data" / "sg_traffic_cctv" / "images", folder=tmp_path)
    assert made.dropped == {}
    assert len(made) == 1427


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), [("car-detection", 30), ("one-by-one-person-detection", 139)])
def test_real_clips(assets: Path, tmp_path: Path, name: str, seconds: int) -> None:
    made = collect(assets / "video" / f"{name}.mp4", folder=tmp_path)
    assert made.looked_at == seconds + 1
    assert set(made.dropped) == {"similar"}  # the moments in which nobody is there
    assert 0.5 < len(made) / made.looked_at < 0.98
    assert made.notes == []


def test_the_limit_is_spread_evenly(tmp_path: Path) -> None:
    clip = changing(tmp_path / "cam.mp4", 21)
    made = collect(clip, folder=tmp_path / "out", every=0.1, limit=5)
    assert [item.time_s for item in made.items] == [0, 0.5, 1.0, 1.5, 2.0]
    assert made.dropped == {"limit": 16}
    assert sorted(path.name for path in (tmp_path / "out" / "images" / "cam").iterdir()) == names(made)


# Sources


def test_images_stay_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    first = write_image(folder / "a.jpg", scene(1))
    second = write_image(folder / "night" / "a.png", scene(2))
    changing(folder / "clip.mp4", 5, start=10)
    made = collect([folder, str(folder / "night" / "*.png")], folder=tmp_path / "out", similar=0)
    assert [(item.file, item.source, item.time_s) for item in made.items] == [
        (first, str(folder), None),
        (tmp_path / "out" / "images" / "clip" / "000000000.jpg", str(folder / "clip.mp4"), 0),
        (second, str(folder / "night"), None),
    ]


def test_videos_of_one_name_do_not_share_a_folder(tmp_path: Path) -> None:
    clips = [changing(tmp_path / name / "cam.mp4", 5, start) for start, name in ((0, "a"), (10, "b"))]
    made = collect(clips, folder=tmp_path / "out")
    assert [item.file.parent.name for item in made.items] == ["cam", "cam-2"]


def test_what_can_not_be_read_is_skipped_with_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_image(folder / "good.jpg", scene())
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "broken.mp4").write_bytes(b"no video at all" * 50)
    told: list[dict[str, str]] = []
    made = collect(folder, folder=tmp_path / "out", skipped=told)
    assert names(made) == ["good.jpg"]
    assert [Path(entry["file"]).name for entry in made.skipped] == ["broken.jpg", "broken.mp4"]
    assert "not an image that can be read" in made.skipped[0]["reason"]
    assert "not a video that can be read" in made.skipped[1]["reason"]
    assert told == made.skipped


def test_nothing_left_names_counts_and_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_image(folder / "a.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (folder / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no picture is left, 1 too dark, 1 unreadable .*; lower dark \(now 15\)"):
        collect(folder, folder=tmp_path / "out")
    assert not (tmp_path / "out" / "collect.json").exists()
    (folder / "a.jpg").unlink()
    with pytest.raises(DataError, match="give other footage"):
        collect(folder, folder=tmp_path / "out")


def test_the_output_folder_is_no_source(tmp_path: Path) -> None:
    changing(tmp_path / "cam.mp4")
    first = collect(tmp_path, folder=tmp_path / "out")
    contact_sheet(first, tmp_path / "out" / "sheet.jpg")
    assert collect(tmp_path, folder=tmp_path / "out") == first
    with pytest.raises(DataError, match="lies in the output folder"):
        collect(tmp_path / "out" / "images", folder=tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"every": -1.0}, "every: must be 0 or more, got -1.0"),
        ({"blur": float("nan")}, "blur: must be 0 or more, got nan"),
        ({"limit": 0}, "limit: must be 1 or more, got 0"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collect(tmp_path, folder=tmp_path / "out", **setting)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clip = changing(tmp_path / "cam.mp4")

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"out: can't write .*000000000.jpg \(No space left on device\); make room"):
        collect(clip, folder=tmp_path / "out")
    assert list((tmp_path / "out" / "images" / "cam").iterdir()) == []
    monkeypatch.undo()
    assert len(collect(clip, folder=tmp_path / "out")) == 3


# The stage file


def test_the_stage_file_gives_the_collection_back(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.jpg", scene(99))
    changing(tmp_path / "in" / "cam.mp4")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"")
    made = collect(tmp_path / "in", folder=tmp_path / "out", every=0.5)
    assert load_collection(tmp_path / "out") == made
    assert Collection.from_dict(made.to_dict()) == made
    assert not list((tmp_path / "out").glob(".*"))
    moved = tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    files = [item.file for item in load_collection(moved).items]
    assert all(file.is_file() for file in files)
    assert {file.is_relative_to(moved) for file in files} == {True, False}


def test_stage_files_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_collection(tmp_path)
    file = tmp_path / "collect.json"
    for content, message in (
        ("[]", "not written by this version"),
        ('{"version": 1, "complete": false}', "was interrupted"),
        ('{"version": 1, "complete": true}', "not a list of collected pictures"),
        ('{"version": 1, "complete": true, "items": [{"file": 3}]}', "not a list of collected pictures"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=message):
            load_collection(tmp_path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that were decoded, one entry per time."""
    real, calls = module.sample_video, list[str]()

    def spy(path: Path, every: float, notes: list[str]) -> Iterator[Picture | None]:
        calls.append(path.name)
        return real(path, every, notes)

    monkeypatch.setattr(module, "sample_video", spy)
    return calls


def test_a_second_call_decodes_nothing(tmp_path: Path, decoded: list[str]) -> None:
    clip = changing(tmp_path / "cam.mp4")
    assert collect(clip, folder=tmp_path / "out") == collect(clip, folder=tmp_path / "out")
    assert decoded == ["cam.mp4"]


def interrupted_at(count: int) -> Callable[..., Path]:
    real = module._write_frame
    calls = 0

    def write(image: np.ndarray, file: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == count:
            raise KeyboardInterrupt
        return real(image, file)

    return write


def test_an_interrupted_call_goes_on_after_the_last_finished_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # The third clip repeats a frame of the first, which must still be known after the interruption.
    clips = [changing(tmp_path / f"{name}.mp4", 15, start) for name, start in (("a", 0), ("b", 30), ("c", 0))]
    whole = collect(clips, folder=tmp_path / "whole", every=0.5)
    decoded.clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_frame", interrupted_at(5))
        with pytest.raises(KeyboardInterrupt):
            collect(clips, folder=tmp_path / "out", every=0.5)
    assert decoded == ["a.mp4", "b.mp4"]
    with pytest.raises(DataError, match="was interrupted"):
        load_collection(tmp_path / "out")
    decoded.clear()
    again = collect(clips, folder=tmp_path / "out", every=0.5)
    assert decoded == ["b.mp4", "c.mp4"]
    assert "going on after 1 finished files" in capsys.readouterr().err
    assert again.dropped == whole.dropped == {"similar": 3}
    assert json.loads((tmp_path / "out" / "collect.json").read_text()) == json.loads(
        (tmp_path / "whole" / "collect.json").read_text()
    )


def test_lost_thumbnails_mean_collecting_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [changing(tmp_path / f"{name}.mp4", 5, start) for name, start in (("a", 0), ("b", 30))]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_frame", interrupted_at(2))
        with pytest.raises(KeyboardInterrupt):
            collect(clips, folder=tmp_path / "out")
    (tmp_path / "out" / ".collect-thumbnails").write_bytes(b"cut off")
    made = collect(clips, folder=tmp_path / "out")
    assert len(made) == 2
    assert made.notes == ["collected anew: .collect-thumbnails is incomplete"]


def test_another_setting_means_collecting_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = changing(tmp_path / "cam.mp4")
    other = write_image(tmp_path / "other.jpg", scene(99))
    collect([clip, other], folder=tmp_path / "out", every=0.5)
    made = collect([clip, other], folder=tmp_path / "out", every=1)
    assert made.notes == ["collected anew: every was 0.5, now 1"]
    assert "collected anew: every was 0.5, now 1" in capsys.readouterr().err
    written = sorted(path.name for path in (tmp_path / "out" / "images" / "cam").iterdir())
    assert written == ["000000000.jpg", "000001000.jpg", "000002000.jpg"]  # the others of before are removed
    assert other.is_file()


def test_another_source_means_collecting_anew(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_image(folder / "a.jpg", scene(1))
    collect(folder, folder=tmp_path / "out")
    write_image(folder / "b.jpg", scene(2))
    made = collect(folder, folder=tmp_path / "out")
    assert (names(made), made.notes) == (["a.jpg", "b.jpg"], ["collected anew: the sources have changed"])
    write_image(folder / "b.jpg", scene(3))
    os.utime(folder / "b.jpg", (1, 1))
    assert collect(folder, folder=tmp_path / "out").notes == ["collected anew: the sources have changed"]


def test_a_lost_frame_means_collecting_anew(tmp_path: Path) -> None:
    clip = changing(tmp_path / "cam.mp4")
    collect(clip, folder=tmp_path / "out").items[1].file.unlink()
    made = collect(clip, folder=tmp_path / "out")
    assert made.notes == ["collected anew: 000001000.jpg is gone"]
    assert all(item.file.is_file() for item in made.items)


@pytest.mark.parametrize("content", ["{", "[1]", '{"version": 0}', '{"version": 1, "complete": true}'])
def test_a_damaged_stage_file_means_collecting_anew(tmp_path: Path, content: str) -> None:
    image = write_image(tmp_path / "a.jpg", scene())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "collect.json").write_text(content)
    made = collect(image, folder=tmp_path / "out")
    assert names(made) == ["a.jpg"]
    assert made.notes[0].startswith("collected anew: collect.json ")


# The contact sheet


def items(folder: Path, count: int) -> Collection:
    files = [write_image(folder / f"{index}.jpg", np.full((90, 120, 3), 2 * index, np.uint8)) for index in range(count)]
    return Collection([Item(file, str(folder), None, 120, 90, 5.0, 50.0) for file in files])


def test_the_contact_sheet_shows_all_pictures_of_a_small_collection(tmp_path: Path) -> None:
    path = contact_sheet(items(tmp_path / "in", 8), tmp_path / "sheet.jpg", columns=3)
    sheet = cv2.imread(str(path))
    assert sheet.shape == (3 * 210 + 8, 3 * 264 + 8, 3)
    centres = [sheet[8 + 84 + row * 210, 8 + 128 + column * 264].mean() for row in range(3) for column in range(3)]
    assert centres == pytest.approx([*(2 * index for index in range(8)), 24], abs=2)  # the last place is empty


def test_the_contact_sheet_of_a_large_collection_is_spread_evenly(tmp_path: Path) -> None:
    sheet = cv2.imread(str(contact_sheet(items(tmp_path / "in", 101), tmp_path / "sheet.jpg", columns=5, most=5)))
    assert [sheet[92, 136 + column * 264].mean() for column in range(5)] == pytest.approx([0, 50, 100, 150, 200], abs=2)


def test_the_contact_sheet_has_captions_and_bears_missing_files(tmp_path: Path) -> None:
    known = items(tmp_path / "in", 2)
    known.items[1].file.unlink()
    sheet = cv2.imread(str(contact_sheet(known, tmp_path / "sheet.jpg")))
    assert sheet[180:208, 8:264].max() > 200  # letters
    assert sheet[92, 136 + 264].mean() == pytest.approx(90, abs=2)


def test_an_empty_contact_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures were collected"):
        contact_sheet(Collection([]), tmp_path / "sheet.jpg")
