"""What Hydra calls when a sweep begins. A module of its own: importing Hydra takes time that `--help` has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from detkd.sweeps import open_folder

__all__ = ["SweepFolder"]


class SweepFolder(Callback):
    """Tells the command line where the sweep runs; only Hydra knows, once the configuration is composed."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Make the folder."""
        open_folder(Path(str(config.hydra.sweep.dir)))
