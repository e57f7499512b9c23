"""`detkd pseudolabel`: from footage that nobody labelled to a training set, in three stages.

Each stage leaves files in `out` that can be looked at, and the next needs nothing else:

    collect    collect.json, contact.jpg, images/   which pictures of the footage are worth an answer
    answer     answers/, answers-val/               what the teachers see there, and on the labelled val split
    form       thresholds.json, annotations.json, labels/, data.yaml, merged/, review.html
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from detkd.data.records import DataSpec, ImageRecord
from detkd.diagnosis.precision import ClassThreshold
from detkd.errors import ConfigError
from detkd.footage.collect import Collection, collect, contact_sheet, load_collection
from detkd.footage.form import form, image_ids
from detkd.footage.overlap import check_overlap
from detkd.footage.reject import read_rejected
from detkd.io import read_json, write_json
from detkd.progress import console, out
from detkd.quoting import as_typed
from detkd.report.review import write_review
from detkd.runs import finish_run, new_folder, start_run
from detkd.signature import nearest
from detkd.tasks.common import get_data
from detkd.tasks.demo import packaged_teacher
from detkd.tasks.engines import check_engine
from detkd.tasks.footage_answers import ANSWERS, VAL_ANSWERS, answers_of, ask, load_teachers, thresholds_of

__all__ = ["PseudolabelResult", "pseudolabel"]

_ASKED = ("teachers", "scales", "flip", "conf", "iou", "wbf_iou", "max_objects")
"""How teachers are asked; the keys of `cache=instances` have the same names."""

_SETTINGS = ("every", "similar", "blur", "dark", "limit")


@dataclass(frozen=True)
class PseudolabelResult:
    """What became of some footage.

    Attributes:
        folder: The set; give it to a training as `unlabelled`.
        images: Pictures that were collected.
        boxes: Class to number of labels; empty before the last stage.
        thresholds: Class to the score from which a box is a label, and what that gave on the val split.
        page: The page to review the labels on, None without one.
    """

    folder: Path
    images: int
    boxes: dict[str, int] = field(default_factory=dict)
    thresholds: dict[str, ClassThreshold] = field(default_factory=dict)
    page: Path | None = None


def pseudolabel(config: dict[str, Any]) -> PseudolabelResult:
    """Run `detkd pseudolabel`.

    Raises:
        ConfigError: If a key can't be used, a stage is asked for before the one it needs, or `out` holds answers of
            other teachers.
        DataError: If nothing is left of the footage, it holds pictures of the val or test split, or no box becomes a
            label.
    """
    stage = str(config["stage"])
    _check(config)
    folder = new_folder(config.get("out"), "pseudolabel")
    start_run(folder, "pseudolabel", config)
    spec = get_data(config["data"], folder)
    by_hand = _by_hand(config.get("thresholds"), spec)
    collection = _collect(config, folder) if stage in ("all", "collect") else _collected(folder)
    _refuse_overlap(collection, spec, folder)
    result = PseudolabelResult(folder, len(collection))
    if stage in ("all", "answer"):
        _answer(config, collection, spec, folder, needs_val=set(by_hand) != set(spec.names))
    if stage != "collect":
        cuts = thresholds_of(config, spec, folder, by_hand)
        result = PseudolabelResult(folder, len(collection), thresholds=cuts)
    if stage in ("all", "form"):
        result = _form(config, collection, spec, folder, result)
    if stage != "collect":
        out.print(_table(result, spec, by_hand))
    finish_run(folder, stage=stage, images=result.images, boxes=result.boxes)
    _say_what_next(config, result, stage)
    return result


def _check(config: Mapping[str, Any]) -> None:
    """Refuse before hours of work what would be refused after them."""
    check_engine(config)
    if (config["data"] or {}).get("labelled") is not None:
        raise ConfigError("data.labelled: hides labels in a training; leave it out here and give it to detkd distill")
    if not 0 < config["precision"] <= 1:
        raise ConfigError(
            f"precision: must be a share in (0, 1], got {config['precision']}; 0.8 lets one in five be wrong"
        )
    for key, least in (("min_hits", 1), ("review", 0)):
        if config[key] < least:
            raise ConfigError(f"{key}: must be {least} or more, got {config[key]}; leave it out for the default")
    given = config.get("reject")
    if given is not None and not isinstance(given, list) and not Path(str(given)).expanduser().is_file():
        raise ConfigError(f"reject: no such file, got {given}; the review page saves one as rejected.json")


def _by_hand(value: Any, spec: DataSpec) -> dict[str, float | None]:
    """Return the thresholds set by hand.

    Raises:
        ConfigError: If a class is unknown or a threshold is no score.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"thresholds: must be a score per class, got {value!r}; e.g. thresholds={{{spec.names[0]}: 0.4}}"
        )
    for name, score in value.items():
        if str(name) not in spec.names:
            raise ConfigError(
                f"thresholds: the data has no class {name}{nearest(str(name), spec.names)} (classes: "
                f"{', '.join(spec.names)})"
            )
        number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if score is not None and not (number and 0 <= score <= 1):
            raise ConfigError(f"thresholds.{name}: must be a score in [0, 1], or null for no labels, got {score!r}")
    return {str(name): None if score is None else float(score) for name, score in value.items()}


