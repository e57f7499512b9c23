"""Parts of images as data URIs, with the boxes that lie in them in the picture's own pixels."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detkd.data.files import is_file
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.matching import Matches
from detkd.evaluation.side import Run

__all__ = ["Overlay", "crop_picture", "crop_window", "frame_picture", "iou_level", "locate", "read_picture"]

QUALITY = 80
"""Of the JPEG files."""

_CONTEXT = 2.5  # window around an object, in sides of the object
_LEAST = 48.0  # pixels
_ENLARGE = 4.0
_VISIBLE = 0.15  # share of a box that must lie in the window for it to be shown


def locate(record: Mapping[str, Any], source: str, images: str | Path | None = None) -> Path | None:
    """Return the file of an image, or None where there is none.

    Args:
        record: COCO image record.
        source: The label file; relative names may start from its folder, the one above, or `images` in either.
        images: A folder that is looked into first, with and without the folders in the name.
    """
    name = Path(str(record.get("file_name") or ""))
    if not name.name:
        return None
    folder = Path(source).parent
    places = [] if images is None else [Path(images) / name, Path(images) / name.name]
    places += [base / name for base in (folder, folder / "images", folder.parent, folder.parent / "images")]
    return next((place for place in places if is_file(place)), None)


def read_picture(path: Path) -> np.ndarray | None:
    """Return an image as BGR (H, W, 3) uint8, turned as its EXIF data says, or None where it can't be read."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except (OSError, cv2.error):
        return None


def iou_level(matches: Matches, iou: float) -> int:
    """Return the index of the IoU threshold nearest to `iou`."""
    return int(np.abs(np.asarray(matches.params.iou_thresholds) - iou).argmin())


class Overlay:
    """The boxes of every image: labels, and what each side reports at or above its working threshold.

    Detections that don't count, those on a crowd region, are left out.

    Args:
        truth: The labels.
        sides: Role to run and threshold; None reports nothing.
        iou: Overlap from which a detection is a hit.
    """

    def __init__(self, truth: GroundTruth, sides: Mapping[str, tuple[Run, float | None]], iou: float) -> None:
        self.truth = truth
        self.objects = _by_image(truth.image, np.flatnonzero(~truth.crowd))
        self.sides: dict[str, tuple[Run, dict[int, np.ndarray], np.ndarray]] = {}
        for role, (run, threshold) in sides.items():
            matches = run.matches
            level = iou_level(matches, iou)
            hit = np.zeros(len(run.detections), dtype=bool)
            hit[matches.detection[matches.outcome[0, level] == 1]] = True
            counts = (matches.outcome[0, level] >= 0) & (matches.score >= (np.inf if threshold is None else threshold))
            self.sides[role] = (run, _by_image(run.detections.image, matches.detection[counts]), hit)

    def boxes(self, image: int) -> dict[str, list[dict[str, Any]]]:
        """Return role to boxes in image pixels; labels are under "truth" with their row."""
        truth = self.truth
        none = np.empty(0, dtype=np.int64)
        result: dict[str, list[dict[str, Any]]] = {
            "truth": [
                {"box": truth.boxes_xywh[row].tolist(), "class": truth.names[truth.label[row]], "row": int(row)}
                for row in self.objects.get(image, none)
            ]
        }
        for role, (run, rows, hit) in self.sides.items():
            found = run.detections
            result[role] = [
                {
                    "box": found.boxes_xywh[row].tolist(),
                    "class": truth.names[found.label[row]],
                    "score": round(float(found.scores[row]), 3),
                    "hit": bool(hit[row]),
                }
                for row in rows.get(image, none)
            ]
        return result


def _by_image(image: np.ndarray, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Return image to its rows, ascending."""
    rows = np.sort(rows)
    rows = rows[np.argsort(image[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(image[rows], prepend=-1))
    parts = np.split(rows, starts[1:]) if len(rows) else []
    return {int(image[part[0]]): part for part in parts}


def crop_window(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the window around an object, inside the image, whole pixels.

    Args:
        box: Left, top, width, height in pixels.
        width: Of the image.
        height: Of the image.
    """
    x, y, w, h = (float(value) for value in box)
    wide, high = max(w * _CONTEXT, _LEAST), max(h * _CONTEXT, _LEAST)
    wide, high = max(wide, high / 2), max(high, wide / 2)  # a lamp post is seen with the street beside it
    left, right = _shift(x + w / 2, wide, width)
    top, bottom = _shift(y + h / 2, high, height)
    return left, top, right, bottom


def _shift(centre: float, length: float, limit: int) -> tuple[int, int]:
    """Return start and end of an interval of the given length around `centre`, moved into [0, limit]."""
    whole = min(max(round(length), 1), limit)
    start = min(max(round(centre - whole / 2), 0), limit - whole)
    return start, start + whole


def crop_picture(
    picture: np.ndarray, target: np.ndarray, boxes: Mapping[str, list[dict[str, Any]]], row: int, side: int
) -> dict[str, Any]:
    """Return an object with its surroundings.

    Args:
        picture: BGR (H, W, 3) uint8.
        target: The object: left, top, width, height in pixels.
        boxes: What `Overlay.boxes` returns for the image; roles other than truth, before and after are left out.
        row: Row of the object in the truth.
        side: Longer side of the result in pixels.
    """
    left, top, right, bottom = crop_window(target, picture.shape[1], picture.shape[0])
    part = picture[top:bottom, left:right]
    scale = min(side / max(part.shape[:2]), _ENLARGE)
    made = _encode(part, scale)
    gain = (made["width"] / (right - left), made["height"] / (bottom - top))
    inside = {
        role: _inside(boxes[role], (left, top, right, bottom), gain, row) for role in ("truth", "before", "after")
    }
    return {**made, "boxes": inside}


def frame_picture(picture: np.ndarray, boxes: Mapping[str, list[dict[str, Any]]], side: int) -> dict[str, Any]:
    """Return a whole image, its longer side at most `side` pixels; arguments as for `crop_picture`."""
    height, width = picture.shape[:2]
    made = _encode(picture, min(side / max(height, width), 1.0))
    gain = (made["width"] / width, made["height"] / height)
    return {**made, "boxes": {role: _inside(known, (0, 0, width, height), gain, None) for role, known in boxes.items()}}


def _inside(
    boxes: list[dict[str, Any]], window: tuple[int, int, int, int], gain: tuple[float, float], row: int | None
) -> list[dict[str, Any]]:
    """Return the boxes of which a fair share lies in the window, clipped to it, in the picture's pixels."""
    left, top, right, bottom = window
    result = []
    for known in boxes:
        x, y, w, h = known["box"]
        x1, y1, x2, y2 = max(x, left), max(y, top), min(x + w, right), min(y + h, bottom)
        target = row is not None and known.get("row") == row
        if not target and (x2 <= x1 or y2 <= y1 or (x2 - x1) * (y2 - y1) < _VISIBLE * w * h):
            continue
        place = ((x1 - left) * gain[0], (y1 - top) * gain[1], max(x2 - x1, 0.0) * gain[0], max(y2 - y1, 0.0) * gain[1])
        entry = {**known, "box": [round(value, 1) for value in place]}
        if "row" in entry:
            del entry["row"]
            entry["target"] = target
        result.append(entry)
    return result


def _encode(picture: np.ndarray, scale: float) -> dict[str, Any]:
    height, width = picture.shape[:2]
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    if size != (width, height):
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return {
        "uri": "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii"),
        "width": size[0],
        "height": size[1],
    }
