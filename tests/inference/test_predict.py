from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detkd.errors import DataError, ModelError
from detkd.inference import predict as module
from detkd.inference.detector import Detector
from detkd.inference.predict import default_titles, predict
from detkd.inference.sources import find_sources, read_frames
from tests.inference.tiny import picture


@pytest.fixture(scope="module")
def detectors(weights: dict[str, Path]) -> list[Detector]:
    return [Detector.load(weights[k], imgsz=64, conf=0.14, multi_label=False, batch=2) for k in ("26", "v8")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures (two of one name), one broken, one text file."""
    folder = tmp_path / "source"
    for i, name in enumerate(("a.png", "b.jpg", "a.jpg", "night/a.png", "night/c d.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), picture(50, 70, i))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def write_video(path: Path, frames: int = 7, fps: float = 5.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (70, 50))
    for i in range(frames):
        writer.write(picture(50, 70, i))
    writer.release()
    return path


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_folder_of_pictures(detectors: list[Detector], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = predict(detectors[:1], folder, out, progress=False)
    assert (result.images, result.frames) == (5, 0)
    names = ["a-2.jpg", "a.jpg", "b.jpg", "night/a.jpg", "night/c d.jpg", "predictions.json"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == names
    assert [Path(path).name for path, _ in result.skipped] == ["broken.jpg"]
    report = read_json(result.json)
    assert len(report["pictures"]) == 5
    assert report["skipped"][0]["file"].endswith("broken.jpg")
    assert report["models"]["tiny26"]["conf"] == 0.14
    found = report["pictures"][0]["detections"]["tiny26"]
    assert sum(len(p["detections"]["tiny26"]) for p in report["pictures"]) == result.objects["tiny26"] > 0
    direct = next(detectors[0].detect([report["pictures"][0]["file"]]))
    assert [d["class"] for d in found] == [detectors[0].names[i] for i in direct.classes]
    np.testing.assert_allclose([d["box_xyxy"] for d in found], direct.boxes_xyxy, atol=0.006)
    drawn = cv2.imread(str(out / "night/a.jpg"))
    assert drawn.shape == (50, 70, 3)


def test_models_side_by_side(detectors: list[Detector], folder: Path, tmp_path: Path) -> None:
    result = predict({"teacher": detectors[0], "student": detectors[1]}, folder / "b.jpg", tmp_path / "out")
    assert list(result.objects) == ["teacher", "student"]
    height, width = cv2.imread(str(tmp_path / "out/b.jpg")).shape[:2]
    assert width >= 140
    assert height > 50
    assert set(read_json(result.json)["pictures"][0]["detections"]) == {"teacher", "student"}


def test_a_video_stays_a_video(detectors: list[Detector], tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.avi")
    result = predict(detectors, source, tmp_path / "out", progress=False)
    assert (result.images, result.frames) == (0, 7)
    (file,) = result.files
    assert file.suffix in {".mp4", ".avi"}
    video = cv2.VideoCapture(str(file))
    frames = [video.read()[0] for _ in range(8)]
    assert frames == [True] * 7 + [False]
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(5)
    pictures = read_json(result.json)["pictures"]
    assert [p["frame"] for p in pictures] == list(range(7))
    assert pictures[5]["time"] == 1.0
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_a_video_that_a_full_disk_cut_off_is_no_video(
    detectors: list[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / "clip.avi", frames=40)

    class Full(module._Video):
        def close(self) -> None:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # as if no byte more fitted
            try:
                self._writer.release()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            super().close()

    monkeypatch.setattr(module, "_Video", Full)
    with pytest.raises(DataError, match=r"^out: only 0 of 40 frames of .*clip\.\w+ reached the disk; make room"):
        predict(detectors[:1], source, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_avi_where_there_is_no_mp4_encoder(
    detectors: list[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / "clip.avi")
    real = cv2.VideoWriter

    class NoMp4:
        """Stands in for OpenCV's own class, whose subclasses crash the garbage collector."""

        fourcc = real.fourcc

        def __init__(self, path: str, *rest: Any) -> None:
            self.writer, self.works = real(path, *rest), path.endswith(".avi")
            self.write, self.release = self.writer.write, self.writer.release

        def isOpened(self) -> bool:
            return self.works

    monkeypatch.setattr(module.cv2, "VideoWriter", NoMp4)
    result = predict(detectors[:1], source, tmp_path / "out", progress=False)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clip.avi", "predictions.json"]
    assert result.frames == 7


def test_pictures_and_videos_in_one_list(detectors: list[Detector], folder: Path, tmp_path: Path) -> None:
    sources = [write_video(tmp_path / "one.avi", 3), folder / "b.jpg", write_video(tmp_path / "two.avi", 4)]
    result = predict(detectors[:1], sources, tmp_path / "out", progress=False)
    assert (result.images, result.frames, len(result.files)) == (1, 7, 3)


def test_only_the_json(detectors: list[Detector], folder: Path, tmp_path: Path) -> None:
    result = predict(detectors[:1], folder, tmp_path / "out", draw=False, progress=False)
    assert result.files == ()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_nothing_half_written_after_a_failure(
    detectors: list[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / "clip.avi")
    calls = 0

    def fail(*_: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("power cut")
        return picture(50, 70)

    monkeypatch.setattr(module, "_drawn", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        predict(detectors[:1], source, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_patterns(folder: Path) -> None:
    assert [p.name for p, _ in find_sources(str(folder / "**/*.png")).items] == ["a.png", "a.png", "c d.png"]
    assert [name for _, name in find_sources(str(folder / "**/a.png")).items] == ["a", "a-2"]


def test_frames_are_counted_ahead(folder: Path, tmp_path: Path) -> None:
    sources = find_sources([folder, write_video(tmp_path / "clip.avi")])
    assert sources.frames == 6 + 7
    assert len(list(read_frames(sources, []))) == 5 + 7


def test_sources_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^source: no such file or folder .*nowhere\.jpg"):
        find_sources("nowhere.jpg")
    with pytest.raises(DataError, match=r"^source: no images or videos in .*empty"):
        find_sources(tmp_path / "empty")
    with pytest.raises(DataError, match=r"^source: .*notes\.txt is neither an image nor a video"):
        find_sources(folder / "notes.txt")
    with pytest.raises(DataError, match=r"^source: no images or videos in an empty list"):
        find_sources([])


def test_nothing_readable(detectors: list[Detector], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"^source: nothing could be read; .*broken\.jpg"):
        predict(detectors, [folder / "broken.jpg", tmp_path / "fake.mp4"], tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_model(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"^model: no model given"):
        predict([], folder, "out")


def test_an_output_folder_that_can_t_be_written(detectors: list[Detector], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^out: can't write"):
        predict(detectors[:1], folder, tmp_path / "file" / "out", progress=False)


def test_titles_tell_models_apart(weights: dict[str, Path], tmp_path: Path) -> None:
    copies = []
    for run in ("teacher", "student"):
        path = tmp_path / run / "weights" / "best.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(weights["26"].read_bytes())
        copies.append(Detector.load(path, imgsz=64))
    assert default_titles(copies) == ["teacher/weights/best", "student/weights/best"]
    both = [Detector.load(weights["26"], imgsz=64, nms=nms) for nms in (None, False)]
    assert len(set(default_titles(both))) == 2
    assert len(set(default_titles([both[0], both[0]]))) == 2
