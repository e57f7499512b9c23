"""Runs one case of the campaign in this process."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from detkd import cli
from detkd.errors import DetkdError
from detkd.progress import console, out
from tests.hostile.case import Case


@dataclass(frozen=True)
class Answer:
    """What detkd answered.

    Attributes:
        typed: The command, or the call.
        status: Exit status; of a call 2 for an error of detkd, 0 otherwise.
        text: Everything printed.
        message: The lines of the error.
    """

    typed: str
    status: int
    text: str
    message: str


def play(case: Case, folder: Path) -> Answer:
    """Make the input in an empty folder, give it to detkd there and return the answer."""
    before = Path.cwd()
    os.chdir(folder)
    stdout, stderr = io.StringIO(), io.StringIO()
    saved = console._file, out._file, console._width, out._width  # `file` would name the stream of now
    try:
        typed = case.make(folder)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            console.file, out.file = stderr, stdout
            console.width = out.width = 400  # lines are not broken
            if not callable(typed):
                status = cli.main(list(typed))
            else:
                try:
                    typed()
                    status = 0
                except DetkdError as err:
                    status = 2
                    print(f"detkd: {err}", file=stderr)
    finally:
        console._file, out._file, console._width, out._width = saved
        os.chdir(before)
    text = stderr.getvalue() + stdout.getvalue()
    message = "\n".join(line for line in stderr.getvalue().splitlines() if line.startswith("detkd"))
    words = getattr(typed, "__name__", "call") if callable(typed) else "detkd " + " ".join(typed)
    return Answer(words.replace(str(folder), "."), status, text, message)
