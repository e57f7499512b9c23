"""Why two detectors differ: error types, calibration, working points and flips, as compare.json has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detkd.diagnosis.confusion import confusion_change
from detkd.diagnosis.entry import diagnose
from detkd.diagnosis.flips import find_flips
from detkd.diagnosis.working_point import at_threshold
from detkd.diagnosis.yolo_val import reconcile
from detkd.evaluation.side import Side

__all__ = ["find", "threshold"]


def find(sides: Sequence[Side], *, progress: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Any]:
    """Return `entries` (name to what `diagnose` says of its first run) and `pair` (before against after).

    Args:
        sides: All with distinct names; `pair` is None unless there are a `before` and an `after` among them.
        progress: Called with a label, steps done and steps in all.
    """
    entries: dict[str, Any] = {}
    for index, side in enumerate(sides):
        progress("diagnosis", index, len(sides) + 1)
        run = side.runs[0]
        entries[side.name] = {**diagnose(run), "yolo_val": reconcile(run)}
    for side in sides:
        others = {name: threshold({"entries": entries}, name) for name in entries if name != side.name}
        entries[side.name]["at"] = {
            name: at_threshold(side.runs[0].matches, value) for name, value in others.items() if value is not None
        }
    progress("diagnosis", len(sides), len(sides) + 1)
    pair = _pair({side.role: side for side in sides}, entries)
    progress("diagnosis", len(sides) + 1, len(sides) + 1)
    return {"entries": entries, "pair": pair}


def threshold(diagnosis: Mapping[str, Any], name: str) -> float | None:
    """Return the score above which a side is best used; None where it found nothing."""
    value: float | None = diagnosis["entries"][name]["working_point"]["threshold"]
    return value


def _pair(sides: Mapping[str, Side], entries: Mapping[str, Any]) -> dict[str, Any] | None:
    if "before" not in sides or "after" not in sides:
        return None
    before, after = sides["before"], sides["after"]
    limits = (threshold({"entries": entries}, before.name), threshold({"entries": entries}, after.name))
    return {
        "flips": find_flips(before.runs[0], after.runs[0], limits),
        "confusion": confusion_change(before.runs[0], after.runs[0], limits),
    }
