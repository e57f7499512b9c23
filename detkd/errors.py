"""Errors a user can act on. Everything raised on purpose derives from `DetkdError`.

The command line prints such an error as one line and exits with status 2; anything else is a bug.
A message reads `key: what is wrong, got VALUE; what to do`.
"""

from __future__ import annotations

import re

__all__ = ["ConfigError", "DataError", "DetkdError", "ModelError", "PairError", "RankError", "ShapeError", "printable"]

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text without what steers a terminal: escape sequences and changes of the writing direction.

    Names of files and classes come from others. Line feeds and tabs stay.
    """
    shown = _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


class DetkdError(Exception):
    """Base class of all errors that name a cause and a fix."""


class ConfigError(DetkdError):
    """A configuration key, its value or a combination of keys can't be used."""


class DataError(DetkdError):
    """Images, labels or result files can't be used as they are."""


class ModelError(DetkdError):
    """Weights or a model description can't be loaded, run or exported."""


class PairError(ModelError):
    """Teacher and student don't fit together."""


class RankError(DetkdError):
    """A process of a training on several devices is gone."""


class ShapeError(DetkdError):
    """Tensors handed to a loss or operation have the wrong shape."""
