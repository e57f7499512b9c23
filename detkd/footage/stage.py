"""Where collecting stands, on disk, so that it can be interrupted at any moment."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from detkd.errors import DataError
from detkd.footage.collection import STAGE_FILE, VERSION, Collection
from detkd.footage.similar import COLUMNS, ROWS, Thumbnails
from detkd.io import read_json, write_json
from detkd.progress import console

__all__ = ["FRAMES", "Stage", "cannot_write"]

FRAMES = "images"
"""Folder for the frames of videos."""

_THUMBNAILS = ".collect-thumbnails"  # only while collecting: what was kept, to compare with after an interruption
_PAUSE = 10.0  # seconds between two notes of where it stands, among images


class Stage:
    """What is kept so far, and the file that says so.

    Args:
        folder: Absolute path of the output folder.
        settings: What was asked for; if it differs from what the file says, the file is of no use.
        sources: Digest of the files to go through; the same holds.

    Attributes:
        result: What is collected so far.
        dropped: How many were left out so far, by reason.
        kept: A thumbnail for each item of `result`.
        done: How many files are finished.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], sources: str) -> None:
        self.folder = folder
        self.settings = settings
        self.sources = sources
        self._clear()
        self._saved_at = self._cost = 0.0

    def _clear(self) -> None:
        self.result = Collection([], settings=dict(self.settings))
        self.dropped: Counter[str] = Counter()
        self.kept = Thumbnails()
        self.done = 0
        self._stored = 0  # thumbnails on disk

    def resume(self) -> bool:
        """Take up what an earlier call left; return whether there is nothing more to do.

        Where it is of no use, say why, and remove the frames it wrote.
        """
        file = self.folder / STAGE_FILE
        if not file.exists():
            return False
        reason, values = self._read(file)
        if not reason and values["complete"]:
            self.result = Collection.from_dict(values, self.folder)
            console.print(f"collect: {len(self.result)} pictures were collected before", markup=False)
            return True
        reason = reason or self._take_up(values)
        if not reason:
            console.print(f"collect: going on after {self.done} finished files", markup=False)
            return False
        line = f"collected anew: {reason}"
        console.print(f"collect: {line}", markup=False)
        for item in Collection.from_dict(values, self.folder).items if values else ():
            self.remove_frame(item.file)
        self.remove()
        self._clear()
        self.result.notes.append(line)
        return False

    def _read(self, file: Path) -> tuple[str, dict[str, Any]]:
        """Return why the stage file is of no use (empty if it is), and what it says as far as it can be read."""
        try:
            values = read_json(file)
            if not isinstance(values, dict) or values.get("version") != VERSION:
                return f"{STAGE_FILE} is from another version", {}
            known = Collection.from_dict(values, self.folder)
        except DataError:
            return f"{STAGE_FILE} can't be read", {}
        for key, value in self.settings.items():
            if known.settings.get(key) != value:
                return f"{key} was {known.settings.get(key)}, now {value}", values
        if values.get("sources") != self.sources:
            return "the sources have changed", values
        if missing := [item for item in known.items if not item.file.is_file()]:
            return f"{missing[0].file.name} is gone", values
        return "", values

    def _take_up(self, values: dict[str, Any]) -> str:
        """Restore the state after the last finished file; return why that can't be done, if so."""
        known = Collection.from_dict(values, self.folder)
        size = len(known) * ROWS * COLUMNS
        try:
            content = np.fromfile(self.folder / _THUMBNAILS, dtype=np.uint8, count=size)
        except OSError:
            content = np.zeros(0, np.uint8)
        if len(content) < size:
            return f"{_THUMBNAILS} is incomplete"
        for thumbnail in content.reshape(-1, ROWS, COLUMNS):
            self.kept.add(thumbnail)
        self.result, self.dropped = known, Counter(known.dropped)
        self.done, self._stored = int(values["done"]), len(known)
        return ""

    def file_finished(self, *, video: bool) -> None:
        """Count a finished file, and write the stage file if it is time to.

        Writing takes longer the more there is, so it happens less often then: a twentieth of the time at most.
        """
        self.done += 1
        pause = max(20 * self._cost, 0.0 if video else _PAUSE)
        if time.monotonic() - self._saved_at >= pause:
            self.save(complete=False)

    def save(self, *, complete: bool) -> None:
        """Write the stage file.

        Raises:
            DataError: If it can't be written.
        """
        started = time.monotonic()
        self.result.dropped.clear()
        self.result.dropped.update(sorted(self.dropped.items()))
        head = {"version": VERSION, "complete": complete, "sources": self.sources, "done": self.done}
        try:
            if not complete:  # first the thumbnails: more of them than the stage file speaks of do no harm
                self._save_thumbnails()
            write_json(self.folder / STAGE_FILE, {**head, **self.result.to_dict(self.folder)})
        except OSError as err:
            raise cannot_write(self.folder / STAGE_FILE, err) from err
        if complete:
            (self.folder / _THUMBNAILS).unlink(missing_ok=True)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - started

    def _save_thumbnails(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _THUMBNAILS).open("r+b" if self._stored else "wb") as stream:
            stream.truncate(self._stored * ROWS * COLUMNS)
            stream.seek(0, os.SEEK_END)
            stream.write(self.kept.cells[self._stored :].tobytes())
        self._stored = len(self.kept)

    def remove(self) -> None:
        """Remove the stage file and what belongs to it."""
        (self.folder / STAGE_FILE).unlink(missing_ok=True)
        (self.folder / _THUMBNAILS).unlink(missing_ok=True)

    def remove_frame(self, file: Path) -> None:
        """Remove a frame that was written here; images elsewhere are not ours and stay."""
        if file.resolve().is_relative_to(self.folder / FRAMES):
            file.unlink(missing_ok=True)


def cannot_write(file: Path, err: OSError) -> DataError:
    """Return the error for a file that can't be written."""
    return DataError(f"out: can't write {file} ({err.strerror or err}); make room and run it again, it goes on")
