"""Does an exported network answer like the one it came from? Compared before NMS, where nothing can hide.

A difference is the larger of the difference of a score (0..1) and of a box side as a share of the image side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detkd.inference.detector import Detector

__all__ = ["compare_raw", "dense_difference", "ranked_difference"]


def compare_raw(reference: Detector, exported: Detector, images: Sequence[np.ndarray]) -> float:
    """Return the largest difference of raw outputs over images; both see the same letterboxed pixels."""
    worst = 0.0
    for image in images:
        pixels, _ = reference.prepare([image])
        ours, theirs = reference.raw(pixels)[0].cpu().float(), exported.raw(pixels)[0].cpu().float()
        difference = ranked_difference if reference.head.startswith("one2one") else dense_difference
        worst = max(worst, difference(ours, theirs, reference.imgsz))
    return worst


def dense_difference(reference: Tensor, exported: Tensor, imgsz: int) -> float:
    """Compare the outputs of all anchors, (4 + C, A): boxes in pixels, then class scores."""
    if reference.shape != exported.shape:
        return float("inf")
    apart = (reference - exported).abs()
    return _worst(apart[:4].max() / imgsz, apart[4:].max())


def ranked_difference(reference: Tensor, exported: Tensor, imgsz: int) -> float:
    """Compare the best K detections, (K, 6): x1, y1, x2, y2, score, class.

    Rank by rank the scores must agree. Equal scores may change places, so a box is compared with the nearest box of its
    class among all detections (1 if there is none); those so close to the last rank that their twins may have been cut
    off are left out.
    """
    if reference.shape != exported.shape:
        return float("inf")
    scores = (reference[:, 4].sort().values - exported[:, 4].sort().values).abs().max()
    floor = torch.maximum(reference[:, 4].min(), exported[:, 4].min()) + 2 * scores + 1e-4
    certain = reference[reference[:, 4] > floor]
    if len(certain) == 0:
        return _worst(scores)
    apart = (certain[:, None, :4] - exported[None, :, :4]).abs().amax(-1) / imgsz  # (certain, K)
    apart = torch.maximum(apart, (certain[:, None, 4] - exported[None, :, 4]).abs())
    apart[certain[:, None, 5] != exported[None, :, 5]] = 1.0
    return _worst(scores, apart.amin(1).max())


def _worst(*values: Tensor) -> float:
    stacked = torch.stack(values)
    # NaN would win no comparison and pass for perfect.
    return float("inf") if bool(stacked.isnan().any()) else float(stacked.max())