def _collect(config: Mapping[str, Any], folder: Path) -> Collection:
    collection = collect(config["source"], folder=folder, **{key: config[key] for key in _SETTINGS})
    contact_sheet(collection, folder / "contact.jpg")
    left_out = ", ".join(f"{count} {reason}" for reason, count in collection.dropped.items() if count)
    console.print(
        f"collect: {len(collection)} of {collection.looked_at} pictures kept"
        + (f" (left out: {left_out})" * bool(left_out)),
        highlight=False,
    )
    for note in collection.notes:
        console.print(f"[dim]{note}[/dim]", highlight=False)
    for entry in collection.skipped:
        console.print(f"[yellow]skipped {entry['file']}: {entry['reason']}[/yellow]", highlight=False)
    return collection


def _collected(folder: Path) -> Collection:
    if not (folder / "collect.json").is_file():
        raise ConfigError(f"stage: nothing is collected in {folder} yet; use stage=collect first, or stage=all")
    return load_collection(folder)


def _refuse_overlap(collection: Collection, spec: DataSpec, folder: Path) -> None:
    """Refuse footage with pictures of the val or test split; what was compared before is not compared again."""
    from detkd.caching.fingerprint import image_digests, list_digest

    pool = [item.file for item in collection.items]
    for name in ("val", "test"):
        if name not in spec.splits:
            continue
        held_out = [record.path for record in spec.splits[name].records]
        seen = {
            key: list_digest(image_digests(files, folder / "digests.json"))
            for key, files in (("footage", pool), ("held_out", held_out))
        }
        memo = folder / f"overlap-{name}.json"
        if not memo.is_file() or read_json(memo) != seen:
            check_overlap(pool, held_out, key="source", held_out=f"{name} split of the data")
            write_json(memo, seen)


def _answer(
    config: Mapping[str, Any], collection: Collection, spec: DataSpec, folder: Path, *, needs_val: bool
) -> None:
    if needs_val and "val" not in spec.splits:
        raise ConfigError(
            "precision: the data has no val split to choose thresholds on; add one (data.split.by=...), or set the "
            f"score of every class by hand: thresholds={{{', '.join(f'{name}: 0.5' for name in spec.names[:3])}}}"
        )
    first = next(iter(spec.splits.values()))
    val = spec.splits["val"].records if "val" in spec.splits else ()
    footage = _records(collection)
    teachers = load_teachers(config, spec.names, first.category_ids)
    teachers.check_images([*footage, *val])
    ask(teachers, footage, folder / ANSWERS, config, label="footage")
    if val:
        ask(teachers, val, folder / VAL_ANSWERS, config, label="val split")


def _records(collection: Collection) -> list[ImageRecord]:
    """Return the pictures as records without labels, for teachers that know images by name or number."""
    from detkd.inference.asking import Shot

    numbered = zip(image_ids(collection.items), collection.items, strict=True)
    return [Shot(str(item.file), number, item.width, item.height).record() for number, item in numbered]


