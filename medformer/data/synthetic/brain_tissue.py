"""Synthetic heads: the MNI152 template and its tissue maps, deformed for each patient, with lesions.

nilearn ships the template (ICBM152 2009a, T1-weighted, brain extracted) with maps of gray and white matter; nothing is
downloaded. A patient is a function from places (mm) to tissue, so that it can be sampled on any scanner's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.imaging.geometry import rotation
from medformer.seeds import derive_seed

Array = NDArray[np.float32]
Points = NDArray[np.float64]

BOX = np.array([[-88.0, -124.0, -86.0], [88.0, 92.0, 98.0]])
"""Corners of what holds every deformed brain, mm."""

SMALL, LARGE = (1.5, 4.0), (8.0, 16.0)
"""All lesions of a patient together at the first visit, ml: of a patient with a low load, and with a high one."""

_RESOLUTION = 2  # mm
_BLUR = 0.6  # template voxels: scanners with voxels of 3 mm and more see less than the template has
_KNOTS = 34.0  # mm between the knots of a deformation
_SHIFT = 4.0  # mm, standard deviation of a knot's displacement


@dataclass(frozen=True)
class Tissue:
    """The template's maps, stacked.

    Attributes:
        maps: T1-weighted signal, share of gray and share of white matter, each in [0, 1]; float32 (3, X, Y, Z).
        inverse: From mm to voxels of the maps, 4 x 4.
    """

    maps: Array
    inverse: NDArray[np.float64]

    def at(self, points: Points) -> Array:
        """Read the maps at places (N, 3) in mm, linearly; 0 outside. Gives (3, N)."""
        places = points @ self.inverse[:3, :3].T + self.inverse[:3, 3]
        return np.stack([ndimage.map_coordinates(values, places.T, order=1) for values in self.maps])


@cache
def tissue() -> Tissue:
    """Read the template from nilearn's package."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    images = [load(resolution=_RESOLUTION) for load in (load_mni152_template, load_mni152_gm_template)]
    images.append(load_mni152_wm_template(resolution=_RESOLUTION))
    maps = [ndimage.gaussian_filter(image.get_fdata(dtype=np.float32), _BLUR) for image in images]
    return Tissue(np.clip(np.stack(maps), 0.0, 1.0), np.linalg.inv(images[0].affine))


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid.

    Attributes:
        center: mm, (3,).
        axes: Rows are its principal directions, (3, 3).
        radii: Half lengths along them, mm, (3,).
        contrast: Signal against that of white matter, 1 for the same.
    """

    center: Points
    axes: Points
    radii: Points
    contrast: float

    @property
    def volume_ml(self) -> float:
        """Exact volume."""
        return float(4.0 / 3.0 * np.pi * np.prod(self.radii) / 1000.0)

    def distance(self, points: Points) -> Points:
        """Signed distance to the surface in mm, roughly: negative inside, exactly 0 on it. Points are (N, 3)."""
        scaled = np.linalg.norm((points - self.center) @ self.axes.T / self.radii, axis=1)
        return np.asarray((scaled - 1.0) * self.radii.min())

    def grown(self, factor: float) -> Lesion:
        """The same lesion with `factor` times the volume."""
        return Lesion(self.center, self.axes, self.radii * factor ** (1.0 / 3.0), self.contrast)


class Anatomy:
    """One patient: the deformed template and its lesions. Depends on (seed, number) alone.

    Even numbers have a low load of lesions (`SMALL`), odd ones a high load (`LARGE`).
    """

    def __init__(self, seed: int, number: int) -> None:
        rng = np.random.default_rng(derive_seed(seed, "synthetic brain", number))
        angles = rng.normal(0.0, np.deg2rad(4.0), 3)
        self._linear = rotation(angles) @ np.diag(rng.uniform(0.93, 1.07, 3))
        self._offset = rng.normal(0.0, 3.0, 3)
        knots = np.ceil((BOX[1] - BOX[0]) / _KNOTS).astype(int) + 1
        self._knots = rng.normal(0.0, _SHIFT, (3, *knots))
        self.high = number % 2 == 1
        self.lesions = self._grow_lesions(rng)

    def tissue_at(self, points: Points) -> Array:
        """Signal, gray and white matter (3, N) at places (N, 3) in mm; without lesions."""
        places = ((points - BOX[0]) / _KNOTS).T
        # Cubic splines through the knots, so that the deformation has no folds or edges.
        bent = [ndimage.map_coordinates(values, places, order=3, mode="nearest") for values in self._knots]
        return tissue().at((points + np.stack(bent, axis=1)) @ self._linear.T + self._offset)

    def _grow_lesions(self, rng: np.random.Generator) -> tuple[Lesion, ...]:
        """Put one to three lesions into the white matter, apart from each other and from the brain's surface."""
        axes = [np.arange(low, high, 4.0) for low, high in BOX.T]
        points = np.array(list(product(*axes)))
        signal, _, white = self.tissue_at(points)
        shape = [len(axis) for axis in axes]
        depth = ndimage.distance_transform_edt(signal.reshape(shape) > 0.2, sampling=4.0).ravel()
        total = rng.uniform(*(LARGE if self.high else SMALL))
        shares = rng.dirichlet(np.full(int(rng.integers(1, 4)), 4.0))
        # Where there is room for a lesion of a volume: the largest is placed first.
        free = np.where(white > 0.6, depth, -1.0)
        lesions = []
        for volume in sorted(total * shares, reverse=True):
            radii = np.exp(rng.normal(0.0, 0.15, 3))
            radii *= (volume * 1000.0 / (4.0 / 3.0 * np.pi * np.prod(radii))) ** (1.0 / 3.0)
            room = np.flatnonzero(free > radii.max())
            place = int(rng.choice(room)) if len(room) else int(free.argmax())
            center = points[place] + rng.uniform(-2.0, 2.0, 3)
            lesion = Lesion(center, rotation(rng.uniform(0.0, np.pi, 3)), radii, rng.uniform(1.15, 1.4))
            lesions.append(lesion)
            free = np.minimum(free, np.linalg.norm(points - center, axis=1) - 1.3 * radii.max())
        return tuple(lesions)
