"""Cars and trucks of several kinds and colours."""

from __future__ import annotations

import math

import numpy as np

from detkd.data.toy.camera import View
from detkd.data.toy.models import GLASS, RUBBER, Drawable, Lighting, Solid, Thing, Tint, wheel

__all__ = ["make_car", "make_truck"]

PAINTS: tuple[Tint, ...] = (
    (226, 228, 228), (226, 228, 228), (176, 178, 178), (120, 118, 114), (70, 66, 62), (46, 42, 40), (46, 42, 40),
    (50, 46, 170), (40, 40, 110), (140, 82, 44), (106, 66, 40), (70, 104, 60), (60, 150, 200), (120, 150, 170),
    (90, 120, 140), (150, 140, 90),
)  # fmt: skip
LOADS: tuple[Tint, ...] = (
    (230, 232, 232), (214, 212, 206), (190, 170, 150), (60, 70, 180), (150, 96, 50), (70, 130, 90), (60, 160, 214),
    (110, 110, 108), (90, 110, 134),
)  # fmt: skip
BODIES = {  # length, half width, bonnet height, roof height, then cabin: rear, front at the bottom and at the top
    "saloon": (4.5, 0.88, 0.86, 1.42, -1.75, 0.95, -1.05, 0.3),
    "hatch": (3.9, 0.84, 0.9, 1.48, -1.9, 0.95, -1.55, 0.35),
    "estate": (4.6, 0.9, 0.9, 1.48, -2.22, 1.0, -1.95, 0.35),
    "suv": (4.5, 0.95, 1.05, 1.74, -2.15, 0.95, -1.85, 0.45),
}


def _lamp_faces(solid: Solid, front: int, rear: int, light: Lighting, low: float, high: float) -> None:
    white: Tint = (520, 540, 540) if light.headlights else (222, 224, 224)
    red: Tint = (120, 110, 620) if light.headlights else (50, 46, 176)
    for u in (0.04, 0.76):
        solid.decal(front, u, low, u + 0.2, high, white)
        solid.decal(rear, u, low, u + 0.2, high, red)
    solid.decal(front, 0.34, 0.12, 0.66, 0.3, (206, 210, 212))
    solid.decal(rear, 0.34, 0.3, 0.66, 0.5, (190, 206, 212))


def _glow(
    solid: Solid, length: float, half: float, height: float, light: Lighting
) -> list[tuple[np.ndarray, Tint, float]]:
    if not light.headlights:
        return []
    lights = []
    for side in (-1, 1):
        front = solid.world(np.array([length / 2, side * half * 0.75, height]))
        rear = solid.world(np.array([-length / 2, side * half * 0.75, height]))
        lights += [(front, (200.0, 235.0, 250.0), 1.0), (rear, (30.0, 26.0, 190.0), 0.45)]
    return lights


def _thing(
    kind: int, solid: Solid, heading: float, length: float, half: float, height: float, shapes: list[Drawable],
    lights: list[tuple[np.ndarray, Tint, float]], speed: float,
) -> Thing:  # fmt: skip
    corners = np.array([[1, -1, 0], [1, 1, 0], [-1, 1, 0], [-1, -1, 0]]) * np.array([length / 2, half, 0])
    return Thing(kind, solid.place, heading, length / 2, shapes, solid.world(corners), height, lights, speed)


