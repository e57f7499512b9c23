"""A recipe: which losses, how strong, where, on which heads and when.

`L = alpha * L_det + (1 - alpha) * lambda * L_kd`, with
`L_kd = schedule(progress) * sum over heads of head weight * sum over terms of term weight * term`.
The recipe returns `lambda * L_kd`; the caller knows L_det and applies alpha, then multiplies by the batch size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detkd.errors import ConfigError, ShapeError
from detkd.losses.base import DistillLoss, Region
from detkd.losses.checks import check_choice, check_keys, check_number
from detkd.losses.pairing import BRANCHES, check_outputs, detach_view, paired_heads
from detkd.losses.regions import TeacherTop
from detkd.losses.schedule import Schedule
from detkd.ops.divergence import widen
from detkd.types import Assignment, Branch, Context, View

__all__ = ["DEFAULT_HEADS", "NATIVE", "Recipe", "Schedule", "Term"]

NATIVE = "native"
"""Head weight that follows the detector's own loss: YOLO26 shifts from one2many to one2one during training."""

DEFAULT_HEADS: dict[str, float | str] = {"one2many": 1.0, "one2one": NATIVE}


@dataclass(frozen=True)
class Term:
    """One weighted loss.

    Attributes:
        name: Its column in the progress line and the results file, after "kd_".
        loss: The loss itself.
        weight: Factor of the loss, >= 0.
        branches: Heads it applies to; None for all.
    """

    name: str
    loss: DistillLoss
    weight: float = 1.0
    branches: tuple[Branch, ...] | None = None

    def __post_init__(self) -> None:
        key = f"distill.terms.{self.name}"
        # nn.ModuleDict can't hold names of its own attributes, and a column name needs no quoting.
        if not self.name.isidentifier() or hasattr(nn.ModuleDict, self.name):
            raise ConfigError(f"{key}: can't name a term, got {self.name!r}; use letters, digits and _, e.g. cls")
        if not isinstance(self.loss, DistillLoss):
            raise ConfigError(f"{key}.loss: must be a DistillLoss, got {type(self.loss).__name__}; give a _target_")
        check_number(f"{key}.weight", self.weight, low=0.0, hint="0 turns the term off")
        for branch in self.branches or ():
            check_choice(f"{key}.branches", branch, BRANCHES)


