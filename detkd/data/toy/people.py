"""People on foot and on bicycles, and bicycles."""

from __future__ import annotations

import math

import numpy as np

from detkd.data.toy.camera import View
from detkd.data.toy.models import Drawable, Lighting, Thing, Tint
from detkd.data.toy.stage import to_pixels

__all__ = ["make_bicycle", "make_person"]

SHIRTS: tuple[Tint, ...] = (
    (52, 48, 46), (90, 70, 52), (60, 56, 160), (150, 110, 60), (80, 120, 80), (200, 204, 206), (120, 124, 128),
    (70, 160, 210), (150, 120, 170), (60, 80, 110), (40, 110, 220), (160, 150, 70), (46, 40, 70), (90, 160, 120),
)  # fmt: skip
TROUSERS: tuple[Tint, ...] = ((60, 52, 46), (96, 70, 50), (44, 44, 46), (96, 110, 124), (80, 84, 88), (120, 90, 64))
SKINS: tuple[Tint, ...] = ((150, 176, 214), (120, 150, 196), (90, 118, 168), (58, 80, 120), (44, 58, 88))
HAIRS: tuple[Tint, ...] = ((30, 32, 36), (36, 50, 76), (70, 110, 150), (130, 132, 134), (26, 28, 60))
FRAMES: tuple[Tint, ...] = (
    (50, 46, 180), (150, 90, 40), (60, 60, 60), (70, 140, 60), (210, 212, 212), (50, 160, 220), (120, 60, 110),
)  # fmt: skip


class Figure:
    """Draws lines and discs given in a model frame (x ahead, y left, z up)."""

    def __init__(self, view: View, light: Lighting, place: np.ndarray, heading: float) -> None:
        cos, sin = math.cos(heading), math.sin(heading)
        self.turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        self.view, self.light, self.place = view, light, place
        self.scale = view.scale(place + np.array([0.0, 0.0, 0.9]))
        self.strokes: list[tuple[list[tuple[float, float, float]], int, Tint]] = []
        toward = (view.position - place) @ self.turn
        self.side = 1.0 if toward[1] > 0 else -1.0
        self.toward = toward / (np.linalg.norm(toward[:2]) + 1e-9)
        self.flat = light.ambient * 0.95 + light.sun * 0.45

    def shapes(self) -> list[Drawable]:
        """Light and project everything collected so far, in one go."""
        sizes = np.array([len(points) for points, _, _ in self.strokes])
        points = np.concatenate([np.array(points) for points, _, _ in self.strokes])
        pixels = np.split(to_pixels(self.view.project(points @ self.turn.T + self.place)[0]), np.cumsum(sizes)[:-1])
        colours = np.clip(np.array([colour for _, _, colour in self.strokes]) * self.flat, 0, 255).tolist()
        widths = (width for _, width, _ in self.strokes)
        return [
            Drawable(part, width, tuple(colour)) for part, width, colour in zip(pixels, widths, colours, strict=True)
        ]

    def _stroke(self, points: list[tuple[float, float, float]], width: int, colour: Tint, tone: float) -> None:
        self.strokes.append((points, width, (colour[0] * tone, colour[1] * tone, colour[2] * tone)))

    def line(self, points: list[tuple[float, float, float]], width: float, colour: Tint, tone: float = 1.0) -> None:
        """Add a limb, tube or rim; width in metres."""
        thick = max(1, round(width * self.scale))
        self._stroke(points, thick, colour, tone)

    def disc(self, x: float, y: float, z: float, radius: float, colour: Tint, tone: float = 1.0) -> None:
        """Add a ball."""
        width = max(1, round(2 * radius * self.scale))
        self._stroke([(x, y, z)], width, colour, tone)

    def hull(self, points: list[tuple[float, float, float]], colour: Tint, tone: float = 1.0) -> None:
        """Add a filled convex shape in the given order."""
        self._stroke(points, 0, colour, tone)


def _head(figure: Figure, rng: np.random.Generator, x: float, z: float, size: float, skin: Tint) -> None:
    hair = HAIRS[int(rng.integers(len(HAIRS)))]
    figure.line([(x, 0, z - 1.6 * size), (x, 0, z - 0.6 * size)], size * 0.9, skin, 0.85)
    figure.disc(x, 0, z, size, skin)
    back = 0.55 * size
    figure.disc(x - back * 0.7, 0, z + 0.35 * size, size * 0.82, hair)
    if figure.toward[0] < -0.3:
        figure.disc(x, 0, z + 0.05 * size, size * 0.98, hair)