def make_car(
    rng: np.random.Generator, view: View, light: Lighting, place: np.ndarray, heading: float, speed: float
) -> Thing:
    """Return a saloon, hatchback, estate or off-roader in one of many paints."""
    name = str(rng.choice(list(BODIES), p=(0.3, 0.3, 0.15, 0.25)))
    length, half, waist, roof, rear, front, rear_top, front_top = BODIES[name]
    stretch = float(rng.uniform(0.95, 1.05))
    length, rear, front, rear_top, front_top = (v * stretch for v in (length, rear, front, rear_top, front_top))
    base = np.array(PAINTS[int(rng.integers(len(PAINTS)))]) * rng.uniform(0.85, 1.1)
    colour: Tint = (float(base[0]), float(base[1]), float(base[2]))
    solid = Solid(place, heading)
    solid.span(0.16, 0.4).block(
        (-length / 2 + 0.1, length / 2 - 0.1, half - 0.06), (-length / 2, length / 2, half), (44, 44, 44)
    )
    body = solid.span(0.32, waist).block(
        (-length / 2, length / 2, half), (-length / 2 + 0.08, length / 2 - 0.22, half - 0.06), colour, 16
    )
    _lamp_faces(solid, body["front"], body["rear"], light, 0.55, 0.85)
    solid.decal(body["front"], 0.26, 0.5, 0.74, 0.76, (40, 40, 40))
    for side in ("left", "right"):
        for u in (0.36, 0.58):
            solid.decal(body[side], u, 0.12, u + 0.008, 0.98, (colour[0] * 0.5, colour[1] * 0.5, colour[2] * 0.5))
        solid.decal(body[side], 0.0, 0.0, 1.0, 0.12, (50, 50, 50))
    shapes = solid.shapes(view, light)
    for x in (-0.3 * length, 0.31 * length):
        for y in (-half, half):
            shapes += wheel(solid, view, x, y, 0.33, light)
    cabin = Solid(place, heading)
    top = cabin.span(waist - 0.02, roof).block(
        (rear, front, half - 0.08), (rear_top, front_top, half - 0.24), colour, 20
    )
    glass: Tint = (GLASS[0] * 0.8, GLASS[1] * 0.8, GLASS[2] * 0.8)
    cabin.decal(top["front"], 0.05, 0.06, 0.95, 0.9, glass, 40)
    cabin.decal(top["rear"], 0.08, 0.16, 0.92, 0.86, glass, 30)
    for side in ("left", "right"):
        cabin.decal(top[side], 0.07, 0.12, 0.48, 0.86, glass, 26)
        cabin.decal(top[side], 0.53, 0.12, 0.93, 0.86, glass, 26)
    shapes += cabin.shapes(view, light)
    return _thing(1, solid, heading, length, half, 0.8 * roof, shapes, _glow(solid, length, half, 0.65, light), speed)


