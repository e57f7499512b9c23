"""One frame of a camera: the finished picture and its labels."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np

from detkd.data.toy.compose import Sight, draw_thing, ground_effects, look
from detkd.data.toy.crowd import DIFFICULTIES, populate
from detkd.data.toy.lens import expose, stamp
from detkd.data.toy.light import LIGHTS, WEATHERS, build_backdrop
from detkd.data.toy.scenes import CAMERAS
from detkd.data.toy.stage import build_stage
from detkd.errors import DataError

__all__ = ["Frame", "draw_frame"]


class Frame(NamedTuple):
    """A drawn frame.

    Attributes:
        image: Blue, green, red, uint8 (H, W, 3).
        boxes: x0, y0, x1, y1 in pixels around visible and hidden parts, cut at the image border, float64 (N, 4).
        classes: Index into `TOY_NAMES`, int64 (N,).
        meta: camera, light, weather, time, quality (JPEG) and visibility (one share per box).
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    meta: dict[str, Any]


def draw_frame(
    camera: str, index: int, seed: int = 0, *, size: tuple[int, int] = (320, 192), difficulty: str = "normal"
) -> Frame:
    """Draw one frame; the same arguments give the same pixels on any machine and in any order.

    Args:
        camera: One of `CAMERAS`.
        index: Number of the frame.
        seed: Seed of the whole set.
        size: Width and height in pixels, both even.
        difficulty: "easy", "normal" or "hard".

    Raises:
        DataError: If camera or difficulty are unknown.
    """
    if camera not in CAMERAS:
        raise DataError(f"data.splits: no such toy camera, got {camera!r}; choose from {', '.join(CAMERAS)}")
    if difficulty not in DIFFICULTIES:
        raise DataError(f"data.difficulty: unknown, got {difficulty!r}; choose from {', '.join(DIFFICULTIES)}")
    level = DIFFICULTIES[difficulty]
    rng = np.random.default_rng([seed, zlib.crc32(camera.encode()), index])
    light = LIGHTS[int(rng.choice(3, p=level.lights))]
    weather = WEATHERS[int(rng.choice(4, p=level.weathers))]
    width, height = 2 * size[0], 2 * size[1]
    stage = build_stage(camera, width, height)
    backdrop = build_backdrop(camera, light, weather, width, height)
    taken = np.zeros((height, width), np.uint8)
    sights: list[Sight] = []
    while not sights:
        groups = populate(rng, stage, backdrop, camera, level, weather)
        for group in sorted(groups, key=lambda group: float(stage.view.reach(group[0].place))):
            for thing in group:
                sight = look(stage, thing, taken, level)
                if sight is None:
                    break
                sights.append(sight)
    canvas = backdrop.image.copy()
    for sight in sights:
        ground_effects(canvas, stage, backdrop, sight.thing)
    # a rider follows the bicycle at the same distance: the sort is stable and keeps that order
    exposure = {"day": 0.004, "dusk": 0.018, "night": 0.032}[light]
    for sight in sorted(sights, key=lambda sight: -sight.reach):
        draw_thing(canvas, backdrop, sight, stage, exposure)
    hour = {"day": (8, 17), "dusk": (18, 20), "night": (21, 29)}[light]
    clock = f"{int(rng.integers(*hour)) % 24:02d}:{int(rng.integers(60)):02d}:{int(rng.integers(60)):02d}"
    time = f"2024-{int(rng.integers(1, 13)):02d}-{int(rng.integers(1, 29)):02d}T{clock}"
    mono = light == "night" and rng.random() < 0.35
    faults = rng.random(3) < level.faults
    if rng.random() < 0.85:
        stamp(canvas, f"CAM{CAMERAS.index(camera) + 1:02d} {time.replace('T', ' ')}", width)
    image = expose(
        rng, canvas, size, noise=backdrop.mood.noise * level.noise * float(rng.uniform(0.6, 1.4)),
        rain=weather == "rain", dirt=bool(faults[0]), mono=mono,
        softness=float(rng.uniform(0.6, 1.1)) * size[0] / 320 if faults[1] else 0.0,
        shake=float(rng.uniform(2, 6)) * size[0] / 320 if faults[2] else 0.0,
    )  # fmt: skip
    meta = {
        "camera": camera, "light": light, "weather": weather, "time": time, "quality": int(rng.integers(55, 93)),
        "visibility": [round(sight.share, 3) for sight in sights],
    }  # fmt: skip
    boxes = np.array([sight.box for sight in sights], np.float64).reshape(-1, 4)
    return Frame(image, boxes, np.array([sight.thing.kind for sight in sights], np.int64), meta)