def _form(
    config: Mapping[str, Any], collection: Collection, spec: DataSpec, folder: Path, result: PseudolabelResult
) -> PseudolabelResult:
    answers, provenance = answers_of(_records(collection), folder / ANSWERS, len(spec.names))
    first = next(iter(spec.splits.values()))
    formed = form(
        collection.items,
        answers,
        result.thresholds,
        spec.names,
        first.category_ids,
        labelled=spec,
        folder=folder,
        provenance={**provenance, "collect": collection.settings, "precision": config["precision"]},
        reject=_rejected(config.get("reject"), folder),
    )
    for note in formed.notes:
        console.print(f"[dim]{note}[/dim]", highlight=False)
    page = write_review(folder, images=int(config["review"])) if config["review"] else None
    if page is None:
        (folder / "review.html").unlink(missing_ok=True)  # of other labels
    return PseudolabelResult(folder, formed.images, dict(formed.per_class), result.thresholds, page)


def _rejected(given: Any, folder: Path) -> Path | None:
    """Return the list of what was rejected: the one given, kept for the next time, or the one given before.

    Raises:
        DataError: If it is no such list.
    """
    kept = folder / "rejected.json"
    if given is None:
        if kept.is_file():
            console.print(f"[dim]what {kept.name} says is left out as before; reject=[] takes it back in[/dim]")
        return kept if kept.is_file() else None
    entries = read_rejected(Path(str(given)).expanduser() if not isinstance(given, list) else given).entries
    if entries:
        return write_json(kept, list(entries))
    kept.unlink(missing_ok=True)
    return None


def _table(result: PseudolabelResult, spec: DataSpec, by_hand: Mapping[str, Any]) -> Table:
    """Return what the set holds and how right it can be expected to be."""
    caption = "precision and recall of these thresholds on the labelled val split" if result.thresholds else None
    table = Table(title=f"{_shown(result.folder)}: {result.images:,} images", caption=caption)
    table.add_column("class")
    for name in ("boxes", "threshold", "precision", "at least (95 %)", "recall"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    for name in spec.names:
        cut = result.thresholds.get(name)
        boxes = f"{result.boxes[name]:,}" if name in result.boxes else "-"
        values = [getattr(cut, key, None) for key in ("threshold", "precision", "low", "recall")]
        cells = ["-" if value is None else f"{value:.2f}" for value in values]
        table.add_row(name, boxes, *cells, "set by hand" if name in by_hand else cut.reason if cut else "")
    return table


def _say_what_next(config: Mapping[str, Any], result: PseudolabelResult, stage: str) -> None:
    """Print the files worth a look and the command that goes on from here."""
    folder = result.folder
    if (folder / "contact.jpg").is_file():
        console.print(f"pictures: {folder / 'contact.jpg'}", highlight=False, soft_wrap=True)
    if result.page is not None:
        console.print(f"review: {result.page}", highlight=False, soft_wrap=True)
    if stage in ("collect", "answer"):
        following = {"collect": "answer", "answer": "form"}[stage]
        words = [word for word in _typed(config) if not word.startswith("stage=")]
        line = ["detkd", "pseudolabel", *words, f"stage={following}"]
    else:
        words = [word for word in _typed(config) if word.partition("=")[0].partition(".")[0] in ("teacher", "data")]
        words = [f"teacher={packaged_teacher()}" if word == "teacher=demo" else word for word in words]
        asked = [f"cache.{word}" for word in _typed(config) if word.partition("=")[0] in _ASKED]
        if asked or str(config["teacher"]["path"]).endswith(".json"):  # a live teacher is one network, asked once
            words += ["cache=instances", *asked]
        line = ["detkd", "distill", *words, f"unlabelled={_shown(folder)}", "student=yolo26n", "control=true"]
    console.print(f"next: {shlex.join(line)}", highlight=False, soft_wrap=True, markup=False)


def _typed(config: Mapping[str, Any]) -> list[str]:
    """Return the words of this run's command, or those that would do the same as its configuration."""
    if sys.argv[1:2] == ["pseudolabel"]:
        return [word for word in sys.argv[2:] if "=" in word and not word.startswith("-")]
    given = {"teacher": config["teacher"]["path"], "data": config["data"]["path"], "source": config["source"]}
    given["out"] = config.get("out")
    return [f"{key}={as_typed(value)}" for key, value in given.items() if value]


def _shown(folder: Path) -> Path:
    """Return a path as one would type it here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
