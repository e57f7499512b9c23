from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionValidator
from ultralytics.utils import LOGGER
from ultralytics.utils.ops import scale_boxes

from detkd.errors import ConfigError, DataError, ModelError
from detkd.inference.detector import Detections, Detector
from detkd.inference.images import PAD_VALUE, letterbox
from tests.inference.tiny import NAMES, picture, save

SIZES = ((90, 120), (64, 200), (131, 77), (96, 96))
LOGGER.setLevel(logging.ERROR)


def rows(found: Detections) -> np.ndarray:
    return np.concatenate([found.boxes_xyxy, found.scores[:, None], found.classes[:, None]], 1)


def ultralytics_rows(
    path: Path, images: list[np.ndarray], *, imgsz: int, conf: float, nms: bool | None
) -> list[np.ndarray]:
    """What Ultralytics' own predictor finds, square letterbox, one label per box."""
    overrides = {"imgsz": imgsz, "conf": conf, "iou": 0.7, "max_det": 300, "nms": nms, "rect": False, "batch": 1}
    predictor = DetectionPredictor(overrides={**overrides, "device": "cpu", "verbose": False, "model": str(path)})
    found: list[Results] = [predictor(image)[0] for image in images]
    return [result.boxes.data.numpy() for result in found]


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(ours[:, 4], theirs[:, 4], atol=1e-4)
    # Equal scores may come in another order, so each row looks for its twin; a class counts like a pixel.
    apart = np.abs(ours[:, None] - theirs[None]).max(-1)
    assert apart.min(0).max() < 1e-2
    assert apart.min(1).max() < 1e-2


@pytest.mark.parametrize(("family", "nms"), [("26", None), ("26", False), ("v8", None)])
def test_boxes_are_those_of_ultralytics_predictor(weights: dict[str, Path], family: str, nms: bool | None) -> None:
    images = [picture(h, w, seed) for seed, (h, w) in enumerate(SIZES)]
    detector = Detector.load(weights[family], imgsz=96, conf=0.14, nms=nms, multi_label=False, batch=3)
    theirs = ultralytics_rows(weights[family], images, imgsz=96, conf=0.14, nms=nms)
    for found, expected in zip(detector.detect(images), theirs, strict=True):
        assert_same(rows(found), expected)


@pytest.mark.parametrize("nms", [None, False])
def test_boxes_are_those_of_ultralytics_validator(weights: dict[str, Path], nms: bool | None) -> None:
    # 4:3, so that val's rounding of the short side agrees with ours.
    images = [picture(90, 120, seed) for seed in range(3)]
    validator = DetectionValidator(args={"conf": 0.05, "iou": 0.7, "max_det": 300, "nms": nms, "verbose": False})
    validator.end2end = nms is False
    detector = Detector.load(weights["26"], imgsz=96, conf=0.05, nms=nms)
    pixels, _ = detector.prepare(images)
    expected = validator.postprocess(detector.raw(pixels))
    for found, theirs in zip(detector.detect(images), expected, strict=True):
        boxes = scale_boxes((96, 96), theirs["bboxes"].clone(), (90, 120)).numpy()
        assert_same(rows(found), np.concatenate([boxes, theirs["conf"][:, None], theirs["cls"][:, None]], 1))


@pytest.mark.parametrize(("name", "nms"), [("yolo26n", None), ("yolo26n", False), ("yolov8n", None)])
def test_pretrained_detectors_agree_with_ultralytics(assets: Path, name: str, nms: bool | None) -> None:
    path = assets / "weights" / f"{name}.pt"
    files = sorted((assets / "data/coco_mini/images").rglob("*.jpg"))[:3]
    images = [cv2.imread(str(file)) for file in files]
    detector = Detector.load(path, imgsz=320, conf=0.05, nms=nms, multi_label=False)
    theirs = ultralytics_rows(path, images, imgsz=320, conf=0.05, nms=nms)
    for found, expected in zip(detector.detect(files), theirs, strict=True):
        assert_same(rows(found), expected)


