"""A detector's findings on a data set as COCO results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detkd.data.records import DetectionSet
from detkd.errors import PairError
from detkd.inference.detector import Detector
from detkd.progress import console, track

__all__ = ["ClassLinks", "detect_set", "link_classes", "stream_set", "to_coco_results"]


@dataclass(frozen=True)
class ClassLinks:
    """Which of a model's classes are which classes of the data.

    Attributes:
        index: Model class index to class index of the data.
        ignored: Classes that only the model has.
        missing: Classes that only the data has: they count as never found.
    """

    index: dict[int, int]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return remarks for the user, one line each; empty when both sides have the same classes."""
        lines = []
        if self.ignored:
            total = len(self.ignored) + len(self.index)
            lines.append(
                f"{len(self.ignored)} of the model's {total} classes are not in the data: {_few(self.ignored)}"
            )
        if self.missing:
            lines.append(f"the model does not know {_few(self.missing)}: AP 0 for that")
        return lines


def link_classes(model_names: Sequence[str], data_names: Sequence[str]) -> ClassLinks:
    """Match classes by name, without regard to case, spaces, dashes and underscores.

    Raises:
        PairError: If model and data have no class in common.
    """
    wanted = {_plain(name): index for index, name in enumerate(data_names)}
    index = {i: wanted[_plain(name)] for i, name in enumerate(model_names) if _plain(name) in wanted}
    if not index:
        raise PairError(
            f"model: it has no class in common with the data; model: {_few(model_names, 20)}; "
            f"data: {_few(data_names, 20)}; choose weights trained on these classes"
        )
    found = set(index.values())
    return ClassLinks(
        index,
        tuple(name for i, name in enumerate(model_names) if i not in index),
        tuple(name for i, name in enumerate(data_names) if i not in found),
    )


def detect_set(detector: Detector, dataset: DetectionSet, *, progress: bool = True) -> list[dict[str, Any]]:
    """Return what `stream_set` yields as a list; some 300 records per image."""
    return list(stream_set(detector, dataset, progress=progress))


def stream_set(detector: Detector, dataset: DetectionSet, *, progress: bool = True) -> Iterator[dict[str, Any]]:
    """Run a detector over a data set, a batch of images in memory at a time.

    Classes are matched by name (`link_classes`); what the model finds of other classes is left out.

    Args:
        detector: Its class order may differ from that of the data.
        dataset: The images.
        progress: Show a progress bar, and remarks about classes, on stderr.

    Yields:
        COCO results in the order of the images, best first: image_id, category_id of the data, bbox as x, y, width,
        height in pixels to 4 decimals, score to 6 decimals.

    Raises:
        PairError: If model and data have no class in common.
        DataError: If an image can't be read.
    """
    links = link_classes(detector.names, dataset.names)
    if progress:
        for note in links.notes():
            console.print(f"note: {note}", highlight=False)
    categories = {model: dataset.category_ids[data] for model, data in links.index.items()}
    wanted = sorted(categories) if links.ignored else None
    records = dataset.records
    stream = detector.detect((record.path for record in records), classes=wanted)
    pairs = zip(records, stream, strict=True)
    for record, found in track(pairs, f"detect {dataset.split}", len(records)) if progress else pairs:
        yield from to_coco_results(record.image_id, found.boxes_xyxy, found.scores, found.classes, categories)


def to_coco_results(
    image_id: int, boxes_xyxy: Any, scores: Any, classes: Any, categories: dict[int, int]
) -> list[dict[str, Any]]:
    """Return one COCO result per box (N, 4) whose class is in `categories` (class index to category id).

    Boxes without area (a detector in its first steps, a box outside the image before clipping) can match no object and
    are left out.
    """
    results = []
    for (x1, y1, x2, y2), score, index in zip(boxes_xyxy.tolist(), scores.tolist(), classes.tolist(), strict=True):
        x, y, width, height = (round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1))
        if index in categories and width > 0 and height > 0:
            box = [x, y, width, height]
            category = categories[index]
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": round(score, 6)})
    return results


def _plain(name: str) -> str:
    return "".join(c for c in str(name).casefold() if c not in " -_")


def _few(names: Sequence[str], limit: int = 6) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
