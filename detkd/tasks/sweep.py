"""The jobs of a `--multirun` sweep: what each was, how it ended, and the leaderboard's entries they add up to.

A sweep's folder holds `jobs/NAME.json` for every job that was begun, and at the end the leaderboard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detkd.errors import ConfigError
from detkd.io import read_json, write_json, write_text

__all__ = ["Entries", "Job", "entries", "is_sweep", "read_job", "read_jobs", "write_job", "write_listing"]

JOBS = "jobs"
"""Folder of the records, inside that of the sweep."""

UNFINISHED = "no result: its process was stopped, or still runs"
_BESIDE_THE_RECIPE = ("distill", "teacher", "cache", "unlabelled", "~distill")
"""What a control does not see, so that one control serves all runs that differ in nothing else."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: Its number, as in its folder.
        words: Overrides, as Hydra read them.
        out: Run folder.
        status: running, done or failed.
        error: What went wrong, in one line; empty otherwise.
        code: Exit status it would have had on its own.
        objective: The number a sweeper optimises.
    """

    name: str
    words: tuple[str, ...]
    out: str
    status: str = "running"
    error: str = ""
    code: int = 0
    objective: float | None = None

    @property
    def seed(self) -> str:
        """The training seed as typed, empty where none was."""
        return next((word.partition("=")[2] for word in self.words if word.startswith("seed=")), "")

    @property
    def evaluated(self) -> bool:
        """Whether it left detections that can be compared."""
        return self.status == "done" and _evaluated(Path(self.out))


def write_job(folder: Path, job: Job) -> None:
    """Write or replace the record of a job."""
    write_json(folder / JOBS / f"{job.name}.json", asdict(job))


def read_job(folder: Path, name: str) -> Job | None:
    """Return the record of a job, None where it was never begun."""
    file = folder / JOBS / f"{name}.json"
    if not file.is_file():
        return None
    record = read_json(file)
    return Job(**{**record, "words": tuple(record["words"])})


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a sweep by number; none where the folder is not that of a sweep."""
    files = [file for file in (folder / JOBS).glob("*.json") if not file.name.startswith(".")]  # those are half-written
    found = [job for file in files if (job := read_job(folder, file.stem)) is not None]
    return sorted(found, key=lambda job: [int(part) for part in re.findall(r"\d+", job.name)])


def is_sweep(value: Any) -> bool:
    """Return whether a value of `runs` is the folder of a sweep."""
    return isinstance(value, (str, Path)) and (Path(value).expanduser() / JOBS).is_dir()


@dataclass(frozen=True)
class Entries:
    """What a sweep has for a leaderboard.

    Attributes:
        runs: Name of each entry to its run folders, one per seed.
        reference: The entry all others are compared with: plain training where there is one, else the first.
        failed: Name and one-line reason of each job without a result.
    """

    runs: dict[str, list[str]]
    reference: str | None
    failed: tuple[tuple[str, str], ...]


def entries(folder: str | Path) -> Entries:
    """Group the jobs of a sweep: those that differ in nothing but the seed are one entry.

    Raises:
        ConfigError: If no job has left anything to compare.
    """
    jobs = read_jobs(Path(folder).expanduser())
    found = _group(jobs)
    if not found.runs:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.failed[:3])
        raise ConfigError(f"runs: no run of {folder} has results{f' ({reasons})' if reasons else ''}; start it again")
    return found


def _group(jobs: Sequence[Job]) -> Entries:
    own = _own_words(jobs)
    done = [job for job in jobs if job.evaluated]
    runs: dict[str, list[str]] = {}
    reference = None
    for job in done:
        name = _name(own[job.name], job)
        runs.setdefault(name, []).append(job.out)
        if "distill=none" in own[job.name]:
            reference = name
    if reference is None and (control := _controls(done, own)):
        runs = {"control": control, **runs}
        reference = "control"
    failed = tuple(
        (f"{_name(own[job.name], job)}{f' (seed {job.seed})' if job.seed else ''}", job.error or UNFINISHED)
        for job in jobs
        if job.status != "done"
    )
    return Entries(runs, reference, failed)


def _own_words(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Return by job name the words that not all jobs share, without the seed."""
    shared = set.intersection(*(set(job.words) for job in jobs)) if len(jobs) > 1 else set()
    return {
        job.name: [word for word in job.words if word not in shared and not word.startswith("seed=")] for job in jobs
    }


def _name(words: Iterable[str], job: Job) -> str:
    """Return an entry's name: its words, long numbers cut to four digits."""
    short = [re.sub(r"\d+\.\d{5,}(?:e-?\d+)?", lambda match: f"{float(match[0]):.4g}", word) for word in words]
    return ", ".join(short).replace("'", "") or Path(job.out).resolve().parent.name


def _controls(done: Sequence[Job], own: dict[str, list[str]]) -> list[str]:
    """Return the controls that serve all jobs, one per seed; none where jobs differ in what a control sees."""
    if any(not word.startswith(_BESIDE_THE_RECIPE) for job in done for word in own[job.name]):
        return []
    by_seed: dict[str, str] = {}
    for job in done:
        given = next((word.partition("=")[2].strip("'") for word in job.words if word.startswith("control=")), "")
        folder = Path(given) if given not in ("", "true", "false", "null") else Path(job.out) / "control"
        if not _evaluated(folder):
            return []
        by_seed.setdefault(job.seed, str(folder))
    return list(dict.fromkeys(by_seed.values()))


def _evaluated(folder: Path) -> bool:
    return (folder / "detections.json").is_file() and (folder / "metrics.json").is_file()


def write_listing(folder: Path) -> dict[str, Path]:
    """Write leaderboard.json and .md for a sweep whose runs can't be compared: names, objectives, failures."""
    jobs = read_jobs(folder)
    own = _own_words(jobs)
    rows = [{**asdict(replace(job, words=())), "name": _name(own[job.name], job), "job": job.name} for job in jobs]
    for row, job in zip(rows, jobs, strict=True):
        row["words"] = list(job.words)
        row["error"] = job.error or ("" if job.status == "done" else UNFINISHED)
    rows.sort(key=lambda row: (row["objective"] is None, -(row["objective"] or 0.0)))
    cells = [
        [row["job"], row["name"], "" if row["objective"] is None else f"{row['objective']:.2f}", row["error"] or "done"]
        for row in rows
    ]
    lines = ["| job | what | objective | |", "|---|---|---:|---|"]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells]
    return {
        "json": write_json(folder / "leaderboard.json", {"kind": "sweep", "jobs": rows}),
        "md": write_text(folder / "leaderboard.md", "# Sweep\n\n" + "\n".join(lines) + "\n"),
    }