def test_multi_label_and_limits_follow_nms(weights: dict[str, Path]) -> None:
    image = picture(96, 96)
    many = next(Detector.load(weights["v8"], imgsz=96).detect([image]))
    single = next(Detector.load(weights["v8"], imgsz=96, multi_label=False).detect([image]))
    few = next(Detector.load(weights["v8"], imgsz=96, max_det=5).detect([image]))
    assert len(many) > len(single) > len(few) == 5
    np.testing.assert_array_equal(few.boxes_xyxy, many.boxes_xyxy[:5])
    assert (np.diff(many.scores) <= 0).all()
    assert many.boxes_xyxy.dtype == many.scores.dtype == np.float32
    assert many.classes.dtype == np.int64


def test_max_det_holds_for_the_nms_free_head(weights: dict[str, Path]) -> None:
    assert len(next(Detector.load(weights["26"], imgsz=96, nms=False, max_det=7).detect([picture(96, 96)]))) == 7


def test_classes_are_chosen_before_max_det(weights: dict[str, Path]) -> None:
    detector = Detector.load(weights["v8"], imgsz=96, max_det=20)
    all_classes = next(detector.detect([picture(96, 96)]))
    cars = next(detector.detect([picture(96, 96)], classes=[1]))
    assert len(cars) == 20 > (all_classes.classes == 1).sum()
    assert set(cars.classes) == {1}


def test_images_are_read_as_needed(weights: dict[str, Path]) -> None:
    taken = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal taken
        for seed in range(100):
            taken += 1
            yield picture(40, 60, seed)

    results = Detector.load(weights["26"], imgsz=64, batch=4).detect(stream())
    for _ in range(5):
        next(results)
    assert taken == 8


def test_batches_change_nothing(weights: dict[str, Path]) -> None:
    images = [picture(50 + 10 * i, 90, i) for i in range(5)]
    one = list(Detector.load(weights["26"], imgsz=64, batch=1, conf=0.1).detect(images))
    four = list(Detector.load(weights["26"], imgsz=64, batch=4, conf=0.1).detect(images))
    for a, b in zip(one, four, strict=True):
        assert_same(rows(a), rows(b))


def test_boxes_lie_inside_the_image(weights: dict[str, Path]) -> None:
    found = next(Detector.load(weights["v8"], imgsz=96).detect([picture(64, 200)]))
    x1, y1, x2, y2 = found.boxes_xyxy.T
    assert x1.min() >= 0
    assert y1.min() >= 0
    assert x2.max() <= 200
    assert y2.max() <= 64


def test_what_a_protocol_needs(weights: dict[str, Path]) -> None:
    with_nms, without = Detector.load(weights["26"], imgsz=64), Detector.load(weights["26"], imgsz=64, nms=False)
    assert with_nms.names == NAMES
    assert with_nms.head == "one2many+nms"
    assert without.head == "one2one (NMS-free)"
    settings = with_nms.describe()
    assert settings["imgsz"] == 64
    assert (settings["conf"], settings["iou"], settings["max_det"]) == (0.001, 0.7, 300)
    assert without.describe()["iou"] is None


def test_letterbox_by_hand() -> None:
    """A 100 x 50 image on 64 x 64: gain 0.64, 64 x 32 pixels, 16 rows of grey above and below."""
    canvas, place = letterbox(np.zeros((50, 100, 3), np.uint8), (64, 64))
    assert place[:2] == (0, 16)
    assert (canvas[:16] == PAD_VALUE).all()
    assert (canvas[48:] == PAD_VALUE).all()
    assert (canvas[16:48] == 0).all()
    restored = place.restore(np.array([[0.0, 16.0, 64.0, 48.0], [-5.0, 0.0, 70.0, 64.0]]))
    np.testing.assert_allclose(restored, [[0, 0, 100, 50]] * 2)


def test_thin_images_keep_a_pixel() -> None:
    canvas, place = letterbox(np.zeros((1, 3000, 3), np.uint8), (64, 64))
    assert (canvas == 0).all(2).any()
    assert np.isfinite(place.restore(np.array([[0.0, 31.0, 64.0, 32.0]]))).all()


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["checkpoint", "legacy checkpoint", "bare pickle"])
def test_a_malicious_checkpoint_is_not_executed(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / "owned", tmp_path / "evil.pt"
    content = {"model": Payload(marker), "ema": None, "train_args": {}}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "checkpoint")
    with pytest.raises(ModelError, match=r"^model: ") as caught:
        Detector.load(path)
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    if kind == "checkpoint":
        assert "trust=true" in str(caught.value)


