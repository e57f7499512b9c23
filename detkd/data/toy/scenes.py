"""Fourteen fixed cameras: what stands in front of each, and where people and vehicles may appear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from detkd.data.toy.camera import Camera

__all__ = ["CAMERAS", "SPLITS", "Colour", "Scene", "Spawn", "build_scene"]

Colour = tuple[int, int, int]  # blue, green, red

ASPHALT: Colour = (92, 90, 90)
PAVEMENT: Colour = (150, 154, 158)
PAVING: Colour = (138, 148, 160)
CONCRETE: Colour = (146, 148, 148)
GRASS: Colour = (74, 122, 96)
WATER: Colour = (140, 112, 84)
WHITE: Colour = (226, 228, 228)
YELLOW: Colour = (70, 190, 226)
KERB: Colour = (176, 180, 182)
CYCLE: Colour = (84, 86, 132)
BRICK: Colour = (88, 104, 152)
SAND: Colour = (150, 182, 204)
GREY: Colour = (158, 158, 154)
PALE: Colour = (196, 206, 212)
SLATE: Colour = (128, 116, 104)
TEAL: Colour = (140, 136, 96)


@dataclass(frozen=True)
class Spawn:
    """A strip of ground where objects appear.

    Attributes:
        kind: "drive", "park", "dock", "walk", "ride" or "rack".
        line: x0, y0, x1, y1 of its middle, metres.
        heading: Degrees counter-clockwise from +x.
        spread: Half width in which positions vary, metres.
    """

    kind: str
    line: tuple[float, float, float, float]
    heading: float
    spread: float


@dataclass
class Scene:
    """A camera and its static world. Rectangles are x0, y0, x1, y1 in metres."""

    camera: Camera
    ground: Colour
    sun: float = 140.0  # degrees counter-clockwise from +x: where the light comes from
    areas: list[tuple[Colour, tuple[float, float, float, float]]] = field(default_factory=list)
    buildings: list[tuple[tuple[float, float, float, float], float, Colour, bool]] = field(default_factory=list)
    props: list[tuple[str, float, float, float]] = field(default_factory=list)  # kind, x, y, size
    fences: list[tuple[tuple[float, float, float, float], float]] = field(default_factory=list)
    spawns: list[Spawn] = field(default_factory=list)

    def area(self, colour: Colour, x0: float, y0: float, x1: float, y1: float) -> None:
        """Paint a rectangle of ground."""
        self.areas.append((colour, (x0, y0, x1, y1)))

    def building(
        self, x0: float, y0: float, x1: float, y1: float, height: float, colour: Colour, windows: bool = True
    ) -> None:
        """Put up a box, with windows or plain."""
        self.buildings.append(((x0, y0, x1, y1), height, colour, windows))

    def prop(self, kind: str, *places: tuple[float, float], size: float = 1.0) -> None:
        """Place the same thing at several spots."""
        self.props.extend((kind, x, y, size) for x, y in places)

    def spawn(self, kind: str, x0: float, y0: float, x1: float, y1: float, heading: float, spread: float = 0.4) -> None:
        """Allow objects of a kind along a line."""
        self.spawns.append(Spawn(kind, (x0, y0, x1, y1), heading, spread))

    def strip(self, colour: Colour, across: bool, low: float, high: float, start: float, end: float) -> None:
        """Paint a band along y (or along x when `across`)."""
        if across:
            self.area(colour, start, low, end, high)
        else:
            self.area(colour, low, start, high, end)

    def road(
        self, middle: float, half: float, start: float, end: float, *, across: bool = False, walk: float = 2.6,
        lanes: int = 2, cycle: bool = False, dashes: bool = True,
    ) -> None:  # fmt: skip
        """Lay a road along y (or along x when `across`) with kerbs, pavements, markings and traffic on the right."""
        if walk:
            self.strip(PAVEMENT, across, middle - half - walk, middle + half + walk, start, end)
            self.strip(KERB, across, middle - half - 0.2, middle + half + 0.2, start, end)
        self.strip(ASPHALT, across, middle - half, middle + half, start, end)
        outer = half - 1.6 if cycle else half
        for side in (-1, 1):
            if cycle:
                edge = sorted((middle + side * outer, middle + side * (half - 0.1)))
                self.strip(CYCLE, across, edge[0], edge[1], start, end)
                self._lane("ride", middle + side * (half - 0.8), start, end, across, side, 0.2)
            else:
                self._lane("ride", middle + side * (half - 0.6), start, end, across, side, 0.15)
            if walk:
                self._lane("walk", middle + side * (half + walk / 2 + 0.1), start, end, across, side, walk * 0.34)
        width = 2 * outer / lanes
        for lane in range(lanes):
            offset = -outer + (lane + 0.5) * width
            self._lane("drive", middle + offset, start, end, across, 1 if offset > 0 else -1, 0.25)
            if lane and dashes:
                self.dashes(middle - outer + lane * width, start, end, across=across)

    def _lane(self, kind: str, at: float, start: float, end: float, across: bool, side: int, spread: float) -> None:
        heading = (0.0 if side < 0 else 180.0) if across else (90.0 if side > 0 else 270.0)
        line = (start, at, end, at) if across else (at, start, at, end)
        self.spawn(kind, *line, heading, spread)

    def dashes(self, at: float, start: float, end: float, *, across: bool = False, colour: Colour = WHITE) -> None:
        """Paint a broken line."""
        place = start
        while place < min(end, 90.0):
            self.strip(colour, across, at - 0.08, at + 0.08, place, place + 1.8)
            place += 4.5

    def zebra(self, x0: float, y0: float, x1: float, y1: float, *, across: bool = False) -> None:
        """Paint a crossing inside a rectangle: stripes along y, or along x when `across`."""
        low, high = (y0, y1) if across else (x0, x1)
        place = low + 0.25
        while place < high - 0.4:
            if across:
                self.area(WHITE, x0, place, x1, place + 0.5)
            else:
                self.area(WHITE, place, y0, place + 0.5, y1)
            place += 1.0
        if across:
            self.spawn("walk", (x0 + x1) / 2, y0, (x0 + x1) / 2, y1, 90.0, (x1 - x0) * 0.35)
        else:
            self.spawn("walk", x0, (y0 + y1) / 2, x1, (y0 + y1) / 2, 0.0, (y1 - y0) * 0.35)

    def bays(
        self, x0: float, x1: float, y0: float, y1: float, *, pitch: float = 2.7, kind: str = "park",
        heading: float = 90.0,
    ) -> None:  # fmt: skip
        """Mark parking bays side by side along x and allow parked vehicles in each."""
        place = x0
        while place <= x1 + 1e-6:
            self.area(WHITE, place - 0.06, y0, place + 0.06, y1)
            if place + pitch <= x1 + 1e-6:
                mid = place + pitch / 2
                self.spawn(kind, mid, (y0 + y1) / 2 - 0.3, mid, (y0 + y1) / 2 + 0.3, heading, 0.12)
            place += pitch


def build_scene(name: str) -> Scene:
    """Return a fresh scene by camera name (see `CAMERAS`)."""
    from detkd.data.toy.places import PLACES

    builder: Callable[[], Scene] = PLACES[name]
    return builder()


SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        "crossing", "car_park", "alley", "shop", "highway", "courtyard", "loading_dock", "avenue", "school",
    ),
    "val": ("market", "junction"),
    "test": ("bridge", "depot", "station"),
}  # fmt: skip
CAMERAS: tuple[str, ...] = tuple(name for names in SPLITS.values() for name in names)
