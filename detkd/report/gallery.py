"""Pictures of what changed: objects that one detector finds and the other does not, and the frames they are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.side import Run, Slice
from detkd.progress import track
from detkd.report.pictures import Overlay, crop_picture, frame_picture, iou_level, locate, read_picture

__all__ = ["choose_frames", "choose_objects", "fields_of", "found", "make_gallery"]

IOU = 0.5
"""Overlap from which an object counts as found."""


def make_gallery(
    truth: GroundTruth,
    sides: Mapping[str, tuple[Run, float | None]],
    pair: Mapping[str, Any] | None,
    *,
    slices: Sequence[Slice] = (),
    images: str | Path | None = None,
    objects: int = 120,
    frames: int = 24,
    budget: int = 9_000_000,
    crop: int = 160,
    frame: int = 720,
) -> dict[str, Any]:
    """Cut out the gained and lost objects and reduce the frames with most of them, as data URIs with boxes beside them.

    Boxes are not drawn into the pictures, so that the page can switch them on and off. Each image is read once.

    Args:
        truth: The labels; `file_name` of an image is a path of its own, or starts from `images` or near the label file.
        sides: Role to run and working threshold; a side with None finds nothing.
        pair: `pair` of the diagnosis, whose flips are shown; None gives an empty gallery.
        slices: What pictures can be filtered by.
        images: Folder with the images.
        objects: Most cut-outs, gained and lost mixed in their true ratio; see `choose_objects`.
        frames: Most frames.
        budget: Most bytes of all data URIs together; cut-outs come first.
        crop: Longer side of a cut-out in pixels; small ones are enlarged up to four times.
        frame: Longer side of a frame in pixels; frames are never enlarged.

    Returns:
        `objects`, `frames` and `note` (what was left out, and why), as the page takes them.
    """
    if pair is None or "before" not in sides or "after" not in sides:
        return {"objects": [], "frames": [], "note": ""}
    totals = _totals(pair["flips"])
    chosen = choose_objects(pair["flips"]["items"], objects, totals)
    gained, lost = _changes(truth, sides)
    fields = fields_of(truth, slices)
    groups = [tuple(values.values()) for values in fields]
    shown = choose_frames(gained, lost, groups, frames)
    wanted: dict[int, list[int]] = {int(image): [] for image in shown}
    for position, item in enumerate(chosen):
        wanted.setdefault(int(item["image"]), []).append(position)
    overlay = Overlay(truth, sides, IOU)
    cut: dict[int, dict[str, Any]] = {}
    reduced: dict[int, dict[str, Any]] = {}
    missing: Counter[str] = Counter()
    for index in track(sorted(wanted), "pictures"):
        record = truth.images[index]
        facts = {"image": _short_name(record), "fields": fields[index]}
        path = locate(record, truth.source, images)
        picture = None if path is None else read_picture(path)
        if picture is None:
            missing["missing" if path is None else "unreadable"] += 1
            continue
        height, width = picture.shape[:2]
        if (record.get("width") or width, record.get("height") or height) != (width, height):
            missing["of another size than their labels say"] += 1
            continue
        boxes = overlay.boxes(index)
        for position in wanted[index]:
            item = chosen[position]
            target = truth.boxes_xywh[item["truth"]]
            made = crop_picture(picture, target, boxes, item["truth"], crop)
            cut[position] = {**_keys(item, ("kind", "class", "size", "score_before", "score_after")), **facts, **made}
        if index in shown:
            counts = {"gained": gained.get(index, 0), "lost": lost.get(index, 0)}
            reduced[index] = {**facts, **counts, **frame_picture(picture, boxes, frame)}
    if not wanted and objects + frames > 0:
        return {"objects": [], "frames": [], "note": "No object is found by one of the two only: nothing to show."}
    left = budget
    pictures: dict[str, list[dict[str, Any]]] = {"objects": [], "frames": []}
    cutoff = 0
    for kind, entry in [
        *(("objects", cut[position]) for position in sorted(cut)),
        *(("frames", reduced[index]) for index in shown if index in reduced),
    ]:
        if len(entry["uri"]) > left:
            cutoff += 1
            continue
        left -= len(entry["uri"])
        pictures[kind].append(entry)
    kept = Counter(str(entry["kind"]) for entry in pictures["objects"])
    return {**pictures, "note": _note(missing, len(wanted), cutoff, budget, kept, totals)}


def found(run: Run, threshold: float | None, iou: float = IOU) -> set[int]:
    """Return the rows of the truth that a run finds at or above a score; crowd regions are never among them."""
    if threshold is None:
        return set()
    matches = run.matches
    level = iou_level(matches, iou)
    hits = (matches.outcome[0, level] == 1) & (matches.score >= threshold)
    return set(matches.target[level, hits].tolist())


def _changes(truth: GroundTruth, sides: Mapping[str, tuple[Run, float | None]]) -> tuple[Counter[int], Counter[int]]:
    """Return how many objects each image gained and lost."""
    before, after = (found(*sides[role]) for role in ("before", "after"))
    gained = Counter(int(truth.image[row]) for row in after - before)
    lost = Counter(int(truth.image[row]) for row in before - after)
    return gained, lost


def _totals(flips: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many objects were gained and lost: the items of a large set are only some of them."""
    listed = Counter(item["kind"] for item in flips["items"])
    return flips.get("only_after", listed["gained"]), flips.get("only_before", listed["lost"])


