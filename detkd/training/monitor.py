"""The progress line of a training run, instead of one bar per epoch, and the files that `detkd watch` reads."""

from __future__ import annotations

from typing import Any

from rich.progress import TaskID

from detkd.progress import NotedProgress, new_progress
from detkd.training.live import Live

__all__ = ["Monitor"]


class Monitor:
    """Callbacks that draw one bar over all steps, with the time left and the current losses."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._progress: NotedProgress | None = None
        self._task: TaskID | None = None

    def start(self, trainer: Any) -> None:
        """Open the bar at the step the run starts from."""
        steps = len(trainer.train_loader)
        self._progress = new_progress()
        self._progress.start()
        self._task = self._progress.add_task(
            self.description, total=steps * trainer.epochs, completed=steps * trainer.start_epoch
        )

    def step(self, trainer: Any) -> None:
        """Advance by one batch."""
        if self._progress is None or self._task is None:
            return
        losses = "  ".join(f"{name.removesuffix('_loss')} {float(value):.3g}" for name, value in trainer.tloss.items())
        self._progress.line = f"epoch {trainer.epoch + 1}/{trainer.epochs}  {losses}"
        self._progress.update(self._task, advance=1)

    def close(self, _trainer: Any = None) -> None:
        """Close the bar; safe to call twice."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def attach(self, trainer: Any) -> None:
        """Register with a trainer of ours; what it is doing is written into its plan's folder too."""
        Live(trainer.plan.folder, self.description).attach(trainer)
        trainer.add_callback("on_train_start", self.start)
        trainer.add_callback("on_train_batch_end", self.step)
        trainer.add_callback("on_train_end", self.close)
        trainer.add_callback("teardown", self.close)
