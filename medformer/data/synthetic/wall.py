"""The colon as a bent tube whose radius varies: haustra, semilunar folds, vessels, fine relief and color."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.data.synthetic.noise import Array, fractal_noise, periodic_curve, sample, smooth_noise, smoothstep, unit

NEAR, FAR = -2.0, 12.0
"""Extent of the tube along its axis; one unit is its mean radius."""

_GEOMETRY = (1120, 512)
_COLOR = (1792, 1024)
_TUBE_MARGIN = 256  # px on both sides of the vessels, folded back around the tube


@dataclass(frozen=True)
class Palette:
    """Reflectances (linear red, green, blue) of one patient under one device's light."""

    mucosa: Array
    pale: Array
    vessel: Array
    residue: Array


@dataclass
class Surface:
    """What light meets at N points: unit normals, reflectance and tilt (N, 3 each), wetness and openness (N,)."""

    normal: Array
    color: Array
    bumps: Array
    wetness: Array
    openness: Array


@dataclass(frozen=True)
class Wall:
    """One patient's colon.

    Attributes:
        bend: Sideways shift of the axis (x, y) far down the tube.
        reach: How far down the tube half of that shift has happened.
        radii: Distance of the wall from the axis, shape (rows along the axis, columns around).
        slopes: Derivative of the radius along the axis and around it, and how open each spot is to light (0 .. 1),
            shape (rows, columns, 3).
        color: Reflectance, shape (rows, columns, 3).
        bumps: A random vector per spot that tilts the surface, shape (rows, columns, 3).
        wetness: How strongly each spot mirrors, shape (rows, columns).
    """

    bend: tuple[float, float]
    reach: float
    radii: Array
    slopes: Array
    color: Array
    bumps: Array
    wetness: Array

    def radius(self, points: Array) -> tuple[Array, Array]:
        """Return the wall's radius where each point (N, 3) is, and the point's own distance from the axis."""
        rho, angle, _, _ = self._polar(points)
        rows, columns = _address(points[:, 2], angle, _GEOMETRY)
        return sample(self.radii, rows, columns), rho

    def surface(self, points: Array) -> Surface:
        """Describe the wall at points (N, 3) on it."""
        rho, angle, (x, y), (drift_x, drift_y) = self._polar(points)
        rows, columns = _address(points[:, 2], angle, _GEOMETRY)
        slopes = sample(self.slopes, rows, columns)
        inverse = 1.0 / (rho + 1e-6)
        turn = slopes[:, 1] * inverse * inverse
        normal = np.empty_like(points)
        normal[:, 0] = -turn * y - x * inverse
        normal[:, 1] = turn * x - y * inverse
        normal[:, 2] = slopes[:, 0] - normal[:, 0] * drift_x - normal[:, 1] * drift_y
        color_rows, color_columns = _address(points[:, 2], angle, _COLOR)
        return Surface(
            normal=unit(normal),
            color=sample(self.color, color_rows, color_columns),
            bumps=sample(self.bumps, color_rows, color_columns),
            wetness=sample(self.wetness, color_rows, color_columns),
            openness=slopes[:, 2].copy(),
        )

    def axis(self, z: float) -> np.ndarray:
        """Return the point of the axis at `z`."""
        shift = z * z / (1.0 + (z / self.reach) ** 2) / self.reach**2
        return np.array([self.bend[0] * shift, self.bend[1] * shift, z])

    def foot(self, z: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the point of the wall at (z, angle) and its inward normal."""
        outward = np.array([np.cos(angle), np.sin(angle), 0.0])
        rows, columns = _address(np.array([z], np.float32), np.array([angle % (2 * np.pi)], np.float32), _GEOMETRY)
        point = self.axis(z) + outward * float(sample(self.radii, rows, columns)[0])
        normal = self.surface(point[None].astype(np.float32)).normal[0]
        return point, normal.astype(np.float64)

    def _polar(self, points: Array) -> tuple[Array, Array, tuple[Array, Array], tuple[Array, Array]]:
        # Distance from the axis, angle around it, offset from it, and how fast the axis moves sideways.
        z = points[:, 2]
        scaled = 1.0 + (z / self.reach) ** 2
        shift = z * z / scaled / np.float32(self.reach**2)
        steep = 2.0 * z / (scaled * scaled) / np.float32(self.reach**2)
        x: Array = np.asarray(points[:, 0] - np.float32(self.bend[0]) * shift, np.float32)
        y: Array = np.asarray(points[:, 1] - np.float32(self.bend[1]) * shift, np.float32)
        rho, angle = cv2.cartToPolar(x, y)
        drift = [np.asarray(np.float32(bend) * steep, np.float32) for bend in self.bend]
        return rho.ravel(), angle.ravel(), (x, y), (drift[0], drift[1])


def grow_wall(rng: np.random.Generator, palette: Palette) -> Wall:
    """Draw one patient's colon: tube, folds, colors and vessels."""
    radius = _radius(rng)
    along = (FAR - NEAR) / _GEOMETRY[0]
    around = 2.0 * np.pi / _GEOMETRY[1]
    wide = np.concatenate([radius[:, -1:], radius, radius[:, :1]], axis=1)
    # A spot that lies deeper than its surroundings sees less of the light and of the lit mucosa.
    depth = radius - cv2.GaussianBlur(radius, (0, 0), 22.0)
    shade = 1.0 - 0.75 * smoothstep(-0.02, 0.3, depth)
    crest = smoothstep(0.03, 0.22, -depth)
    slopes = np.stack([np.gradient(radius, along, axis=0), np.gradient(wide, around, axis=1)[:, 1:-1], shade], -1)
    color, wetness = _surface_maps(rng, palette, cv2.resize(crest, _COLOR[::-1]))
    return Wall(
        bend=tuple(rng.uniform(0.4, 2.6) * np.array(_direction(rng))),
        reach=float(rng.uniform(2.0, 4.5)),
        radii=radius,
        slopes=np.ascontiguousarray(slopes, np.float32),
        color=color,
        bumps=_bumps(rng),
        wetness=wetness,
    )


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    angle = rng.uniform(0.0, 2.0 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle))


