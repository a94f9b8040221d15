"""Ray casting of a colon with polyps, lit from the tip of the endoscope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.data.synthetic.camera import Camera
from medformer.data.synthetic.lesion import Blob
from medformer.data.synthetic.noise import Array, dot, sample, smoothstep, unit
from medformer.data.synthetic.wall import FAR, NEAR, Surface, Wall

T = TypeVar("T", bound=np.generic)

_REACH = 11.0
_START = 0.05


@dataclass(frozen=True)
class Polyp:
    """Bodies and surface of one polyp.

    Attributes:
        blobs: The head and, for a pedunculated one, its stalk.
        color: Mean reflectance (3,).
        pattern: Tiling map of how the reflectance varies over the surface (zero mean), shape (S, S).
        bumps: Tiling map of surface tilt, shape (S, S, 3).
        texture: Strength of the pattern, 0 .. 1.
        gloss: Strength of highlights relative to the wall.
    """

    blobs: Sequence[Blob]
    color: Array
    pattern: Array
    bumps: Array
    texture: float
    gloss: float


@dataclass(frozen=True)
class Scene:
    """A patient: the colon's wall and a polyp."""

    wall: Wall
    polyp: Polyp | None


def polyp_area(scene: Scene, camera: Camera, visible: Array) -> float:
    """Fraction of a small picture that shows the polyp; `visible` (h, w) is 1 inside the aperture."""
    rays = camera.rays(visible.shape)
    _, body = _first_hits(scene, camera, rays, np.full(len(rays), _START, np.float32))
    return float(((body >= 0) & (visible.ravel() > 0.5)).mean())


def _first_hits(scene: Scene, camera: Camera, rays: Array, start: Array) -> tuple[Array, NDArray[np.int8]]:
    # Distance to what each ray meets, and which body that is: -1 the wall, 0, 1, .. a blob of the polyp.
    distance = _trace_wall(scene.wall, camera.position, rays, start)
    body = np.full(len(rays), -1, np.int8)
    for number, blob in enumerate(scene.polyp.blobs if scene.polyp else ()):
        reached = blob.trace(camera.position, rays)
        nearer = reached < distance
        distance[nearer] = reached[nearer]
        body[nearer] = number
    return distance, body


