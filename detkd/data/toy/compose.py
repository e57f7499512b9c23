"""What is seen of each object, and how it gets into the picture: hiding, shadow, headlights, haze, motion blur."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from detkd.data.toy.crowd import Difficulty
from detkd.data.toy.lens import glow_at
from detkd.data.toy.light import Backdrop
from detkd.data.toy.models import Drawable, Thing, paint, silhouette
from detkd.data.toy.stage import SHIFT, Stage, to_pixels

__all__ = ["Sight", "draw_thing", "ground_effects", "look"]


class Sight(NamedTuple):
    """What is seen of a thing: mask over a canvas window, its box on the canvas and the visible share."""

    thing: Thing
    reach: float
    mask: np.ndarray
    corner: np.ndarray
    box: tuple[float, float, float, float]
    share: float


def _window(shapes: list[Drawable]) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate([shape.points for shape in shapes]) / (1 << SHIFT)
    margin = 2 + max(shape.width for shape in shapes) / 2
    return np.floor(points.min(axis=0) - margin).astype(int), np.ceil(points.max(axis=0) + margin).astype(int)


def look(stage: Stage, thing: Thing, taken: np.ndarray, level: Difficulty) -> Sight | None:
    """Return what is seen of a thing behind what is already taken, or None when that is too little."""
    low, high = _window(thing.shapes)
    size = np.array([stage.view.width, stage.view.height])
    if (high - low > 2 * size).any():
        return None
    full = silhouette(thing.shapes, low, (int(high[1] - low[1]), int(high[0] - low[0])))
    total = cv2.countNonZero(full)
    start, end = np.maximum(low, 0), np.minimum(high, size)
    if total == 0 or (end <= start).any():
        return None
    mask = full[start[1] - low[1] : end[1] - low[1], start[0] - low[0] : end[0] - low[0]]
    x, y, width, height = cv2.boundingRect(mask)
    if min(width, height) < 2 * level.side:
        return None
    box = slice(start[1], end[1]), slice(start[0], end[0])
    reach = float(stage.view.reach(thing.place))
    shown = (mask > 0) & (stage.block[box] > reach)
    share = np.count_nonzero(shown & (taken[box] == 0)) / total
    if share < level.visible:
        return None
    taken[box][shown] = 1
    left, top = float(start[0] + x) / 2, float(start[1] + y) / 2
    edges = (left, top, left + width / 2, top + height / 2)
    return Sight(thing, reach, shown, start, edges, float(share))


def ground_effects(canvas: np.ndarray, stage: Stage, backdrop: Backdrop, thing: Thing) -> None:
    """Draw a thing's shadow and the pool of its headlights on the ground."""
    view = stage.view
    base = thing.footprint
    hull = base[:, :2]
    if backdrop.shadows > 0.3:
        cast = (base + np.array([0, 0, thing.height]) - stage.sun * thing.height / stage.sun[2])[:, :2]
        hull = cv2.convexHull(np.concatenate([hull, cast]).astype(np.float32))[:, 0]
    _blend(canvas, view.outline(np.c_[hull, np.zeros(len(hull))]), 1 - max(backdrop.shadows, 0.3), stage, soft=2)
    if thing.lights and thing.kind in (1, 2):
        turn = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        ahead = np.array([math.cos(thing.heading), math.sin(thing.heading)])
        aside = np.array([-ahead[1], ahead[0]])
        middle = thing.place[:2] + ahead * (thing.radius + 4.0)
        ring = middle + np.cos(turn)[:, None] * ahead * 3.6 + np.sin(turn)[:, None] * aside * 1.7
        _blend(canvas, view.outline(np.c_[ring, np.zeros(14)]), 1.85, stage, soft=0)


def _blend(canvas: np.ndarray, outline: np.ndarray, factor: float, stage: Stage, soft: int) -> None:
    """Multiply the canvas inside a polygon on the ground, with a soft edge."""
    if not len(outline):
        return
    span = float(np.ptp(outline, axis=0).max())
    blur = soft if soft else max(2.0, min(span / 9, 14.0))
    margin = math.ceil(2 * blur)
    size = np.array([stage.view.width, stage.view.height])
    low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + margin, size)
    if (high <= low).any():
        return
    step = 2 if blur >= 2 and soft == 0 else 1
    shape = tuple(int(v) for v in np.maximum((high - low) // step, 1))
    mask: np.ndarray = np.zeros(shape[::-1], np.uint8)
    cv2.fillConvexPoly(mask, to_pixels((outline - low) / step), 255, cv2.LINE_8, SHIFT)
    mask = cv2.GaussianBlur(mask, (0, 0), blur / step)
    box = slice(low[1], high[1]), slice(low[0], high[0])
    if step > 1:
        mask = cv2.resize(mask, (int(high[0] - low[0]), int(high[1] - low[1])))
    gain = 1 + (mask * np.float32((factor - 1) / 255)) * np.isinf(stage.block[box])
    canvas[box] = np.clip(canvas[box] * gain[..., None], 0, 255).astype(np.uint8)


def draw_thing(canvas: np.ndarray, backdrop: Backdrop, sight: Sight, stage: Stage, blur: float) -> None:
    """Draw what is seen of a thing, in place: `blur` is the exposure time in seconds."""
    thing, (rows, columns) = sight.thing, sight.mask.shape
    x, y = sight.corner
    window = canvas[y : y + rows, x : x + columns]
    layer = window.copy()
    paint(layer, thing.shapes, sight.corner)
    clear = math.exp(-sight.reach / backdrop.visibility)
    if clear < 0.96:
        layer = (layer * np.float32(clear) + (backdrop.haze * (1 - clear)).astype(np.float32)).astype(np.uint8)
    np.copyto(window, layer, where=sight.mask[..., None])
    step = np.array([math.cos(thing.heading), math.sin(thing.heading), 0.0]) * thing.moving * blur
    ends, _ = stage.view.project(np.stack([thing.place, thing.place + step]))
    drift = ends[1] - ends[0]
    length = int(min(np.hypot(*drift), 15)) | 1
    if length >= 3:
        kernel = np.zeros((length, length), np.float32)
        half = drift / np.hypot(*drift) * (length // 2)
        a, b = np.round(length // 2 - half).astype(int), np.round(length // 2 + half).astype(int)
        cv2.line(kernel, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), 1.0, 1)
        window[:] = np.where(sight.mask[..., None], cv2.filter2D(window, -1, kernel / kernel.sum()), window)
    for spot, colour, strength in thing.lights:
        (u, v), depth = stage.view.project(spot)
        ahead = np.array([math.cos(thing.heading), math.sin(thing.heading), 0.0])
        facing = float((stage.view.position - spot) @ ahead) * (1 if (spot - thing.place) @ ahead > 0 else -1)
        inside = 0 <= u < stage.view.width and 0 <= v < stage.view.height
        if facing > 0 and inside and stage.block[int(v), int(u)] > sight.reach:
            size = stage.view.focal / float(depth)
            power = strength * min(1.0, 0.35 + 0.65 * facing / float(np.linalg.norm(stage.view.position - spot)))
            glow_at(canvas, float(u), float(v), 2 + 0.75 * size * power, (colour[0], colour[1], colour[2]))
