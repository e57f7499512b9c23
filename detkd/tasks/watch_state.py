"""What a training run is doing, worked out from the files in its folder alone."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from detkd.errors import ConfigError, DataError
from detkd.io import read_json

__all__ = ["OVER", "Part", "find_run", "process_lives", "read_parts", "remaining", "status"]

OVER = frozenset({"finished", "failed", "interrupted", "killed"})
"""States that nothing follows by itself."""

_VERBS = ("train", "distill", "demo")
_IDLE = OVER | {"silent", "waiting"}
_PROCESS = ("pid", "process_started", "host")
_SILENT = 120.0  # seconds without a sign of life, where the process itself can't be looked at
_STARTING = 900.0  # seconds a run may take to load its data and weights


@dataclass(frozen=True)
class Part:
    """One training of a run: of the control, of the student, or of a plain detector.

    Attributes:
        name: "control", "distilled", or the name of the run folder.
        folder: Its folder.
        verb: "train", "distill" or "demo".
        status: "waiting" (for the control), "starting", "training", "validation", "evaluating", "silent" (no sign of
            life, of a process that can't be looked at) or one of `OVER`.
        record: Content of run.json.
        live: Content of live.json, empty before the first step, also before the first one after it was resumed.
        history: Lines of live.jsonl.
        now: When it was looked at, seconds since the epoch.
    """

    name: str
    folder: Path
    verb: str
    status: str
    record: Mapping[str, Any]
    live: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    now: float = 0.0


def find_run(value: object, runs: Path = Path("runs"), *, now: float | None = None) -> Path:
    """Return the run folder to watch.

    Args:
        value: The config key `run`; None takes the newest training under `runs`, one that goes on first.
        runs: Where run folders are.
        now: Seconds since the epoch; None asks the clock.

    Raises:
        ConfigError: If there is none, or it holds no training.
    """
    if value is None:
        found = [(record, file.parent) for file in sorted(runs.glob("*/run.json")) if (record := _record(file))]
        trainings = [(record, folder) for record, folder in found if record.get("verb") in _VERBS]
        if not trainings:
            raise ConfigError(f"run: no training under {runs.absolute()}; name a run folder, e.g. detkd watch runs/x")
        moment = time.time() if now is None else now
        return max(trainings, key=lambda pair: _rank(pair[0], pair[1], moment))[1]
    folder = Path(str(value)).expanduser()
    folder = folder.parent if folder.is_file() else folder
    record = _record(folder / "run.json")
    if record is None:
        inside = [str(file.parent) for file in sorted(folder.glob("*/run.json"))]
        hint = f"it holds the runs {', '.join(inside[:5])}; name one" if inside else "name one, e.g. runs/distill"
        raise ConfigError(f"run: {folder} is no run folder (no readable run.json); {hint}")
    if record.get("verb") not in _VERBS:
        raise ConfigError(f"run: {folder} is of detkd {record.get('verb')}; only {', '.join(_VERBS)} can be watched")
    return folder


def _rank(record: Mapping[str, Any], folder: Path, now: float) -> tuple[bool, float]:
    """Return whether a run goes on, and when it began; of one that does not, when it gave its last sign of life."""
    if record.get("status") == "done":
        return False, max(_begun(record), _seconds(record, "finished"))
    parts = read_parts(folder, now)
    if any(part.status not in _IDLE for part in parts):
        return True, _begun(record)
    return False, max(_begun(record), *map(_last_sign, parts))


def read_parts(folder: Path, now: float) -> list[Part]:
    """Return the trainings of a run in their order: the control where there is one, then the student."""
    record = _record(folder / "run.json") or {}
    verb = str(record.get("verb") or "train")
    control = folder / "control"
    parts = []
    if (control / "run.json").is_file():
        parts.append(_part("control", control, verb, now))
    pending = any(part.status != "finished" for part in parts)
    since = max(map(_last_sign, parts), default=0.0)
    name = folder.resolve().name if verb == "train" else "distilled"
    return [*parts, _part(name, folder, verb, now, waits=pending, since=since)]


def _part(name: str, folder: Path, verb: str, now: float, *, waits: bool = False, since: float = 0.0) -> Part:
    record = _record(folder / "run.json") or {}
    owner = _owner(folder, record)
    live = _current(folder, record, owner)
    state = status(record, live, now, process_lives(live or owner), waits=waits, since=max(since, _begun(owner)))
    return Part(name, folder, verb, state, record, live, tuple(_lines(folder / "live.jsonl")) if live else (), now)


def _owner(folder: Path, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the run.json that names the process: a resumed distillation notes itself in its own, not its control's."""
    place = folder.resolve()
    above = _record(place.parent / "run.json") if place.name == "control" else None
    return record if above is None else max(record, above, key=_begun)


def _current(folder: Path, record: Mapping[str, Any], owner: Mapping[str, Any]) -> dict[str, Any]:
    """Return live.json, empty where an earlier process left it."""
    live = _record(folder / "live.json") or {}
    if float(live.get("started") or 0.0) < _seconds(record, "started") - 1.0:
        same = live.get("process_started") is not None and all(live.get(key) == record.get(key) for key in _PROCESS)
        return live if same else {}  # the clock was set back
    if float(live.get("updated") or 0.0) >= _seconds(owner, "resumed"):
        return live
    if live.get("pid") != owner.get("pid") and process_lives(live):
        return live  # resuming it was refused, or a mistake
    if live.get("phase") == "trained" and (folder / "outcome.json").is_file():
        return {**live, **{key: owner.get(key) for key in _PROCESS}}  # only the evaluation is done again
    return {}


def status(
    record: Mapping[str, Any],
    live: Mapping[str, Any],
    now: float,
    lives: bool | None,
    *,
    waits: bool = False,
    since: float = 0.0,
) -> str:
    """Return what a training is doing; see `Part.status`.

    Args:
        record: Content of run.json.
        live: Content of live.json, empty where there is none.
        now: Seconds since the epoch.
        lives: Whether its process runs; None where that can't be known.
        waits: Whether another training comes first.
        since: When the run was resumed, or the training before it ended: newer than what its own files say.
    """
    if record.get("status") == "done":
        return "finished"
    if not live:
        if waits:
            return "waiting"
        if lives is not None:
            return "starting" if lives else "killed"
        return "starting" if now - max(since, _seconds(record, "started")) < _STARTING else "silent"
    phase = str(live.get("phase"))
    if phase in OVER:
        return phase
    if lives is False:
        return "killed"
    silence = now - max(since, float(live.get("updated") or 0.0))
    if lives is None and silence > max(_SILENT, 30 * float(live.get("step_seconds") or 0.0)):
        return "silent"
    return "evaluating" if phase == "trained" else phase


def process_lives(live: Mapping[str, Any]) -> bool | None:
    """Return whether the process that wrote live.json or run.json still runs; None where that can't be known.

    It can't where it runs on another machine, or where the file is of an older version.
    """
    pid = live.get("pid")
    if not isinstance(pid, int) or live.get("host") != platform.node():
        return None
    if (ticks := live.get("process_started")) is not None:
        try:
            line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        state, *rest = line.rpartition(")")[2].split()
        return int(rest[18]) == ticks and state != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there, but another user's
    return True


def remaining(live: Mapping[str, Any]) -> float | None:
    """Return the seconds a training still needs, validations included; None before its speed is known."""
    speed, steps, epochs = live.get("step_seconds"), live.get("steps"), live.get("epochs")
    if not speed or not steps or not epochs:
        return None
    left = int(steps) * int(epochs) - int(live.get("done") or 0)
    checks = math.ceil(left / int(steps)) if live.get("validates") else 0
    return max(left, 0) * float(speed) + checks * float(live.get("validation_seconds") or 0.0)


def _record(file: Path) -> dict[str, Any] | None:
    try:
        content = read_json(file)
    except DataError:
        return None
    return content if isinstance(content, dict) else None


def _seconds(record: Mapping[str, Any], key: str) -> float:
    try:
        return datetime.fromisoformat(str(record.get(key))).timestamp()
    except ValueError:
        return 0.0


def _begun(record: Mapping[str, Any]) -> float:
    """Return when a run was started or, if that is later, resumed."""
    return max(_seconds(record, "started"), _seconds(record, "resumed"))


def _last_sign(part: Part) -> float:
    return max(_begun(part.record), _seconds(part.record, "finished"), float(part.live.get("updated") or 0.0))


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return []
    points = []
    for line in text.splitlines():
        try:
            point = json.loads(line)
        except json.JSONDecodeError:  # the last line is being written
            continue
        if isinstance(point, dict) and isinstance(point.get("losses"), dict):
            points.append(point)
    return points
