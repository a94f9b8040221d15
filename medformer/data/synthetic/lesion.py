"""Polyps as bumpy ellipsoids that grow out of the wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medformer.data.synthetic.noise import Array, dot, unit
from medformer.data.synthetic.wall import Wall

SHAPES = ("sessile", "flat", "pedunculated")


@dataclass(frozen=True)
class Blob:
    """A star-shaped body: in its own coordinates q, the surface is at |q| = 1 + sum a_k f(w_k . q / |q| + p_k).

    Attributes:
        center: Position in the scene, shape (3,).
        frame: Matrix from scene offsets to q, shape (3, 3).
        waves: Rows (w_x, w_y, w_z, phase, amplitude), shape (K, 5).
        creased: Whether f is a crease (1 - 2 |sin|), as in lobulated polyps, and not a sine.
    """

    center: Array
    frame: Array
    waves: Array
    creased: bool

    @property
    def radius(self) -> float:
        """Largest half axis, without the waves."""
        return float(1.0 / np.sqrt(dot(self.frame, self.frame)).min())

    def local(self, points: Array) -> Array:
        """Turn scene points (N, 3) into q."""
        return np.asarray((points - self.center) @ self.frame.T, np.float32)

    def level(self, q: Array) -> Array:
        """Signed distance-like value at q (N, 3): negative inside, 0 on the surface."""
        length = np.sqrt(dot(q, q)) + 1e-6
        phase = (q / length[:, None]) @ self.waves[:, :3].T + self.waves[:, 3]
        wave = np.sin(phase)
        if self.creased:
            wave = 1.0 - 2.0 * np.sqrt(wave * wave + np.float32(0.1))
        return np.asarray(length - 1.0 - wave @ self.waves[:, 4], np.float32)

    def trace(self, origin: Array, rays: Array) -> Array:
        """Distance along each ray (N, 3) at which it enters the body; infinity where it does not."""
        bound = 1.0 + float(np.abs(self.waves[:, 4]).sum())
        distance = np.full(len(rays), np.inf, np.float32)
        # Only rays within the cone around the bounding sphere are worth more work.
        toward = self.center - origin
        beyond = float(toward @ toward) - (bound * self.radius) ** 2
        active = np.flatnonzero(rays @ toward > np.sqrt(max(beyond, 0.0)))
        start, heading = self.local(origin[None])[0], rays[active] @ self.frame.T
        speed = dot(heading, heading)
        middle = -(heading @ start) / speed
        chord = middle * middle - (float(start @ start) - bound * bound) / speed
        half = np.sqrt(np.maximum(chord, 0.0))
        t, end, pace = np.maximum(middle - half, 0.0), middle + half, 0.6 / np.sqrt(speed)
        going = (chord > 0.0) & (end > 0.0)
        for _ in range(48):
            active, heading, t, end, pace = active[going], heading[going], t[going], end[going], pace[going]
            if not active.size:
                break
            level = self.level(start + t[:, None] * heading)
            inside = level < 0.008
            distance[active[inside]] = t[inside]
            t = t + np.maximum(level, 0.01) * pace
            going = ~inside & (t < end)
        return distance

    def normal(self, points: Array) -> Array:
        """Outward unit normal at scene points (N, 3) on the surface."""
        q = self.local(points)
        step = np.float32(0.02)
        base = self.level(q)
        slope = np.stack([self.level(q + step * axis) - base for axis in np.eye(3, dtype=np.float32)], 1)
        return unit(slope @ self.frame)

    def shadow(self, points: Array, light: Array) -> Array:
        """How much of a small light at `light` (3,) the body hides from points (N, 3): 0 none .. 1 all."""
        q, lamp = self.local(points), self.local(light[None])[0]
        toward = lamp - q
        along = np.clip(-dot(q, toward) / (dot(toward, toward) + 1e-9), 0.0, 1.0)
        closest = q + along[:, None] * toward
        nearest = np.sqrt(dot(closest, closest))
        return np.asarray(np.clip((1.18 - nearest) / 0.3, 0.0, 1.0) * (along > 0.0), np.float32)


def grow_polyp(rng: np.random.Generator, wall: Wall, z: float, angle: float, size: float, shape: str) -> list[Blob]:
    """Place a polyp of radius `size` on the wall at (z, angle), as one body or as a head and a stalk."""
    foot, normal = wall.foot(z, angle)
    tangent = np.cross(normal, rng.normal(size=3))
    tangent /= np.linalg.norm(tangent)
    axes = np.stack([tangent, np.cross(normal, tangent), normal])
    stretch = rng.uniform(0.8, 1.25)
    creased = bool(rng.random() < 0.45)
    strength = rng.uniform(0.02, 0.05) if creased else rng.uniform(0.03, 0.1)
    waves = np.concatenate(
        [rng.normal(0.0, 1.9, (5, 3)), rng.uniform(0.0, 6.3, (5, 1)), np.full((5, 1), strength)], axis=1
    ).astype(np.float32)
    if shape == "flat":
        return [_blob(foot - 0.05 * size * normal, axes, (size * stretch, size / stretch, 0.3 * size), waves, creased)]
    if shape == "sessile":
        height = size * rng.uniform(0.65, 0.95)
        center = foot + normal * height * rng.uniform(-0.3, 0.15)
        return [_blob(center, axes, (size * stretch, size / stretch, height), waves, creased)]
    lean = unit((normal + 0.7 * rng.normal(size=3) * (1.0, 1.0, 0.4)).astype(np.float32)).astype(np.float64)
    lean = lean if lean @ normal > 0.5 else normal
    center = foot + lean * size * rng.uniform(1.2, 1.6)
    head = _blob(center, axes, (size * stretch, size / stretch, 0.9 * size), waves, creased)
    side = np.cross(lean, tangent)
    side /= np.linalg.norm(side)
    upright = np.stack([np.cross(side, lean), side, lean])
    middle = foot + 0.35 * (center - foot)
    reach = 0.8 * float(np.linalg.norm(center - foot))
    smooth = np.concatenate([waves[:2, :4], np.full((2, 1), 0.03, np.float32)], axis=1)
    return [head, _blob(middle, upright, (0.42 * size, 0.42 * size, reach), smooth, False)]


def _blob(
    center: np.ndarray, axes: np.ndarray, radii: tuple[float, float, float], waves: np.ndarray, creased: bool
) -> Blob:
    frame = axes / np.array(radii)[:, None]
    return Blob(center.astype(np.float32), frame.astype(np.float32), waves.astype(np.float32), creased)
