"""One training by several processes: started here for `device=0,1`, or by the user with torchrun.

Both ways every process does the trainings of a verb and nothing else; then the others leave, and one goes on alone with
what is quick: it finds the trainings done, evaluates them and writes the report.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from detkd import ranks
from detkd.errors import ConfigError, DetkdError, RankError
from detkd.io import write_json
from detkd.progress import console, out
from detkd.quoting import quote
from detkd.tasks.arguments import list_devices, pick_device

__all__ = ["begin_together", "learn_together", "silence", "train_together"]


def begin_together(config: dict[str, Any], verb: str) -> tuple[Path, dict[str, Any], bool]:
    """Open the run folder as `begin` does; under torchrun the first process does it and tells the others.

    Raises:
        ConfigError: If several processes can't do what the configuration says.
    """
    from detkd.tasks.train import begin

    # A folder to resume may be incomplete, or another process may work there: what opens it says so.
    devices = list_devices(config.get("device", "auto"))
    _check(config, ranks.world_size() if ranks.launched() else len(devices))
    if not ranks.launched():
        for place in devices:
            pick_device(place)  # before anything is written
        return begin(config, verb)
    from detkd.training import group

    silence()
    group.join(pick_device(config["device"], ranks=True))
    with group.watched():
        return group.share(lambda: begin(config, verb))


def train_together(config: dict[str, Any], verb: str, folder: Path, resume: bool) -> tuple[dict[str, Any], bool]:
    """Do the trainings of a verb where several processes share them.

    Args:
        config: The configuration.
        verb: "train" or "distill".
        folder: The run folder, open.
        resume: Whether to go on with what is in it.

    Returns:
        The configuration to go on with, on one device, and whether the trainings are done.

    Raises:
        SystemExit: With 0 in all processes but the first: they have nothing left to do.
        DetkdError: What a process failed with; `RankError` if one was killed.
    """
    devices = list_devices(config["device"])
    if ranks.launched():
        try:
            learn_together(config, verb, folder, resume)
        except RankError as err:
            raise RankError(f"{err}; {_hint(verb, folder)}, started by the same torchrun line") from err
        if not console.quiet:
            console.print("[dim]training is done; the first process evaluates[/dim]")
        else:
            raise SystemExit(0)
    elif len(devices) > 1:
        _launch({"verb": verb, "config": config, "folder": str(folder), "resume": resume}, len(devices))
    else:
        return config, False
    return {**config, "device": devices[0]}, True


def learn_together(config: dict[str, Any], verb: str, folder: Path, resume: bool) -> None:
    """Do this process's part of the trainings and part from the others."""
    from detkd.tasks import distill, train
    from detkd.training import group

    learn = train.learn if verb == "train" else distill.learn
    try:
        with group.watched():
            learn(config, folder, resume=resume)
            group.leave()
    except BaseException:
        group.give_up()
        raise


def silence() -> None:
    """Print nothing from here on, unless this is the first process."""
    if not ranks.first():
        console.quiet = out.quiet = True


def _check(config: Mapping[str, Any], count: int) -> None:
    """Refuse what several processes can't do.

    Raises:
        ConfigError: Naming the key and what to do.
    """
    batch = int(config.get("batch") or 0)
    if count > 1 and batch % count:
        below, above = batch // count * count, (batch // count + 1) * count
        near = f"{below} or {above}" if below else str(above)
        raise ConfigError(f"batch: {batch} images can't be shared by {count} processes evenly; use batch={near}")


def _hint(verb: str, folder: Path) -> str:
    return f"go on with: detkd {verb} resume={quote(str(folder))}"


def _launch(job: dict[str, Any], count: int) -> None:
    """Run the trainings of a job in processes of their own, as torchrun would, and wait for them.

    Raises:
        KeyboardInterrupt: If the user stops it.
        DetkdError: What a process failed with.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="detkd-job-") as temporary, _prepared(count):
        file = write_json(Path(temporary) / "job.json", job)
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.2,
        )
        try:
            elastic_launch(settings, sys.executable)("-m", "detkd.tasks.worker", str(file))
        except SignalException as err:
            raise KeyboardInterrupt from err
        except ChildFailedError as err:
            raise _cause(err.failures, _hint(job["verb"], Path(job["folder"]))) from err


@contextmanager
def _prepared(count: int) -> Iterator[None]:
    """Let processes find the code this one found and share the cores; give signals back, which the launcher takes."""
    import logging

    names = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None), getattr(signal, "SIGQUIT", None))
    handlers = {one: signal.getsignal(one) for one in names if one is not None}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = {"PYTHONPATH": os.pathsep.join(word for word in sys.path if word)}
    given["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(cores // count, 1))
    before = {name: os.environ.get(name) for name in given}
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    os.environ.update(given)
    logger.setLevel(logging.CRITICAL)  # what went wrong is said in our words
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for one, handler in handlers.items() if threading.current_thread() is threading.main_thread() else ():
            signal.signal(one, handler)


def _cause(failures: Mapping[int, Any], hint: str) -> BaseException:
    """Return what to raise for the processes that failed: first a kill, then an error, then the loss of another."""
    ranked = sorted(failures.items(), key=lambda item: (*_weight(item[1]), item[0]))
    rank, failure = ranked[0]
    if failure.exitcode == 130:
        return KeyboardInterrupt()
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        why = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        return RankError(f"device: process {rank} of the training was killed by {name}{why}, so all stopped; {hint}")
    said = (failure.error_file_data or {}).get("detkd") or {}
    if said.get("kind") == "RankError":
        return RankError(f"{said['text']}; {hint}")
    if said.get("ours"):
        return DetkdError(said["text"])
    text = said.get("text") or f"exit status {failure.exitcode}"
    return RuntimeError(f"process {rank} of the training failed: {text}")


def _weight(failure: Any) -> tuple[int]:
    """Return how far down the list of causes a failure stands."""
    if failure.exitcode < 0:
        return (0 if failure.exitcode != -signal.SIGTERM else 3,)
    said = (failure.error_file_data or {}).get("detkd") or {}
    return (2 if said.get("kind") == "RankError" else 1,)
