"""Checks shared by losses, regions and the recipe. Messages start with the key a user can type."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from torch import Tensor

from detkd.errors import ConfigError, ShapeError

__all__ = ["check_choice", "check_keys", "check_number", "check_same_shape"]


def check_number(
    key: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    hint: str,
) -> float:
    """Return `value` as a float if it is a finite number in [low, high] and greater than `above`.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{key}: must be a finite number, got {value!r}; {hint}")
    if above is not None and not value > above:
        raise ConfigError(f"{key}: must be > {above:g}, got {value}; {hint}")
    if not low <= value <= high:
        start = f"[{low:g}" if above is None else f"({above:g}"
        allowed = f">= {low:g}" if high == math.inf else f"in {start}, {high:g}]"
        raise ConfigError(f"{key}: must be {allowed}, got {value}; {hint}")
    return float(value)


def check_choice(key: str, value: object, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`.

    Raises:
        ConfigError: If it is not; the message lists the known ones.
    """
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise ConfigError(f"{key}: unknown choice, got {value!r}; use one of {', '.join(names)}")
    return value


def check_keys(key: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys that don't exist.

    Raises:
        ConfigError: Naming the nearest known key.
    """
    names = list(known)
    for name in found:
        if name not in names:
            nearest = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known keys are {', '.join(names)}"
            raise ConfigError(f"{key}.{name}: unknown key; {hint}")


def check_same_shape(what: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse pairs that broadcasting would silently accept.

    Raises:
        ShapeError: Showing both shapes.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"{what}: student has shape {tuple(student.shape)}, teacher {tuple(teacher.shape)}; "
            "both need the same images, anchors and classes"
        )
