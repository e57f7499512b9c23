"""Who is in a frame: objects of the four classes, placed where a scene allows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from detkd.data.toy.light import Backdrop
from detkd.data.toy.models import Lighting, Thing
from detkd.data.toy.people import make_bicycle, make_person
from detkd.data.toy.stage import Stage, build_stage
from detkd.data.toy.vehicles import make_car, make_truck

__all__ = ["DIFFICULTIES", "TOY_NAMES", "Difficulty", "populate"]

TOY_NAMES = ("person", "car", "truck", "bicycle")
KINDS = (("walk",), ("drive", "park"), ("drive", "dock"), ("ride", "rack"))  # where each class appears
SHARES = (0.23, 0.33, 0.21, 0.23)
WIDTHS = (0.3, 1.05, 1.4, 0.35)  # half of the room each class needs sideways, metres
LENGTHS = (0.35, 2.3, 4.0, 0.9)
EXTENT = (0.5, 1.45, 2.3, 0.8)  # metres that must span the smallest box side
SPEEDS = {"walk": 1.4, "drive": 9.0, "ride": 4.5}


@dataclass(frozen=True)
class Difficulty:
    """What makes a set harder.

    Attributes:
        objects: Fewest and most objects tried in an image.
        lights: Shares of day, dusk and night.
        weathers: Shares of clear, overcast, rain and fog.
        noise: Factor on sensor noise.
        faults: Probability of each lens fault (dirt, shake, soft focus).
        visible: Least visible share of an object.
        side: Least box side, pixels.
    """

    objects: tuple[int, int]
    lights: tuple[float, float, float]
    weathers: tuple[float, float, float, float]
    noise: float
    faults: float
    visible: float
    side: float


DIFFICULTIES = {
    "easy": Difficulty((1, 7), (0.8, 0.12, 0.08), (0.7, 0.25, 0.05, 0.0), 0.4, 0.0, 0.6, 8),
    "normal": Difficulty((2, 11), (0.5, 0.2, 0.3), (0.5, 0.2, 0.2, 0.1), 1.0, 0.12, 0.35, 4),
    "hard": Difficulty((3, 11), (0.3, 0.25, 0.45), (0.3, 0.2, 0.3, 0.2), 1.5, 0.3, 0.35, 4),
}


class Seat(NamedTuple):
    """A place where an object may stand."""

    kind: str
    place: np.ndarray
    heading: float
    spread: float
    scale: float
    reach: float


class Choice(NamedTuple):
    """The seats one class may take, with scale and weight of each, (N,). Nearer ones are likelier: roads are long."""

    seats: tuple[Seat, ...]
    scales: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=4)
def _choices(camera: str, width: int, height: int) -> tuple[Choice, ...]:
    """Return for each class where it may stand so that it is in the picture."""
    stage = build_stage(camera, width, height)
    seats = []
    for spawn in stage.scene.spawns:
        x0, y0, x1, y1 = spawn.line
        count = max(2, round(math.hypot(x1 - x0, y1 - y0)))
        for share in np.linspace(0, 1, count):
            place = np.array([x0 + share * (x1 - x0), y0 + share * (y1 - y0), 0.0])
            scale = stage.view.scale(place)
            (u, v), _ = stage.view.project(place)
            if scale > 0 and -0.02 * width < u < 1.02 * width and 0 < v < 1.12 * height:
                heading, reach = math.radians(spawn.heading), float(stage.view.reach(place))
                seats.append(Seat(spawn.kind, place, heading, spawn.spread, scale, reach))
    choices = []
    for kinds in KINDS:
        chosen = tuple(seat for seat in seats if seat.kind in kinds)
        scales = np.array([seat.scale for seat in chosen])
        choices.append(Choice(chosen, scales, np.array([seat.reach for seat in chosen]) ** -1.3))
    return tuple(choices)


def _clash(place: np.ndarray, heading: float, kind: int, other: Thing) -> bool:
    """Return whether something put here would stand in another thing."""
    apart = place - other.place
    room = 0.9 * (LENGTHS[kind] + other.radius)
    distance = float(np.hypot(apart[0], apart[1]))
    if distance > room or abs(math.sin(heading - other.heading)) > 0.4:
        return distance < 0.85 * room
    across = abs(-math.sin(heading) * apart[0] + math.cos(heading) * apart[1])
    return bool(across < WIDTHS[kind] + WIDTHS[other.kind])


def _lighting(stage: Stage, backdrop: Backdrop, weather: str, place: np.ndarray) -> Lighting:
    mood, view = backdrop.mood, stage.view
    (u, v), _ = view.project(place)
    column, row = int(np.clip(u, 0, view.width - 1)), int(np.clip(v, 0, view.height - 1))
    direct = 1.0 if weather == "clear" else 0.25
    if stage.shade[row, column] < 0.05:
        direct = 0.0
    lamps = 0.0
    if len(stage.lamps):
        squared = ((stage.lamps[:, :2] - place[:2]) ** 2).sum(axis=1)
        lamps = float(((1 + squared / (1.15 * stage.lamps[:, 2]) ** 2) ** -1.5).sum())
    ambient = np.array(mood.ambient) + np.array(mood.lamps) * lamps
    return Lighting(ambient, np.array(mood.sun) * direct, stage.sun, mood.glow > 0.3)


def populate(
    rng: np.random.Generator, stage: Stage, backdrop: Backdrop, camera: str, level: Difficulty, weather: str
) -> list[list[Thing]]:
    """Return groups of things (a rider belongs to a bicycle) that don't stand in each other."""
    view = stage.view
    choices = _choices(camera, view.width, view.height)
    groups: list[list[Thing]] = []
    wanted = int(rng.integers(level.objects[0], level.objects[1] + 1))
    for _ in range(3 * wanted):
        if sum(len(group) for group in groups) >= wanted:
            break
        kind = int(rng.choice(4, p=SHARES))
        least = 2 * level.side / EXTENT[kind]
        choice = choices[kind]
        weights = np.where(choice.scales > least, choice.weights, 0.0)
        total = float(weights.sum())
        if total == 0:
            continue
        seat = choice.seats[int(rng.choice(len(weights), p=weights / total))]
        shift = rng.uniform(-1, 1, 2) * np.array([min(0.5, seat.spread * 4), seat.spread])
        cos, sin = math.cos(seat.heading), math.sin(seat.heading)
        place = seat.place + np.array([shift[0] * cos - shift[1] * sin, shift[0] * sin + shift[1] * cos, 0.0])
        if any(_clash(place, seat.heading, kind, thing) for group in groups for thing in group):
            continue
        if view.scale(place) <= 0 or view.reach(place) < 2.0 + 0.8 * LENGTHS[kind]:
            continue
        heading, speed = seat.heading, SPEEDS.get(seat.kind, 0.0)
        if seat.kind in ("park", "dock", "rack"):
            heading += math.pi * int(rng.integers(2)) + float(rng.normal(0, 0.04 if seat.kind != "rack" else 0.15))
        elif kind == 0:
            heading += float(rng.choice([0, math.pi, rng.uniform(0, 6.28)], p=(0.4, 0.4, 0.2)))
            speed *= float(rng.random() < 0.8)
        else:
            heading += float(rng.normal(0, 0.05))
        light = _lighting(stage, backdrop, weather, place)
        if kind == 0:
            groups.append([make_person(rng, view, light, place, heading, speed, rain=weather == "rain")])
        elif kind == 3:
            group = [make_bicycle(rng, view, light, place, heading, speed)]
            if seat.kind == "ride":
                group.append(make_person(rng, view, light, place, heading, speed, riding=True))
            groups.append(group)
        else:
            groups.append([(make_car if kind == 1 else make_truck)(rng, view, light, place, heading, speed)])
    return groups