def make_person(
    rng: np.random.Generator, view: View, light: Lighting, place: np.ndarray, heading: float, speed: float,
    riding: bool = False, rain: bool = False,
) -> Thing:  # fmt: skip
    """Return somebody walking, standing (speed 0) or sitting on a bicycle."""
    tall = float(rng.uniform(1.52, 1.9)) * (float(rng.uniform(0.68, 0.82)) if rng.random() < 0.1 and not riding else 1)
    shirt, pants = SHIRTS[int(rng.integers(len(SHIRTS)))], TROUSERS[int(rng.integers(len(TROUSERS)))]
    skin = SKINS[int(rng.integers(len(SKINS)))]
    figure = Figure(view, light, place, heading)
    near = figure.side
    bulk = float(rng.uniform(0.9, 1.2))
    long_sleeves = rng.random() < 0.7
    arm_colour = shirt if long_sleeves else skin
    if riding:
        hip, shoulder, lean = (-0.18, 1.0), (0.12, 1.0 + 0.3 * tall), 0.12
        turn = float(rng.uniform(0, 2 * math.pi))
        for side in (-near, near):
            phase = turn if side > 0 else turn + math.pi
            foot = (0.05 + 0.16 * math.cos(phase), 0.28 + 0.16 * math.sin(phase))
            knee = (0.22 + 0.08 * math.cos(phase), 0.66 + 0.12 * math.sin(phase))
            tone = 1.0 if side == near else 0.7
            y = side * 0.1
            figure.line([_at(hip, y), _at(knee, y)], 0.16 * bulk, pants, tone)
            figure.line([_at(knee, y), _at(foot, y)], 0.12 * bulk, pants, tone)
            figure.line([_at(foot, y), (foot[0] + 0.16, y, foot[1])], 0.09, (40, 40, 44), tone)
        hand, reach = (0.5, 1.02), 0.24
    else:
        stride = (0.0 if speed == 0 else 1.0) * 0.22 * tall * math.sin(float(rng.uniform(0, 2 * math.pi)))
        hip, shoulder, lean = (0.0, 0.5 * tall), (0.02, 0.82 * tall), 0.0
        for side in (-near, near):
            step = stride * side
            y = side * 0.055 * tall
            tone = 1.0 if side == near else 0.72
            knee = (0.55 * step + 0.03, 0.27 * tall)
            figure.line([_at(hip, y), _at(knee, y)], 0.095 * tall * bulk, pants, tone)
            figure.line([_at(knee, y), (step, y, 0.05)], 0.075 * tall * bulk, pants, tone)
            figure.line([(step, y, 0.04), (step + 0.13, y, 0.03)], 0.09, (40, 40, 44), tone)
        hand, reach = (-1.1 * stride, 0.48 * tall), 0.0
    width = 0.115 * tall * bulk
    waist = 0.085 * tall * bulk
    depth = 0.06 * tall

    def arm(side: float, tone: float) -> None:
        y = side * (width + 0.03)
        target = _at(hand, side * reach) if riding else (side * hand[0], y * 1.15, hand[1])
        elbow = (
            (shoulder[0] + target[0]) / 2 - (0.0 if riding else 0.05), y * 1.1, (shoulder[1] + target[2]) / 2 - 0.03
        )  # fmt: skip
        figure.line([(shoulder[0], y, shoulder[1] - 0.04), elbow], 0.06 * tall * bulk, shirt, tone)
        figure.line([elbow, target], 0.05 * tall, arm_colour, tone)
        figure.disc(*target, 0.045, skin, tone)

    arm(-near, 0.75)
    bag = rng.random()
    if bag < 0.25:
        pack = SHIRTS[int(rng.integers(len(SHIRTS)))]
        rear = shoulder[0] - depth - 0.12
        figure.line([(rear, 0, shoulder[1] - 0.12), (rear, 0, shoulder[1] - 0.36)], 0.28, pack, 0.8)
    figure.line([(hip[0], 0, hip[1] + 0.02), (shoulder[0] - lean, 0, shoulder[1] - 0.1)], 2.2 * depth, shirt, 0.9)
    sides = (
        (hip[0], waist, hip[1]),
        (shoulder[0], width, shoulder[1]),
        (shoulder[0], -width, shoulder[1]),
        (hip[0], -waist, hip[1]),
    )
    figure.hull([sides[0], sides[1], sides[2], sides[3]], shirt, 0.95)
    if figure.toward[0] < -0.2 and bag < 0.25:
        figure.line([(rear, 0, shoulder[1] - 0.12), (rear, 0, shoulder[1] - 0.36)], 0.28, pack, 0.9)
    arm(near, 1.08)
    if 0.25 <= bag < 0.4 and not riding:
        y = near * (width + 0.1)
        figure.line([(0, y, 0.42 * tall), (0, y, 0.3 * tall)], 0.2, SHIRTS[int(rng.integers(len(SHIRTS)))], 0.9)
    head_z = shoulder[1] + 0.115 * tall
    _head(figure, rng, shoulder[0] + (0.06 if riding else 0.02), head_z, 0.062 * tall, skin)
    if riding and rng.random() < 0.5:
        figure.disc(shoulder[0] + 0.03, 0, head_z + 0.07, 0.075 * tall, FRAMES[int(rng.integers(len(FRAMES)))])
    if rain and not riding and rng.random() < 0.5:
        canopy, top = SHIRTS[int(rng.integers(len(SHIRTS)))], tall + 0.22
        ring = [(0.52 * math.cos(a), 0.52 * math.sin(a), top) for a in np.linspace(0, 2 * math.pi, 12, endpoint=False)]
        figure.hull(ring, canopy, 0.7)
        for a in np.linspace(0, 2 * math.pi, 8, endpoint=False):
            b = a + math.pi / 4
            figure.hull(
                [(0.52 * math.cos(a), 0.52 * math.sin(a), top), (0.52 * math.cos(b), 0.52 * math.sin(b), top),
                 (0, 0, top + 0.24)], canopy, 0.9 + 0.15 * math.sin(a)
            )  # fmt: skip
    corners = place + np.array([[0.2, 0.15, 0], [-0.2, 0.15, 0], [-0.2, -0.15, 0], [0.2, -0.15, 0]])
    return Thing(0, place, heading, 0.35, figure.shapes(), corners, tall, [], speed)


