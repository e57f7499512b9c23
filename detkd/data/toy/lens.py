"""From the drawn scene to the camera's picture: optics, weather on the lens, sensor and overlay."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

__all__ = ["expose", "glow_at", "stamp"]


@lru_cache(maxsize=2)
def _noise_bank(width: int, height: int) -> np.ndarray:
    """Sensor noise larger than a frame, fine grain plus a coarser blotchy part; frames cut windows from it."""
    rng = np.random.default_rng(20240)
    tall, wide = height + 96, width + 96
    fine = rng.standard_normal((tall, wide, 3)).astype(np.float32)
    common = rng.standard_normal((tall, wide, 1)).astype(np.float32)
    coarse = rng.standard_normal((tall // 3, wide // 3, 3)).astype(np.float32)
    blotches = cv2.resize(coarse, (wide, tall), interpolation=cv2.INTER_LINEAR)
    return np.asarray(0.45 * fine + 0.75 * common + 0.55 * blotches, np.float32)


@lru_cache(maxsize=2)
def _rain_bank(width: int, height: int) -> np.ndarray:
    """Streaks of falling rain, float32, larger than a frame."""
    rng = np.random.default_rng(20241)
    sheet = np.zeros((height + 96, width + 96), np.uint8)
    for _ in range(int(sheet.size / 620)):
        x, y = rng.integers(0, sheet.shape[1]), rng.integers(-20, sheet.shape[0])
        length = rng.uniform(0.025, 0.075) * width
        cv2.line(
            sheet,
            (int(x), int(y)),
            (int(x + 0.16 * length), int(y + length)),
            int(rng.integers(60, 200)),
            1,
            cv2.LINE_AA,
        )
    return cv2.GaussianBlur(sheet, (3, 3), 0.6).astype(np.float32)


@lru_cache(maxsize=2)
def _vignette(width: int, height: int) -> np.ndarray:
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    radius = x[None] ** 2 + y[:, None] ** 2
    return np.asarray(1 - 0.14 * radius, np.float32)[..., None]


@lru_cache(maxsize=64)
def _disc(radius: int) -> np.ndarray:
    axis = np.linspace(-1, 1, 2 * radius + 1)
    squared = axis[None] ** 2 + axis[:, None] ** 2
    core = np.exp(-squared * 26) + 0.34 * np.exp(-squared * 5.5)
    return np.asarray(core * np.clip(1.2 - squared, 0, 1), np.float32)[..., None]


def glow_at(image: np.ndarray, x: float, y: float, radius: float, colour: tuple[float, float, float]) -> None:
    """Add a soft light to an image, in place."""
    size = int(min(max(3, round(radius)), 160))
    left, top = round(x) - size, round(y) - size
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(image.shape[1], left + 2 * size + 1), min(image.shape[0], top + 2 * size + 1)
    if x1 <= x0 or y1 <= y0:
        return
    light = _disc(size)[y0 - top : y1 - top, x0 - left : x1 - left] * np.array(colour, np.float32)
    image[y0:y1, x0:x1] = cv2.add(image[y0:y1, x0:x1], np.clip(light, 0, 255).astype(np.uint8))


def stamp(image: np.ndarray, text: str, width: int) -> None:
    """Write the recorder's overlay into the upper left corner, in place; `width` is the canvas width."""
    scale = width / 1150
    place = (round(width * 0.012), round(width * 0.032))
    for colour, thick in (((24, 24, 24), 3), ((235, 235, 235), 1)):
        weight = max(1, round(thick * width / 640))
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA)


def _drops(rng: np.random.Generator, image: np.ndarray, small: bool) -> np.ndarray:
    height, width = image.shape[:2]
    alpha = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(6, 16) if small else rng.integers(2, 6))):
        radius = rng.uniform(0.006, 0.02) * width if small else rng.uniform(0.03, 0.1) * width
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.8, 1.3))))
        cv2.ellipse(alpha, centre, axes, 0, 0, 360, int(rng.integers(120, 230)), -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(alpha, (0, 0), width * (0.003 if small else 0.025)).astype(np.float32)[..., None] / 255
    veil = cv2.GaussianBlur(image, (0, 0), width * (0.008 if small else 0.015)).astype(np.float32)
    veil = veil[::-1] * 0.25 + veil * 0.75 + 16 if small else veil * 0.72 + 22
    return np.asarray(image * (1 - soft) + veil * soft)


def expose(
    rng: np.random.Generator, canvas: np.ndarray, size: tuple[int, int], *, noise: float, rain: bool, dirt: bool,
    mono: bool, softness: float, shake: float,
) -> np.ndarray:  # fmt: skip
    """Return the camera's picture of a canvas.

    Args:
        rng: Random source of this frame.
        canvas: The drawn scene, uint8 (2 H, 2 W, 3).
        size: Width and height of the picture.
        noise: Standard deviation of sensor noise, levels.
        rain: Streaks in the air and drops on the lens.
        dirt: Smears on the lens.
        mono: Infra-red night mode: no colour.
        softness: Standard deviation of the lens blur, pixels.
        shake: Length of a sideways shake during exposure, pixels.
    """
    width, height = size
    image = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    if softness > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), softness)
    if shake >= 2:
        length = int(shake) | 1
        angle = float(rng.uniform(0, np.pi))
        kernel = np.zeros((length, length), np.float32)
        reach = np.array([np.cos(angle), np.sin(angle)]) * (length // 2)
        middle = np.array([length // 2, length // 2])
        ends = (np.round(middle - reach).astype(int), np.round(middle + reach).astype(int))
        cv2.line(kernel, (int(ends[0][0]), int(ends[0][1])), (int(ends[1][0]), int(ends[1][1])), 1.0, 1)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    # automatic gain: a recorder lifts dark pictures, and with them what little there is to see
    gain = min(
        max(52 / max(float(cv2.mean(cv2.resize(image, (64, 40), interpolation=cv2.INTER_AREA))[1]), 1.0), 1.0), 1.8
    )
    result = image.astype(np.float32) * np.float32(gain)
    dx, dy = (int(v) for v in rng.integers(0, 96, 2))
    if rain:
        sheet = _rain_bank(width, height)[dy : dy + height, dx : dx + width, None]
        result += sheet * np.float32(rng.uniform(0.22, 0.5))
        if rng.random() < 0.5:
            result = _drops(rng, np.clip(result, 0, 255).astype(np.uint8), small=True)
    if dirt:
        result = _drops(rng, np.clip(result, 0, 255).astype(np.uint8), small=False)
    cast = rng.uniform(0.95, 1.05, 3).astype(np.float32) * np.float32(rng.uniform(0.9, 1.1))
    if mono:
        grey = cv2.cvtColor(np.clip(result * 1.25, 0, 255).astype(np.uint8), cv2.COLOR_BGR2GRAY)
        result = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR).astype(np.float32)
        cast[:] = cast.mean()
    result *= _vignette(width, height) * cast
    grain = _noise_bank(width, height)[dy : dy + height, dx : dx + width]
    if mono:
        grain = np.ascontiguousarray(grain[..., :1])
    result += grain * np.float32(noise)
    return np.asarray(np.clip(result, 0, 255), np.uint8)