def make_truck(
    rng: np.random.Generator, view: View, light: Lighting, place: np.ndarray, heading: float, speed: float
) -> Thing:
    """Return a box truck, a curtain-sider, a tipper, a tanker or a flatbed."""
    style = str(rng.choice(["box", "curtain", "tipper", "flat", "tank"], p=(0.4, 0.2, 0.15, 0.13, 0.12)))
    length, half = float(rng.uniform(5.8, 8.6)), float(rng.uniform(1.08, 1.24))
    cab_length = 1.75
    tone = np.array(PAINTS[int(rng.integers(len(PAINTS)))]) * rng.uniform(0.85, 1.1)
    paint: Tint = (float(tone[0]), float(tone[1]), float(tone[2]))
    cargo = np.array(LOADS[int(rng.integers(len(LOADS)))]) * rng.uniform(0.85, 1.08)
    load: Tint = (float(cargo[0]), float(cargo[1]), float(cargo[2]))
    split = length / 2 - cab_length
    cab = Solid(place, heading)
    faces = cab.span(0.5, 2.35).block(
        (split + 0.1, length / 2, half - 0.05), (split + 0.1, length / 2 - 0.22, half - 0.12), paint, 14
    )
    white: Tint = (520, 540, 540) if light.headlights else (222, 224, 224)
    cab.decal(faces["front"], 0.06, 0.5, 0.94, 0.92, GLASS, 40)
    cab.decal(faces["front"], 0.25, 0.2, 0.75, 0.42, (48, 48, 48))
    cab.decal(faces["front"], 0.0, 0.0, 1.0, 0.1, (60, 60, 60))
    for u in (0.04, 0.8):
        cab.decal(faces["front"], u, 0.1, u + 0.16, 0.22, white)
    cab.decal(faces["left"], 0.1, 0.5, 0.6, 0.92, GLASS, 30)
    cab.decal(faces["right"], 0.4, 0.5, 0.9, 0.92, GLASS, 30)
    roof = 2.35
    bed = Solid(place, heading)
    bed.span(0.55, 0.95).block((-length / 2, split, half - 0.1), (-length / 2, split, half - 0.1), (52, 52, 52))
    if style in ("box", "curtain"):
        roof = float(rng.uniform(2.7, 3.3))
        box = bed.span(0.95, roof).block((-length / 2, split, half), (-length / 2, split, half), load, 6)
        dark: Tint = (load[0] * 0.72, load[1] * 0.72, load[2] * 0.72)
        bed.decal(box["rear"], 0.05, 0.04, 0.485, 0.95, (load[0] * 0.9, load[1] * 0.9, load[2] * 0.9))
        bed.decal(box["rear"], 0.515, 0.04, 0.95, 0.95, (load[0] * 0.9, load[1] * 0.9, load[2] * 0.9))
        accent = PAINTS[int(rng.integers(7, len(PAINTS)))]
        for side in ("left", "right"):
            if style == "curtain":
                for u in np.arange(0.08, 0.95, 0.12):
                    bed.decal(box[side], float(u), 0.0, float(u) + 0.015, 0.94, dark)
            else:
                bed.decal(box[side], 0.0, 0.42, 1.0, 0.56, accent)
                bed.decal(box[side], 0.2, 0.62, 0.6, 0.82, accent)
    elif style == "tipper":
        roof = 2.0
        box = bed.span(0.95, roof).block(
            (-length / 2, split - 0.1, half), (-length / 2 - 0.2, split, half + 0.06), load, 4
        )
        bed.decal(box["top"], 0.06, 0.05, 0.94, 0.95, (62, 84, 104))
        for side in ("left", "right"):
            for u in np.arange(0.1, 0.95, 0.2):
                bed.decal(box[side], float(u), 0.0, float(u) + 0.04, 1.0, (load[0] * 0.7, load[1] * 0.7, load[2] * 0.7))
    elif style == "flat":
        bed.span(0.95, 1.1).block((-length / 2, split, half), (-length / 2, split, half), (70, 88, 104))
        roof, rear = 2.35, -length / 2 + 0.4
        for _ in range(int(rng.integers(1, 4))):
            size, high = float(rng.uniform(0.9, 1.6)), float(rng.uniform(1.6, 2.3))
            if rear + size > split - 0.2:
                break
            crate = LOADS[int(rng.integers(len(LOADS)))]
            bed.span(1.1, high).block((rear, rear + size, half - 0.25), (rear, rear + size, half - 0.25), crate)
            rear += size + 0.2
    else:
        roof = 2.7
        bed.span(0.95, 1.8).block((-length / 2, split, half * 0.6), (-length / 2, split, half), load, 20)
        tank = bed.span(1.8, roof).block((-length / 2, split, half), (-length / 2, split, half * 0.5), load, 34)
        for side in ("left", "right"):
            bed.decal(tank[side], 0.0, 0.1, 1.0, 0.3, PAINTS[7 + int(rng.integers(6))])
    tail = bed.face(
        np.array([[-length / 2 - 0.02, half - 0.1, 0.55], [-length / 2 - 0.02, -half + 0.1, 0.55],
                  [-length / 2 - 0.02, -half + 0.1, 0.9], [-length / 2 - 0.02, half - 0.1, 0.9]]),
        (60, 60, 60),
    )  # fmt: skip
    red: Tint = (120, 110, 620) if light.headlights else (50, 46, 176)
    for u in (0.02, 0.84):
        bed.decal(tail, u, 0.2, u + 0.14, 0.8, red)
    parts = [bed, cab]
    nose = np.array([math.cos(heading), math.sin(heading), 0.0])
    if nose @ (place + nose * split - view.position) > 0:
        parts = [cab, bed]
    shapes: list[Drawable] = []
    for x in (length / 2 - 0.75, -length / 2 + 1.2, -length / 2 + 2.2):
        for y in (-half, half):
            shapes += wheel(cab, view, x, y * 0.97, 0.48, light, hub=RUBBER if x < 0 else (140, 140, 140))
    wheels = shapes
    shapes = [shape for part in parts for shape in part.shapes(view, light)] + wheels
    return _thing(2, cab, heading, length, half, roof * 0.9, shapes, _glow(cab, length, half, 0.75, light), speed)
