"""Which arguments Ultralytics' trainer knows."""

from __future__ import annotations

import difflib

import detkd.environment

from ultralytics.cfg import DEFAULT_CFG_DICT

__all__ = ["explain_unknown"]


def explain_unknown(name: str) -> str | None:
    """Return why an argument can't be used and the nearest one there is, or None when Ultralytics knows it."""
    if name in DEFAULT_CFG_DICT:
        return None
    near = difflib.get_close_matches(name, DEFAULT_CFG_DICT, 1)
    hint = f"did you mean trainer.{near[0]}?" if near else "see docs/configuration.md"
    return f"Ultralytics has no such argument; {hint}"
