"""The same work as a discrete-event simulation: loader threads, machines, one storage network, failures and retries."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

import simpy
from scale_model import FLUSH_SECONDS, Assumptions, Stage

_AHEAD = 2
"""Batches a machine's loader may be ahead. One batch stands for many here, so more would be more than is lost."""
_LOADER_SPREAD = 0.2
_GPU_SPREAD = 0.05
"""Durations vary evenly by these shares either way; machines that wait for each other wait for the slowest."""


class _Cluster:
    """What all machines share."""

    def __init__(self, stage: Stage, a: Assumptions, grain: float, seed: int) -> None:
        self.env = simpy.Environment()
        self.stage, self.a, self.grain = stage, a, grain
        self.rng = random.Random(seed)
        self.link = simpy.Resource(self.env)
        self.door = simpy.Resource(self.env)
        self.failures = 0

    def vary(self, seconds: float, spread: float) -> float:
        return seconds * self.rng.uniform(1 - spread, 1 + spread)

    def move(self, size: float) -> Generator[Any, Any, None]:
        """Send bytes over the network, one after the other."""
        with self.link.request() as turn:
            yield turn
            yield self.env.timeout(size / (self.a.network_gbit * 1e9 / 8))

    def ask(self, files: float) -> Generator[Any, Any, None]:
        """Have the storage serve single files."""
        with self.door.request() as turn:
            yield turn
            yield self.env.timeout(files / self.a.requests_per_second)

    def load(self, box: simpy.Store) -> Generator[Any, Any, None]:
        """One loader thread: batches into the box until it is stopped."""
        try:
            while True:
                if self.stage.requests:
                    yield from self.ask(self.stage.requests * self.grain)
                if self.stage.down:
                    yield from self.move(self.stage.down * self.grain)
                yield self.env.timeout(self.vary(self.stage.cpu * self.grain, _LOADER_SPREAD))
                yield box.put(1)
        except simpy.Interrupt:
            return

    def start(self) -> tuple[simpy.Store, list[simpy.Process]]:
        """Start a machine's loader; its first real batch is there after a second, so one of ours is there at once."""
        box = simpy.Store(self.env, capacity=_AHEAD)
        box.put(1)
        return box, [self.env.process(self.load(box)) for _ in range(int(self.a.threads))]

    def work(self, box: simpy.Store) -> Generator[Any, Any, None]:
        """One batch on one machine."""
        yield box.get()
        yield self.env.timeout(self.vary(self.stage.gpu * self.grain, _GPU_SPREAD))
        if self.stage.up:
            yield from self.move(self.stage.up * self.grain)

    def bomb(self, target: simpy.Process, mtbf: float) -> Generator[Any, Any, None]:
        try:
            yield self.env.timeout(self.rng.expovariate(1 / mtbf))
            if target.is_alive:
                target.interrupt()
        except simpy.Interrupt:
            return


def _stop(processes: list[simpy.Process]) -> None:
    for process in processes:
        if process.is_alive:
            process.interrupt()


def _alone(cluster: _Cluster, batches: int) -> Generator[Any, Any, None]:
    """A machine that saves on its own: after a failure it goes on from its last shard."""
    env, a = cluster.env, cluster.a
    chunk = max(round(cluster.stage.saved / cluster.grain), 1)
    safe = 0
    while safe < batches:
        box, loaders = cluster.start()
        fuse = env.process(cluster.bomb(env.active_process, a.mtbf_hours * 3600))  # type: ignore[arg-type]
        try:
            begun, held = env.now, 0
            while safe < batches:
                yield from cluster.work(box)
                held += 1
                if held == chunk or safe + held == batches or env.now - begun >= FLUSH_SECONDS:
                    begun, held, safe = env.now, 0, safe + held
        except simpy.Interrupt:
            cluster.failures += 1
            _stop(loaders)
            yield env.timeout(a.repair_seconds)
        else:
            _stop([*loaders, fuse])


def _together(cluster: _Cluster, batches: int) -> Generator[Any, Any, None]:
    """Machines that wait for each other at every step and begin the pass anew when one fails."""
    env, a = cluster.env, cluster.a
    machines = int(a.machines)
    while True:
        started = [cluster.start() for _ in range(machines)]
        steps: list[simpy.Process] = []
        fuse = env.process(cluster.bomb(env.active_process, a.mtbf_hours * 3600 / machines))  # type: ignore[arg-type]
        try:
            for _ in range(batches):
                steps = [env.process(_step(cluster, box)) for box, _ in started]
                yield env.all_of(steps)
        except simpy.Interrupt:
            cluster.failures += 1
            _stop([*steps, *(loader for _, loaders in started for loader in loaders)])
            yield env.timeout(a.repair_seconds)
        else:
            _stop([fuse, *(loader for _, loaders in started for loader in loaders)])
            return


def _step(cluster: _Cluster, box: simpy.Store) -> Generator[Any, Any, None]:
    try:
        yield from cluster.work(box)
    except simpy.Interrupt:
        return


def simulate(stage: Stage, images: float, a: Assumptions, *, batches: int = 400, seed: int = 0) -> tuple[float, int]:
    """Return the seconds until all images are done, and the failures on the way.

    Args:
        stage: The work on one image.
        images: In one pass.
        a: Machines, network, failures.
        batches: Steps of each machine that the work is cut into: finer is slower and closer to the truth.
        seed: Of durations and failures.
    """
    machines = int(a.machines)
    cluster = _Cluster(stage, a, images / machines / batches, seed)
    env = cluster.env
    if stage.together:
        done: simpy.Event = env.process(_together(cluster, batches))
    else:
        done = env.all_of([env.process(_alone(cluster, batches)) for _ in range(machines)])
    env.run(until=done)
    return float(env.now), cluster.failures
