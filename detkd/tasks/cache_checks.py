"""Does a recipe go with stored answers?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detkd.errors import ConfigError
from detkd.progress import console
from detkd.tasks.recipes import make_recipe

__all__ = ["check_region", "check_terms"]


def check_terms(config: Mapping[str, Any]) -> None:
    """Refuse terms that read what a cache does not keep, before anything is built.

    Raises:
        ConfigError: Naming the term.
    """
    from detkd.losses.placeholders import STORED, unstored_readers

    recipe = make_recipe(config.get("distill") or {}, tuple(config.get("plugins") or ()))
    for name, loss in recipe.terms.items():
        if kept := sorted(loss.reads("teacher") - STORED):
            raise ConfigError(
                f"distill.terms.{name}: reads {', '.join(kept)}, which no cache keeps; use cache=none, or take the "
                f"term out with ~distill.terms.{name}"
            )
    if careless := unstored_readers(recipe):
        raise ConfigError(
            f"distill.terms.{careless[0]}.loss: looks at anchors where context.region is 0; a cache has placeholders "
            "there, which it would learn: weight each anchor by context.region (docs/adding-a-loss.md), or use "
            "cache=none"
        )


def check_region(config: Mapping[str, Any], layout: Any) -> None:
    """Refuse to store fewer anchors than the recipe looks at, in its own region or in one of a term.

    Raises:
        ConfigError: Naming each region and the number needed.
    """
    from detkd.losses.regions import TeacherTop

    if layout.k is None:
        return
    recipe = make_recipe(config.get("distill") or {}, tuple(config.get("plugins") or ()))
    regions = {f"distill.terms.{name}.region": region for name, region in recipe.regions.items()}
    if len(regions) < len(recipe.terms) or not regions:
        regions = {"distill.region": recipe.region, **regions}
    problems = [
        f"cache.k: stores {layout.k} anchors, {key}.fraction={region.fraction:g} looks at {needed} of "
        f"{layout.anchors}; use cache.k={needed} or more"
        for key, region in regions.items()
        if isinstance(region, TeacherTop) and (needed := round(region.fraction * layout.anchors)) > layout.k
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    for key, region in regions.items():
        if not isinstance(region, TeacherTop):
            console.print(
                f"cache: {key} ({type(region).__name__}) may look at more than the {layout.k} anchors of each view "
                "that are stored; the others teach nothing (cache.k=all stores them)",
                highlight=False,
                soft_wrap=True,
            )
