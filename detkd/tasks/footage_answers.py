"""What teachers say about footage, and from which score on that is good enough for a label."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.caching.engine import batched
from detkd.caching.fingerprint import differences, image_digests, list_digest
from detkd.caching.objects import SoftObjects, decode_objects
from detkd.caching.store import CacheReader, CacheWriter, create_cache, read_manifest
from detkd.data.coco import to_coco
from detkd.data.records import DataSpec, ImageRecord
from detkd.diagnosis.precision import ClassThreshold, thresholds_for, wilson_low
from detkd.diagnosis.working_point import sweep
from detkd.errors import ConfigError, DataError
from detkd.evaluation.matching import Matches
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from detkd.inference.results import to_coco_results
from detkd.io import write_json
from detkd.progress import console, track
from detkd.runs import environment_record
from detkd.tasks.arguments import pick_device
from detkd.tasks.engines import engine_of, own_device

if TYPE_CHECKING:
    from detkd.inference.answers import Answerer, TeacherSpec

__all__ = ["ANSWERS", "VAL_ANSWERS", "answers_of", "ask", "load_teachers", "teacher_specs", "thresholds_of"]

ANSWERS, VAL_ANSWERS = "answers", "answers-val"
"""Folders of the answers, below that of the set."""

_CLASSES = 8
"""Classes stored per object; a label needs the first, soft labels hardly gain from more."""

_MEMO = "digests.json"


def teacher_specs(first: Mapping[str, Any], further: Any) -> list[TeacherSpec]:
    """Return what the group `teacher` and the key `teachers` name, the first one first.

    Args:
        first: The group `teacher`.
        further: List of paths, or of mappings with `path`, `imgsz`, `class_map` and `weight`.

    Raises:
        ConfigError: If `teachers` is no such list.
    """
    from detkd.inference.answers import TeacherSpec
    from detkd.signature import call_problems

    for key in ("others", "classes"):
        if first.get(key):
            raise ConfigError(
                f"teacher.{key}: is for teachers asked in every step and cache=views, got {first[key]!r}; several that "
                "are asked about objects go in teachers=[...] (cache.teachers with cache=instances)"
            )
    first = {key: first.get(key) for key in ("path", "imgsz", "class_map", "weight")}
    if not isinstance(further, (list, tuple)):
        raise ConfigError(f"teachers: must be a list, got {further!r}; e.g. teachers=[other.pt]")
    specs = []
    for number, entry in enumerate([first, *further]):
        if not isinstance(entry, (str, Mapping)):
            raise ConfigError(f"teachers: must hold paths or {{path, imgsz, class_map}}, got {entry!r}")
        given: dict[str, Any] = (
            {"path": entry} if isinstance(entry, str) else {k: v for k, v in entry.items() if v is not None}
        )
        if problems := call_problems(TeacherSpec, given, f"teachers[{number - 1}]" if number else "teacher"):
            raise ConfigError("\n".join(problems))
        specs.append(TeacherSpec(**given))
    return specs


def load_teachers(config: Mapping[str, Any], names: Sequence[str], category_ids: Sequence[int]) -> Answerer:
    """Return what asks all teachers of a configuration.

    Raises:
        ConfigError: If a key can't be used.
        ModelError: If a teacher can't be loaded, or knows none of the classes.
    """
    from detkd.inference.answers import Answerer
    from detkd.tasks.teachers import with_packaged_teacher

    asked = ("imgsz", "batch", "scales", "flip", "conf", "iou", "wbf_iou", "max_objects")
    teachers = Answerer.load(
        teacher_specs(with_packaged_teacher(config)["teacher"], config["teachers"]),
        names,
        device=pick_device(own_device(config)),
        category_ids=category_ids,
        **{key: config[key] for key in asked},
    )
    for note in teachers.notes():
        console.print(f"note: {note}", highlight=False)
    return teachers


def ask(
    teachers: Answerer,
    records: Sequence[ImageRecord],
    folder: Path,
    config: Mapping[str, Any],
    *,
    label: str,
) -> None:
    """Store what the teachers see in some images; images that have an answer already are not asked about again.

    Args:
        teachers: Who is asked.
        records: The images; their labels don't matter.
        folder: Where the answers go, as a cache of instances: image number and view 0.
        config: Of the verb.
        label: What the images are, for the progress bar.

    Raises:
        ConfigError: If the folder holds answers of other teachers or settings; names what differs.
    """
    from detkd.inference.asking import ObjectAsker, Shot

    most = int(config["max_objects"])
    names = list(teachers.names)
    kept = min(_CLASSES, len(names))
    layout = {"classes": kept, "num_classes": len(names), "max_objects": most}
    fingerprint = {
        "teachers": teachers.fingerprint(),
        "images": _images(records, folder),
        "names": names,
        "stored": layout,
    }
    _settle(folder, fingerprint)
    facts = {"teachers": teachers.describe(), "environment": environment_record()}
    manifest = create_cache(
        folder, kind="instances", fingerprint=fingerprint, layout=layout, expected=len(records), facts=facts
    )
    if manifest.complete:
        console.print(f"[dim]answer: {label}: {len(records)} images were answered before[/dim]")
        return
    with CacheWriter(folder) as writer:
        missing = [number for number, _ in writer.missing([(number, 0) for number in range(len(records))])]
        asker = ObjectAsker(teachers, classes=kept, max_objects=most)
        shots = [Shot.of(records[number]) for number in missing]
        packed = engine_of(config).run(asker, batched(shots, int(config["batch"])))
        for number, payload in zip(missing, track(packed, f"answer: {label}", len(missing)), strict=True):
            writer.add(number, 0, payload)
        writer.finish()


def answers_of(
    records: Sequence[ImageRecord], folder: Path, num_classes: int
) -> tuple[Iterator[SoftObjects], dict[str, Any]]:
    """Return the stored answers in the order of the images, and where they come from.

    Raises:
        ConfigError: If the teachers have not answered, or about other images.
    """
    if not (folder / "cache.json").is_file():
        raise ConfigError(f"stage: no answers in {folder.parent} yet; use stage=answer, or stage=all")
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise ConfigError(f"stage: {folder} is not complete; use stage=answer, which goes on where it stopped")
    if differences(manifest.fingerprint["images"], _images(records, folder)):
        raise ConfigError(f"stage: the images have changed since {folder} was made; use stage=answer, or stage=all")
    reader = CacheReader(folder)
    objects = (
        decode_objects(reader.read(number, 0), size=(record.width, record.height), num_classes=num_classes)
        for number, record in enumerate(records)
    )
    return objects, {"fingerprint": manifest.fingerprint, "answers": manifest.digest, **manifest.facts}


def _images(records: Sequence[ImageRecord], folder: Path) -> dict[str, Any]:
    """Return what tells whether these are the images that were asked about."""
    paths = [record.path for record in records]
    return {"count": len(paths), "digest": list_digest(image_digests(paths, folder.parent / _MEMO))}


def _settle(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Remove answers about other images; refuse to go on with other teachers.

    Stage one collects anew when its settings change, and answers about pictures that are gone are of no use. Teachers
    may have worked for days, so what they said is never thrown away without being asked for.
    """
    if not (folder / "cache.json").is_file():
        return
    fields = differences(read_manifest(folder).fingerprint, wanted)
    others = [field for field in fields if not field[0].startswith("images.")]
    if others:
        name, there, here = others[0]
        raise ConfigError(
            f"out: {folder} holds answers made with {name} {_short(there)}, got {_short(here)}; choose another out=, "
            "or delete that folder to ask again"
        )
    if fields:
        console.print("answer: the images have changed, so the teachers are asked again", highlight=False)
        shutil.rmtree(folder)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def thresholds_of(
    config: Mapping[str, Any], spec: DataSpec, folder: Path, by_hand: Mapping[str, float | None]
) -> dict[str, ClassThreshold]:
    """Return the score from which each class's boxes become labels, and write it to `thresholds.json`.

    Args:
        config: Of the verb; `precision` and `min_hits` say what is wanted.
        spec: The labelled data.
        folder: Of the set, with the answers on the val split.
        by_hand: Scores set by hand; their precision is measured all the same where there is a val split.

    Raises:
        ConfigError: If a value can't be used, or the teachers have not answered.
        DataError: If they found nothing on the val split, and not all thresholds are set by hand.
    """
    matches = _val_matches(spec, folder)
    if matches is None:
        found = {name: _measured(None, name, score) for name, score in by_hand.items()}
    else:
        found = thresholds_for(matches, spec.names, config["precision"], min_hits=config["min_hits"])
        found |= {name: _measured(matches, name, score) for name, score in by_hand.items()}
    if missing := [name for name in spec.names if name not in found]:
        raise DataError(
            f"precision: the teachers found nothing on the val split, so there is no threshold for {missing[0]}; check "
            "that teacher and data fit together, lower conf, or set thresholds by hand"
        )
    found = {name: found[name] for name in spec.names}
    content = {name: {**cut.to_dict(), "by_hand": name in by_hand} for name, cut in found.items()}
    asked = {"precision": config["precision"], "min_hits": config["min_hits"]}
    write_json(folder / "thresholds.json", {"schema": 1, **asked, "classes": content})
    return found