def shade(scene: Scene, camera: Camera, wanted: NDArray[np.bool_]) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Render the pixels of a scene that are `wanted`, bool (H, W); all others stay 0.

    Returns:
        Light reflected by tissue and light mirrored by its wet surface, float32 (H, W, 3) and (H, W), in the same
        arbitrary unit; and which pixels show a polyp, bool (H, W).
    """
    rays = camera.rays(wanted.shape)[wanted.ravel()]
    distance, body = _first_hits(scene, camera, rays, _head_start(scene.wall, camera, wanted.shape)[wanted])
    points = camera.position + distance[:, None] * rays
    surface = scene.wall.surface(points)
    lamps = camera.lamps()
    hidden = [np.zeros(len(rays), np.float32) for _ in lamps]
    if scene.polyp is not None:
        _darken_around(scene.polyp, points, body, lamps, surface.openness, hidden)
        _cover(scene.polyp, points, body, surface)
    relief = unit(surface.normal + 0.07 * surface.bumps)
    film = unit(surface.normal + 0.1 * surface.bumps)
    diffuse = np.zeros(len(rays), np.float32)
    mirrored = np.zeros(len(rays), np.float32)
    for lamp, shadow in zip(lamps, hidden, strict=True):
        toward = lamp - points
        square = dot(toward, toward)
        toward /= np.sqrt(square)[:, None]
        power = (1.0 - 0.85 * shadow) / (square + 0.06)
        # Light enters the tissue and leaves it a little further on, which softens the edge of darkness.
        diffuse += power * np.clip(0.2 + 0.8 * dot(toward, relief), 0.03, 1.0)
        facing = np.clip(dot(unit(toward - rays), film), 0.0, 1.0)
        broad = facing * facing
        for _ in range(3):
            broad *= broad
        sharp = broad * broad
        for _ in range(2):
            sharp *= sharp
        # Powers 128 and 16 of the cosine: a crisp highlight and the faint sheen around it.
        mirrored += power * surface.wetness * (sharp + 0.006 * broad)
    diffuse *= surface.openness
    # Light that bounced between walls reaches everything and has been reddened by each bounce.
    bounced = 0.05 * surface.openness / (0.5 + 0.25 * distance**2)
    light: Array = np.asarray((diffuse + bounced * surface.color.T).T * surface.color, np.float32)
    light *= smoothstep(FAR - 1.0, FAR - 5.0, points[:, 2])[:, None]
    return _spread(light, wanted), _spread(mirrored, wanted), _spread(body >= 0, wanted)


def _spread(values: NDArray[T], wanted: NDArray[np.bool_]) -> NDArray[T]:
    picture = np.zeros((*wanted.shape, *values.shape[1:]), values.dtype)
    picture[wanted] = values
    return picture


def _head_start(wall: Wall, camera: Camera, size: tuple[int, int]) -> Array:
    # A third of the resolution shows how far every ray travels freely; most of the marching is done there.
    coarse = (-(-size[0] // 3), -(-size[1] // 3))
    rays = camera.rays(coarse)
    distance = _trace_wall(wall, camera.position, rays, np.full(len(rays), _START, np.float32)).reshape(coarse)
    free = 0.93 * cv2.erode(distance, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(free, size[::-1], interpolation=cv2.INTER_NEAREST), np.float32)


def _trace_wall(wall: Wall, origin: Array, rays: Array, start: Array) -> Array:
    distance = start.copy()
    active = np.arange(len(rays))
    t, heading = start, rays
    for _ in range(200):
        points = origin + t[:, None] * heading
        radius, rho = wall.radius(points)
        gap = radius - rho
        done = (gap < 0.004) | (t > _REACH) | (points[:, 2] > FAR) | (points[:, 2] < NEAR)
        t = t + np.where(done, 0.0, np.clip(0.42 * gap, 0.008, 0.45)).astype(np.float32)
        distance[active] = t
        keep = ~done
        active, t, heading = active[keep], t[keep], heading[keep]
        if not active.size:
            break
    return distance


def _darken_around(
    polyp: Polyp,
    points: Array,
    body: NDArray[np.int8],
    lamps: Sequence[Array],
    openness: Array,
    hidden: Sequence[Array],
) -> None:
    """Add the polyp's contact shadow and its two cast shadows to the wall."""
    for number, blob in enumerate(polyp.blobs):
        away = points - blob.center
        others = np.flatnonzero((body != number) & (dot(away, away) < 12.0 * blob.radius**2))
        q = blob.local(points[others])
        gap = np.maximum(np.sqrt(dot(q, q)) - 1.0, 0.0)
        openness[others] *= 1.0 - 0.32 * np.exp(-((gap / 0.32) ** 2)).astype(np.float32)
        for lamp, shadow in zip(lamps, hidden, strict=True):
            shadow[others] = np.maximum(shadow[others], blob.shadow(points[others], lamp))


def _cover(polyp: Polyp, points: Array, body: NDArray[np.int8], surface: Surface) -> None:
    """Replace the wall's surface by the polyp's where a ray met the polyp."""
    side = polyp.pattern.shape[0]
    for number, blob in enumerate(polyp.blobs):
        seen = np.flatnonzero(body == number)
        if not seen.size:
            continue
        at = points[seen]
        surface.normal[seen] = blob.normal(at)
        q = unit(blob.local(at))
        # Stereographic from below: it keeps angles, so no texture is smeared over the flanks.
        flat = np.float32(0.5 * side) * q[:, :2] / (1.15 + q[:, 2:])
        rows, columns = flat[:, 0] % side, flat[:, 1] % side
        pattern = sample(polyp.pattern, rows, columns)
        # A stalk is covered by ordinary mucosa; a flat foot fades into it as well.
        blend = np.float32(1.0 if number == 0 else 0.15) * smoothstep(-0.15, 0.45, q[:, 2])
        own = polyp.color * (1.0 + polyp.texture * 0.2 * pattern)[:, None]
        surface.color[seen] += (own - surface.color[seen]) * blend[:, None]
        tilt = sample(polyp.bumps, rows, columns)
        surface.bumps[seen] = tilt
        # The film is uneven: one round highlight in the middle would make all large polyps look alike.
        surface.wetness[seen] = polyp.gloss * (0.15 + 1.1 * smoothstep(-0.2, 0.6, tilt[:, 0] + 0.5 * pattern))