def choose_objects(
    items: Sequence[Mapping[str, Any]], count: int, totals: tuple[int, int] | None = None
) -> list[Mapping[str, Any]]:
    """Return at most `count` flips, spread over classes and images, gained and lost in turns.

    Args:
        items: Flips, within a kind the clearest first.
        count: Most flips.
        totals: How many objects were gained and lost; None counts the items. The chosen have this ratio, but each kind
            has at least a quarter of them where there are enough.
    """
    kinds = [[item for item in items if item["kind"] == kind] for kind in ("gained", "lost")]
    shares = _shares(totals or (len(kinds[0]), len(kinds[1])), (len(kinds[0]), len(kinds[1])), count)
    order = []
    for kind, (group, share) in enumerate(zip(kinds, shares, strict=True)):
        # Ranks relative to the share: any first part of the result has about the ratio of the whole.
        order += [(rank / share, kind, item) for rank, item in enumerate(_spread(group, share))]
    return [item for _, _, item in sorted(order, key=lambda entry: entry[:2])]


def _shares(totals: tuple[int, int], there: tuple[int, int], count: int) -> tuple[int, int]:
    """Divide `count` in the ratio of the totals; what one kind does not have goes to the other."""
    quarter = -(-count // 4) if count > 1 else 0
    wanted = round(count * totals[0] / max(sum(totals), 1))
    wanted = min(max(wanted, min(quarter, there[0])), count - min(quarter, there[1]))
    first = min(there[0], max(wanted, count - there[1]))
    return first, min(there[1], count - first)


def _spread(items: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Take turns over classes and, within a class, over images; within both the given order stays."""
    turn: Counter[tuple[str, int]] = Counter()
    ranked = []
    for order, item in enumerate(items):
        place = (str(item["class"]), int(item["image"]))
        ranked.append((turn[place], order, item))
        turn[place] += 1
    ranked.sort(key=lambda entry: entry[:2])
    of_class: Counter[str] = Counter()
    turns = []
    for rank, (_, _, item) in enumerate(ranked):
        turns.append((of_class[item["class"]], rank, item))
        of_class[item["class"]] += 1
    turns.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in turns[:count]]


def choose_frames(
    gained: Mapping[int, int], lost: Mapping[int, int], groups: Sequence[tuple[str, ...]], count: int
) -> list[int]:
    """Return the images with most changes; a group that was chosen k times already needs k + 1 times as many.

    The first half are images with gains and losses, where there are such, so that no page begins with one side alone.

    Args:
        gained: Image to number of objects gained.
        lost: Image to number of objects lost.
        groups: What each image shares with others, such as its camera.
        count: Most images.
    """
    changes = {index: gained.get(index, 0) + lost.get(index, 0) for index in sorted({*gained, *lost})}
    used: Counter[tuple[str, ...]] = Counter()
    chosen: list[int] = []
    while changes and len(chosen) < count:
        mixed = [index for index in changes if gained.get(index) and lost.get(index)]
        pool = mixed if mixed and 2 * len(chosen) < count else list(changes)
        best = max(pool, key=lambda index: (changes[index] / (1 + used[groups[index]]), -index))
        del changes[best]
        used[groups[best]] += 1
        chosen.append(best)
    return chosen


def fields_of(truth: GroundTruth, slices: Sequence[Slice]) -> list[dict[str, str]]:
    """Return for each image the slices it is in, field to value: what the page can filter pictures by."""
    fields: list[dict[str, str]] = [{} for _ in truth.images]
    for part in slices:
        for index in np.flatnonzero(part.mask).tolist():
            fields[index][part.field] = part.value
    return fields


def _keys(item: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: item.get(name) for name in names}


def _short_name(record: Mapping[str, Any]) -> str:
    """Return the file's name without folders of this machine."""
    name = str(record.get("file_name") or record["id"]).replace("\\", "/")
    rooted = name.startswith("/") or name[1:2] == ":"
    return name.rpartition("/")[2] if rooted else name


def _note(
    missing: Mapping[str, int], wanted: int, cutoff: int, budget: int, kept: Mapping[str, int], totals: tuple[int, int]
) -> str:
    parts = []
    gained, lost = kept.get("gained", 0), kept.get("lost", 0)
    if 0 < gained + lost < sum(totals):
        parts.append(f"{gained} of {totals[0]} gained and {lost} of {totals[1]} lost objects are shown")
    if total := sum(missing.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(missing.items()))
        parts.append(
            f"{total} of {wanted} images could not be shown ({reasons}); name the folder they are in with "
            "report.images=FOLDER"
        )
    if cutoff:
        parts.append(f"{cutoff} pictures left out to keep the page below {budget / 1e6:.1f} MB of pictures")
    return ". ".join(parts) + ("." if parts else "")
