"""One virtual patient: a colon, a polyp somewhere in it, the endoscope that looks at it and from where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medformer.data.synthetic.camera import Aperture, Camera, look_at
from medformer.data.synthetic.lesion import SHAPES, Blob, grow_polyp
from medformer.data.synthetic.noise import Array, fractal_noise
from medformer.data.synthetic.render import Polyp, Scene, polyp_area
from medformer.data.synthetic.wall import Palette, Wall, grow_wall
from medformer.seeds import derive_seed


@dataclass(frozen=True)
class Site:
    """A hospital's endoscope: tint of its light, shape of its picture, character of its video processor."""

    name: str
    tint: tuple[float, float, float]
    aperture: Aperture
    softness: float
    sharpening: float
    interlace: float


SITES = (
    Site("synthetic-a", (1.0, 0.96, 0.98), Aperture((0.0, 0.0), 0.3, False, 0), 0.6, 0.7, 0.0),
    Site("synthetic-b", (1.02, 0.96, 0.68), Aperture((0.04, 0.09), 0.2, True, 18), 0.8, 0.4, 0.5),
)

AREA = (0.01, 0.30)
"""Smallest and largest fraction of a frame that a polyp covers."""


@dataclass(frozen=True)
class Patient:
    """What the frames of a group share."""

    scene: Scene
    site: Site
    spot: tuple[float, float]
    foot: NDArray[np.float64]
    normal: NDArray[np.float64]
    size: float
    view: tuple[float, ...]


@lru_cache(maxsize=4)
def draw_patient(seed: int, group: int) -> Patient:
    """Draw the patient of a group."""
    rng = np.random.default_rng(derive_seed(seed, "synthetic", group))
    palette = _palette(rng)
    wall = grow_wall(rng, palette)
    site = SITES[group % len(SITES)]
    still = np.zeros(6)
    # Many spots are behind a fold or out of the picture; a few tries find one that a camera can see well.
    tries = []
    for _ in range(15):
        patient = _place_polyp(rng, wall, palette, site)
        miss = off_target(polyp_area(patient.scene, view_from(patient, still), preview(site)))
        tries.append((miss, patient))
        if miss == 0.0:
            break
    return min(tries, key=lambda entry: entry[0])[1]


def _place_polyp(rng: np.random.Generator, wall: Wall, palette: Palette, site: Site) -> Patient:
    spot = (float(rng.uniform(1.0, 2.2)), float(rng.uniform(0.0, 2.0 * np.pi)))
    foot, normal = wall.foot(*spot)
    shape = SHAPES[int(rng.choice(3, p=[0.55, 0.2, 0.25]))]
    away = float(rng.uniform(0.75, 1.7))
    area = float(np.exp(rng.uniform(np.log(1.5 * AREA[0]), np.log(0.8 * AREA[1]))))
    # A disc of radius r seen from distance d by this lens covers about 1.3 (r / d)^2 of the picture.
    size = float(np.clip(away * np.sqrt(area / 1.3), 0.08, 0.6))
    size *= {"sessile": 1.0, "flat": 1.25, "pedunculated": 0.8}[shape]
    polyp = _surface(rng, grow_polyp(rng, wall, *spot, size, shape), palette)
    view = (away, *(float(v) for v in rng.uniform(-1.0, 1.0, 6)))
    return Patient(Scene(wall, polyp), site, spot, foot, normal, size, view)


def preview(site: Site) -> Array:
    """Aperture of a small picture, to try viewpoints with."""
    return site.aperture.weight((40, 50))


def off_target(area: float) -> float:
    """How far the polyp's share of a small picture is outside `AREA`, with a reserve for its rounding; 0 if inside."""
    return max(1.4 * AREA[0] - area, area - 0.93 * AREA[1], 0.0)


def _palette(rng: np.random.Generator) -> Palette:
    red = rng.uniform(0.62, 0.78)
    mucosa = np.array([red, red * rng.uniform(0.24, 0.36), red * rng.uniform(0.18, 0.29)])
    pale = mucosa * (1.08, rng.uniform(1.3, 1.6), rng.uniform(1.25, 1.6))
    vessel = mucosa * (rng.uniform(0.6, 0.8), rng.uniform(0.35, 0.55), rng.uniform(0.4, 0.6))
    residue = (
        np.array([0.66, 0.31, 0.08]) * rng.uniform(0.6, 1.0) * (1.0, rng.uniform(0.75, 1.0), rng.uniform(0.5, 1.5))
    )
    return Palette(*(color.astype(np.float32) for color in (mucosa, pale, vessel, residue)))


def _surface(rng: np.random.Generator, blobs: list[Blob], palette: Palette) -> Polyp:
    mucosa, pale = np.array(palette.mucosa), np.array(palette.pale)
    kind = rng.choice(3, p=[0.4, 0.3, 0.3])
    if kind == 0:
        target = mucosa * (1.02, rng.uniform(0.72, 0.9), rng.uniform(0.75, 0.95))
    elif kind == 1:
        target = pale * (1.05, 1.08, 1.15)
    else:
        target = 0.6 * mucosa + 0.4 * pale
    own = 0.75 * mucosa + 0.25 * pale
    contrast = rng.uniform(0.05, 1.0)
    grain = int(rng.integers(10, 34))
    side = (256, 256)
    pattern = fractal_noise(rng, side, (grain, grain), 3)
    bumps = np.stack([fractal_noise(rng, side, (12, 12), 3) for _ in range(3)], -1)
    return Polyp(
        blobs,
        np.asarray(own + contrast * (target - own), np.float32),
        pattern,
        np.ascontiguousarray(bumps, np.float32),
        float(rng.uniform(0.35, 1.0)),
        float(rng.uniform(0.8, 1.3)),
    )


def view_from(patient: Patient, wobble: NDArray[np.float64]) -> Camera:
    """Place the camera in the patient's usual view, displaced by `wobble` (6 numbers of about unit size)."""
    view, wall = patient.view, patient.scene.wall
    away = view[0] * (1.0 + 0.08 * wobble[0])
    steep = 0.75 + 0.45 * view[1] + 0.06 * wobble[1]
    outward = np.array([np.cos(patient.spot[1]), np.sin(patient.spot[1]), 0.0])
    sideways = np.array([-outward[1], outward[0], 0.0])
    height = min(away * np.sin(steep), 1.35)
    center = wall.axis(patient.spot[0] - np.sqrt(away * away - height * height))
    position = center + outward * (1.0 - height) + sideways * (0.25 * view[2] + 0.04 * wobble[2])
    target = patient.foot + patient.normal * 0.4 * patient.size
    aside = (0.42 * view[3] + 0.07 * wobble[3], 0.36 * view[4] + 0.07 * wobble[4])
    return look_at(position, target, aside, np.pi * view[5] + 0.12 * wobble[5], 1.12 + 0.1 * view[6])
