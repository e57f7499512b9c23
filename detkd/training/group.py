"""Several processes that train one model: how they meet, agree on something, and notice that one is gone.

Without a launcher every function here does what it says for one process, so callers need not ask.
"""

from __future__ import annotations

import inspect
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import detkd.environment

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from detkd import ranks
from detkd.errors import ConfigError, RankError

__all__ = [
    "bring_together", "gather", "give_up", "in_turn", "join", "leave", "same", "share", "size", "total", "validation",
    "watched", "wrap",
]  # fmt: skip

T = TypeVar("T")

_PATIENCE = timedelta(hours=1)
"""How long to wait for the others; the longest thing that one does alone are the metrics of a validation."""

LOST = "device: another process of this training is gone"

_left = False


def size() -> int:
    """Return how many processes have met."""
    return distributed.get_world_size() if _met() else 1


def _met() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def join(device: str) -> None:
    """Meet the other processes that torchrun started; without a launcher nothing happens.

    Args:
        device: This process's device as Ultralytics writes it: "cpu" or the number of a GPU.

    Raises:
        ConfigError: If two processes would share a GPU, or this process has trained already.
        RankError: If the others don't come.
    """
    if not ranks.launched():
        if _left:
            raise ConfigError("device: torchrun started this process for one training, which is over; start it again")
        return
    if device == "mps":
        raise ConfigError("device: mps can't be shared by several processes; leave out torchrun")
    if not _met():
        backend = "gloo"
        if device != "cpu":
            torch.cuda.set_device(int(device))
            backend = "cpu:gloo,cuda:nccl" if distributed.is_nccl_available() else "gloo"
        try:
            distributed.init_process_group(backend, timeout=_PATIENCE)
        except (RuntimeError, ValueError) as err:
            raise RankError(f"device: the processes of this training could not meet ({_first_line(err)})") from err
        _on_sigterm(_stopped)
    places = gather((platform.node(), device))
    for place in {place for place in places if place[1] != "cpu" and places.count(place) > 1}:
        raise ConfigError(
            f"device: {places.count(place)} processes on {place[0]} would share GPU {place[1]}; start as many "
            "processes as there are GPUs (torchrun --nproc-per-node) and use device=auto"
        )


def _stopped(_number: int, _frame: Any) -> None:
    raise RankError(f"{LOST}, so torchrun stopped this one")


def _on_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def give_up() -> None:
    """Report an error in peace: torchrun asks all processes to stop when one has failed, and kills them later on."""
    if ranks.launched():
        _on_sigterm(signal.SIG_IGN)


def leave() -> None:
    """Part; from here on this process is on its own."""
    global _left
    if ranks.launched():
        if _met():
            distributed.barrier()
            distributed.destroy_process_group()
        _on_sigterm(signal.SIG_DFL)
        ranks.forget()
        _left = True


def share(make: Callable[[], T]) -> T:
    """Return on every process what `make` returns on the first one; the others don't call it."""
    if not _met():
        return make()
    values: list[Any] = [make() if ranks.first() else None]
    distributed.broadcast_object_list(values, src=0)
    value: T = values[0]
    return value


def gather(value: T) -> list[T]:
    """Return the values of all processes on each of them, in their order."""
    if not _met():
        return [value]
    values: list[Any] = [None] * size()
    distributed.all_gather_object(values, value)
    return values


def same(value: object) -> bool:
    """Whether all processes come with the same value."""
    values = gather(value)
    return all(one == values[0] for one in values)


def total(value: Tensor) -> Tensor:
    """Return the sum over all processes; a tensor on the CPU or on this process's device."""
    if not _met():
        return value
    together = value.detach().clone()
    distributed.all_reduce(together)
    return together


def in_turn(make: Callable[[], T]) -> T:
    """Call `make` on the first process, then on the first one of each machine, then on the rest.

    What one of them draws or downloads is there for those that come later.
    """
    turns = [ranks.first(), not ranks.first() and ranks.local_rank() == 0, ranks.local_rank() > 0]
    value: Any = None
    for mine in turns if _met() else [True]:
        if mine:
            value = make()
        if _met():
            distributed.barrier()
    made: T = value
    return made


def wrap(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Wrap a network so that calling it with a batch averages its gradients over all processes.

    Weights and learnable layers of the losses are those of the first process afterwards. A head that gets no gradient
    in a step is allowed for; statistics of normalisation stay each process's own, as in Ultralytics.
    """
    names = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    options: dict[str, Any] = {buffers: False, "find_unused_parameters": True}
    if device.type == "cuda":
        options["device_ids"] = [device.index]
    return DistributedDataParallel(model, **options)


def bring_together(trainer: Any) -> None:
    """Let a trainer that is set up, but for its loaders, share its batches with the other processes."""
    trainer.world_size = size()
    if size() > 1:
        if trainer.amp != (amp := share(lambda: trainer.amp)):  # only the first process tries it out
            enabled = amp and trainer.args.amp != "bf16"
            trainer.amp, trainer.scaler = amp, torch.amp.GradScaler("cuda", enabled=enabled)
        trainer.model = wrap(trainer.model, trainer.device)


@contextmanager
def validation(trainer: Any) -> Iterator[None]:
    """Give all processes the averaged statistics of the first one.

    Inside, Ultralytics thinks that it is alone: it would take means, which gloo does not know, and `Validator` has
    taken them.
    """
    for buffer in trainer.ema.ema.buffers() if size() > 1 else ():
        distributed.broadcast(buffer, src=0)
    world_size, trainer.world_size = trainer.world_size, min(trainer.world_size, 1)
    try:
        yield
    finally:
        trainer.world_size = world_size


@contextmanager
def watched() -> Iterator[None]:
    """Say in one line that another process is gone, where the network library says it in its own words.

    Raises:
        RankError: Instead of the library's error.
    """
    try:
        yield
    except RuntimeError as err:
        if size() > 1 and _is_lost(err):
            raise RankError(f"{LOST} ({_first_line(err)})") from err
        raise


def _is_lost(err: RuntimeError) -> bool:
    text = str(err).lower()
    words = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "socket timeout")
    return isinstance(err, distributed.DistError) or any(word in text for word in words)


def _first_line(err: BaseException) -> str:
    return next(iter(str(err).splitlines()), "") or type(err).__name__
