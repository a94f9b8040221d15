"""A data set of brain volumes whose truth is known: gray matter, white matter and lesions, from three scanners.

Patients are the MNI152 template and its tissue maps, deformed for each, with lesions. nilearn ships the template
(ICBM152 2009a, T1-weighted, brain extracted) with maps of gray and white matter; nothing is downloaded. A patient is a
function from places (mm) to tissue, so that it can be sampled on any scanner's grid.

Patients are scanned: each site with its own orientation, voxel size, tilt and contrast, each scan with its own
position, bias field and noise. Every third patient comes twice, with larger lesions the second time. Same seed, same
files; a patient does not depend on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count, islice, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.data.cases import Case, image_hash
from medformer.data.manifest import write_manifest
from medformer.data.volumes.read.dataset_file import DatasetInfo, write_info
from medformer.errors import ConfigError
from medformer.imaging.geometry import Geometry, Volume, rotation
from medformer.imaging.nifti_labels import write_labels
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


LABELS = ((1, "gray matter"), (2, "white matter"), (3, "lesion"))

_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Scanner:
    """A site.

    Attributes:
        name: Of the site.
        codes: Where each array axis points to.
        voxel: Size along each array axis, in units of the data set's finest spacing.
        tilt: Of the head coil against the axes of the room, degrees about each of them.
        contrast: Exponent on the signal: below 1, gray and white matter look more alike.
        gain: Stored value of a signal of 1.
        noise: Standard deviation of the noise in both channels of the receiver, as a share of the signal.
    """

    name: str
    codes: str
    voxel: tuple[float, float, float]
    tilt: tuple[float, float, float]
    contrast: float
    gain: float
    noise: float


SCANNERS = (
    Scanner("synthetic-a", "RAS", (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 1.3, 600.0, 0.03),
    Scanner("synthetic-b", "LPS", (1.0, 1.0, 1.5), (0.0, 0.0, 0.0), 1.6, 1100.0, 0.04),
    Scanner("synthetic-c", "PIR", (1.1, 1.1, 1.2), (8.0, -3.0, 5.0), 1.0, 250.0, 0.05),
)


@dataclass(frozen=True)
class BrainScan:
    """One scan.

    Attributes:
        image: Signal, uint16 (X, Y, Z).
        labels: Values of `LABELS`, uint8 (X, Y, Z).
        geometry: Of both.
        lesions: What was planted.
    """

    image: NDArray[np.uint16]
    labels: NDArray[np.uint8]
    geometry: Geometry
    lesions: tuple[Lesion, ...]

    @property
    def lesion_ml(self) -> float:
        """Planted volume; that of the voxels differs by what a surface of voxels cannot show."""
        return sum(lesion.volume_ml for lesion in self.lesions)


def scan_brain(anatomy: Anatomy, scanner: Scanner, visit: int, *, spacing: float, seed: int) -> BrainScan:
    """Scan a patient.

    Args:
        anatomy: The patient.
        scanner: The site.
        visit: 1 or 2; lesions have grown by 15 to 40 % at the second.
        spacing: Finest voxel size of the data set, mm.
        seed: Decides position, bias field and noise.
    """
    rng = np.random.default_rng(derive_seed(seed, "visit", visit))
    growth = rng.uniform(1.15, 1.4, len(anatomy.lesions))
    lesions = tuple(
        lesion if visit == 1 else lesion.grown(float(factor))
        for lesion, factor in zip(anatomy.lesions, growth, strict=True)
    )
    geometry = _grid(scanner, spacing, rng)
    points = _places(geometry)
    signal, gray, white = anatomy.tissue_at(points)
    labels = np.stack([1.0 - gray - white, gray, white]).argmax(0).astype(np.uint8)
    for lesion in lesions:
        distance = lesion.distance(points)
        labels[distance <= 0.0] = 3
        # A voxel at the border holds some of both.
        share = np.clip(0.5 - distance / spacing, 0.0, 1.0)
        signal = (signal + share * (lesion.contrast - signal)).astype(np.float32)
    shape = geometry.shape
    seen = np.power(signal.reshape(shape), np.float32(scanner.contrast * rng.uniform(0.9, 1.1)))
    seen *= np.exp(0.12 * _smooth(rng, shape))
    noisy = np.hypot(*(part + scanner.noise * rng.standard_normal(shape) for part in (seen, 0.0)))
    image = np.round(noisy * scanner.gain * rng.uniform(0.85, 1.15)).astype(np.uint16)
    return BrainScan(image, labels.reshape(shape), geometry, lesions)


def write_synthetic_volumes(folder: Path, *, cases: int = 24, spacing: float = 3.6, seed: int = 0) -> Path:
    """Write scans as NIfTI (`images/`, `labels/`) with a manifest that names patients, sites and classes.

    Column `label`, the class, is 1 for patients with a high load of lesions; `lesion_ml` holds what was planted.

    Args:
        folder: Where to; created if missing.
        cases: Number of scans, at least one.
        spacing: Finest voxel size, mm: 3.6 gives about 49 x 60 x 52 voxels.
        seed: Same seed, same files.

    Returns:
        The path of `manifest.csv`.

    Raises:
        ConfigError: A number that makes no sense.
        ResourceError: The folder is not writable or the disk is full.
    """
    if cases < 1 or not 1.0 <= spacing <= 20.0:
        raise ConfigError(f"Got cases={cases}, spacing={spacing}; expected at least one case, and 1 to 20 mm.")
    folder = Path(folder).resolve()
    rows = []
    visits = ((patient, visit) for patient in count() for visit in ((1, 2) if patient % 3 == 0 else (1,)))
    for patient, visit in islice(visits, cases):
        anatomy = _anatomy(seed, patient)
        scanner = SCANNERS[patient % len(SCANNERS)]
        scan = scan_brain(anatomy, scanner, visit, spacing=spacing, seed=derive_seed(seed, "scan", patient))
        name = f"p{patient:03d}_v{visit}"
        image, mask = (folder / kind / f"{name}.nii.gz" for kind in ("images", "labels"))
        for path, array in ((image, scan.image), (mask, scan.labels)):
            write_labels(path, array, Volume(array, scan.geometry, Path()))
        rows.append(
            Case(
                id=name,
                image=image,
                mask=mask,
                group=f"p{patient:03d}",
                site=scanner.name,
                sha256=image_hash([image]),
                covariates={"visit": str(visit), "lesion_ml": f"{scan.lesion_ml:.3f}"},
                label=int(anatomy.high),
            )
        )
    manifest = folder / "manifest.csv"
    write_manifest(manifest, rows)
    write_info(manifest, DatasetInfo(LABELS, ("T1",)))
    return manifest


@lru_cache(maxsize=32)
def _anatomy(seed: int, number: int) -> Anatomy:
    """A patient, who is scanned more than once."""
    return Anatomy(seed, number)


def _grid(scanner: Scanner, spacing: float, rng: np.random.Generator) -> Geometry:
    """A grid that holds the head, a little off its center."""
    sizes = spacing * np.array(scanner.voxel)
    directions = np.zeros((3, 3))
    extents = np.zeros(3)
    for column, code in enumerate(scanner.codes):
        axis, sign = _DIRECTIONS[code]
        directions[axis, column] = sign
        extents[column] = BOX[1, axis] - BOX[0, axis]
    shape = np.ceil(extents / sizes).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.deg2rad(scanner.tilt)) @ directions @ np.diag(sizes)
    center = BOX.mean(0) + rng.uniform(-3.0, 3.0, 3)
    affine[:3, 3] = center - affine[:3, :3] @ ((shape - 1) / 2)
    first, second, third = shape.tolist()
    # As a header keeps it, so that what is scanned lies exactly where the file says.
    return Geometry((first, second, third), affine.astype(np.float32).astype(np.float64))


def _places(geometry: Geometry) -> Points:
    """World mm of each voxel, (N, 3)."""
    voxels = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(voxels @ geometry.affine[:3, :3].T + geometry.affine[:3, 3])


def _smooth(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    """A field of about zero mean and unit variance that changes over a third of the volume."""
    knots = rng.standard_normal((4, 4, 4)).astype(np.float32)
    return np.asarray(ndimage.zoom(knots, [length / 4 for length in shape], order=3, mode="nearest", grid_mode=True))