def _radius(rng: np.random.Generator) -> Array:
    rows, columns = _GEOMETRY
    z = np.linspace(NEAR, FAR, rows, endpoint=False, dtype=np.float32)[:, None]
    radius = np.ones(_GEOMETRY, np.float32)
    # Three muscle bands run along the colon; they give the transverse colon its triangular lumen.
    angle = np.linspace(0.0, 2.0 * np.pi, columns, endpoint=False, dtype=np.float32)
    radius -= rng.uniform(0.0, 0.12) * np.cos(3.0 * angle + rng.uniform(0.0, 2.0 * np.pi)).astype(np.float32)
    radius += 0.05 * fractal_noise(rng, _GEOMETRY, (12, 4), 2)
    depth = rng.uniform(0.2, 0.48)
    spacing = rng.uniform(0.65, 1.3)
    center = NEAR + rng.uniform(0.0, spacing)
    while center < FAR:
        reach = np.clip(0.55 + 0.75 * periodic_curve(rng, columns, (1, 2, 3)), 0.05, 1.0)
        bow = 0.3 * periodic_curve(rng, columns, (1, 2)) + 0.04 * periodic_curve(rng, columns, (4, 5, 7))
        width = rng.uniform(0.09, 0.2)
        offset = (z - np.float32(center) - bow) / np.float32(width)
        # Steeper on the far side, as folds lean toward the lumen.
        offset *= np.where(offset > 0.0, np.float32(1.35), np.float32(0.85))
        radius -= np.float32(depth * rng.uniform(0.6, 1.25)) * reach * np.exp(-(np.abs(offset) ** 1.7))
        center += spacing * rng.uniform(0.7, 1.35)
    return np.asarray(np.clip(radius, 0.3, 1.5), np.float32)


def _surface_maps(rng: np.random.Generator, palette: Palette, crest: Array) -> tuple[Array, Array]:
    broad = fractal_noise(rng, _COLOR, (7, 4), 3)
    pale = np.clip(0.3 + 0.22 * broad + 0.35 * crest, 0.0, 1.0)
    # Red patches that are no polyps keep color from giving the answer away.
    flush = np.float32(rng.uniform(0.1, 0.6)) * smoothstep(1.0, 2.2, smooth_noise(rng, _COLOR, (28, 16)))
    network = _vessel_map(rng, _COLOR, int(rng.integers(60, 130)))
    visible = np.float32(rng.uniform(0.35, 1.1)) * (1.0 - 0.75 * crest) * (0.65 + 0.35 * np.clip(broad, -1.0, 1.0))
    vessel = np.clip((0.8 * network + 0.6 * cv2.GaussianBlur(network, (0, 0), 2.5)) * visible, 0.0, 0.85)
    # Mucus beads up: the mirroring film is broken into small drops, longer across the colon than along it.
    wetness = 0.1 + 1.5 * smoothstep(0.7, 1.3, smooth_noise(rng, _COLOR, (256, 128)) + 0.5 * broad)
    residue = np.zeros(_COLOR, np.float32)
    if rng.random() < 0.35:
        residue = 0.92 * smoothstep(1.5, 2.0, fractal_noise(rng, _COLOR, (28, 16), 4, 0.6))
    ruddy = np.array([0.95, 0.62, 0.62]) * palette.mucosa
    layers = [(palette.pale, pale), (ruddy, flush), (palette.vessel, vessel), (palette.residue, residue)]
    # Each layer covers those before it; what remains of every layer gives the mixture in one product.
    left = 1.0 + 0.05 * fractal_noise(rng, _COLOR, (224, 128), 2)
    shares = []
    for _, cover in reversed(layers):
        shares.append(left * cover)
        left = left - shares[-1]
    reflectances = np.array([palette.mucosa, *(reflectance for reflectance, _ in layers)], np.float32)
    color = np.stack([left, *reversed(shares)], -1) @ reflectances
    if rng.random() < 0.35:
        _blow_bubbles(rng, color, wetness)
    return np.ascontiguousarray(np.clip(color, 0.01, 0.95), np.float32), np.ascontiguousarray(wetness, np.float32)


