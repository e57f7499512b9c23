"""Draws the frames of a set into a folder, in this process or spread over several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

import cv2
import numpy as np

from detkd.data.toy.frame import draw_frame
from detkd.errors import DataError
from detkd.progress import track

__all__ = ["Job", "draw_part", "run_workers"]

Job = tuple[str, str, int]  # split, camera, index
Child = subprocess.Popen[str]


def draw_part(folder: Path, jobs: Sequence[Job], arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Draw frames into `folder/images` and `folder/labels`; yields one record per frame."""
    width, height = arguments["size"]
    for split, camera, index in jobs:
        frame = draw_frame(camera, index, arguments["seed"], size=(width, height), difficulty=arguments["difficulty"])
        name = f"{camera}_{index:05d}"
        ok, code = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, frame.meta["quality"]])
        if not ok:
            raise DataError(f"data: OpenCV can't encode {name}.jpg; check the installation of opencv")
        (folder / "images" / f"{name}.jpg").write_bytes(code.tobytes())
        low, high = frame.boxes[:, :2], frame.boxes[:, 2:]
        rows = np.concatenate([(low + high) / 2, high - low], axis=1) / np.array([width, height, width, height])
        lines = [
            f"{kind} {' '.join(f'{value:.6f}' for value in row)}\n"
            for kind, row in zip(frame.classes.tolist(), rows.tolist(), strict=True)
        ]
        (folder / "labels" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        yield {
            "split": split, "name": name, "boxes": frame.boxes.tolist(), "classes": frame.classes.tolist(),
            "meta": frame.meta,
        }  # fmt: skip


def _start_worker(folder: Path, jobs: Sequence[Job], arguments: Mapping[str, Any], errors: IO[str]) -> Child:
    package_root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")])}
    child = subprocess.Popen(
        [sys.executable, "-m", "detkd.data.toy.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=errors, text=True, encoding="utf-8", env=environment,
    )  # fmt: skip
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:  # a child that died says why by its exit status
        child.stdin.write(json.dumps({"folder": str(folder), "jobs": jobs, "arguments": arguments}))
    return child


def run_workers(folder: Path, jobs: list[Job], arguments: dict[str, Any], workers: int) -> list[dict[str, Any]]:
    """Draw in several processes. Plain child processes: no fork of a threaded parent, no need for a main guard."""
    lines: SimpleQueue[tuple[int, str | None]] = SimpleQueue()

    def listen(number: int, child: Child) -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                lines.put((number, line))
        lines.put((number, None))

    def results(running: int) -> Iterator[tuple[int, dict[str, Any]]]:
        while running:
            number, line = lines.get()
            if line is None:
                running -= 1
            else:
                yield number, json.loads(line)

    children: list[Child] = []
    drawn: list[list[dict[str, Any]]] = [[] for _ in range(workers)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        try:
            for number in range(workers):
                part = jobs[len(jobs) * number // workers : len(jobs) * (number + 1) // workers]
                children.append(_start_worker(folder, part, arguments, errors))
                Thread(target=listen, args=(number, children[-1]), daemon=True).start()
            for number, record in track(results(workers), "drawing the toy set", total=len(jobs)):
                drawn[number].append(record)
            codes = [child.wait() for child in children]
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        if any(codes):
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"exit status {codes}"])[-1]
            raise DataError(f"data: drawing the toy set failed ({last}); try again with workers=1")
    return [record for part in drawn for record in part]
