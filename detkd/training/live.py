"""What a training is doing right now, as two small files that `detkd watch` reads."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import detkd.environment

import torch

from detkd.errors import DataError
from detkd.io import write_text
from detkd.runs import process_record

__all__ = ["HISTORY_FILE", "LIVE_FILE", "History", "Live", "resident_mb"]

LIVE_FILE = "live.json"
HISTORY_FILE = "live.jsonl"

_POINTS = 600
_VALIDATIONS = 300
_EVERY = 1.0  # seconds
_SMOOTH = 0.1  # weight of the newest second in the mean speed


class History:
    """Points of a curve, one JSON object a line; at twice `points` lines every other one is dropped.

    Args:
        file: Where it is kept.
        points: How many to keep at least, once there are that many.
        before: Points with `done` at or above this number of steps belong to an attempt that was given up.
    """

    def __init__(self, file: Path, *, points: int = _POINTS, before: int = 0) -> None:
        self.file = file
        self.points = points
        lines = file.read_text(encoding="utf-8").splitlines() if before and file.is_file() else []
        self.lines = [line for line in lines if (point := _parse(line)) is not None and point["done"] <= before]
        self.stride = 1
        self._skipped = 0
        write_text(file, "".join(f"{line}\n" for line in self.lines))

    def add(self, point: dict[str, Any]) -> None:
        """Append a point, or leave it out where only every other (fourth, ...) one is kept."""
        self._skipped += 1
        if self._skipped < self.stride:
            return
        self._skipped = 0
        self.lines.append(json.dumps(point, separators=(",", ":")))
        if len(self.lines) < 2 * self.points:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(self.lines[-1] + "\n")
            return
        self.lines = self.lines[1::2]  # the newest stays
        self.stride *= 2
        write_text(self.file, "".join(f"{line}\n" for line in self.lines))


def _parse(line: str) -> dict[str, Any] | None:
    try:
        point = json.loads(line)
    except json.JSONDecodeError:  # the process was killed while it wrote
        return None
    return point if isinstance(point, dict) and isinstance(point.get("done"), int) else None


class Live:
    """Callbacks of an Ultralytics trainer that write `live.json` at most once a second, and the history beside it.

    A loss in them is the mean over the steps since the last point, of the same epoch. Reading it takes it from the
    device, which the trainer's own progress line does at every step anyway.

    Args:
        folder: Run folder.
        name: What is trained ("control", "distilled", ...).
        clock: Seconds; None takes those since the epoch for dates, and for durations those of a clock that nobody
            can set back.
    """

    def __init__(self, folder: Path, name: str, *, clock: Callable[[], float] | None = None) -> None:
        self.folder = folder
        self.clock = clock or time.monotonic
        self.date = clock or time.time
        self.state: dict[str, Any] = {"schema": 1, "name": name, **process_record()}
        self._written = self._sampled = -math.inf
        self._sums: dict[str, float] = {}
        self._step = self._counted = 0
        self._mark = self._validation_start = 0.0
        self._marked = 0
        self._validated = False

    def attach(self, trainer: Any) -> None:
        """Register with an Ultralytics trainer."""
        for event, callback in {
            "on_train_start": self.start,
            "on_train_epoch_start": self.start_epoch,
            "on_train_batch_end": self.step,
            "on_val_start": self.start_validation,
            "on_val_batch_end": self.beat,
            "on_val_end": self.end_validation,
            "on_fit_epoch_end": self.end_epoch,
            "on_train_end": self.end,
            "teardown": self.close,
        }.items():
            trainer.add_callback(event, callback)

    def start(self, trainer: Any) -> None:
        """Begin, or go on after the epochs that are done already."""
        now = self.clock()
        steps = len(trainer.train_loader)
        done: int = steps * trainer.start_epoch
        self.history = History(self.folder / HISTORY_FILE, before=done)
        self.state.update(
            phase="training",
            started=self.date(),
            epoch=trainer.start_epoch + 1,
            epochs=trainer.epochs,
            step=0,
            steps=steps,
            done=done,
            batch=trainer.batch_size,
            device=str(trainer.device),
            validates=bool(trainer.args.val),
            losses={},
            validations=_earlier(self.folder / LIVE_FILE, trainer.start_epoch),
        )
        self._mark = self._sampled = now
        self._marked = done
        self._write(now)

    def start_epoch(self, trainer: Any) -> None:
        """Count steps and sums anew, as the trainer does with its means."""
        self._step = self._counted = 0
        self._sums = {}
        self.state.update(phase="training", epoch=trainer.epoch + 1, step=0)

    def step(self, trainer: Any) -> None:
        """Count one batch."""
        self._step += 1
        now = self.clock()
        if now - self._sampled < _EVERY:
            return
        self._sampled = now
        count = self._step - self._counted
        sums = {name: float(value) * self._step for name, value in trainer.tloss.items()}
        losses = {name: (total - self._sums.get(name, 0.0)) / count for name, total in sums.items()}
        self._sums, self._counted = sums, self._step
        done = self.state["steps"] * trainer.epoch + self._step
        seconds = (now - self._mark) / max(done - self._marked, 1)
        mean = self.state.get("step_seconds")
        share = min(0.5, max(_SMOOTH, _SMOOTH * (now - self._mark)))
        self._mark, self._marked = now, done
        self.state.update(
            step=self._step,
            done=done,
            losses={name: _number(value) for name, value in losses.items()},
            step_seconds=seconds if mean is None else (1 - share) * mean + share * seconds,
            lr=_number(_learning_rate(trainer.optimizer)),
            rss_mb=resident_mb(),
            gpu_mb=_device_mb(trainer.device),
        )
        with suppress(DataError, OSError):
            self.history.add({"done": done, "losses": self.state["losses"]})
        self._write(now)

    def start_validation(self, _validator: Any) -> None:
        """Say that no training step is to be expected for a while."""
        self._validation_start = self.clock()
        self.state["phase"] = "validation"
        self.beat()

    def beat(self, _validator: Any = None) -> None:
        """Give a sign of life."""
        if (now := self.clock()) - self._written >= _EVERY:
            self._write(now)

    def end_validation(self, _validator: Any) -> None:
        """Note how long it took; training time does not include it."""
        seconds = self.clock() - self._validation_start
        self._mark += seconds
        self._validated = True
        self.state["validation_seconds"] = round(seconds, 2)

    def end_epoch(self, trainer: Any) -> None:
        """Keep AP on the validation images, as Ultralytics counts it, in points."""
        if not self._validated:
            return
        self._validated = False
        found = [trainer.metrics.get(f"metrics/{key}(B)") for key in ("mAP50-95", "mAP50")]
        if None not in found:
            known = [*self.state["validations"], [trainer.epoch + 1, *(_number(100 * float(v)) for v in found)]]
            self.state["validations"] = known[1::2] if len(known) >= _VALIDATIONS else known
        self.beat()

    def end(self, _trainer: Any) -> None:
        """Say that the training is complete; the evaluation follows."""
        steps = self.state["steps"]
        self.state.update(phase="trained", step=steps, done=steps * self.state["epoch"])
        self._write(self.clock())

    def close(self, _trainer: Any = None) -> None:
        """Say why it stopped before its end: Ultralytics tears down while the exception is on its way."""
        if "phase" not in self.state or self.state["phase"] == "trained":
            return
        error = sys.exc_info()[1]
        self.state["phase"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if error is not None and not isinstance(error, KeyboardInterrupt):
            self.state["error"] = next(iter(str(error).splitlines()), "") or type(error).__name__
        self._write(self.clock())

    def _write(self, now: float) -> None:
        self._written = now
        self.state["updated"] = self.date()
        # A disk that is full stops the training where it saves a checkpoint, with advice; a view is not worth that.
        with suppress(DataError, OSError):
            write_text(self.folder / LIVE_FILE, json.dumps(self.state, allow_nan=False) + "\n")


def _earlier(file: Path, epochs: int) -> list[list[float | None]]:
    """Return the validations of the epochs that a resumed run does not train again."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))["validations"] if epochs else []
        return [entry for entry in known if entry[0] <= epochs]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the rate of the weights; Ultralytics warms biases up the other way round."""
    groups = optimizer.param_groups
    return float(next((group for group in groups if group.get("param_group") != "bias"), groups[0])["lr"])


def _number(value: float) -> float | None:
    """Return five digits of a number, None where it is not finite: JSON has no NaN."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _device_mb(device: torch.device) -> float | None:
    """Return what the allocator has reserved on the device, in 10^6 bytes."""
    return round(torch.cuda.memory_reserved(device) / 1e6) if device.type == "cuda" else None


def resident_mb() -> float | None:
    """Return the memory this process has in use, in 10^6 bytes; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