def _at(point: tuple[float, float], y: float) -> tuple[float, float, float]:
    return point[0], y, point[1]


def make_bicycle(
    rng: np.random.Generator, view: View, light: Lighting, place: np.ndarray, heading: float, speed: float
) -> Thing:
    """Return a bicycle, without its rider."""
    colour = FRAMES[int(rng.integers(len(FRAMES)))]
    figure = Figure(view, light, place, heading)
    radius, base = 0.34, 0.54
    turn = np.linspace(0, 2 * math.pi, 17)
    tyre: Tint = (38, 38, 40)
    for x in (-base, base):
        ring = [(x + radius * math.cos(a), 0.0, radius + radius * math.sin(a)) for a in turn]
        figure.line(ring, 0.055, tyre)
        if figure.scale > 26:
            for a in turn[:8:2]:
                dx, dz = 0.9 * radius * math.cos(a), 0.9 * radius * math.sin(a)
                figure.line([(x - dx, 0, radius - dz), (x + dx, 0, radius + dz)], 0.012, (150, 150, 150), 0.9)
        figure.line([(x, -0.045, radius), (x, 0.045, radius)], 0.09, (110, 110, 112))
    crank, seat, head = (-0.06, 0.0, 0.3), (-0.2, 0.0, 0.84), (0.4, 0.0, 0.84)
    figure.line([(-base, 0, radius), crank, seat, (-base, 0, radius)], 0.045, colour, 0.95)
    figure.line([crank, (0.38, 0, 0.72)], 0.055, colour, 1.1)
    figure.line([(-0.18, 0, 0.76), head], 0.055, colour, 1.1)
    figure.line([(base, 0, radius), head, (0.38, 0, 0.98)], 0.05, colour)
    figure.line([seat, (-0.22, 0, 0.94)], 0.04, (120, 120, 120))
    figure.line([(-0.34, 0, 0.96), (-0.1, 0, 0.95)], 0.1, tyre)
    figure.line([(0.44, -0.29, 1.03), (0.38, -0.1, 1.0), (0.38, 0.1, 1.0), (0.44, 0.29, 1.03)], 0.05, tyre)
    extra = rng.random()
    if extra < 0.3:
        figure.hull([(0.5, 0.16, 0.72), (0.5, -0.16, 0.72), (0.62, -0.18, 0.98), (0.62, 0.18, 0.98)], (84, 120, 150))
    elif extra < 0.5:
        figure.line([(-0.66, 0, 0.72), (-0.3, 0, 0.74)], 0.05, (90, 90, 92))
    lights: list[tuple[np.ndarray, Tint, float]] = []
    if light.headlights and speed:
        for x, glow, power in ((0.55, (220.0, 235.0, 240.0), 0.4), (-0.8, (40.0, 36.0, 220.0), 0.3)):
            lights.append((np.array([x, 0, 0.75]) @ figure.turn.T + place, glow, power))
    corners = np.array([[0.85, 0.06, 0], [-0.85, 0.06, 0], [-0.85, -0.06, 0], [0.85, -0.06, 0]]) @ figure.turn.T + place
    return Thing(3, place, heading, 0.8, figure.shapes(), corners, 0.8, lights, speed)
