"""What makes a comparison weaker than it looks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from detkd.errors import DataError
from detkd.evaluation.side import Side
from detkd.evaluation.suspicions import HIGH_FLOOR

__all__ = ["PROTOCOL_KEYS", "Note", "check_same_set", "make_notes", "same_network", "settings_table"]

PROTOCOL_KEYS = ("conf", "iou", "max_det", "imgsz", "head", "nms", "letterbox", "rect", "multi_label", "half")
"""Settings of the detector that change AP by themselves. Where the two sides differ, the comparison says so in red."""

NOISY_LATENCY = 1.15
"""Ratio of two latencies of one network from which the measurement, not the network, is to blame."""

NOTHING = 0.5
"""AP in points below which a detector finds next to nothing."""


@dataclass(frozen=True)
class Note:
    """A remark for the reader: `differs` (shown in red), `warning` about an input, or `info`."""

    level: Literal["differs", "warning", "info"]
    text: str


def check_same_set(sides: Sequence[Side]) -> None:
    """Make sure that all sides were evaluated on the same classes and the same labels.

    Raises:
        DataError: If not; both are described.
    """
    first = sides[0]
    for side in sides:
        for run in side.runs:
            ours, theirs = first.runs[0].truth, run.truth
            if ours.names != theirs.names:
                raise DataError(
                    f"compare: class names differ, {first.role} {first.name!r} has {list(ours.names)}, "
                    f"{side.role} {side.name!r} has {list(theirs.names)}; evaluate both on the same ground truth"
                )
            if ours.sha256 != theirs.sha256:
                raise DataError(
                    f"compare: ground truth differs, {first.role} {first.name!r} was evaluated on {_describe(ours)}, "
                    f"{side.role} {side.name!r} on {_describe(theirs)}; evaluate both on the same set"
                )


def _describe(truth: Any) -> str:
    return f"{truth.source} ({len(truth.images)} images, {int((~truth.crowd).sum())} objects, {truth.sha256[:12]})"


def settings_table(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Return one entry per setting of the detectors: its value on each side, and whether before and after differ.

    Settings that no side gives are left out; a side without any settings differs from nothing, it is unknown.
    """
    known = {side.role: side.settings for side in sides}
    keys = [key for key in PROTOCOL_KEYS if any(key in settings for settings in known.values())]
    others = {key for settings in known.values() for key in settings if not key.startswith("weights")}
    keys += sorted(others - set(PROTOCOL_KEYS))
    return [
        {
            "key": key,
            "values": {role: settings.get(key) for role, settings in known.items()},
            "differs": key in PROTOCOL_KEYS and _differ(known.get("before"), known.get("after"), key),
        }
        for key in keys
    ]


def _differ(one: Mapping[str, Any] | None, two: Mapping[str, Any] | None, key: str) -> bool:
    return bool(one) and bool(two) and (one or {}).get(key) != (two or {}).get(key)


def make_notes(sides: Sequence[Side]) -> Iterator[Note]:
    """Yield remarks about sides that were measured differently, about odd inputs and about equal ones.

    Args:
        sides: The reference first. A teacher at another resolution is no fault: what differs there is `info` only.
    """
    first = sides[0]
    for other in sides[1:]:
        yield from _setting_notes(first, other, "info" if other.role == "teacher" else "differs")
    for one, other in combinations(sides, 2):
        if one.runs[0].detections.sha256 == other.runs[0].detections.sha256:
            text = f"{one.name} and {other.name} have identical detections; is it the same file twice?"
            yield Note("differs", text)
    if any(len(side.runs) > 1 for side in sides):
        text = "error types, calibration, working points, curves, flips and pictures are those of the first run of each"
        yield Note("info", text)
    yield from _latency_notes(first, sides[1:])
    yield from _empty_notes([side for side in sides if side.role != "teacher"])
    for side in sides:
        if not side.settings:
            yield Note("warning", f"{side.name}: how its detections were made is not known (no settings with them)")
        yield from _input_notes(side)
        yield from _seed_notes(side)


def _setting_notes(first: Side, other: Side, level: Literal["differs", "info"]) -> Iterator[Note]:
    ours, theirs = first.settings, other.settings
    floors = [float(side.runs[0].detections.scores.min(initial=1.0)) for side in (first, other)]
    if min(floors) < HIGH_FLOOR <= max(floors):
        low = ", ".join(f"{side.name} {floor:.2g}" for side, floor in zip((first, other), floors, strict=True))
        yield Note(level, f"lowest score differs: {low}; a ranking cut so high loses AP by the cut alone")
    if ours and theirs:
        for key in PROTOCOL_KEYS:
            if ours.get(key) != theirs.get(key):
                yield Note(level, f"{key} differs: {first.name} {_show(ours, key)}, {other.name} {_show(theirs, key)}")


def _empty_notes(sides: Sequence[Side]) -> Iterator[Note]:
    """Point out that there is nothing to compare where no side finds anything."""
    best = [max((run.metrics.AP or 0.0) for run in side.runs) for side in sides]
    if len(sides) > 1 and max(best) < NOTHING:
        told = ", ".join(f"{side.name} {value:.2f}" for side, value in zip(sides, best, strict=True))
        yield Note(
            "warning",
            f"no side finds more than next to nothing (AP {told}), so the difference says nothing: train longer, or "
            "check classes and labels",
        )


def same_network(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two costs are those of one architecture run in one way, which must be equally fast."""
    keys = ("params", "gflops", "imgsz", "head", "runtime", "device")
    return one.get("params") is not None and all(one.get(key) == other.get(key) for key in keys)


def _latency_notes(first: Side, others: Sequence[Side]) -> Iterator[Note]:
    """Point out latencies that can't be true: the same network on the same device is equally fast."""
    ours = first.cost or {}
    for other in others:
        theirs = other.cost or {}
        if not ours.get("latency_ms") or not theirs.get("latency_ms") or not same_network(ours, theirs):
            continue
        fast, slow = sorted([float(ours["latency_ms"]), float(theirs["latency_ms"])])
        if slow > NOISY_LATENCY * fast:
            yield Note(
                "warning",
                f"{first.name} and {other.name} are the same network, so their latencies ({ours['latency_ms']:.1f} and "
                f"{theirs['latency_ms']:.1f} ms) differ only because the machine was busy when one was measured",
            )


def _input_notes(side: Side) -> Iterator[Note]:
    """Yield what was odd about the inputs; what several runs share is said once, for the first of them."""
    alike: dict[str, list[str]] = {}
    for run in side.runs:
        for text in run.metrics.protocol.get("warnings", ()):
            kind = re.sub(r"[\d.]+", "#", text.replace(run.detections.source, ""))
            alike.setdefault(kind, []).append(text)
    for texts in alike.values():
        more = f" (and the like in {len(texts) - 1} more of its runs)" if len(texts) > 1 else ""
        yield Note("warning", f"{side.name}: {texts[0]}{more}")


def _seed_notes(side: Side) -> Iterator[Note]:
    hashes = [run.detections.sha256 for run in side.runs]
    if len(set(hashes)) < len(hashes):
        yield Note("differs", f"{side.name}: two of its {len(hashes)} runs have identical detections; is one twice?")
    for run in side.runs[1:]:
        theirs = run.metrics.protocol.get("settings") or {}
        changed = [key for key in PROTOCOL_KEYS if side.settings.get(key) != theirs.get(key)]
        if changed:
            yield Note("differs", f"{side.name}: its runs differ in {', '.join(changed)}")


def _show(settings: Mapping[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "not given"
