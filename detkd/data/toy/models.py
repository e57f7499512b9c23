"""Shapes of vehicles and people as small 3-D models, turned into lists of flat shapes to draw.

Models live in their own frame: x ahead, y left, z up, metres, on the ground at the origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from detkd.data.toy.camera import View
from detkd.data.toy.stage import SHIFT, to_pixels

__all__ = ["Drawable", "Lighting", "Solid", "Thing", "paint", "silhouette"]

Tint = tuple[float, float, float]
GLASS: Tint = (84, 70, 60)
RUBBER: Tint = (34, 34, 36)


@dataclass(frozen=True)
class Lighting:
    """Light at one spot.

    Attributes:
        ambient: Factor on each colour channel, (3,).
        sun: The same for direct sun, (3,).
        sun_at: Unit vector towards the sun, (3,).
        headlights: Whether vehicles have their lamps on.
    """

    ambient: np.ndarray
    sun: np.ndarray
    sun_at: np.ndarray
    headlights: bool


class Drawable(NamedTuple):
    """One flat shape: a filled polygon, or an open line of some thickness when `width` > 0; pixels in fixed point."""

    points: np.ndarray
    width: int
    colour: tuple[float, ...]


@dataclass
class Thing:
    """One object in the world.

    Attributes:
        kind: Class index.
        place: Ground position, metres, (3,).
        heading: Radians counter-clockwise from +x.
        radius: Free space it needs around it, metres.
        shapes: What to draw, back to front.
        footprint: Corners of its shadow caster on the ground, (N, 3), and its height.
        height: Metres.
        lights: World positions of lamps with colour and strength, drawn as glow at night.
        moving: Metres per second.
    """

    kind: int
    place: np.ndarray
    heading: float
    radius: float
    shapes: list[Drawable]
    footprint: np.ndarray
    height: float
    lights: list[tuple[np.ndarray, Tint, float]]
    moving: float


class Solid:
    """Collects the faces of a model in drawing order, then projects them all at once."""

    def __init__(self, place: np.ndarray, heading: float) -> None:
        cos, sin = math.cos(heading), math.sin(heading)
        self.turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        self.place = place
        self.faces: list[np.ndarray] = []
        self.patches: list[tuple[float, float, float, float]] = []
        self.colours: list[Tint] = []
        self.owner: list[int] = []  # of the n-th quad drawn: the face itself, or for a decal the face it is on
        self.order: list[int] = []  # 0, 1, ... for faces, -1, -2, ... for decals
        self.gloss: list[float] = []

    def world(self, points: np.ndarray) -> np.ndarray:
        """Return world positions of model points, (..., 3)."""
        return np.asarray(points @ self.turn.T + self.place)

    def face(self, points: np.ndarray, colour: Tint, gloss: float = 0.0) -> int:
        """Add a quad, seen from outside counter-clockwise; returns its number."""
        self.faces.append(points)
        self._add(colour, len(self.faces) - 1, len(self.faces) - 1, gloss)
        return len(self.faces) - 1

    def decal(self, owner: int, u0: float, v0: float, u1: float, v1: float, colour: Tint, gloss: float = 0.0) -> None:
        """Paint a rectangle on a face, in shares of its width (u) and height (v)."""
        self.patches.append((u0, v0, u1, v1))
        self._add(colour, owner, -len(self.patches), gloss)

    def _add(self, colour: Tint, owner: int, order: int, gloss: float) -> None:
        self.colours.append(colour)
        self.owner.append(owner)
        self.order.append(order)
        self.gloss.append(gloss)

    def quads(self) -> np.ndarray:
        """Return corners of all faces and decals in drawing order, model frame, shape (N, 4, 3)."""
        faces = np.stack(self.faces)
        owner, order = np.array(self.owner), np.array(self.order)
        quads = faces[owner]
        if self.patches:
            patched = order < 0
            patch = np.array(self.patches)[-order[patched] - 1]
            u, v = patch[:, (0, 2, 2, 0), None], patch[:, (1, 1, 3, 3), None]
            a, b, c, d = (quads[patched][:, number, None] for number in range(4))
            quads[patched] = (1 - u) * ((1 - v) * a + v * d) + u * ((1 - v) * b + v * c)
        return np.asarray(quads)

    def block(
        self, low: tuple[float, float, float], high: tuple[float, float, float], colour: Tint, gloss: float = 0.0
    ) -> dict[str, int]:
        """Add a box that may taper: `low` is rear, front and half width at the bottom, `high` at the top.

        Each is (x rear, x front, half width); the heights are those set by `span`. Returns the faces' numbers by side.
        """
        (a, b, w), (c, d, v) = low, high
        z0, z1 = self._span
        bottom = np.array([[b, -w, z0], [b, w, z0], [a, w, z0], [a, -w, z0]])
        top = np.array([[d, -v, z1], [d, v, z1], [c, v, z1], [c, -v, z1]])
        sides = {}
        for name, i in (("front", 0), ("left", 1), ("rear", 2), ("right", 3)):
            j = (i + 1) % 4
            sides[name] = self.face(np.stack([bottom[i], bottom[j], top[j], top[i]]), colour, gloss)
        sides["top"] = self.face(top, colour, gloss)
        return sides

    _span = (0.0, 1.0)

    def span(self, z0: float, z1: float) -> Solid:
        """Set bottom and top of the next block."""
        self._span = (z0, z1)
        return self

    def shapes(self, view: View, light: Lighting) -> list[Drawable]:
        """Project, cull what faces away, and shade."""
        corners = self.world(self.quads())
        pixels, _ = view.project(corners)
        ahead, up = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
        normals = ahead[:, (1, 2, 0)] * up[:, (2, 0, 1)] - ahead[:, (2, 0, 1)] * up[:, (1, 2, 0)]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        visible = np.einsum("ij,ij->i", normals, corners[:, 0] - view.position) < 0
        sunny = np.maximum(normals @ light.sun_at, 0.0)
        upward = 0.78 + 0.22 * normals[:, 2]
        factor = light.ambient * upward[:, None] + light.sun * sunny[:, None]
        shine = np.array(self.gloss)[:, None] * (light.ambient + 0.5 * light.sun) * (0.4 + 0.6 * np.abs(normals[:, 2:]))
        colours = np.clip(np.array(self.colours) * factor + shine, 0, 255).tolist()
        fixed = to_pixels(pixels)
        return [Drawable(fixed[number], 0, tuple(colours[number])) for number in np.flatnonzero(visible)]


_TURN = np.linspace(0, 2 * math.pi, 12, endpoint=False)


def wheel(
    solid: Solid, view: View, x: float, y: float, radius: float, light: Lighting, hub: Tint = (150, 150, 150)
) -> list[Drawable]:
    """Return a wheel at the side of a vehicle, if that side is seen."""
    side = math.copysign(1.0, y)
    outward = solid.turn @ np.array([0.0, side, 0.0])
    middle = solid.world(np.array([x, y, radius]))
    if outward @ (middle - view.position) >= 0:
        return []
    ring = np.stack([np.cos(_TURN), np.zeros(12), np.sin(_TURN)], axis=1)
    points = np.concatenate(
        [np.array([x, y, radius]) + ring * radius, np.array([x, y * 1.01, radius]) + ring * radius * 0.5]
    )
    pixels = to_pixels(view.project(solid.world(points))[0])
    tyre = tuple(np.array(RUBBER) * light.ambient)
    metal = tuple(np.clip(np.array(hub) * (light.ambient + 0.4 * light.sun), 0, 255))
    return [Drawable(pixels[:12], 0, tyre), Drawable(pixels[12:], 0, metal)]


def _draw(image: np.ndarray, shapes: list[Drawable], origin: np.ndarray, colour: int | None) -> None:
    offset = origin * (1 << SHIFT)
    for shape in shapes:
        points = shape.points - offset
        paint_with = shape.colour if colour is None else colour
        if shape.width == 0:
            cv2.fillConvexPoly(image, points, paint_with, cv2.LINE_8, SHIFT)
        elif len(points) == 1:
            centre = (int(points[0, 0]), int(points[0, 1]))
            cv2.circle(image, centre, shape.width << (SHIFT - 1), paint_with, -1, cv2.LINE_8, SHIFT)
        else:
            cv2.polylines(image, [points], False, paint_with, shape.width, cv2.LINE_8, SHIFT)


def paint(image: np.ndarray, shapes: list[Drawable], origin: np.ndarray) -> None:
    """Draw shapes in colour; `origin` is the pixel of the image's corner."""
    _draw(image, shapes, origin, None)


def silhouette(shapes: list[Drawable], origin: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the mask of shapes, uint8 0 or 255, `size` = (height, width)."""
    mask = np.zeros(size, np.uint8)
    _draw(mask, shapes, origin, 255)
    return mask
