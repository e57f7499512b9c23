"""Run folders: what was done, with what, by which versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from detkd.errors import ConfigError, DataError
from detkd.io import parse_yaml, read_bytes, read_json, sweep, write_json, write_text
from detkd.locks import hold, let_go

__all__ = [
    "check_unchanged",
    "claim",
    "clear_run",
    "environment_record",
    "fail_runs",
    "finish_run",
    "git_commit",
    "new_folder",
    "open_run",
    "process_record",
    "process_start",
    "read_config",
    "start_run",
]

_MAY_CHANGE = {
    "device", "workers", "threads", "pictures", "verbose", "trust", "resume", "out", "name", "control", "report",
}  # fmt: skip

_PARTS = ("", "weights", "train", "pictures", "export", "control", "control/weights", "control/train")
"""Where a run writes files, seen from its folder."""

_OPEN: list[Path] = []
"""Folders of the runs that this process started and has not finished."""

_PACKAGES = (
    "detkd", "torch", "torchvision", "ultralytics", "numpy", "opencv-python", "albumentations", "pycocotools",
    "hotcoco", "hydra-core", "onnxruntime", "openvino",
)  # fmt: skip


def environment_record() -> dict[str, Any]:
    """Return versions, machine and commit, as JSON values."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "versions": versions,
        "commit": git_commit(Path(__file__).resolve().parents[1]),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def git_commit(folder: Path) -> str | None:
    """Return the commit of a checkout, with `+` when it has changes, or None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def process_record() -> dict[str, Any]:
    """Return what this process is known by, so that `detkd watch` can tell whether it still runs."""
    pid = os.getpid()
    return {"pid": pid, "process_started": process_start(pid), "host": platform.node()}


def process_start(pid: int) -> int | None:
    """Return when a process started, in ticks since boot, so that a number given anew is not taken for it."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(line.rpartition(")")[2].split()[19])


def new_folder(out: str | Path | None, verb: str) -> Path:
    """Return the run folder: `out` as given, else the next free `runs/<verb>`, `runs/<verb>-2`, ...

    Raises:
        ConfigError: If it can't be created or written.
    """
    try:
        folder = _next_free(verb) if out is None else Path(out).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".detkd-write-test"
        probe.touch()
        probe.unlink()
    except OSError as err:
        reason, place = err.strerror or str(err), err.filename or out or "runs"
        raise ConfigError(f"out: can't write to {place} ({reason}); choose a writable folder with out=...") from err
    return folder.resolve()


