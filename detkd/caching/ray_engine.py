"""The teacher on all machines of a Ray cluster; the answers are written here, in order.

Ray Data streams batches to a pool of actors, each with a teacher of its own. What goes over the network is small: names
of images there, records back. Images are read where the teacher is.

A worker that dies takes its batches with it. The others go on; what came after the gap is kept in memory, up to a
limit, and the missing batches are asked again. That makes no difference between a worker that ran out of memory, a
machine that is gone and a result that was lost on the way.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from detkd.caching.engine import Asker
from detkd.caching.ray_worker import COLUMNS, RayWorker, raised, to_table
from detkd.errors import ConfigError, DataError
from detkd.progress import console

__all__ = ["RayEngine", "RaySettings", "require_ray"]

_WAVE = 100_000
"""Batches handed to Ray at once: its list of names is what takes memory on this machine."""
_GROUP = 16
"""Most batches per task of a worker: so much is asked again when one dies."""
_HELD_BYTES = 256 << 20
"""Records behind a gap that are kept while the gap is asked again."""
_STORE_BYTES = 256 << 20
"""Ray's object store where Ray is started here; it holds lists of names and records, no images."""
_PATIENCE = 10.0
"""Seconds to wait for the head of a cluster to answer."""
_PASSED = ("DETKD_TRUST", "YOLO_OFFLINE")
"""Variables of this process that decide how a teacher is loaded."""


@dataclass(frozen=True)
class RaySettings:
    """The group `ray` of the configuration.

    Attributes:
        address: Of a cluster, "auto" for the one this machine belongs to; None: RAY_ADDRESS, else Ray is started here.
        workers: Teachers at once; None: as many as fit.
        cpus: Cores of each.
        gpus: GPUs of each, a part of one allowed; None: 1 where the cluster has any.
        retries: Times that a pass without a single answer is tried again.
        cores: Cores of this machine to use where Ray is started here; None: all.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None
    retries: int = 3
    cores: int | None = None


def require_ray() -> None:
    """Load Ray, or say how to get it.

    Raises:
        ConfigError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # no GPU asked for, none seen
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            f"engine: ray needs a package that is not installed ({err}); pip install 'detkd[ray]', or use engine=local"
        ) from err


class RayEngine:
    """Asks on a Ray cluster; see `detkd.caching.engine.Engine`.

    Args:
        settings: Where and with how much.
    """

    def __init__(self, settings: RaySettings) -> None:
        self.settings = settings
        self.where = f"Ray at {settings.address}" if settings.address else "Ray"

    def run(self, asker: Asker, batches: Sequence[Sequence[Any]]) -> Iterator[bytes]:
        """Yield the record of each item of all batches, in their order.

        Raises:
            ConfigError: If the cluster can't be reached or has no room for a worker.
            DataError: If no worker answers any more.
            DetkdError: What a worker raises.
        """
        require_ray()
        with _cluster(self.settings) as ray:
            size = _pool(ray, self.settings)
            console.print(
                f"[dim]ray: up to {size.workers} workers with {size.cpus:g} cores"
                + (f" and {size.gpus:g} GPUs" if size.gpus else "")
                + " each[/dim]",
                highlight=False,
            )
            asker = asker.placed("0" if size.gpus else "cpu")
            held: dict[int, list[bytes]] = {}
            done, fruitless, full = 0, 0, False
            while done < len(batches):
                end = min(done + _WAVE, len(batches))
                wanted = [number for number in range(done, end) if number not in held]
                wanted = wanted[:1] if full else wanted  # what all wait for comes first, or more would be held
                arrived, lost = 0, _Loss()
                with closing(_pass(ray, size, asker, batches, wanted, lost)) as answers:
                    for number, records in answers:
                        if len(records) != len(batches[number]):
                            raise DataError(f"ray: batch {number} came back with {len(records)} records; report this")
                        held.setdefault(number, records)
                        arrived += 1
                        while done in held:
                            yield from held.pop(done)
                            done += 1
                        full = sum(len(one) for records in held.values() for one in records) > _HELD_BYTES
                        if full:
                            break
                fruitless = 0 if arrived else fruitless + 1
                if done < end and not (full and arrived):
                    _say_lost(done, end, held, lost, fruitless, self.settings.retries)


@dataclass
class _Loss:
    """Why a pass ended early, in Ray's words."""

    reason: str = ""


@dataclass(frozen=True)
class _Size:
    workers: int
    fixed: bool
    cpus: float
    gpus: float


