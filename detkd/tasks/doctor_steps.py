"""What `detkd doctor` says of the run itself: recipe, gradients, one batch, time, memory and disk."""

from __future__ import annotations

import shutil
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.data.records import DataSpec
from detkd.losses.balance import GROUPS, KEYS, Balance, group_key, next_factor
from detkd.losses.terms import term_doubts
from detkd.tasks.doctor_checks import Finding, Verdict
from detkd.tasks.recipes import make_recipe

if TYPE_CHECKING:
    from detkd.models.pull import Pull
    from detkd.training.step_times import Curve, StepTimes

__all__ = [
    "check_disk",
    "check_gradients",
    "check_memory",
    "check_overfit",
    "check_recipe",
    "check_share",
    "check_time",
    "stubborn",
]

_OVERFIT = 0.8
"""One batch overfits when the loss ends below this share of its start."""
_FALLS = 0.95
"""A number falls when it ends below this share of its start."""
_STUCK = 0.99
"""A term that ends above this share even when trained alone is broken."""
_ENOUGH = 25
"""Steps below which a loss that did not fall proves nothing."""
_LOUD = 10.0
"""Share of the gradient above which distillation drowns the labels."""
_FAINT = 0.01
"""Share below which it says next to nothing."""


def _first_fault(
    check: str, text: str, facts: dict[str, Any], *faults: tuple[Verdict, Sequence[str], str, str]
) -> Finding | None:
    """Return the first fault that some term has, None if no term has any; each is verdict, terms, text, advice."""
    for verdict, terms, what, advice in faults:
        if terms:
            return Finding(check, verdict, f"{text}; {what}: {', '.join(terms)}", advice, facts)
    return None