class Recipe(nn.Module):
    """The sum of all distillation terms.

    Args:
        terms: The weighted losses; none means no distillation.
        region: Where to distil; the teacher's top 1 % and assigned anchors by default.
        schedule: Weight over the run; constant by default.
        alpha: Share of the detection loss, in [0, 1]. Not applied here.
        kd_weight: Common factor of all terms, >= 0; the key `lambda` of the config.
        head_weights: Factor per head, a number >= 0 or "native"; heads left out keep `DEFAULT_HEADS`.

    Raises:
        ConfigError: Naming the key under `distill` that can't be used.
    """

    def __init__(
        self,
        terms: Iterable[Term],
        *,
        region: Region | None = None,
        schedule: Schedule | None = None,
        alpha: float = 0.5,
        kd_weight: float = 1.0,
        head_weights: Mapping[str, float | str] | None = None,
    ) -> None:
        super().__init__()
        terms = list(terms)
        names = [term.name for term in terms]
        if len(set(names)) != len(names):
            raise ConfigError(f"distill.terms: names must differ, got {names}; rename one")
        self.alpha = check_number(
            "distill.alpha", alpha, low=0.0, high=1.0, hint="1 is the detection loss alone, 0 is distillation alone"
        )
        self.kd_weight = check_number("distill.lambda", kd_weight, low=0.0, hint="1 keeps the weights of the terms")
        if not terms and self.alpha < 1:
            raise ConfigError(
                f"distill.terms: is empty, but distill.alpha={self.alpha:g} would scale the detection loss down; add a "
                "term, or use distill=none"
            )
        check_keys("distill.heads", head_weights or {}, BRANCHES)
        self.head_weights = {**DEFAULT_HEADS, **(head_weights or {})}
        for branch, weight in self.head_weights.items():
            if weight != NATIVE:
                hint = "'native' follows the detector's own weights, 0 turns the head off"
                check_number(f"distill.heads.{branch}", weight, low=0.0, hint=hint)
        self.terms = nn.ModuleDict({term.name: term.loss for term in terms})
        self.weights = {term.name: float(term.weight) for term in terms}
        self.branches = {term.name: term.branches or BRANCHES for term in terms}
        self.region = TeacherTop() if region is None else region
        self.schedule = Schedule() if schedule is None else schedule

    @classmethod
    def from_parts(
        cls,
        terms: Mapping[str, Mapping[str, object]],
        *,
        region: Region | None = None,
        schedule: Schedule | Mapping[str, object] | None = None,
        alpha: float = 0.5,
        kd_weight: float = 1.0,
        heads: Mapping[str, float | str] | None = None,
    ) -> Recipe:
        """Build a recipe from plain values and losses that exist already.

        Args:
            terms: Per name, a mapping with `loss` and optionally `weight` and `branches`.
            region: Where to distil.
            schedule: A schedule or its arguments.
            alpha: Share of the detection loss, in [0, 1].
            kd_weight: The key `lambda` of the config.
            heads: Factor per head.

        Raises:
            ConfigError: Naming the key under `distill` that can't be used; all problems with terms at once.
        """
        built, problems = [], []
        for name, parts in terms.items():
            try:
                built.append(_term(name, parts))
            except ConfigError as err:
                problems.append(str(err))
        if problems:
            raise ConfigError("\n".join(problems))
        if isinstance(schedule, Mapping):
            schedule = Schedule.from_mapping(schedule)
        return cls(built, region=region, schedule=schedule, alpha=alpha, kd_weight=kd_weight, head_weights=heads)

    @property
    def uses(self) -> frozenset[str]:
        """All outputs that some term reads, so that a source can skip the rest."""
        return frozenset().union(*(self._loss(name).uses for name in self.terms))

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Let each loss build the layers it needs, once, before the optimizer exists."""
        for name in self.terms:
            self._loss(name).setup(student_channels, teacher_channels)

    def paired(self, student: Iterable[str], teacher: Iterable[str]) -> tuple[Branch, ...]:
        """Return the heads that will be distilled, given the names of those there are; see `paired_heads`."""
        wanted = {branch for name in self.terms for branch in self.branches[name] if self.head_weights[branch] != 0}
        return paired_heads(student, teacher, wanted) if self.terms else ()

    def columns(self, branches: Iterable[Branch]) -> tuple[str, ...]:
        """Return the names of all logged values for these heads, in the order `forward` gives them."""
        return tuple(
            _column(name, branch) for branch in branches for name in self.terms if branch in self.branches[name]
        )

    def forward(
        self,
        student: View,
        teacher: View,
        assignments: Mapping[Branch, Assignment | None],
        progress: float,
        native: Mapping[Branch, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the two detectors on one batch.

        Args:
            student: The student's answers, with gradient.
            teacher: The teacher's answers on the student's anchors; treated as constant.
            assignments: The labels' assignment per head; a missing or None one means no labels.
            progress: Share of the run that is done, in [0, 1].
            native: The detector's own weight of each head at this moment, for heads weighted "native".

        Returns:
            Scalar with all weights but alpha, divided by masses over the batch (multiply by the batch size as for the
            native loss), and the plain value of each term, detached and without any weight.

        Raises:
            PairError: If heads or outputs are missing.
            ShapeError: If answers of the two don't fit together, or a region or loss returns the wrong shape.
        """
        teacher = detach_view(teacher)
        factor = self.kd_weight * self.schedule(progress)
        total = torch.zeros((), device=student.strides.device)
        items: dict[str, Tensor] = {}
        for branch in self.paired(student.heads, teacher.heads):
            context = self._context(student, teacher, assignments.get(branch), branch)
            head_weight = factor * self._head_weight(branch, native)
            for name in self.terms:
                if branch not in self.branches[name]:
                    continue
                for role, view in (("student", student), ("teacher", teacher)):
                    check_outputs(name, self._loss(name).uses, view, branch, role)
                weight = head_weight * self.weights[name]
                with torch.set_grad_enabled(weight > 0 and torch.is_grad_enabled()):
                    value = self.terms[name](student, teacher, context)
                if value.ndim != 0:
                    raise ShapeError(f"distill.terms.{name}.loss: must return a scalar, got shape {tuple(value.shape)}")
                items[_column(name, branch)] = value.detach()
                if weight > 0:
                    total = total + weight * value
        return total, items

    def _loss(self, name: str) -> DistillLoss:
        loss = self.terms[name]
        assert isinstance(loss, DistillLoss)
        return loss

    def _head_weight(self, branch: Branch, native: Mapping[Branch, float]) -> float:
        weight = self.head_weights[branch]
        if weight != NATIVE:
            return float(weight)
        if branch not in native:
            raise ConfigError(
                f"distill.heads.{branch}: 'native' needs the detector's own weights, got {dict(native)}; set a number"
            )
        return float(native[branch])

    def _context(self, student: View, teacher: View, assignment: Assignment | None, branch: Branch) -> Context:
        logits = student.head(branch).logits
        blank = Context(branch, assignment, logits.new_ones(logits.shape[:2], dtype=torch.float32), student.imgsz)
        region = widen(self.region(student, teacher, blank).detach())
        if region.shape != logits.shape[:2]:
            raise ShapeError(
                f"distill.region: must have one weight per image and anchor, {tuple(logits.shape[:2])}, got shape "
                f"{tuple(region.shape)}; teacher and student need the same anchors"
            )
        known = teacher.head(branch).known
        if known is not None:
            region = region * known.to(region)
        return blank._replace(region=region)


def _column(name: str, branch: Branch) -> str:
    return f"kd_{name}" + ("_o2o" if branch == "one2one" else "")


def _term(name: str, parts: Mapping[str, object]) -> Term:
    key = f"distill.terms.{name}"
    if not isinstance(parts, Mapping):
        raise ConfigError(f"{key}: must hold loss and weight, got {parts!r}; see conf/distill/binary.yaml")
    check_keys(key, parts, ("loss", "weight", "branches"))
    if "loss" not in parts:
        raise ConfigError(f"{key}.loss: is missing; give a _target_ as in conf/distill/binary.yaml")
    branches = parts.get("branches")
    if isinstance(branches, str):
        branches = (branches,)
    return Term(
        name=name,
        loss=parts["loss"],  # type: ignore[arg-type]  # Term checks these three
        weight=parts.get("weight", 1.0),  # type: ignore[arg-type]
        branches=None if branches is None else tuple(branches),  # type: ignore[arg-type]
    )
