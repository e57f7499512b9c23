"""From the `distill` group to a distillation loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detkd.config import build

__all__ = ["make_recipe", "wants_objects"]

# Not all of detkd: a configuration of somebody else must not name what writes or deletes files.
_LOSSES = ("detkd.losses.", "detkd.models.ultralytics_distill.")


def make_recipe(node: Mapping[str, Any], plugins: tuple[str, ...] = ()) -> Any:
    """Build the distillation loss from the `distill` group.

    Raises:
        ConfigError: Naming every key that can't be used.
    """
    from detkd.losses.recipe import Recipe

    allow = (*_LOSSES, *(f"{name}." for name in plugins))
    terms = {}
    for name, term in (node.get("terms") or {}).items():
        if term is None:
            continue
        key = f"distill.terms.{name}"
        terms[name] = {**term, "loss": build(term["loss"], allow=allow, key=f"{key}.loss")}
        if term.get("region"):
            terms[name]["region"] = build(term["region"], allow=allow, key=f"{key}.region")
    region = build(node["region"], allow=allow, key="distill.region") if node.get("region") else None
    return Recipe.from_parts(
        terms,
        region=region,
        schedule=node.get("schedule"),
        alpha=node.get("alpha", 0.5),
        kd_weight=node.get("lambda", 1.0),
        heads=node.get("heads"),
        calibrate=node.get("calibrate"),
        assignment=node.get("assignment"),
    )


def wants_objects(recipe: Any) -> bool:
    """Return whether a teacher without NMS-free head shall find objects, to teach that head of a student by them.

    They cost non-maximum suppression and an assignment in every step. A loss that runs the teacher's own head can't use
    them; the choice of who learns a label (`distill.assignment`) can.

    Args:
        recipe: The distillation loss.
    """
    if recipe.assignment != "student":
        return True
    return recipe.head_weights["one2one"] != 0 and any(
        "one2one" in recipe.branches[name] and "towers" not in loss.reads("teacher")
        for name, loss in recipe.terms.items()
    )