def _val_matches(spec: DataSpec, folder: Path) -> Matches | None:
    """Match the answers on the val split with its labels; None without such a split or without a single answer."""
    val = spec.splits.get("val")
    if val is None:
        return None
    answers, _ = answers_of(val.records, folder / VAL_ANSWERS, len(spec.names))
    categories = dict(enumerate(val.category_ids))
    rows: list[dict[str, Any]] = []
    for record, objects in zip(val.records, answers, strict=True):
        rows += to_coco_results(
            record.image_id, objects.boxes_xyxy, objects.probs.max(1, initial=0.0), objects.classes, categories
        )
    return make_run(load_truth(to_coco(val)), rows, source="teachers").matches if rows else None


def _measured(matches: Matches | None, name: str, score: float | None) -> ClassThreshold:
    """Return a threshold set by hand with what it gives on the labelled images."""
    blank = ClassThreshold(score, None, None, None, 0, 0, 0, "" if score is not None else "so set by hand")
    if matches is None or score is None:
        return blank
    curve = sweep(matches, matches.names.index(name))
    passing = int((curve.score >= score).sum())
    hits, false = (int(curve.hits[passing - 1]), int(curve.false[passing - 1])) if passing else (0, 0)
    total = hits + false
    return replace(
        blank,
        precision=hits / total if total else None,
        low=wilson_low(hits, total),
        recall=hits / curve.objects if curve.objects else None,
        hits=hits,
        false_alarms=false,
        objects=curve.objects,
    )
