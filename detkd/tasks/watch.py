"""`detkd watch`: how a training run is doing, read from its folder alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from detkd.errors import ConfigError
from detkd.progress import out
from detkd.tasks.watch_state import OVER, find_run, read_parts
from detkd.tasks.watch_view import view

__all__ = ["watch"]


def watch(
    config: dict[str, Any],
    *,
    console: Console = out,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run `detkd watch`: until the run is over or the user interrupts; once where the output is no terminal.

    Args:
        config: `run`, `refresh` (seconds) and `once`.
        console: Where to draw.
        clock: Seconds since the epoch.
        sleep: Waits for a number of seconds.

    Raises:
        ConfigError: If there is no such run or `refresh` can't be used.
    """
    refresh = float(config["refresh"])
    if not 0.1 <= refresh <= 3600:
        raise ConfigError(f"refresh: must be 0.1 to 3600 seconds, got {config['refresh']}; e.g. refresh=2")
    folder = find_run(config.get("run"), now=clock())
    console.print(Text(str(folder), style="bold"))
    if config.get("once") or not console.is_terminal:
        console.print(view(read_parts(folder, clock()), console.width))
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                parts = read_parts(folder, clock())
                live.update(view(parts, console.width), refresh=True)
                if parts[-1].status in OVER or any(part.status in OVER - {"finished"} for part in parts):
                    return
                sleep(refresh)
    except KeyboardInterrupt:
        return  # leaving is no failure: the training goes on
