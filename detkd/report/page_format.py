"""Numbers on the page: how they are rounded, and where in the embedded JSON each one comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from markupsafe import Markup, escape

__all__ = ["MISSING", "Path", "as_json", "flat", "look_up", "number_text", "path_text", "shown"]

Path: TypeAlias = "str | int | tuple[Path, ...]"
"""Steps into the report, in tuples of any depth: templates can't unpack."""

MISSING = "n/a"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMAT = {
    "0": ",.0f",
    "1": ".1f",
    "2": ".2f",
    "3": ".3f",
    "4": ".4f",
    "+0": "+,.0f",
    "+1": "+.1f",
    "+2": "+.2f",
    "%": ".0%",
    "%1": ".1%",
}


def number_text(value: Any, kind: str) -> str:
    """Return a value as people read it.

    Args:
        value: A number, text, or None for n/a.
        kind: Decimals "0" to "4", with a sign "+0" to "+2", a share as percent "%" or "%1", a probability "p", millions
            "M", two significant digits "sig2", seconds as minutes "min", or "text" for anything else.
    """
    if value is None:
        return MISSING
    if kind == "p":
        return "<0.001" if value < 0.0005 else f"{value:.3f}"
    if kind == "M":
        return f"{value / 1e6:.2f} M"
    if kind == "sig2":
        power = int(f"{value:.1e}".partition("e")[2])  # after rounding: 9.96 is 10
        return f"{value:,.{max(0, 1 - power)}f}"
    if kind == "min":
        return f"{value / 60:,.0f}" if value >= 597 else f"{value / 60:.1f}"
    if kind == "text":
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = format(float(value), _FORMAT[kind])
    # A rounded zero has no sign, and a minus is as wide as a plus.
    return text.lstrip("+-") if not re.search("[1-9]", text) else text.replace("-", "\N{MINUS SIGN}")


def flat(*path: Path) -> tuple[str | int, ...]:
    """Return the steps of a path one after the other."""
    steps: list[str | int] = []
    for part in path:
        steps += flat(*part) if isinstance(part, tuple) else [part]
    return tuple(steps)


def path_text(path: tuple[str | int, ...]) -> str:
    """Return the place of a value in the JSON: `rows[0].values.before`, `entries["my model"].AP` for odd names."""
    parts = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN.fullmatch(step):
            parts.append(f".{step}")
        else:
            parts.append(f"[{json.dumps(step, ensure_ascii=False)}]")
    return "".join(parts).removeprefix(".")


def look_up(report: Mapping[str, Any], path: tuple[str | int, ...]) -> Any:
    """Return the value at a place, None where any step of the way is missing or None."""
    value: Any = report
    for step in path:
        if value is None or (isinstance(value, Mapping) and step not in value):
            return None
        value = value[step]
    return value


def shown(report: Mapping[str, Any], kind: str, *path: str | int) -> Markup:
    """Return a value as an element that says where it comes from (`data-path`) and how it is rounded (`data-as`)."""
    value = look_up(report, path)
    style = "n na" if value is None else "n"
    place, text = escape(path_text(path)), escape(number_text(value, kind))
    return Markup('<span class="{}" data-path="{}" data-as="{}">{}</span>').format(style, place, kind, text)


def as_json(value: Any) -> Markup:
    """Return JSON that can't end the script element it stands in, whatever names it holds.

    Raises:
        ValueError: If it holds NaN or infinity, which no browser reads.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Inside JSON, "<" and ">" occur in strings only, where an escape means the same.
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