def check_recipe(config: Mapping[str, Any]) -> tuple[Finding, Any]:
    """Build the distillation loss and pass on what it warns of; the recipe comes along.

    Raises:
        ConfigError: If a key can't be used.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recipe = make_recipe(config["distill"], tuple(config.get("plugins") or ()))
    terms = ", ".join(f"{name} x {weight:g}" for name, weight in recipe.weights.items()) or "no terms"
    text = f"{terms}; alpha {recipe.alpha:g}, lambda {recipe.kd_weight:g}"
    if recipe.balance is not None:
        shares = [f"{key} {recipe.balance.target(key)}" for key in KEYS if recipe.balance.target(key)]
        text += f", calibrated to shares of the gradient: {', '.join(shares)}"
    facts = {"terms": dict(recipe.weights), "alpha": recipe.alpha, "lambda": recipe.kd_weight}
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    said += term_doubts(recipe.terms.items())
    if said:
        return Finding("recipe", "warning", text, "; ".join(said), facts), recipe
    if not len(recipe.terms) or recipe.kd_weight == 0 or recipe.alpha == 1:
        advice = "nothing is distilled: choose a recipe (distill=binary), lambda above 0 and alpha below 1"
        return Finding("recipe", "warning", text, advice, facts), recipe
    return Finding("recipe", "ok", text, facts=facts), recipe


def check_gradients(pulls: Sequence[Pull], columns: Sequence[str]) -> Finding:
    """Say which terms reach the student's weights.

    Args:
        pulls: Measured on a few batches at the initial weights.
        columns: Names of all terms, per head.
    """
    norms = {name: [pull.parts[name] for pull in pulls if name in pull.parts] for name in columns}
    values = {name: [pull.values[name] for pull in pulls if name in pull.values] for name in columns}
    facts = {"norms": {name: statistics.median(found) if found else None for name, found in norms.items()}}
    text = ", ".join(f"{name} {norm:.3g}" for name, norm in facts["norms"].items() if norm is not None)
    off = [name for name, found in norms.items() if not found]
    if off:
        text += f"; weight 0: {', '.join(off)}"
    silent = [name for name, found in values.items() if found and not any(found)]
    dead = [name for name, found in norms.items() if found and not any(found) and name not in silent]
    found = _first_fault(
        "gradients", text, facts,
        ("problem", dead, "exactly 0 though the term is not",
         "the loss detaches the student, or its layers are frozen (trainer.freeze)"),
        ("problem", silent, f"exactly 0 on {len(pulls)} batches",
         "the teacher sees nothing here or the region is empty: check teacher.class_map and distill.region"),
    )  # fmt: skip
    return found or Finding("gradients", "ok" if norms else "skipped", text or "no terms", facts=facts)


def check_share(pulls: Sequence[Pull], recipe: Any) -> Finding:
    """Say how hard distillation pulls beside the labels, and which factor calibration would begin with.

    Args:
        pulls: Measured on a few batches at the initial weights.
        recipe: The distillation loss.
    """
    balance = recipe.balance or Balance()
    facts: dict[str, Any] = {}
    lines = []
    for group in GROUPS:
        shares = [pull.share(group) for pull in pulls if group in pull.groups]
        target = balance.target(group)
        if not shares:
            continue
        share = statistics.median(shares)
        facts[group] = {"share": share, "target": target, "factor": None}
        line = f"{group}: {share:.3g} of the labels' gradient"
        if target is not None and share > 0:
            factor = next_factor(1.0, shares, target, bound=balance.bound, limit=balance.limit, first=True)
            facts[group]["factor"] = factor
            line += f", calibrate.{group_key(group)}={target:g} makes it {factor:.3g} times as strong"
        lines.append(line)
    if len(facts) == 1 and (factor := next(iter(facts.values()))["factor"]) is not None:
        lines[0] += f", as distill.lambda={recipe.kd_weight * factor:.3g} would"
    if not lines:
        return Finding("share of the gradient", "skipped", "no term reaches what labels train too", facts=facts)
    text = "; ".join(lines)
    total = max(entry["share"] for entry in facts.values())
    if recipe.balance is None and total > _LOUD:
        advice = "distillation drowns the labels: set distill.calibrate.head=0.3, or lower distill.lambda"
        return Finding("share of the gradient", "warning", text, advice, facts)
    if recipe.balance is not None and (ended := [g for g, entry in facts.items() if entry["factor"] == balance.limit]):
        advice = (
            f"{', '.join(ended)}: too weak to reach the target within calibrate.limit={balance.limit:g}; raise the "
            "weights of these terms (distill.terms.NAME.weight) or distill.calibrate.limit"
        )
        return Finding("share of the gradient", "warning", text, advice, facts)
    if recipe.balance is None and total < _FAINT:
        advice = "distillation is hardly heard: set distill.calibrate.head=0.3, or raise distill.lambda"
        return Finding("share of the gradient", "warning", text, advice, facts)
    return Finding("share of the gradient", "ok", text, facts=facts)


def stubborn(curves: Mapping[str, Curve]) -> list[str]:
    """Return the terms that did not fall though they had something to fall from."""
    return [
        name
        for name, curve in curves.items()
        if name not in ("loss", "kd") and curve.start > 0 and not curve.ratio < _FALLS
    ]


def check_overfit(curves: Mapping[str, Curve], alone: Mapping[str, Curve]) -> Finding:
    """Say whether one batch can be learned by heart.

    Args:
        curves: Of training on the whole loss.
        alone: Of training on those terms alone that did not fall, which tells a broken term from one that the labels
            hold back; empty where all fell.
    """
    count = len(curves["loss"].values)
    facts = {name: {"start": curve.start, "end": curve.end} for name, curve in curves.items()}
    lines = [f"{name} {curve.start:.3g} to {curve.end:.3g}" for name, curve in curves.items() if name != "kd"]
    text = f"{count} steps: {', '.join(lines)}"
    held = stubborn(curves)
    if count < _ENOUGH and (held or not curves["loss"].ratio < _FALLS):
        advice = f"too few steps to tell; use steps=40 or more and seconds={max(300, 10 * count)}"
        return Finding("one batch", "warning", text, advice, facts)
    broken = [name for name in held if name not in alone or not alone[name].ratio < _STUCK]
    if not curves["loss"].ratio < _FALLS:
        advice = "one batch can't be learned by heart: check labels, trainer.freeze and the weights of the terms"
        return Finding("one batch", "problem", text, advice, facts)
    if found := _first_fault(
        "one batch", text, facts,
        ("problem", broken, "does not fall even when trained alone",
         "the term is broken or its target can't be reached; leave it out with ~distill.terms.NAME"),
        ("warning", held, "falls, if at all, only when trained alone",
         "labels and teacher disagree here: look at the teacher's AP, or lower distill.alpha"),
    ):  # fmt: skip
        return found
    if not curves["loss"].ratio < _OVERFIT:
        advice = f"the loss falls, but slowly; see whether it goes on with steps={max(100, 2 * count)} seconds=600"
        return Finding("one batch", "warning", text, advice, facts)
    return Finding("one batch", "ok", text, facts=facts)


def check_time(times: StepTimes, config: Mapping[str, Any]) -> Finding:
    """Say how long the run will take, without validation."""
    epochs = int(config["epochs"])
    kind = str((config.get("cache") or {}).get("kind") or "none")
    stored = kind != "none"
    # Objects are read from the store by the loader; spreading them over the anchors stays a part of the step.
    plain, student = times.epoch(distilled=False), times.epoch(distilled=True, stored=kind == "views")
    total = epochs * (student + (plain if config.get("control") is True else 0.0))
    text = (
        f"a step takes {times.distilled:.3g} s with the teacher ({times.teacher:.3g} s of it) and {times.plain:.3g} s "
        f"without, a batch {times.load:.3g} s to load; {times.batches} steps per epoch, an epoch takes about "
        f"{_time(student)} ({_time(plain)} without), {epochs} epochs about {_time(epochs * student)}"
    )
    if config.get("control") is True:
        text += f", {_time(total)} with the control"
    if stored:
        text += "; the teacher's answers come from a cache, which is not built here"
    facts = {
        "step": times.distilled, "plain_step": times.plain, "teacher": times.teacher, "load": times.load,
        "steps": times.batches, "epoch": student, "plain_epoch": plain, "total": total,
    }  # fmt: skip
    if times.teacher > 2 * times.plain and not stored:
        advice = "the teacher takes most of the time: cache=views asks it once for many runs"
        return Finding("time", "warning", text, advice, facts)
    return Finding("time", "ok", text, facts=facts)


def check_memory(peak: float, kind: str, limit: float | None) -> Finding:
    """Say how much memory the steps took.

    Args:
        peak: Bytes, 0 where unknown.
        kind: Of what.
        limit: Bytes there are, None where unknown.
    """
    facts = {"peak": peak, "of": kind, "limit": limit}
    if not peak:
        return Finding("memory", "skipped", "this system does not say", facts=facts)
    text = f"at most {_mb(peak)} of {kind} memory" + ("" if limit is None else f", there are {_mb(limit)}")
    if limit is not None and peak > 0.9 * limit:
        return Finding("memory", "warning", text, "little is left: use a smaller batch= or imgsz=", facts)
    return Finding("memory", "ok", text, facts=facts)


def check_disk(config: Mapping[str, Any], spec: DataSpec, parameters: int, folder: Path) -> Finding:
    """Compare what a run writes with what is free.

    Args:
        config: A resolved configuration.
        spec: The data as the run sees it.
        parameters: Of the student, with the layers of the losses.
        folder: Run folder.
    """
    period = int((config.get("trainer") or {}).get("save_period") or -1)
    epochs = int(config["epochs"])
    kept = 2 + (epochs // period if period > 0 else 0)
    # Half precision; the resume file holds weights, their average and two moments in full precision.
    runs = 2 if config.get("control") is True else 1
    weights = runs * (2 * parameters * kept + 16 * parameters)
    stored = _cache_bytes(config, spec)
    free = shutil.disk_usage(folder).free
    text = f"checkpoints {_mb(weights)}"
    if stored is not None:
        text += f", cache about {_mb(stored)} (not built here)"
    text += f"; {free / 1e9:,.1f} GB free"
    facts = {"checkpoints": weights, "cache": stored, "free": free}
    need = weights + (stored or 0)
    if need > free:
        return Finding("disk", "problem", text, "make room, choose another disk with out=, or store less", facts)
    if need > 0.8 * free:
        return Finding("disk", "warning", text, "little will be left; choose another disk with out=", facts)
    return Finding("disk", "ok", text, facts=facts)


def _cache_bytes(config: Mapping[str, Any], spec: DataSpec) -> int | None:
    """Return about how large the cache will be, None where there is none."""
    from detkd.caching.objects import object_bytes
    from detkd.tasks.cache_kinds import ViewWork, number_or_all

    node = config.get("cache") or {}
    kind = str(node.get("kind") or "none")
    if kind == "none":
        return None
    if kind == "views":

        class Sized(ViewWork):
            """Leaves the fingerprint out: it would read every image."""

            def _fingerprint(self, node: Mapping[str, Any], strides: Sequence[int]) -> dict[str, Any]:
                return {}

        work = Sized(config, spec)
        return int(work.record_bytes) * len(work.keys)
    classes = number_or_all(node, "classes", len(spec.names)) or len(spec.names)
    return len(spec.splits["train"]) * (3 + 12 * int(object_bytes(classes, len(spec.names))))


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
