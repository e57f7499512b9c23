"""Sweeps (`--multirun`): where one runs, what each job leaves behind, and what is told when all have had their turn."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from detkd.config import compose
from detkd.errors import ConfigError, DetkdError
from detkd.io import read_json
from detkd.quoting import RUN_GROUPS
from detkd.runs import clear_run
from detkd.tasks.sweep import Job, entries, read_job, read_jobs, write_job, write_listing

__all__ = ["all_failed", "begin_job", "check_words", "finish", "job_folders", "open_folder", "take_folder"]

STUDY = "study.db"
"""Where `sweep=optuna` keeps its study, inside the folder of the sweep."""


_folders: list[Path] = []
"""The sweep that this process has begun."""


def open_folder(folder: Path) -> None:
    """Make the folder of a sweep and remember it: a study's storage may lie in it before any job has begun."""
    folder.mkdir(parents=True, exist_ok=True)
    _folders[:] = [folder.resolve()]
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")  # the Optuna that Hydra's sweeper needs is old


def take_folder() -> Path | None:
    """Return the folder of the sweep that this process has begun, once."""
    return _folders.pop() if _folders else None


def all_failed() -> bool:
    """Return whether every job of the sweep that this process has begun failed."""
    jobs = read_jobs(_folders[0]) if _folders else []
    return bool(jobs) and all(job.status == "failed" for job in jobs)


def check_words(words: Sequence[str], options: Sequence[str]) -> None:
    """Refuse presets of sweeps outside of one.

    Raises:
        ConfigError: Naming the preset.
    """
    if any(option.startswith(("--cfg", "-c", "--info", "-i")) for option in options):
        return
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key in RUN_GROUPS and value:
            raise ConfigError(f"{key}: {value} is for several runs; add --multirun")


def job_folders(folder: str | None) -> str:
    """Return the name of a job's folder for Hydra, in a sweep's folder; a study that goes on gets names of its own."""
    if folder is not None and (Path(folder) / STUDY).is_file():
        names = [job.name for job in read_jobs(Path(folder))]
        rounds = [int(name.partition("-")[0]) if "-" in name else 1 for name in names]
        return f"{max(rounds, default=0) + 1}-${{hydra.job.num}}"
    return "${hydra.job.num}"


def begin_job(values: dict[str, Any], words: Sequence[str], number: int, output: str, sweep: str) -> Job:
    """Give a job its run folder and its record.

    A job that is done already comes back as it was, with status `done`. An interrupted one goes on: `values` then say
    `resume`.

    Args:
        values: The job's configuration; `out` and `resume` are set.
        words: Its overrides.
        number: Its number in the sweep.
        output: Hydra's folder for it.
        sweep: The folder of the sweep.
    """
    if "out" in values and not any(word.lstrip("+").startswith("out=") for word in words):
        given = values["out"]
        values["out"] = str(Path(str(given)) / str(number)) if given else output
    job = Job(Path(output).name, tuple(words), str(values.get("out") or output))
    earlier = read_job(Path(sweep), job.name)
    if earlier is not None and earlier.words != job.words:
        earlier = None
    folder = Path(job.out)
    status = read_json(folder / "run.json").get("status") if (folder / "run.json").is_file() else None
    if earlier is not None and earlier.status == "done" and status == "done":
        print(f"job {job.name}: done before -> {job.out}", file=sys.stderr)
        return earlier
    if earlier is not None and status is not None and status != "done" and "resume" in values:
        if any(folder.rglob("resume.pt")):
            values["resume"] = str(folder)
        else:
            clear_run(folder)
    write_job(Path(sweep), job)
    print(f"job {job.name}: {' '.join(words)} -> {job.out}", file=sys.stderr)
    return job


def finish(folder: Path, verb: str, typed: Sequence[str]) -> int:
    """Write the leaderboard, name what failed and, after a search, the best trial; return the exit status.

    Args:
        folder: Of the sweep.
        verb: What was swept.
        typed: What was typed behind the verb.
    """
    jobs = read_jobs(folder)
    status = 0
    _leaderboard(folder, verb, jobs)
    for job in jobs:
        if job.status != "done":
            words = " ".join(job.words)
            reason = job.error or "no result: its process was stopped, or still runs"
            print(f"detkd {verb}: job {job.name} failed ({words}): {reason}", file=sys.stderr)
            status = 1 if 1 in (status, job.code) else 2
    best = folder / "optimization_results.yaml"
    if best.is_file():
        print(_best(yaml.safe_load(best.read_text(encoding="utf-8")), verb, typed))
    return status


def _leaderboard(folder: Path, verb: str, jobs: Sequence[Job]) -> None:
    done = [job for job in jobs if job.evaluated]
    if not done:
        if jobs:
            write_listing(folder)
        return
    if len(entries(folder).runs) < 2:
        paths = write_listing(folder)
        print(f"leaderboard: {paths['md']}", file=sys.stderr)
        return
    try:
        config = compose("compare", ["runs=[]", "before=null", "after=null"])
        saved = yaml.safe_load((Path(done[0].out) / "config.yaml").read_text(encoding="utf-8"))
        config |= {"runs": str(folder), "out": str(folder), "report": saved.get("report") or config["report"]}
        importlib.import_module("detkd.api").compare(config)
    except DetkdError as err:
        write_listing(folder)
        print(f"detkd {verb}: no leaderboard with intervals: {err}", file=sys.stderr)


def _best(results: dict[str, Any], verb: str, typed: Sequence[str]) -> str:
    """Return the best trial and the command that repeats it."""
    found = {str(key): value for key, value in (results.get("best_params") or {}).items()}
    kept = []
    for word in typed:
        key = word.lstrip("+").partition("=")[0]
        if not key.startswith(("-", "hydra.", "hydra/")) and key not in {*RUN_GROUPS, *found, "out"}:
            kept.append(word)
    words = [*kept, *(f"{key}={value}" for key, value in found.items())]
    return f"best trial: {results.get('best_value'):.2f}\n  {shlex.join(['detkd', verb, *words])}"
