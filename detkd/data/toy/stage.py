"""The static part of a view, drawn once per camera: colours, sunlight, glow and how far away everything is."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache

import cv2
import numpy as np

from detkd.data.toy.camera import View
from detkd.data.toy.scenes import Colour, Scene, build_scene

__all__ = ["Stage", "build_stage", "sun_direction", "to_pixels"]

SHIFT = 4  # fractional bits of the coordinates handed to OpenCV
ELEVATION = math.radians(42)


def to_pixels(points: np.ndarray) -> np.ndarray:
    """Return fixed-point pixel coordinates for OpenCV's drawing functions (`shift=SHIFT`), safely inside int32."""
    return np.asarray(np.round(np.clip(points, -3e4, 3e4) * (1 << SHIFT)), np.int32)


def sun_direction(azimuth: float) -> np.ndarray:
    """Return the unit vector towards the sun; azimuth in degrees counter-clockwise from +x."""
    angle = math.radians(azimuth)
    flat = math.cos(ELEVATION)
    return np.array([flat * math.cos(angle), flat * math.sin(angle), math.sin(ELEVATION)])


class Stage:
    """Static layers of one camera at one canvas size.

    Attributes:
        albedo: Colours without light, uint8 (H, W, 3).
        shade: How much direct sun falls on each pixel, float32 (H, W), 0 in shadow.
        glow: Light given off at night, uint8 (H, W, 3).
        reach: Distance ahead of the camera of what is seen, float32 (H, W), infinite for sky.
        block: The same for upright things only, infinite elsewhere: what hides objects behind it.
        lamps: Ground positions and heights of street lamps, (N, 3).
    """

    def __init__(self, scene: Scene, view: View, seed: int) -> None:
        self.scene, self.view = scene, view
        self.rng = np.random.default_rng(seed)
        self.sun = sun_direction(scene.sun)
        size = (view.height, view.width)
        self.albedo = np.empty((*size, 3), np.uint8)
        self.albedo[:] = scene.ground
        self.glow = np.zeros((*size, 3), np.uint8)
        self.place, self.reach = view.ground
        self.sky = ~np.isfinite(self.reach)
        self.reach = self.reach.copy()
        self.shade = np.full(size, self.sun[2], np.float32)
        self.block = np.full(size, np.inf, np.float32)
        self.lamps = np.zeros((0, 3))

    def ground(self, colour: Colour, points: np.ndarray) -> None:
        """Fill a polygon on the ground, given as x, y in metres, shape (N, 2)."""
        flat = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
        outline = self.view.outline(flat)
        if len(outline):
            cv2.fillConvexPoly(self.albedo, to_pixels(outline), colour, cv2.LINE_AA, SHIFT)

    def grain(self) -> None:
        """Give the ground texture: stains, patches and wear in world coordinates, fading with distance."""
        side = 256
        noise = np.zeros((side, side), np.float32)
        for cells, weight in ((8, 0.9), (32, 0.8), (128, 0.7)):
            coarse = self.rng.standard_normal((cells, cells)).astype(np.float32)
            coarse = np.pad(coarse, ((0, 1), (0, 1)), mode="wrap")
            grid = np.linspace(0, cells, side, endpoint=False, dtype=np.float32)
            x, y = np.meshgrid(grid, grid)
            noise += weight * cv2.remap(coarse, x, y, cv2.INTER_LINEAR)
        x = np.mod(self.place[..., 0] * 12, side - 1).astype(np.float32)
        y = np.mod(self.place[..., 1] * 12, side - 1).astype(np.float32)
        texture = cv2.remap(noise, x, y, cv2.INTER_LINEAR)
        near = np.clip(18 / np.where(self.sky, 1e9, self.reach), 0, 1).astype(np.float32)
        factor = 1 + 0.055 * np.clip(texture, -2.5, 2.5) * near
        self.albedo[:] = np.clip(self.albedo * factor[..., None], 0, 255)

    def shadow(self, points: np.ndarray) -> None:
        """Darken the ground where the convex hull of world points keeps the sun out."""
        along = points[:, 2:] / self.sun[2]
        hull = cv2.convexHull((points - along * self.sun)[:, :2].astype(np.float32))[:, 0]
        outline = self.view.outline(np.concatenate([hull, np.zeros((len(hull), 1))], axis=1))
        if len(outline):
            cv2.fillConvexPoly(self.shade, to_pixels(outline), 0.0, cv2.LINE_AA, SHIFT)

    def panel(
        self, points: np.ndarray, colour: Colour, *, reach: float | None = None, light: float | None = None,
        decals: Sequence[tuple[np.ndarray, Colour, Colour | None]] = (), glow: Colour | None = None,
    ) -> None:  # fmt: skip
        """Draw an upright convex polygon where nothing nearer stands.

        Args:
            points: World points, shape (N, 3).
            colour: Its colour.
            reach: Distance for hiding things, metres; None takes it per pixel from the polygon's plane.
            light: Share of direct sun; None takes it from the plane's normal, on the side that is seen.
            decals: Polygons painted on it, with the light they give off at night or None.
            glow: Light it gives off itself.
        """
        outline = self.view.outline(points)
        if not len(outline):
            return
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, (self.view.width, self.view.height))
        if (high <= low).any():
            return
        box = (slice(low[1], high[1]), slice(low[0], high[0]))
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        normal = normal / (np.linalg.norm(normal) + 1e-12)
        facing = float(normal @ (points[0] - self.view.position))
        if reach is None:
            slope = self.view.rays[box] @ normal
            depth = facing / np.where(np.abs(slope) < 1e-9, 1e-9, slope)
            far = (depth * (self.view.rays[box] @ self.view.ahead)).astype(np.float32)
        else:
            far = np.full((high[1] - low[1], high[0] - low[0]), reach, np.float32)
        if light is None:
            light = max(0.0, float(-np.sign(facing) * normal @ self.sun))
        mask = np.zeros(far.shape, np.uint8)
        cv2.fillConvexPoly(mask, to_pixels(outline - low), 255, cv2.LINE_8, SHIFT)
        seen = (mask > 0) & (far < self.block[box])
        face = np.empty((*far.shape, 3), np.uint8)
        face[:] = colour
        shine = np.zeros_like(face)
        shine[:] = glow or (0, 0, 0)
        for spot, paint, gleam in decals:
            edge = self.view.outline(spot)
            if len(edge):
                cv2.fillConvexPoly(face, to_pixels(edge - low), paint, cv2.LINE_AA, SHIFT)
                cv2.fillConvexPoly(shine, to_pixels(edge - low), gleam or (0, 0, 0), cv2.LINE_AA, SHIFT)
        np.copyto(self.albedo[box], face, where=seen[..., None])
        np.copyto(self.glow[box], shine, where=seen[..., None])
        np.copyto(self.shade[box], np.float32(light), where=seen)
        np.copyto(self.block[box], far, where=seen)
        np.copyto(self.reach[box], far, where=seen)
        self.sky[box] &= ~seen

    @cached_property
    def halo(self) -> np.ndarray:
        """The glow, spread as by a lens, uint8 (H, W, 3)."""
        size = self.glow.shape[1] // 4, self.glow.shape[0] // 4
        small = cv2.GaussianBlur(cv2.resize(self.glow, size, interpolation=cv2.INTER_AREA), (0, 0), size[0] / 90)
        return np.asarray(cv2.resize(small, (self.glow.shape[1], self.glow.shape[0]), interpolation=cv2.INTER_LINEAR))

    @cached_property
    def lamplight(self) -> np.ndarray:
        """Return how strongly street lamps light the ground under each pixel, float32 (H, W), about 0 to 1.2."""
        height, width = self.reach.shape
        place = cv2.resize(self.place, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        light = np.zeros(place.shape[:2], np.float32)
        for x, y, z in self.lamps:
            squared = (place[..., 0] - x) ** 2 + (place[..., 1] - y) ** 2
            light += ((1 + squared / (z * 1.15) ** 2) ** -1.5).astype(np.float32)
        return cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=4)
def build_stage(name: str, width: int, height: int) -> Stage:
    """Draw the static world of a camera; the last few are kept."""
    from detkd.data.toy.props import furnish

    scene = build_scene(name)
    stage = Stage(scene, View(scene.camera, width, height), zlib.crc32(name.encode()))
    for colour, (x0, y0, x1, y1) in scene.areas:
        stage.ground(colour, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float))
    stage.grain()
    furnish(stage)
    return stage
