"""Control and student on the same images, side by side with the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from detkd.data.records import DetectionSet, ImageRecord
from detkd.io import atomic_path

__all__ = ["pick_records", "write_side_by_side"]


def pick_records(dataset: DetectionSet, count: int) -> tuple[ImageRecord, ...]:
    """Choose images spread over the set, those with more objects first within each stretch."""
    stretches = np.array_split(np.arange(len(dataset)), min(count, len(dataset)))
    return tuple(dataset.records[max(part, key=lambda i: len(dataset.records[i].classes))] for part in stretches)


def write_side_by_side(
    models: Sequence[tuple[str, str | Path, float]],
    dataset: DetectionSet,
    folder: Path,
    *,
    count: int,
    imgsz: int,
    nms: bool | None = None,
    device: str = "cpu",
) -> list[Path]:
    """Write one JPEG per image: labels, then the boxes of each model above the score at which its F1 is best.

    One common score would show which model is surer of itself, not which one sees more: distillation shifts scores.

    Args:
        models: Title, weights and lowest score of each pane.
        dataset: Where the images come from.
        folder: Where the pictures go.
        count: Number of images.
        imgsz: Pixels the models see.
        nms: Which head answers; see `Detector.load`.
        device: Device.
    """
    from detkd.inference.detector import Detector
    from detkd.inference.draw import draw_boxes, side_by_side
    from detkd.inference.images import read_image

    records = pick_records(dataset, count)
    images = [read_image(record.path) for record in records]
    panes = [
        [draw_boxes(image, record.boxes_xyxy, record.classes, None, dataset.names)]
        for image, record in zip(images, records, strict=True)
    ]
    for _, weights, conf in models:
        detector = Detector.load(weights, imgsz=imgsz, nms=nms, device=device, conf=conf, iou=0.5, multi_label=False)
        for row, image, found in zip(panes, images, detector.detect(images), strict=True):
            row.append(draw_boxes(image, found.boxes_xyxy, found.classes, found.scores, detector.names))
    titles = ["labels", *(f"{title}, score > {conf:.2f}" for title, _, conf in models)]
    written = []
    for record, row in zip(records, panes, strict=True):
        path = folder / f"{record.path.stem}.jpg"
        _, content = cv2.imencode(".jpg", side_by_side(row, titles), [cv2.IMWRITE_JPEG_QUALITY, 90])
        with atomic_path(path) as temporary:  # not cv2.imwrite, which says nothing when the disk is full
            temporary.write_bytes(content.tobytes())
        written.append(path)
    return written
