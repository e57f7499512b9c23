"""Does a cache still say what its teacher says? Stored answers against live ones."""

from __future__ import annotations

from typing import NamedTuple

import torch

from detkd.caching.views import LIMIT, STEP, ViewLayout
from detkd.types import HeadOutput

__all__ = ["Fidelity", "Tolerance", "compare_views", "problems", "tolerance"]

_NOISE = 0.02
"""Logits: what another batch size, number of threads or kind of processor may change. A view that was augmented
differently by a hair is off by far more."""
_NOISE_CELLS = 0.01


class Fidelity(NamedTuple):
    """How far stored and live answers are apart, over the anchors that are stored.

    Attributes:
        logit: Largest difference of a class logit, live logits cut off where stored ones are.
        distance: Largest difference of a side in cells, beyond what the precision of a number that large explains.
        share: Part of the live teacher's best anchors that are stored, 1 where all are.
    """

    logit: float
    distance: float
    share: float


class Tolerance(NamedTuple):
    """What may differ; see `Fidelity`."""

    logit: float
    distance: float
    share: float


def tolerance(layout: ViewLayout) -> Tolerance:
    """Return what the precision and ordinary noise explain.

    The classes left out share one logit, so only those that are stored are compared.
    """
    rounding = {"int8": STEP / 2, "float16": LIMIT * 2**-10, "float32": 0.0}[layout.precision]
    # Anchors with nearly equal scores may change places around the K-th.
    return Tolerance(_NOISE + rounding, _NOISE_CELLS, 1.0 if layout.k is None else 0.9)


def compare_views(stored: HeadOutput, live: HeadOutput, layout: ViewLayout) -> Fidelity:
    """Compare one head of one or more views.

    Args:
        stored: What `decode_views` gave, (B, A, ...).
        live: The teacher's answers on the same anchors.
        layout: How the views are stored.
    """
    known = torch.ones_like(stored.logits[..., 0], dtype=torch.bool) if stored.known is None else stored.known
    mine, theirs = stored.logits[known], live.logits[known].float()  # (M, C)
    if not layout.dense:
        assert layout.classes is not None
        # Around the last one stored, classes with nearly equal scores may change places.
        best = theirs.topk(max(1, layout.classes // 2), dim=-1).indices
        mine, theirs = mine.gather(1, best), theirs.gather(1, best)
    if layout.precision == "int8":
        theirs = theirs.clamp(-LIMIT, LIMIT)
    logit = (mine - theirs).abs()
    sides, wanted = stored.distances[known], live.distances[known].float()
    grain = 0.0 if layout.precision == "float32" else 2**-10
    distance = ((sides - wanted).abs() - grain * wanted.abs()).clamp(min=0)
    share = 1.0
    if layout.k is not None:
        top = live.logits.amax(-1).topk(layout.k, dim=1).indices
        share = float(known.gather(1, top).float().mean())
    return Fidelity(float(logit.max()), float(distance.max()), share)


def problems(fidelity: Fidelity, layout: ViewLayout) -> list[str]:
    """Return what differs by more than `tolerance` allows, one line each."""
    allowed = tolerance(layout)
    found = []
    if not fidelity.logit <= allowed.logit:
        found.append(f"a class logit differs by {fidelity.logit:.3g}, at most {allowed.logit:.3g} is explained")
    if not fidelity.distance <= allowed.distance:
        found.append(
            f"a box side differs by {fidelity.distance:.3g} cells, at most {allowed.distance:.3g} is explained"
        )
    if fidelity.share < allowed.share:
        found.append(f"only {fidelity.share:.0%} of the best anchors are stored, {allowed.share:.0%} were expected")
    return found
