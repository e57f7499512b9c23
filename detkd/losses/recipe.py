"""A recipe: which losses, how strong, where, on which heads and when.

`L = alpha * L_det + (1 - alpha) * lambda * L_kd`, with
`L_kd = schedule(progress) * sum over heads of head weight * sum over terms of factor * term weight * term`.
The recipe returns `lambda * L_kd`; the caller knows L_det and applies alpha, then multiplies by the batch size. The
factor is 1 until it is measured: one for the terms on the answers of each head, one for all terms on feature maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detkd.errors import ConfigError
from detkd.losses.balance import GROUPS, Balance
from detkd.losses.base import DistillLoss, Region, TowerChannels, tower_stage
from detkd.losses.checks import check_choice, check_keys, check_number
from detkd.losses.pairing import BRANCHES, check_outputs, detach_view, known_classes, make_context, paired_heads
from detkd.losses.regions import TeacherTop
from detkd.losses.schedule import Schedule
from detkd.losses.terms import Compared, Term, column, make_term, value_of
from detkd.types import Assignment, Branch, View

__all__ = ["ASSIGNMENTS", "DEFAULT_HEADS", "NATIVE", "Compared", "Recipe", "Schedule", "Term"]

ASSIGNMENTS = ("student", "teacher", "mixed")
"""Whose answers decide which anchors learn a label."""

NATIVE = "native"
"""Head weight that follows the detector's own loss: YOLO26 shifts from one2many to one2one during training."""

DEFAULT_HEADS: dict[str, float | str] = {"one2many": 1.0, "one2one": NATIVE}


