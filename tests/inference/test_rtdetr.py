from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics.models.rtdetr import RTDETRPredictor
from ultralytics.nn.tasks import RTDETRDetectionModel
from ultralytics.utils import LOGGER

from detkd.errors import ModelError
from detkd.inference.answers import Answerer, TeacherSpec
from detkd.inference.detector import Detector
from detkd.models.teacher import LiveTeacher
from detkd.models.weights import build_detector, checkpoint_imgsz, load_detector
from tests.inference.tiny import NAMES, picture, save

LOGGER.setLevel(logging.ERROR)
SIZES = ((90, 120), (64, 200), (131, 77))

CONFIG: dict[str, Any] = {
    "nc": len(NAMES),
    "ch": 3,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
    ],
    "head": [[[2, 3, 4], 1, "RTDETRDecoder", ["nc", 32, 40, 4, 4, 2, 64]]],
}
"""Everything RT-DETR has, small: 40 queries, two decoder layers."""


@pytest.fixture(scope="module")
def rtdetr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RTDETRDetectionModel(CONFIG, nc=len(NAMES), verbose=False)
        for layer in model.model[-1].dec_score_head:  # scores and boxes that differ between queries and classes
            layer.weight.data.normal_(0, 1)
            layer.bias.data.fill_(-1.0)
        for layer in model.model[-1].dec_bbox_head:
            layer.layers[-1].weight.data.normal_(0, 0.5)
    model.names = dict(enumerate(NAMES))
    return save(model.eval(), tmp_path_factory.mktemp("weights") / "tiny-rtdetr.pt")


def ultralytics_rows(path: Path, images: list[np.ndarray], conf: float) -> list[np.ndarray]:
    overrides = {"imgsz": 96, "conf": conf, "max_det": 300, "batch": 1, "device": "cpu", "verbose": False}
    predictor = RTDETRPredictor(overrides={**overrides, "model": str(path)})
    return [predictor(image)[0].boxes.data.numpy() for image in images]


def test_boxes_are_those_of_ultralytics_predictor(rtdetr: Path) -> None:
    images = [picture(h, w, seed) for seed, (h, w) in enumerate(SIZES)]
    detector = Detector.load(rtdetr, imgsz=96, conf=0.3, batch=2)
    for found, theirs, image in zip(
        detector.detect(images), ultralytics_rows(rtdetr, images, 0.3), images, strict=True
    ):
        assert len(found) == len(theirs) > 3
        height, width = image.shape[:2]
        theirs[:, :4] = theirs[:, :4].clip(0, [width, height, width, height])
        np.testing.assert_allclose(found.scores, theirs[:, 4], atol=1e-5)
        np.testing.assert_allclose(found.boxes_xyxy, theirs[:, :4], atol=1e-2)
        assert found.classes.tolist() == theirs[:, 5].tolist()


def test_what_a_protocol_needs(rtdetr: Path) -> None:
    settings = Detector.load(rtdetr, imgsz=96).describe()
    assert settings["letterbox"] == "stretched"
    assert settings["head"] == "one2one (NMS-free)"
    assert settings["iou"] is None
    assert Detector.load(rtdetr, imgsz=96, max_det=5, conf=0).max_det == 5
    assert len(next(Detector.load(rtdetr, imgsz=96, max_det=5, conf=0.0).detect([picture(90, 120)]))) == 5


def test_all_scores_of_a_query_are_kept(rtdetr: Path) -> None:
    """Each of Ultralytics' rows is a query with one class: our vector of that query has the same score there."""
    detector = Detector.load(rtdetr, imgsz=96)
    pixels, _ = detector.prepare([picture(90, 120), picture(50, 60, 1)])
    dense, rows = detector.dense(pixels), detector.raw(pixels)
    assert dense.shape == (2, 4 + len(NAMES), 40)
    for vectors, best in zip(dense.transpose(1, 2), rows, strict=True):
        centres = torch.cat([(best[:, :2] + best[:, 2:4]) / 2, best[:, 2:4] - best[:, :2]], 1)
        apart = (centres[:, None] - vectors[None, :, :4]).abs().amax(-1)
        scores = vectors[:, 4:].gather(1, best[:, 5].long()[None].expand(40, -1)).T
        assert ((apart < 1e-3) & ((scores - best[:, 4:5]).abs() < 1e-5)).any(1).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_exported_files_agree_with_the_checkpoint(rtdetr: Path, kind: str, tmp_path: Path) -> None:
    import shutil

    from ultralytics import RTDETR

    shutil.copy(rtdetr, tmp_path / "copy.pt")
    file = Path(RTDETR(str(tmp_path / "copy.pt")).export(format=kind, imgsz=96, verbose=False))
    images = [picture(90, 120), picture(64, 200, 1)]
    expected = list(Detector.load(rtdetr, imgsz=96, conf=0.3).detect(images))
    exported = Detector.load(file, conf=0.3)
    assert exported.describe()["letterbox"] == "stretched"
    for ours, theirs in zip(exported.detect(images), expected, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=0.1)


def test_it_teaches_through_stored_answers(rtdetr: Path, tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), picture(90, 120))
    answerer = Answerer.load([TeacherSpec(str(rtdetr))], ["car", "bus"], imgsz=96, conf=0.3)
    found = next(answerer.answer([tmp_path / "a.png"]))
    assert len(found) > 0
    assert found.quality.min() > 0.3
    assert (found.probs[:, 1] == 0).all()
    flipped = Answerer.load([TeacherSpec(str(rtdetr))], ["car"], imgsz=96, conf=0.3, flip=True, scales=(1.0, 1.34))
    assert flipped.looks == 4


def test_no_student_and_no_live_teacher(rtdetr: Path) -> None:
    for load in (
        lambda: build_detector(rtdetr, NAMES, key="student"),
        lambda: LiveTeacher.load(str(rtdetr), NAMES),
        lambda: load_detector(rtdetr, key="teacher"),
    ):
        with pytest.raises(ModelError, match=r"^(student|teacher): .*RT-DETR.*cache=instances"):
            load()


def test_size_and_missing_nms(rtdetr: Path) -> None:
    assert checkpoint_imgsz(rtdetr) == 640
    assert Detector.load(rtdetr, imgsz=96, nms=False).nms_free
    with pytest.raises(ModelError, match=r"^nms: .*works without NMS, got nms=true; use nms=null"):
        Detector.load(rtdetr, nms=True)
