"""What a network says about images as soft objects, in one or several looks at each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import detkd.environment

import numpy as np
import torch
import torchvision  # noqa: F401  (Ultralytics' NMS uses its kernel only if somebody has imported it)
from torch import Tensor
from ultralytics.utils.nms import non_max_suppression

from detkd.caching.objects import SoftObjects
from detkd.inference.detector import Detector
from detkd.inference.fusion import merge_same_place
from detkd.io import sha256
from detkd.models.classmap import partial_class_map

__all__ = ["NetworkTeacher", "digest_weights", "soft_objects"]


class NetworkTeacher:
    """A detector of any kind that is asked about images.

    Attributes:
        path: File or folder it came from.
        names: Its classes.
        mapping: Its class indices per class of the data, empty where it does not know the class.
        looks: Times it sees each image.
    """

    def __init__(
        self,
        detector: Detector,
        data_names: Sequence[str],
        *,
        class_map: Mapping[str, str],
        scales: Sequence[float],
        flip: bool,
    ) -> None:
        self.path, self.names = detector.path, detector.names
        self.mapping = partial_class_map(self.names, data_names, class_map, source=str(self.path))
        # Several scales can round to the same size; a second look at the same pixels says nothing new.
        sizes = {look.shape: look for look in (detector.at(scale) for scale in scales)}
        self._detectors = list(sizes.values())
        self._flips = (False, True) if flip else (False,)
        self.looks = len(self._detectors) * len(self._flips)

    def answer(self, images: Sequence[np.ndarray]) -> list[list[SoftObjects]]:
        """Return the objects of each look at each image, BGR (H, W, 3) uint8, in pixels of the image."""
        answers: list[list[SoftObjects]] = [[] for _ in images]
        for detector in self._detectors:
            for flip in self._flips:
                for found, objects in zip(answers, self._look(detector, images, flip), strict=True):
                    found.append(objects)
        return answers

    def _look(self, detector: Detector, images: Sequence[np.ndarray], flip: bool) -> Iterator[SoftObjects]:
        for start in range(0, len(images), detector.step):
            chunk = images[start : start + detector.step]
            shown = [np.ascontiguousarray(image[:, ::-1]) if flip else image for image in chunk]
            pixels, placements = detector.prepare(shown)
            for (boxes, probs), placement in zip(soft_objects(detector, pixels, self.mapping), placements, strict=True):
                placed = placement.restore(boxes.cpu().numpy())
                if flip:
                    placed[:, [0, 2]] = placement.width - placed[:, [2, 0]]
                inside = (placed[:, 2:] > placed[:, :2]).all(1)
                vectors = probs.cpu().numpy()[inside]
                yield merge_same_place(SoftObjects(placed[inside], vectors, vectors.max(1, initial=0)))

    def fingerprint(self) -> dict[str, Any]:
        """Return what its answers depend on, as JSON values."""
        return {
            "weights": digest_weights(self.path),
            "classes": list(self.names),
            "imgsz": [list(detector.shape) for detector in self._detectors],
        }

    def describe(self) -> dict[str, Any]:
        """Return its settings for people to read."""
        sides = [detector.imgsz for detector in self._detectors]
        return {**self._detectors[0].describe(), "multi_label": False, "imgsz": sides, "flip": len(self._flips) > 1}


def soft_objects(detector: Detector, pixels: Tensor, mapping: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor]]:
    """Select the objects of prepared images, each with its whole class vector.

    The classes are those of the data already while NMS runs, so that the detector's other classes neither win a box nor
    use up `max_det`. Where several of its classes share one of the data, the most certain of them counts.

    Args:
        detector: Its `conf`, `iou` and `max_det` apply.
        pixels: What `Detector.prepare` returned, (B, 3, H, W).
        mapping: The detector's class indices per class of the data.

    Returns:
        Per image the boxes in canvas pixels, x1, y1, x2, y2, float32 (N, 4), and probabilities, float32 (N, C), most
        certain first.
    """
    dense = detector.dense(pixels).float()
    known = [index for index, sources in enumerate(mapping) if sources]
    scores = torch.stack([dense[:, [4 + source for source in mapping[index]]].amax(1) for index in known], 1)
    inputs = torch.cat([dense[:, :4], scores], 1)
    rows, kept = non_max_suppression(
        inputs,
        detector.conf,
        # No overlap is above 1: heads that put out each object once keep all they found.
        1.0 if detector.nms_free else detector.iou,
        max_det=detector.max_det,
        max_time_img=1e9,
        nc=len(known),
        return_idxs=True,
    )
    found = []
    for image, (row, anchors) in enumerate(zip(rows, kept, strict=True)):
        probs = scores.new_zeros(len(row), len(mapping))
        probs[:, known] = scores[image][:, anchors.reshape(-1).long()].T
        found.append((row[:, :4], probs))
    return found


def digest_weights(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and digests of all files in a folder."""
    if path.is_file():
        return sha256(path)
    import hashlib

    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = "".join(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
