"""From what teachers answered to a data set: boxes above their class's threshold become labels.

An annotation's id is made of its image and the row of the answer it comes from. Neither depends on thresholds or on
what else was collected, so what a person rejected stays rejected when the set is formed anew.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from detkd.data.build import build_set
from detkd.data.coco_reader import read_coco
from detkd.data.files import absolute, load_json
from detkd.data.problems import Findings
from detkd.data.records import DataSpec, DetectionSet
from detkd.diagnosis.precision import ClassThreshold
from detkd.errors import DataError
from detkd.footage.collection import Item
from detkd.footage.labels import Labels, Objects, as_dict, score_limits
from detkd.footage.merge import write_merged, write_yolo
from detkd.footage.reject import IMAGES_FROM, read_rejected
from detkd.io import read_json, sweep, write_json
from detkd.progress import track

__all__ = ["FormResult", "form", "image_ids", "load_formed"]

_OURS = ("annotations.json", "data.yaml", "labels")


@dataclass(frozen=True)
class FormResult:
    """A formed data set.

    Attributes:
        folder: Where it is.
        annotations: Its COCO file, with `score`, `quality` and `probs` per box and `source` per image.
        yolo: Its data.yaml.
        merged: Split to COCO file of labelled and formed images together.
        images: Number of formed images.
        boxes: Number of their boxes.
        empty: Images without a box.
        per_class: Class name to number of boxes.
        rejected_images: Images left out because a person rejected them.
        rejected_boxes: Boxes left out for that reason.
        notes: One-line remarks.
    """

    folder: Path
    annotations: Path
    yolo: Path
    merged: dict[str, Path]
    images: int
    boxes: int
    empty: int
    per_class: dict[str, int]
    rejected_images: int
    rejected_boxes: int
    notes: tuple[str, ...]


def form(
    items: Sequence[Item],
    answers: Iterable[Objects],
    thresholds: Mapping[str, ClassThreshold | float | None],
    names: Sequence[str],
    category_ids: Sequence[int],
    *,
    labelled: DataSpec,
    folder: str | Path,
    provenance: Mapping[str, Any],
    reject: str | Path | Sequence[Any] | None = None,
) -> FormResult:
    """Write the data set: COCO and YOLO labels, where they come from, and a copy merged with the labelled data.

    A box has the class of its highest probability, which is its score, and becomes a label if that is at least the
    class's threshold. Images without such a box stay as background. Nothing of the labelled data is changed.

    Args:
        items: The images.
        answers: For each image its objects, in the same order.
        thresholds: Class name to lowest score; None gives the class no labels.
        names: Classes of the answers, those of the labelled data.
        category_ids: COCO id of each class.
        labelled: The labelled data.
        folder: Where to; an earlier result of this function in it is replaced.
        provenance: What is known of the answers (teachers, fingerprint, settings), JSON values.
        reject: What a person rejected; see `read_rejected`.

    Raises:
        ConfigError: If the thresholds don't fit the classes.
        DataError: If no box becomes a label, there are more or fewer answers than images, or the folder holds other
            data.
        ShapeError: If an answer has the wrong shape.
    """
    # As `collect` does: frames are then found below the folder, however it was named.
    target = absolute(folder).resolve()
    limits = score_limits(thresholds, names, labelled)
    rejected = read_rejected(reject)
    known = {record.path.resolve() for split in labelled.splits.values() for record in split.records}
    _check_folder(target, known)
    ids = image_ids(items, {one.image_id for split in labelled.splits.values() for one in split.records})
    cuts = {name: as_dict(thresholds[name]) for name in names}
    facts: dict[str, Any] = {**provenance, "schema": 1, "classes": list(names), "thresholds": cuts}
    file = write_json(target / "provenance.json", {**facts, "complete": False})
    sweep(*(place for place, _, _ in os.walk(target)))

    made = Labels(names, category_ids, limits, rejected)
    following = iter(answers)
    for item, image_id in track(list(zip(items, ids, strict=True)), "forming labels"):
        objects = next(following, None)
        if objects is None:
            raise DataError(f"answers: fewer than the {len(items)} images; let the teacher answer again (stage=answer)")
        path = absolute(item.file)
        if path.resolve() in known:
            made.counts["labelled images"] += 1
        elif image_id in rejected.images:
            made.counts["rejected images"] += 1
        else:
            made.add(item, path, image_id, objects)
    if next(following, None) is not None:
        raise DataError(f"answers: more than the {len(items)} images; let the teacher answer again (stage=answer)")
    if not made.annotations:
        raise DataError(made.why_empty(len(items)))

    categories = [{"id": number, "name": name} for number, name in zip(category_ids, names, strict=True)]
    content: dict[str, Any] = {
        "info": {"description": "labels made by a teacher"},
        "images": made.images,
        "categories": categories,
    }
    content["annotations"] = made.annotations
    annotations = write_json(target / "annotations.json", content, indent=None)
    yolo = write_yolo(made.records, labelled, target)
    merged = write_merged(labelled, made.images, made.annotations, target / "merged", category_ids=category_ids)
    empty = sum(not len(record.classes) for record in made.records)
    per_class = Counter(int(index) for record in made.records for index in record.classes)
    result = FormResult(
        target, annotations, yolo, merged, len(made.images), len(made.annotations), empty,
        {name: per_class[index] for index, name in enumerate(names)},
        made.counts["rejected images"], made.counts["rejected boxes"], made.notes(thresholds),
    )  # fmt: skip
    numbers = {key: getattr(result, key) for key in ("images", "boxes", "empty", "per_class", "notes")}
    done = {"rejected": list(rejected.entries), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(file, {**facts, **numbers, **done, "complete": True})
    return result


def image_ids(items: Sequence[Item], taken: Iterable[int] = ()) -> list[int]:
    """Return an id for each image that depends on nothing but where it comes from.

    That is source and time of a video frame, and the file of anything else.

    Args:
        items: The images.
        taken: Ids that others have.
    """
    used, ids = set(taken), []
    for item in items:
        origin = str(absolute(item.file)) if item.time_s is None else f"{item.source} at {round(item.time_s * 1000)} ms"
        for attempt in range(1000):
            digest = hashlib.blake2b(f"{origin}{attempt or ''}".encode("utf-8", "surrogateescape"), digest_size=8)
            number = IMAGES_FROM + int.from_bytes(digest.digest(), "big") % IMAGES_FROM
            if number not in used:
                break
        used.add(number)
        ids.append(number)
    return ids


def load_formed(folder: str | Path, names: Sequence[str], *, category_ids: Sequence[int] | None = None) -> DetectionSet:
    """Read a formed data set for training.

    Args:
        folder: Where `form` wrote it.
        names: Classes of the data it is trained with; found by name, in any order.
        category_ids: Their COCO ids; by default those of the set.

    Returns:
        Records whose `quality` is the score of each box and whose `meta` has `source`.

    Raises:
        DataError: If the set is incomplete, has not the same classes, or an image can't be used.
    """
    target = absolute(folder)
    facts = read_json(target / "provenance.json")
    if not isinstance(facts, Mapping) or not facts.get("complete"):
        raise DataError(f"unlabelled.path: {target} was not finished; run detkd pseudolabel with out={target} again")
    file = target / "annotations.json"
    content, findings = load_json(file, "unlabelled.path"), Findings()
    there = [str(entry.get("name")) for entry in content["categories"]]
    if set(there) != set(names):
        raise DataError(
            f"unlabelled.path: the classes of {target} are {there}, those of the labelled data {list(names)}; label "
            "the footage with data=... set to the data that you train on"
        )
    raw = read_coco(content, findings, split="pseudo", label=str(file), folder=target, names=names)
    dataset = build_set(raw, findings)
    findings.close()
    scores: dict[int, list[float]] = {}
    for entry in content["annotations"]:  # nothing was left out, so an image's boxes are in the order of the file
        scores.setdefault(entry["image_id"], []).append(float(entry["score"]))
    records = tuple(
        replace(record, quality=np.clip(np.asarray(scores.get(record.image_id, ()), dtype=np.float64), 1e-6, 1.0))
        for record in dataset.records
    )
    return replace(dataset, records=records, category_ids=tuple(category_ids or dataset.category_ids))


def _check_folder(target: Path, labelled: Iterable[Path]) -> None:
    if (inside := next((path for path in labelled if path.is_relative_to(target)), None)) is not None:
        raise DataError(f"out: labelled images lie in {target} ({inside.name}); choose another folder")
    if not (target / "provenance.json").is_file() and (other := [n for n in _OURS if (target / n).exists()]):
        raise DataError(f"out: {target} holds {', '.join(other)} of another data set; choose another folder")
