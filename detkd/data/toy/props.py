"""Buildings, fences and street furniture of a stage. Nothing here is an object to detect."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from detkd.data.toy.scenes import Colour
from detkd.data.toy.stage import Stage

__all__ = ["furnish"]

DARK: Colour = (62, 60, 58)
WARM: Colour = (120, 190, 235)
Pane = tuple[np.ndarray, Colour, Colour | None]


def tint(colour: Colour, factor: float) -> Colour:
    """Return a colour made lighter or darker."""
    blue, green, red = (int(min(255, max(0, part * factor))) for part in colour)
    return blue, green, red


class Spot:
    """Draws flat shapes that stand at one ground position and face the camera."""

    def __init__(self, stage: Stage, x: float, y: float, size: float) -> None:
        self.stage, self.size = stage, size
        self.foot = np.array([x, y, 0.0])
        self.far = float(stage.view.reach(self.foot))

    def points(self, shape: list[tuple[float, float]]) -> np.ndarray:
        """Return world points of (sideways, up) pairs in metres, before `size`."""
        flat = np.array(shape) * self.size
        return np.asarray(self.foot + flat[:, :1] * self.stage.view.right + flat[:, 1:] * np.array([0.0, 0.0, 1.0]))

    def draw(self, shape: list[tuple[float, float]], colour: Colour, light: float = 0.55, closer: float = 0.0,
             glow: Colour | None = None) -> None:  # fmt: skip
        """Draw a convex shape; `closer` metres put it in front of what was drawn at the same spot."""
        self.stage.panel(self.points(shape), colour, reach=self.far - closer, light=light, glow=glow)

    def post(self, x: float, low: float, high: float, half: float, colour: Colour, closer: float = 0.0) -> None:
        """Draw an upright bar, lit on one side."""
        self.draw([(x - half, low), (x + half, low), (x + half, high), (x - half, high)], colour, 0.35, closer)
        self.draw([(x - half, low), (x, low), (x, high), (x - half, high)], tint(colour, 1.25), 0.6, closer + 0.001)

    def disc(self, x: float, z: float, rx: float, rz: float, colour: Colour, light: float, closer: float = 0.0) -> None:
        """Draw an ellipse."""
        turn = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        self.draw([(x + rx * math.cos(a), z + rz * math.sin(a)) for a in turn], colour, light, closer)

    def shadow(self, height: float, half: float, low: float = 0.0) -> None:
        """Cast the shadow of an upright cylinder."""
        turn = np.linspace(0, 2 * math.pi, 10, endpoint=False)
        ring = np.stack([np.cos(turn) * half, np.sin(turn) * half, np.zeros(10)], axis=1) * self.size
        lift = np.array([0.0, 0.0, self.size])
        self.stage.shadow(np.concatenate([self.foot + ring + lift * low, self.foot + ring + lift * height]))


def _lamp(spot: Spot) -> None:
    spot.shadow(6, 0.07)
    spot.post(0, 0, 6, 0.075, (104, 106, 104))
    spot.post(0, 0, 0.8, 0.13, (92, 92, 90), 0.002)
    spot.draw([(-0.05, 5.9), (-0.05, 6.02), (1.0, 6.2), (1.0, 6.1)], (104, 106, 104))
    spot.draw([(0.75, 6.08), (0.8, 6.25), (1.35, 6.25), (1.4, 6.08)], (190, 200, 205), 0.9, 0.01, (190, 235, 255))
    head = spot.points([(1.0, 6.1)])[0]
    spot.stage.lamps = np.concatenate([spot.stage.lamps, head[None]])


def _tree(spot: Spot) -> None:
    rng = spot.stage.rng
    spot.shadow(3.2, 1.7, 2.0)
    spot.shadow(2.2, 0.15)
    spot.post(0, 0, 2.6, 0.17, (52, 66, 84))
    base = np.array([rng.uniform(44, 66), rng.uniform(96, 126), rng.uniform(66, 112)])
    for ring, (count, spread, tone) in enumerate(((9, 1.5, 0.62), (11, 1.25, 0.82), (12, 1.0, 1.0), (8, 0.75, 1.22))):
        for _ in range(count):
            angle, radius = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 1) * spread
            x, z = radius * math.cos(angle) - 0.14 * ring, 3.7 + 0.85 * radius * math.sin(angle) + 0.16 * ring
            blob = rng.uniform(0.4, 0.75) * (1 - 0.13 * ring)
            colour = tuple(int(part) for part in base * tone * rng.uniform(0.9, 1.1))
            spot.disc(x, z, blob, blob * 0.85, (colour[0], colour[1], colour[2]), 0.25 + 0.15 * ring, 0.01 * (ring + 1))


def _bush(spot: Spot) -> None:
    rng = spot.stage.rng
    spot.shadow(0.8, 0.7)
    for row, tone in enumerate((0.65, 0.85, 1.1)):
        for _ in range(6):
            x, z = rng.uniform(-0.7, 0.7) - 0.1 * row, 0.3 + 0.22 * row + rng.uniform(-0.08, 0.1)
            size = rng.uniform(0.22, 0.4)
            spot.disc(x, z, size, size * 0.8, tint((60, 112, 82), tone), 0.3 + 0.2 * row, 0.01 * row)


def _bin(spot: Spot) -> None:
    colour: Colour = ((70, 104, 64), (104, 84, 58), (76, 76, 74), (60, 84, 132))[int(spot.stage.rng.integers(4))]
    spot.shadow(1.1, 0.3)
    spot.draw([(-0.27, 0.06), (0.27, 0.06), (0.33, 1.0), (-0.33, 1.0)], colour, 0.35)
    spot.draw([(-0.27, 0.06), (-0.05, 0.06), (-0.07, 1.0), (-0.33, 1.0)], tint(colour, 1.2), 0.6, 0.01)
    spot.draw([(-0.37, 0.98), (0.37, 0.98), (0.33, 1.12), (-0.33, 1.12)], tint(colour, 0.8), 0.9, 0.02)


def _sign(spot: Spot) -> None:
    spot.shadow(2.6, 0.06)
    spot.post(0, 0, 2.7, 0.04, (140, 142, 142))
    colour: Colour = ((50, 50, 196), (176, 110, 44), (60, 186, 222))[int(spot.stage.rng.integers(3))]
    spot.disc(0, 2.6, 0.34, 0.34, colour, 0.6, 0.01)
    spot.disc(0, 2.6, 0.23, 0.23, (224, 226, 226), 0.6, 0.02)


def _signal(spot: Spot) -> None:
    spot.shadow(3.4, 0.08)
    spot.post(0, 0, 3.4, 0.07, (70, 74, 74))
    spot.draw([(-0.2, 2.5), (0.2, 2.5), (0.2, 3.5), (-0.2, 3.5)], (44, 46, 46), 0.4, 0.01)
    lit = int(spot.stage.rng.integers(3))
    for place, colour in enumerate(((50, 50, 214), (60, 180, 224), (110, 196, 70))):
        shown = colour if place == lit else tint(colour, 0.3)
        points = [(0.12 * math.cos(a), 3.3 - 0.3 * place + 0.12 * math.sin(a)) for a in np.linspace(0, 5.6, 8)]
        spot.draw(points, shown, 0.9, 0.02, shown if place == lit else None)


def _hydrant(spot: Spot) -> None:
    spot.shadow(0.8, 0.15)
    spot.post(0, 0, 0.62, 0.14, (44, 48, 176))
    spot.post(0, 0.38, 0.52, 0.24, (40, 44, 160), 0.01)
    spot.disc(0, 0.64, 0.16, 0.14, (56, 60, 190), 0.6, 0.02)


def _bollard(spot: Spot) -> None:
    spot.shadow(0.9, 0.1)
    spot.post(0, 0, 0.9, 0.09, (70, 72, 72))
    spot.post(0, 0.68, 0.8, 0.092, (200, 204, 206), 0.01)


def _cone(spot: Spot) -> None:
    spot.shadow(0.6, 0.15)
    spot.draw([(-0.24, 0), (0.24, 0), (0.05, 0.75), (-0.05, 0.75)], (40, 100, 226), 0.6)
    spot.draw([(-0.17, 0.28), (0.17, 0.28), (0.12, 0.46), (-0.12, 0.46)], (226, 228, 230), 0.6, 0.01)


def _crate(spot: Spot) -> None:
    colour = tint((92, 138, 172), spot.stage.rng.uniform(0.75, 1.1))
    spot.shadow(1.0, 0.55)
    spot.draw([(-0.55, 0), (0.55, 0), (0.55, 1.0), (-0.55, 1.0)], colour, 0.4)
    for low in (0.06, 0.4, 0.74):
        spot.draw([(-0.5, low), (0.5, low), (0.5, low + 0.2), (-0.5, low + 0.2)], tint(colour, 1.18), 0.5, 0.01)


def _bench(spot: Spot) -> None:
    spot.shadow(0.5, 0.6)
    for x in (-0.7, 0.7):
        spot.post(x, 0, 0.5, 0.05, DARK)
    for low in (0.42, 0.6, 0.76):
        spot.draw([(-0.9, low), (0.9, low), (0.9, low + 0.1), (-0.9, low + 0.1)], (70, 104, 140), 0.6, 0.01)


def _cart(spot: Spot) -> None:
    spot.shadow(0.9, 0.35)
    frame: Colour = (168, 172, 174)
    spot.draw([(-0.4, 0.45), (0.4, 0.55), (0.5, 1.0), (-0.5, 0.95)], (150, 152, 152), 0.5)
    for x in (-0.3, -0.1, 0.1, 0.3):
        spot.post(x, 0.5, 0.95, 0.025, DARK, 0.01)
    for x in (-0.32, 0.32):
        spot.post(x, 0.08, 0.5, 0.03, frame)
        spot.disc(x, 0.1, 0.09, 0.09, DARK, 0.3, 0.02)


def _stand(spot: Spot) -> None:
    spot.shadow(1.0, 0.4)
    spot.draw([(-0.4, 0), (0.4, 0), (0.32, 1.15), (-0.32, 1.15)], (58, 70, 84), 0.5)
    spot.draw([(-0.31, 0.15), (0.31, 0.15), (0.26, 1.05), (-0.26, 1.05)], (190, 206, 214), 0.6, 0.01)
    for low in (0.35, 0.6, 0.82):
        spot.draw([(-0.2, low), (0.2, low), (0.2, low + 0.07), (-0.2, low + 0.07)], (70, 70, 150), 0.6, 0.02)


def _stall(spot: Spot) -> None:
    stripe: Colour = ((60, 60, 190), (150, 110, 50), (80, 140, 70))[int(spot.stage.rng.integers(3))]
    spot.shadow(2.4, 1.5, 2.0)
    for x in (-1.5, 1.5):
        spot.post(x, 0, 2.3, 0.05, (120, 124, 126))
    spot.draw([(-1.5, 0), (1.5, 0), (1.5, 0.9), (-1.5, 0.9)], (92, 120, 146), 0.3)
    for number in range(12):
        x = -1.35 + 0.245 * number
        fruit = ((50, 60, 190), (60, 160, 220), (70, 150, 90))[number % 3]
        spot.disc(x, 0.97, 0.14, 0.1, fruit, 0.4, 0.02)
    for number in range(8):
        x = -1.7 + 3.4 * number / 8
        colour: Colour = stripe if number % 2 else (222, 226, 228)
        spot.draw([(x, 2.05), (x + 0.425, 2.05), (x * 0.9 + 0.38, 2.75), (x * 0.9, 2.75)], colour, 0.75, 0.03)


def _door(spot: Spot) -> None:
    spot.draw([(-1.9, 0.9), (1.9, 0.9), (1.9, 4.6), (-1.9, 4.6)], (70, 72, 74), 0.2)
    for low in np.arange(1.0, 4.2, 0.4):
        spot.draw([(-1.6, low), (1.6, low), (1.6, low + 0.34), (-1.6, low + 0.34)], (176, 178, 176), 0.3, 0.01)
    for x in (-1.75, 1.75):
        spot.post(x, 0.3, 4.6, 0.12, (50, 180, 214), 0.02)


FURNITURE: dict[str, Callable[[Spot], None]] = {
    "lamp": _lamp, "tree": _tree, "bush": _bush, "bin": _bin, "sign": _sign, "signal": _signal, "hydrant": _hydrant,
    "bollard": _bollard, "cone": _cone, "crate": _crate, "bench": _bench, "cart": _cart, "stand": _stand,
    "stall": _stall, "door": _door,
}  # fmt: skip


def _panes(
    stage: Stage, start: np.ndarray, along: np.ndarray, length: float, height: float, wall: Colour
) -> list[Pane]:
    """Return the windows, doors and trims of one wall."""
    up = np.array([0.0, 0.0, 1.0])

    def rectangle(x0: float, z0: float, x1: float, z1: float) -> np.ndarray:
        return np.stack([start + along * x + up * z for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))])

    panes: list[Pane] = [
        (rectangle(0, 0, length, 0.7), tint(wall, 0.72), None),
        (rectangle(0, height - 0.45, length, height), tint(wall, 0.82), None),
    ]
    columns = max(1, int(length / 2.6))
    pitch = length / columns
    for floor in range(max(1, int(height / 3.1))):
        for column in range(columns):
            x, z = (column + 0.5) * pitch, 3.1 * floor + 0.9
            if z + 1.7 > height - 0.4:
                continue
            ground = floor == 0
            half = pitch * (0.4 if ground else 0.27)
            lit = stage.rng.random() < (0.45 if ground else 0.25)
            glass = tint((122, 104, 88), stage.rng.uniform(0.55, 1.1))
            panes.append((rectangle(x - half - 0.1, z - 0.1, x + half + 0.1, z + 1.7), tint(wall, 1.18), None))
            panes.append((rectangle(x - half, z, x + half, z + 1.6), glass, tint(WARM, 0.9) if lit else None))
            if not ground:
                panes.append((rectangle(x - 0.04, z, x + 0.04, z + 1.6), tint(wall, 1.1), None))
    return panes


def _building(
    stage: Stage, box: tuple[float, float, float, float], height: float, colour: Colour, windows: bool
) -> None:
    x0, y0, x1, y1 = box
    corners = np.array([[x0, y0, 0], [x1, y0, 0], [x1, y1, 0], [x0, y1, 0]], float)
    up = np.array([0.0, 0.0, height])
    stage.shadow(np.concatenate([corners, corners + up]))
    eye = stage.view.position
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = (end - start) / np.linalg.norm(end - start)
        outward = np.array([along[1], -along[0], 0.0])
        if outward @ (eye - start) <= 0:
            continue
        length = float(np.linalg.norm(end - start))
        if windows:
            panes = _panes(stage, start, along, length, height, colour)
        else:
            ribs = np.arange(0.3, length, 0.6)
            lift = np.array([0.0, 0.0, 0.97 * height])
            panes = [
                (np.stack([start + along * r, start + along * (r + 0.2), start + along * (r + 0.2) + lift,
                           start + along * r + lift]), tint(colour, 0.88), None)
                for r in ribs
            ]  # fmt: skip
        stage.panel(np.stack([start, end, end + up, start + up]), colour, decals=panes)
    if eye[2] > height:
        stage.panel(corners + up, tint(colour, 0.9))


def _fence(stage: Stage, line: tuple[float, float, float, float], height: float) -> None:
    start, end = np.array([line[0], line[1], 0.0]), np.array([line[2], line[3], 0.0])
    length = float(np.linalg.norm(end - start))
    along, up = (end - start) / length, np.array([0.0, 0.0, 1.0])
    colour: Colour = (96, 98, 96)

    def bar(x0: float, x1: float, z0: float, z1: float, tone: float) -> None:
        points = np.stack([start + along * x + up * z for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))])
        stage.panel(points, tint(colour, tone), light=0.5)

    for place in np.arange(0, length, 2.5):
        bar(place - 0.05, place + 0.05, 0, height, 0.9)
        for offset in np.arange(0.4, 2.2, 0.4):
            if stage.view.scale(start + along * (place + offset)) > 12:
                bar(place + offset - 0.018, place + offset + 0.018, 0.1, height - 0.1, 1.05)
    for z in (0.15, height - 0.08):
        bar(0, length, z, z + 0.07, 1.2)


def furnish(stage: Stage) -> None:
    """Put a scene's buildings, fences and furniture on its stage."""
    for box, height, colour, windows in stage.scene.buildings:
        _building(stage, box, height, colour, windows)
    for line, height in stage.scene.fences:
        _fence(stage, line, height)
    for kind, x, y, size in stage.scene.props:
        FURNITURE[kind](Spot(stage, x, y, size))
