"""A security-camera data set drawn by code: fourteen fixed cameras, four classes, day, dusk and night."""

from __future__ import annotations

from detkd.data.toy.crowd import TOY_NAMES
from detkd.data.toy.frame import Frame, draw_frame
from detkd.data.toy.scenes import CAMERAS, SPLITS
from detkd.data.toy.write import draw_toy

__all__ = ["CAMERAS", "SPLITS", "TOY_NAMES", "Frame", "draw_frame", "draw_toy"]