def _blow_bubbles(rng: np.random.Generator, color: Array, wetness: Array) -> None:
    rows, columns = _COLOR
    for _ in range(int(rng.integers(6, 18))):
        center = rng.uniform((0.0, 0.0), (columns, rows))
        for _ in range(int(rng.integers(3, 14))):
            x, y = (int(v) for v in center + rng.normal(0.0, 20.0, 2))
            size = int(rng.integers(2, 8))
            rim = tuple(float(v) for v in 0.8 * color[y % rows, x % columns] + 0.2)
            cv2.circle(color, (x, y), size, rim, 1, cv2.LINE_AA)
            cv2.circle(wetness, (x - size // 3, y - size // 3), max(1, size // 4), 6.0, -1, cv2.LINE_AA)


def _bumps(rng: np.random.Generator) -> Array:
    layers = [
        0.7 * fractal_noise(rng, _COLOR, (64, 32), 2) + 0.3 * smooth_noise(rng, _COLOR, (256, 256)) for _ in range(3)
    ]
    return np.ascontiguousarray(np.stack(layers, -1), np.float32)


def _address(z: Array, angle: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    rows = (np.clip(z, NEAR, FAR - 0.05) - np.float32(NEAR)) * np.float32(shape[0] / (FAR - NEAR))
    return rows, angle * np.float32(shape[1] / (2.0 * np.pi))


def _vessel_map(rng: np.random.Generator, shape: tuple[int, int], trees: int) -> Array:
    """Draw vessels on a map (rows along the colon, columns around it) that tiles around; values 0 .. 1.

    Each tree is a random walk that keeps its direction, thins out, and splits into two at moderate angles, as the
    vessels that shine through healthy mucosa do.
    """
    rows, columns = shape
    # Drawn with a margin on both sides, which is then folded back around the tube.
    canvas = np.zeros((rows, columns + 2 * _TUBE_MARGIN), np.uint8)
    for _ in range(trees):
        start = rng.uniform((0.0, 0.0), (columns, rows))
        branches = [(start, rng.uniform(0.0, 2.0 * np.pi), float(rng.uniform(1.3, 2.9)))]
        while branches:
            position, direction, width = branches.pop()
            length = int(rng.integers(10, 26))
            turns = np.cumsum(rng.normal(0.0, 0.22, length)) + direction
            steps = rng.uniform(4.0, 8.0, length)
            path = position + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * steps[:, None], axis=0)
            path = np.concatenate([position[None], path])
            _draw_vessel(canvas, path, width)
            if width > 0.9:
                spread = rng.uniform(0.35, 0.9, 2)
                branches.append((path[-1], turns[-1] + spread[0], width * float(rng.uniform(0.6, 0.85))))
                branches.append((path[-1], turns[-1] - spread[1], width * float(rng.uniform(0.5, 0.8))))
    tube = canvas[:, _TUBE_MARGIN:-_TUBE_MARGIN]
    tube[:, -_TUBE_MARGIN:] = np.maximum(tube[:, -_TUBE_MARGIN:], canvas[:, :_TUBE_MARGIN])
    tube[:, :_TUBE_MARGIN] = np.maximum(tube[:, :_TUBE_MARGIN], canvas[:, -_TUBE_MARGIN:])
    fine = cv2.GaussianBlur(tube, (0, 0), 0.8)
    return np.asarray(fine.astype(np.float32) / 255.0)


def _draw_vessel(canvas: NDArray[np.uint8], path: NDArray[np.float64], width: float) -> None:
    shift = 4
    strength = min(255, int(70 + 50 * width))
    points = np.round((path + np.array([_TUBE_MARGIN, 0.0])) * (1 << shift)).astype(np.int32)
    cv2.polylines(canvas, [points], False, strength, max(1, round(width)), cv2.LINE_AA, shift)