def _say_lost(done: int, end: int, held: Mapping[int, Any], lost: _Loss, fruitless: int, retries: int) -> None:
    """Tell the user that batches are asked again.

    Raises:
        DataError: If that has been in vain too often.
    """
    missing = end - done - len(held)
    if fruitless > retries:
        raise DataError(
            f"ray: no worker answered in {fruitless} attempts{f' ({lost.reason})' if lost.reason else ''}; what is "
            "stored stays and the same command goes on. Workers that are killed at once lack memory: lower batch=, or "
            "raise ray.cpus so that fewer share a machine"
        )
    console.print(
        f"ray: {missing:,} batches were lost with a worker and are asked again", style="yellow", highlight=False
    )


@contextmanager
def _cluster(settings: RaySettings) -> Iterator[Any]:
    """Connect to the cluster, or to the one this process is connected to; leave as it was found."""
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
    _reach(address)
    given: dict[str, Any] = {}
    if address == "local":
        given = {"num_cpus": settings.cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **given)
    except (ConnectionError, RuntimeError, ValueError, OSError) as err:
        raise ConfigError(
            f"ray.address: can't connect to {address} ({_first_line(err)}); "
            "give host:port of its head as ray start printed it, or leave it out to start Ray here"
        ) from err
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Make sure that somebody answers at host:port; Ray itself would try for minutes.

    Raises:
        ConfigError: If nobody does, or the address is of another kind.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(f"ray.address: must be auto or host:port, got {address}; e.g. ray.address=10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except OSError as err:
        raise ConfigError(
            f"ray.address: nobody answers at {address} ({err.strerror or err}); start it there with ray start --head, "
            "or leave the key out to start Ray here"
        ) from err


def _pool(ray: Any, settings: RaySettings) -> _Size:
    """Return how many workers of which size the cluster shall hold."""
    there = ray.cluster_resources()
    gpus = float(settings.gpus) if settings.gpus is not None else float(there.get("GPU", 0) > 0)
    fits = int(there.get("CPU", 0) // settings.cpus)
    if gpus:
        fits = min(fits, int(there.get("GPU", 0) // gpus))
    if not fits and not settings.workers:
        raise ConfigError(
            f"ray.{'gpus' if gpus else 'cpus'}: no machine of the cluster can hold a worker of {settings.cpus:g} cores "
            f"and {gpus:g} GPUs, all together have {there.get('CPU', 0):g} and {there.get('GPU', 0):g}; lower it"
        )
    return _Size(settings.workers or fits, settings.workers is not None, settings.cpus, gpus)


def _pass(
    ray: Any, size: _Size, asker: Asker, batches: Sequence[Sequence[Any]], wanted: Sequence[int], lost: _Loss
) -> Generator[tuple[int, list[bytes]], None, None]:
    """Ask once about the batches of some numbers; yields what comes back, by and large in order."""
    from ray import cloudpickle
    from ray.data import ActorPoolStrategy
    from ray.exceptions import RayError

    group = max(1, min(_GROUP, len(wanted) // (4 * size.workers)))
    numbers = iter(wanted)
    blocks = []
    while some := list(islice(numbers, group)):
        blocks.append(to_table({"number": some, "content": [pickle.dumps(list(batches[number])) for number in some]}))
    env = {name: os.environ[name] for name in _PASSED if name in os.environ}
    with _quiet():
        dataset = ray.data.from_arrow(blocks)
        context = dataset.context
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # what a lost worker had is asked again, see above
        context.execution_options.preserve_order = True
        pool = (
            ActorPoolStrategy(size=size.workers)
            if size.fixed
            else ActorPoolStrategy(min_size=1, max_size=size.workers, initial_size=size.workers)
        )
        answers = dataset.map_batches(
            RayWorker,
            fn_constructor_args=(cloudpickle.dumps(asker), env),
            batch_size=None,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_restarts=0,
        )
        tables = iter(answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    while True:
        try:
            with _quiet():  # not across `yield`: it would quieten the caller, too
                table = next(tables, None)
        except RayError as err:
            lost.reason = _first_line(err)
            return
        if table is None:
            return
        for number, kind, content in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True):
            if kind:
                raise raised(kind, content)
            yield number, pickle.loads(content)


def _first_line(err: Exception) -> str:
    return next(iter(str(err).strip().splitlines()), type(err).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's log out of the progress bar; what matters of it is told by us."""
    logger = logging.getLogger("ray.data")
    level, spread = logger.level, logger.propagate
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            # Ray warns of settings of its own, and of `max_restarts`, which no other argument replaces; pyproject.toml
            # stops at the last version that has it.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
        logger.propagate = spread
