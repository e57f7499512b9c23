"""What a user must know of a distillation as it was set up: said once when it starts, and kept for its report."""

from __future__ import annotations

from typing import Any

import detkd.environment

from ultralytics.utils.torch_utils import unwrap_model

from detkd.losses.pairing import BRANCHES
from detkd.losses.terms import term_doubts
from detkd.models.distilled import DistilledDetector
from detkd.models.head import has_one2one
from detkd.models.weights import detect_head
from detkd.progress import console

__all__ = ["Notes", "step_note", "untaught_note"]

_SCALE_FREE = ("Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop")
"""Ultralytics' optimizers that divide a gradient by its own size, so that a common factor of the loss cancels (RAdam:
after its first few steps)."""


def step_note(optimizer: str, alpha: float, asked: str = "") -> str | None:
    """Return what `distill.alpha` does to the labels' step under an optimizer, None where it does nothing.

    Args:
        optimizer: Name of its class.
        alpha: Share of the detection loss, in [0, 1].
        asked: Value of `trainer.optimizer`; under "auto", Ultralytics chooses the learning rate too.
    """
    if optimizer in _SCALE_FREE or alpha == 1:
        return None
    part = " (but for its orthogonalised part)" if optimizer == "MuSGD" else ""
    advice = f"divide the student's trainer.lr0 by {alpha:g}" if alpha else "raise distill.alpha and distill.lambda"
    if alpha and asked.lower() == "auto":
        advice += " (with trainer.optimizer set: auto ignores lr0)"
    return (
        f"{optimizer}: its step grows with the loss{part}, so labels move the student by distill.alpha={alpha:g} times "
        f"the step they give the control; for equal steps {advice}, with control=RUN trained before, or use "
        "trainer.optimizer=AdamW"
    )


def untaught_note(model: DistilledDetector, source: Any) -> str | None:
    """Return why a head that the recipe distils learns from labels alone, None if the teacher has all of them.

    Args:
        model: Student and recipe, after `probe`.
        source: The teacher.
    """
    head = detect_head(model.student_model, key="student", source="the student")
    recipe = model.recipe
    for branch in BRANCHES[: 2 if has_one2one(head) else 1]:
        wanted = recipe.columns((branch,)) if recipe.head_weights[branch] != 0 else ()
        if wanted and not set(wanted) & set(model.kd_names):
            why = f": {source.silence(branch)}" if hasattr(source, "silence") else ""
            return f"the student's {branch} head learns from labels alone{why}"
    return None


class Notes:
    """Says on the console, once, what is doubtful or easily overlooked about a distillation.

    Doubtful arguments of losses become alarms of the run; the rest are notes.

    Attributes:
        said: The notes.
        source: The teacher, set by the trainer.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.source: Any = None

    def attach(self, trainer: Any) -> None:
        """Register with a trainer of ours."""
        trainer.add_callback("on_train_start", self.start)

    def start(self, trainer: Any) -> None:
        """Look at what was set up."""
        model = unwrap_model(trainer.model)
        if not isinstance(model, DistilledDetector):
            return
        for text in term_doubts(model.recipe.terms.items()):
            trainer.calibrator.alarm(text.partition(":")[0] + " doubt", text)
        asked = str(trainer.plan.arguments.get("optimizer", "auto"))
        for note in (
            step_note(type(trainer.optimizer).__name__, model.recipe.alpha, asked),
            untaught_note(model, self.source),
        ):
            if note and note not in self.said:
                self.said.append(note)
                console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