def _next_free(verb: str) -> Path:
    """Make the next free folder; of two processes that ask at the same time each gets one of its own."""
    number = 1
    Path("runs").mkdir(exist_ok=True)
    while True:
        folder = Path("runs") / (verb if number == 1 else f"{verb}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def claim(folder: Path, *, key: str = "out") -> None:
    """Make this process the only one that works in a run folder, and remove what a killed one was writing there.

    Raises:
        ConfigError: If another process works there.
    """
    if hold(folder, key=key, owner=lambda: _at_work(folder)):
        sweep(*(folder / part for part in _PARTS))


def _at_work(folder: Path) -> str | None:
    """Return which process the folder names, None if that has ended."""
    record = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    pid, here = record.get("pid"), record.get("host") == platform.node()
    if not isinstance(pid, int) or (here and process_start(pid) != record.get("process_started")):
        return None
    return f"{record.get('verb')}, process {pid}" + ("" if here else f" on {record.get('host')}")


def start_run(folder: Path, verb: str, config: Mapping[str, Any]) -> None:
    """Write `config.yaml` and `run.json` before anything else happens.

    Raises:
        ConfigError: If the folder holds a run of another verb, whose files would be mixed with the new ones, or another
            process works there.
    """
    if (folder / "run.json").is_file() and (other := _record(folder, "out").get("verb")) != verb:
        raise ConfigError(f"out: {folder} holds a {other} run; choose another folder with out=...")
    claim(folder)
    _OPEN[:] = [*_OPEN, folder]
    write_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    record = {
        "schema": 1,
        "verb": verb,
        "status": "running",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **process_record(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": config.get("seed"),
        "environment": environment_record(),
    }
    write_json(folder / "run.json", record)


def finish_run(folder: Path, **facts: Any) -> None:
    """Add facts to `run.json` and mark the run as done."""
    _OPEN[:] = [one for one in _OPEN if one != folder]
    record = read_json(folder / "run.json")
    record.update(facts, status="done", finished=datetime.now(UTC).isoformat(timespec="seconds"))
    write_json(folder / "run.json", record)
    let_go(folder)


def fail_runs(reason: str | None) -> None:
    """Let go of the runs that this process started and did not finish.

    Args:
        reason: Its first line is noted, and that the run failed; None where it was interrupted.
    """
    for folder in _OPEN:
        if reason is not None and (folder / "run.json").is_file():
            record = read_json(folder / "run.json")
            record.update(status="failed", reason=next(iter(reason.splitlines()), ""))
            with suppress(DataError):  # there may be no room; the first error is the one to act on
                write_json(folder / "run.json", record)
        let_go(folder)
    _OPEN.clear()


def open_run(path: str | Path, verb: str) -> Path:
    """Return an existing run folder of the given verb, to resume it; `run.json` notes when, and by which process.

    Raises:
        ConfigError: If it is no run folder, of another verb, or finished, or another process works there.
    """
    folder = Path(path).expanduser().resolve()
    if not (folder / "run.json").is_file() or not (folder / "config.yaml").is_file():
        raise ConfigError(f"resume: {folder} is no run folder (run.json and config.yaml are missing); name runs/<name>")
    record = _record(folder, "resume")
    if record.get("verb") != verb:
        raise ConfigError(
            f"resume: {folder} is a {record.get('verb')} run; use detkd {record.get('verb')} resume={path}"
        )
    if record.get("status") == "done":
        raise ConfigError(f"resume: {folder} is finished; its results are in metrics.json")
    claim(folder, key="resume")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")  # what the process before wrote last is no newer
    record.pop("reason", None)
    write_json(folder / "run.json", {**record, "status": "running", "resumed": now, **process_record()})
    _OPEN.append(folder)
    return folder


def _record(folder: Path, key: str) -> dict[str, Any]:
    record = read_json(folder / "run.json")
    if not isinstance(record, dict):
        raise ConfigError(f"{key}: {folder / 'run.json'} is damaged; choose another folder with out=...")
    return record


def read_config(folder: Path, key: str = "resume") -> dict[str, Any]:
    """Return the configuration a run was started with.

    Args:
        folder: Its folder.
        key: Config key for messages.

    Raises:
        ConfigError: If it is damaged.
    """
    file = folder / "config.yaml"
    try:
        config = parse_yaml(read_bytes(file).decode("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as err:
        reason = next(iter(str(err).splitlines()), type(err).__name__)
        raise ConfigError(f"{key}: {file} can't be read ({reason}); start the run anew") from err
    if not isinstance(config, dict):
        raise ConfigError(f"{key}: {file} is damaged; start the run anew")
    return config


def check_unchanged(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other settings: half of its results would come from each.

    Raises:
        ConfigError: Naming the first key that differs.
    """
    before, after = _flat(saved), _flat(given)
    for key in sorted({*before, *after}):
        if key.partition(".")[0] not in _MAY_CHANGE and before.get(key) != after.get(key):
            raise ConfigError(
                f"{key}: the run was started with {before.get(key)}, got {after.get(key)}; resume it unchanged, or "
                "start another run"
            )


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value not in (None, {}):  # a missing key and an empty one mean the same
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def clear_run(folder: Path) -> None:
    """Remove what an earlier run left in its folder, so that none of it can be taken for a result of the next."""
    for name in ("train", "weights", "control", "pictures", "export"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for file in [
        *folder.glob("*.json"),
        *folder.glob("compare.*"),
        folder / "resume.pt",
        folder / "config.yaml",
        folder / "live.jsonl",
    ]:
        file.unlink(missing_ok=True)