class Recipe(nn.Module):
    """The sum of all distillation terms.

    Args:
        terms: The weighted losses; none means no distillation.
        region: Where to distil; the teacher's top 1 % and assigned anchors by default.
        schedule: Weight over the run; constant by default.
        alpha: Share of the detection loss, in [0, 1]. Not applied here.
        kd_weight: Common factor of all terms, >= 0; the key `lambda` of the config.
        head_weights: Factor per head, a number >= 0 or "native"; heads left out keep `DEFAULT_HEADS`.
        balance: Shares of the gradient that set the factors; None keeps them at 1.
        assignment: Whose answers decide which anchors learn a label: "student" (as ever), "teacher", or "mixed", which
            moves from the teacher's to the student's over the run. Applied by the caller.

    Attributes:
        factors: Factor per group, in the order of `GROUPS`; a buffer, so that a resumed run goes on with it.
        measured: How often they were measured; a buffer likewise.

    Raises:
        ConfigError: Naming the key under `distill` that can't be used.
    """

    factors: Tensor
    measured: Tensor

    def __init__(
        self,
        terms: Iterable[Term],
        *,
        region: Region | None = None,
        schedule: Schedule | None = None,
        alpha: float = 0.5,
        kd_weight: float = 1.0,
        head_weights: Mapping[str, float | str] | None = None,
        balance: Balance | None = None,
        assignment: str = "student",
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
        self.groups = {(term.name, branch): term.group(branch) for term in terms for branch in BRANCHES}
        self.regions = nn.ModuleDict({term.name: term.region for term in terms if term.region is not None})
        self.schedules = {term.name: term.schedule for term in terms if term.schedule is not None}
        self.region = TeacherTop() if region is None else region
        self.schedule = Schedule() if schedule is None else schedule
        if balance is not None and terms and self.alpha in (0.0, 1.0):
            raise ConfigError(
                f"distill.calibrate: compares gradients of two losses, but distill.alpha={self.alpha:g} leaves one of "
                "them out; use calibrate: null or an alpha between 0 and 1"
            )
        self.balance = balance if terms and self.kd_weight > 0 else None
        self.assignment = check_choice("distill.assignment", assignment, ASSIGNMENTS)
        self.register_buffer("factors", torch.ones(len(GROUPS)))
        self.register_buffer("measured", torch.zeros((), dtype=torch.long))

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
        calibrate: Balance | Mapping[str, object] | None = None,
        assignment: str | None = "student",
    ) -> Recipe:
        """Build a recipe from plain values and losses that exist already.

        Args:
            terms: Per name, a mapping with `loss` and optionally `weight`, `branches`, `region` and `schedule`.
            region: Where to distil.
            schedule: A schedule or its arguments.
            alpha: Share of the detection loss, in [0, 1].
            kd_weight: The key `lambda` of the config.
            heads: Factor per head.
            calibrate: Shares of the gradient, or their arguments; None keeps the weights as they are.
            assignment: Whose answers decide which anchors learn a label.

        Raises:
            ConfigError: Naming the key under `distill` that can't be used; all problems with terms at once.
        """
        built, problems = [], []
        for name, parts in terms.items():
            try:
                built.append(make_term(name, parts))
            except ConfigError as err:
                problems.append(str(err))
        if problems:
            raise ConfigError("\n".join(problems))
        if isinstance(schedule, Mapping):
            schedule = Schedule.from_mapping(schedule)
        if isinstance(calibrate, Mapping):
            calibrate = Balance.from_mapping(calibrate)
        return cls(
            built,
            region=region,
            schedule=schedule,
            alpha=alpha,
            kd_weight=kd_weight,
            head_weights=heads,
            balance=calibrate,
            assignment=assignment or "student",
        )

    @property
    def uses(self) -> frozenset[str]:
        """All outputs of a teacher that some term reads, so that it can skip the rest."""
        return frozenset().union(*(self._loss(name).reads("teacher") for name in self.terms))

    def setup(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        """Let each loss build the layers it needs, once, before the optimizer exists."""
        for name in self.terms:
            self._loss(name).setup(student_channels, teacher_channels)

    def setup_towers(self, student: Mapping[str, TowerChannels], teacher: Mapping[str, TowerChannels]) -> None:
        """Let each loss that reads maps inside the heads build its layers; each is given the heads it compares."""
        for name in self.terms:
            if "towers" in (loss := self._loss(name)).uses:
                theirs = teacher if "towers" in loss.reads("teacher") else {}
                heads = [one for one in self.branches[name] if one in student and one in (theirs or student)]
                loss.setup_towers({b: student[b] for b in heads}, {b: theirs[b] for b in heads if b in theirs})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take the state of a run that began when recipes had no factors, or fewer: they are measured anew."""
        for name in ("factors", "measured"):
            if getattr(self, name).shape != state_dict.get(f"{prefix}{name}", torch.empty(0)).shape:
                state_dict[f"{prefix}{name}"] = getattr(self, name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def stage(self) -> int | None:
        """The stage of the heads' towers at which losses read them, None if none does."""
        return tower_stage((name, self._loss(name)) for name in self.terms)

    def paired(self, student: Iterable[str], teacher: Iterable[str]) -> tuple[Branch, ...]:
        """Return the heads that will be distilled, given the names of those there are; see `paired_heads`."""
        wanted = {branch for name in self.terms for branch in self.branches[name] if self.head_weights[branch] != 0}
        return paired_heads(student, teacher, wanted) if self.terms else ()

    def columns(self, branches: Iterable[Branch]) -> tuple[str, ...]:
        """Return the names of all logged values for these heads, in the order `forward` gives them."""
        return tuple(
            column(name, branch) for branch in branches for name in self.terms if branch in self.branches[name]
        )

    def strength(self, name: str, progress: float) -> float:
        """Return what the schedules leave of a term after a share of the run."""
        own = self.schedules.get(name)
        return self.schedule(progress) * (1.0 if own is None else own(progress))

    def factor(self, group: str) -> Tensor:
        """Return the measured factor of a group of terms, a constant scalar."""
        return self.factors[GROUPS.index(group)]

    def forward(
        self,
        student: View,
        teacher: View,
        assignments: Mapping[Branch, Assignment | None],
        progress: float,
        native: Mapping[Branch, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the two detectors on one batch; arguments as for `compare`.

        Returns:
            Scalar with all weights but alpha, divided by masses over the batch (multiply by the batch size as for the
            native loss), and the plain value of each term, detached and without any weight.
        """
        compared = self.compare(student, teacher, assignments, progress, native)
        return self.total(compared), compared.items

    def total(self, compared: Compared) -> Tensor:
        """Return the sum of all groups, each times its factor."""
        weighed = (self.factor(group) * value for group, value in compared.groups.items())
        return sum(weighed, self.factors.new_zeros(()))

    def compare(
        self,
        student: View,
        teacher: View,
        assignments: Mapping[Branch, Assignment | None],
        progress: float,
        native: Mapping[Branch, float],
    ) -> Compared:
        """Compare the two detectors on one batch.

        Args:
            student: The student's answers, with gradient.
            teacher: The teacher's answers on the student's anchors; treated as constant.
            assignments: The labels' assignment per head; a missing or None one means no labels.
            progress: Share of the run that is done, in [0, 1].
            native: The detector's own weight of each head at this moment, for heads weighted "native".

        Raises:
            PairError: If heads or outputs are missing.
            ShapeError: If answers of the two don't fit together, or a region or loss returns the wrong shape.
        """
        branches = self.paired(student.heads, teacher.heads)
        student, teacher, assignments, excluded = known_classes(student, detach_view(teacher), assignments)
        sides = (student, teacher)
        compared = Compared({}, {}, {}, {})
        for branch in branches:
            context = make_context(self.region, *sides, assignments.get(branch), branch, excluded)
            head_weight = self._head_weight(branch, native)
            for name in self.terms:
                if branch not in self.branches[name]:
                    continue
                for role, view in (("student", student), ("teacher", teacher)):
                    check_outputs(self._loss(name), name, view, branch, role)
                here = context
                if name in self.regions:
                    here = make_context(self.regions[name], *sides, assignments.get(branch), branch, excluded)
                full = self.kd_weight * self.weights[name]
                weight = full * self.strength(name, progress) * head_weight
                with torch.set_grad_enabled(weight > 0 and torch.is_grad_enabled()):
                    value = value_of(name, self.terms[name], student, teacher, here)
                key = column(name, branch)
                compared.items[key] = value.detach()
                if weight > 0:
                    group = self.groups[name, branch]
                    compared.parts[key] = weight * value
                    compared.groups[group] = compared.groups.get(group, 0.0) + compared.parts[key]
                    compared.full[group] = compared.full.get(group, 0.0) + full * value
        return compared

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
