"""One process at a time in a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from detkd.errors import ConfigError

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["hold", "let_go"]

_HELD: dict[Path, int] = {}
"""Folders this process holds, and the open handle of each."""

_ORPHANS = 15.0
"""Seconds that processes which load images may outlive the one that started them; they share its lock."""


def hold(folder: Path, *, key: str, owner: Callable[[], str | None] = lambda: None) -> bool:
    """Make this process the only one that works in a folder until `let_go`, or until it ends, however it does.

    The folder itself is locked: a lock file would be left behind in every run. Holding it again is no mistake. Where
    the file system has no locks for folders nothing is held; of the processes of one distributed run the first holds it
    for all.

    Args:
        folder: An existing folder.
        key: Config key of the folder, for the message.
        owner: Says who works there, None if that is a process that has ended.

    Returns:
        Whether this call made it the only one: nobody else writes there now.

    Raises:
        ConfigError: If another process works there.
    """
    folder = folder.resolve()
    if folder in _HELD or fcntl is None or int(os.environ.get("RANK", "-1")) > 0:
        return False
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    deadline = time.monotonic() + _ORPHANS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            who = owner()
            if who is None and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            os.close(handle)
            raise ConfigError(
                f"{key}: another detkd{f' ({who})' if who else ''} is at work in {folder}; wait for it or stop it, or "
                "choose another folder with out=..."
            ) from err
        except OSError:  # a network file system without locks
            os.close(handle)
            return False
        _HELD[folder] = handle
        return True


def let_go(folder: Path) -> None:
    """Let others work in a folder."""
    handle = _HELD.pop(folder.resolve(), None)
    if handle is not None:
        os.close(handle)
