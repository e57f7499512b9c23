"""A fixed pinhole camera over a flat world (metres, z up, ground at z = 0)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Camera", "View"]

NEAR = 0.5  # metres in front of the lens; nothing nearer is drawn


@dataclass(frozen=True)
class Camera:
    """Where a camera hangs and where it looks.

    Attributes:
        x: Metres.
        y: Metres.
        z: Height above the ground, metres.
        yaw: Degrees clockwise from +y.
        pitch: Degrees below the horizon.
        fov: Horizontal field of view, degrees.
    """

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    fov: float


class View:
    """A camera at a certain picture size: projects world points to pixels."""

    def __init__(self, camera: Camera, width: int, height: int) -> None:
        yaw, pitch = math.radians(camera.yaw), math.radians(camera.pitch)
        self.width, self.height = width, height
        self.position = np.array([camera.x, camera.y, camera.z])
        self.right = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
        self.ahead = np.array([math.sin(yaw), math.cos(yaw), 0.0])
        forward = np.array([*(self.ahead[:2] * math.cos(pitch)), -math.sin(pitch)])
        self.rotation = np.stack([self.right, np.cross(forward, self.right), forward])
        self.focal = 0.5 * width / math.tan(math.radians(camera.fov) / 2)
        self.centre = np.array([width / 2, height / 2])

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project world points.

        Args:
            points: World coordinates in metres, shape (..., 3).

        Returns:
            Pixels, shape (..., 2), and depth along the optical axis in metres, shape (...).
        """
        local = (points - self.position) @ self.rotation.T
        depth = local[..., 2]
        return local[..., :2] / np.maximum(depth, 1e-6)[..., None] * self.focal + self.centre, depth

    def reach(self, points: np.ndarray) -> np.ndarray:
        """Return the horizontal distance ahead of the camera, metres: the order in which things hide each other."""
        return np.asarray((points - self.position) @ self.ahead)

    def scale(self, point: np.ndarray) -> float:
        """Return pixels per metre at a world point, 0 behind the camera."""
        depth = float((point - self.position) @ self.rotation[2])
        return self.focal / depth if depth > NEAR else 0.0

    def outline(self, points: np.ndarray) -> np.ndarray:
        """Project a convex planar polygon, cut to somewhat more than the picture; shape (M, 2), M = 0 when unseen."""
        cut = (points - self.position) @ self.rotation.T
        for plane, offset in self._planes:
            side = cut @ plane - offset
            kept: list[np.ndarray] = []
            for number, start in enumerate(cut):
                after = (number + 1) % len(cut)
                if side[number] > 0:
                    kept.append(start)
                if (side[number] > 0) != (side[after] > 0):
                    kept.append(start + (cut[after] - start) * side[number] / (side[number] - side[after]))
            if len(kept) < 3:
                return np.zeros((0, 2))
            cut = np.stack(kept)
        return np.asarray(cut[:, :2] / cut[:, 2:] * self.focal + self.centre)

    @cached_property
    def _planes(self) -> list[tuple[np.ndarray, float]]:
        """Planes of the viewing pyramid, wider than the picture by half of it on each side."""
        planes = [(np.array([0.0, 0.0, 1.0]), NEAR)]
        for axis, half in ((0, self.width), (1, self.height)):
            for sign in (-1.0, 1.0):
                normal = np.array([0.0, 0.0, half / self.focal])
                normal[axis] = sign
                planes.append((normal, 0.0))
        return planes

    @cached_property
    def rays(self) -> np.ndarray:
        """World direction through each pixel, scaled to depth 1, shape (H, W, 3)."""
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        local = np.stack(
            [(u - self.centre[0]) / self.focal, (v - self.centre[1]) / self.focal, np.ones_like(u)], axis=-1
        )
        return np.asarray(local @ self.rotation)

    @cached_property
    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """World x, y of the ground under each pixel, shape (H, W, 2), and its reach (infinite above the horizon)."""
        drop = np.minimum(self.rays[..., 2], -1e-6)
        distance = self.position[2] / -drop
        place = self.position[:2] + self.rays[..., :2] * distance[..., None]
        reach = np.where(self.rays[..., 2] < -1e-3, distance * (self.rays @ self.ahead), np.inf)
        return place.astype(np.float32), reach.astype(np.float32)