def test_missing_weights_offline() -> None:
    with pytest.raises(ModelError, match=r"^model: no such file nowhere/best\.pt"):
        Detector.load("nowhere/best.pt")


def test_official_weights_that_can_t_be_downloaded() -> None:
    with pytest.raises(ModelError, match=r"^model: yolo26x\.pt .*can't be downloaded"):
        Detector.load("yolo26x")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_corrupt_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"^model: .*broken\.pt") as caught:
        Detector.load(path)
    assert "\n" not in str(caught.value)


def test_truncated_checkpoint(tmp_path: Path, weights: dict[str, Path]) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(weights["26"].read_bytes()[:50_000])
    assert not zipfile.is_zipfile(path)
    with pytest.raises(ModelError, match=r"^model: .*cut\.pt"):
        Detector.load(path)


def test_models_that_are_no_detectors(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import SegmentationModel, yaml_model_load

    config = yaml_model_load("yolo26n-seg.yaml")
    config.update(scale="n", scales={"n": [0.33, 0.125, 256]})
    path = save(SegmentationModel(config, nc=2, verbose=False), tmp_path / "segment.pt")
    with pytest.raises(ModelError, match=r"^model: .*segment\.pt ends in Segment26?, not in a Detect head"):
        Detector.load(path)


def test_the_nms_free_head_is_refused_where_there_is_none(weights: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"^nms: .*no NMS-free head .*use nms=null"):
        Detector.load(weights["v8"], nms=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgsz": 100}, r"^imgsz: must be a multiple of 32, got 100; use imgsz=128"),
        ({"imgsz": 0}, r"^imgsz: must be at least 32"),
        ({"conf": 1.5}, r"^conf: must be between 0 and 1, got 1.5"),
        ({"iou": -1}, r"^iou: must be between 0 and 1"),
        ({"max_det": 0}, r"^max_det: must be at least 1"),
        ({"batch": 0}, r"^batch: must be at least 1"),
        ({"device": "gpu7"}, r"^device: can't run on 'gpu7'"),
        ({"device": 99}, r"^device: can't run on 99"),
    ],
)
def test_settings_out_of_range(weights: dict[str, Path], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Detector.load(weights["26"], **change)


def test_the_size_of_the_training_is_the_default_on_request(tmp_path: Path, weights: dict[str, Path]) -> None:
    checkpoint = torch.load(weights["26"], weights_only=False)
    checkpoint["train_args"]["imgsz"] = 96
    torch.save(checkpoint, tmp_path / "at96.pt")
    assert Detector.load(tmp_path / "at96.pt", imgsz=None).imgsz == 96
    assert Detector.load(weights["26"], imgsz=None).imgsz == 640


def test_half_precision_needs_a_gpu(weights: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"^half: half precision needs a GPU"):
        Detector.load(weights["26"], half=True)


def test_unreadable_images_are_named(weights: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    detector = Detector.load(weights["26"], imgsz=64)
    for path in (broken, tmp_path / "missing.jpg"):
        with pytest.raises(DataError, match=path.name):
            list(detector.detect([path]))


def test_nms_is_never_cut_short_by_the_clock(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import itertools

    clock = itertools.count(0.0, 1000.0)
    monkeypatch.setattr("ultralytics.utils.nms.time.time", lambda: next(clock))
    images = [picture(64, 64, seed) for seed in range(3)]
    assert all(len(found) for found in Detector.load(weights["v8"], imgsz=64).detect(images))


def test_the_model_of_a_tiny_yaml_finds_several_classes(weights: dict[str, Path]) -> None:
    """Guards the tests above: with one class or equal scores they would prove little."""
    found = next(Detector.load(weights["26"], imgsz=96, conf=0.05).detect([picture(96, 96)]))
    assert len(set(found.classes)) > 1
    assert len(set(found.scores.tolist())) > 10
