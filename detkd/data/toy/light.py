"""Day, dusk and night: the backdrop of a frame and the light that falls on things in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from detkd.data.toy.stage import build_stage

__all__ = ["LIGHTS", "WEATHERS", "Backdrop", "Mood", "build_backdrop"]


@dataclass(frozen=True)
class Mood:
    """Light of a time of day. Colours are blue, green, red factors on albedo, or levels 0 to 255 for sky and haze.

    Attributes:
        ambient: Light from everywhere.
        sun: Direct light.
        lamps: Light straight under a street lamp.
        glow: Share of light sources that are on.
        zenith: Sky at the top.
        horizon: Sky at the horizon.
        noise: Sensor noise, standard deviation in levels.
    """

    ambient: tuple[float, float, float]
    sun: tuple[float, float, float]
    lamps: tuple[float, float, float]
    glow: float
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    noise: float


DAY = Mood((0.66, 0.61, 0.57), (0.52, 0.64, 0.72), (0, 0, 0), 0.0, (214, 172, 130), (226, 216, 206), 3.0)
OVERCAST = Mood((0.94, 0.92, 0.9), (0.08, 0.08, 0.08), (0, 0, 0), 0.05, (196, 190, 184), (214, 212, 210), 3.5)
DUSK = Mood((0.52, 0.43, 0.43), (0.05, 0.14, 0.26), (0.12, 0.26, 0.36), 0.7, (118, 82, 74), (112, 142, 206), 4.5)
NIGHT = Mood((0.31, 0.25, 0.22), (0.02, 0.02, 0.015), (0.36, 0.58, 0.7), 1.0, (44, 30, 24), (62, 54, 52), 6.0)

LIGHTS = ("day", "dusk", "night")
WEATHERS = ("clear", "overcast", "rain", "fog")
VISIBILITY = {"clear": 260.0, "overcast": 170.0, "rain": 75.0, "fog": 32.0}  # metres over which haze takes over


@dataclass(frozen=True)
class Backdrop:
    """Everything still in a frame, lit.

    Attributes:
        image: The lit static world, uint8 (H, W, 3).
        mood: Its light.
        haze: Colour of distant air.
        visibility: Metres over which haze takes over.
        shadows: How dark shadows of objects are, 0 to 1.
    """

    image: np.ndarray
    mood: Mood
    haze: np.ndarray
    visibility: float
    shadows: float


def choose_mood(light: str, weather: str) -> Mood:
    """Return the light of a time of day under a weather."""
    if light == "day":
        return DAY if weather == "clear" else OVERCAST
    return DUSK if light == "dusk" else NIGHT


@lru_cache(maxsize=12)
def build_backdrop(camera: str, light: str, weather: str, width: int, height: int) -> Backdrop:
    """Light the stage of a camera; the last dozen are kept."""
    stage = build_stage(camera, width, height)
    mood = choose_mood(light, weather)
    sun = np.float32(1.0 if weather == "clear" else 0.25)
    lit = np.empty(stage.albedo.shape, np.float32)
    for channel in range(3):
        lit[..., channel] = mood.ambient[channel] + sun * mood.sun[channel] * stage.shade
        if mood.lamps[channel]:
            lit[..., channel] += mood.lamps[channel] * stage.lamplight
    image = stage.albedo * lit + stage.glow * np.float32(mood.glow * 0.9)
    rise = np.clip(np.linspace(1.0, -1.0, height, dtype=np.float32) * 1.6 - 0.1, 0, 1)[:, None, None]
    sky = np.array(mood.horizon, np.float32) * (1 - rise) + np.array(mood.zenith, np.float32) * rise
    if weather != "clear":
        sky = 0.35 * sky + 0.65 * np.float32(sky.mean())
    haze = np.array(mood.horizon, np.float32) * np.float32(0.5 if light == "night" else 0.92)
    clear = np.exp(-np.minimum(stage.reach, 1e4) / VISIBILITY[weather]).astype(np.float32)[..., None]
    image = image * clear + haze * (1 - clear)
    if weather == "fog":
        sky = 0.15 * sky + 0.85 * haze
    np.copyto(image, sky, where=stage.sky[..., None])
    if mood.glow > 0.3:
        image += stage.halo * np.float32((2.2 if weather in ("rain", "fog") else 1.3) * mood.glow)
    if weather == "rain":
        image *= 0.9
    shadows = 0.0 if light != "day" else (0.42 if weather == "clear" else 0.16)
    shadows = 0.14 if light == "dusk" else shadows
    return Backdrop(np.clip(image, 0, 255).astype(np.uint8), mood, haze, VISIBILITY[weather], shadows)
