"""Errors a user can act on. Everything raised on purpose derives from `DetkdError`.

The command line prints such an error as one line and exits with status 2; anything else is a bug.
A message reads `key: what is wrong, got VALUE; what to do`.
"""

from __future__ import annotations

__all__ = ["ConfigError", "DataError", "DetkdError", "ModelError", "PairError", "RankError", "ShapeError"]


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
