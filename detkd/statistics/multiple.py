"""Correction for looking at many classes at once."""

from __future__ import annotations

import numpy as np

__all__ = ["benjamini_hochberg"]


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Return adjusted p values: calling all at or below q significant keeps the expected share of false calls <= q.

    `p_(i) n / i`, made monotonic from the largest downwards (Benjamini and Hochberg, "Controlling the false discovery
    rate", J. R. Stat. Soc. B 57, 1995).

    Args:
        p: P values, NaN for tests that were not made (they don't count), float64 (n,).
    """
    adjusted = np.full(len(p), np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted
