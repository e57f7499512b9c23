"""Which experiment trackers Ultralytics feeds with the curves of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import detkd.environment

from ultralytics.utils import SETTINGS

__all__ = ["TRACKERS", "switched", "switched_on"]

TRACKERS = ("tensorboard", "mlflow", "wandb")

_NEVER = ("raytune",)
"""Where Ray is installed, this one asks in every epoch for a search that is not running, and warns that it isn't."""


def switched_on() -> tuple[str, ...]:
    """Return the trackers that Ultralytics' settings file switches on (`yolo settings tensorboard=True`)."""
    return tuple(name for name in TRACKERS if SETTINGS[name] is True)


@contextmanager
def switched(wanted: Sequence[str] | None) -> Iterator[None]:
    """Make Ultralytics feed exactly these trackers for the trainers made inside; the settings file stays as it is.

    Args:
        wanted: Some of `TRACKERS`; None leaves the choice to the settings file.
    """
    before = {name: SETTINGS[name] for name in (*TRACKERS, *_NEVER)}
    try:
        for name in _NEVER:
            dict.__setitem__(SETTINGS, name, False)
        if wanted is not None:
            for name in TRACKERS:
                # SETTINGS' own assignment writes the user's file.
                dict.__setitem__(SETTINGS, name, name in wanted)
        yield
    finally:
        for name, value in before.items():
            dict.__setitem__(SETTINGS, name, value)
