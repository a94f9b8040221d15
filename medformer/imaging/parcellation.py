"""Atlases as label volumes, and the mean signal of each label over a scan.

Labels are brought to the scan's grid by nearest neighbor through the affines, so the voxel order of either file does
not matter. Every label of the atlas has a column in the result, in ascending order, whether the scan covers it or not.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import apply_affine
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nilearn.image import resample_to_img
from nilearn.maskers import NiftiLabelsMasker
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.files import file_fault
from medformer.imaging.geometry import Geometry
from medformer.imaging.volumes import read_labels

# Deflate reaches 1,032 on zeros.
_MOST_COMPRESSED = 1100

# What one of the header's units of time is.
_SECONDS = {"msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True)
class Parcellation:
    """An atlas.

    Attributes:
        path: Its file.
        image: The label volume, integers, 0 for background.
        labels: The numbers in it, ascending, without 0.
        coordinates: Center of mass of each, mm in the atlas's space, (labels, 3).
    """

    path: Path
    image: Any
    labels: tuple[int, ...]
    coordinates: NDArray[np.float64]


@dataclass(frozen=True)
class RegionSeries:
    """The signals of one scan.

    Attributes:
        values: Float32 (volumes, labels); 0 throughout where a label has no voxel in the scan or its mask.
        coverage: Share of each label's voxels on the scan's grid that were averaged, (labels,).
        volumes: Length of the scan before volumes were left out.
    """

    values: NDArray[np.float32]
    coverage: NDArray[np.float64]
    volumes: int


def read_parcellation(path: Path) -> Parcellation:
    """Read a label volume.

    Raises:
        DataError: No such file, no volume, not 3-D, labels that are no whole numbers, or no label at all.
    """
    read = read_labels(path)
    if read.array.min() < 0:
        raise DataError(f"{path} holds labels from {read.array.min()}; expected whole numbers from 0.")
    volume = read.array.astype(np.int32)
    labels = tuple(int(label) for label in np.unique(volume) if label != 0)
    if not labels:
        raise DataError(f"{path} holds no label; expected whole numbers other than 0.")
    where = np.argwhere(volume > 0)
    index = np.searchsorted(labels, volume[tuple(where.T)])
    counts = np.bincount(index)
    centers = np.stack([np.bincount(index, where[:, axis]) / counts for axis in range(3)], axis=1)
    affine = read.geometry.affine
    return Parcellation(path, nibabel.Nifti1Image(volume, affine), labels, apply_affine(affine, centers))


def extract_series(
    scan: Path,
    parcellation: Parcellation,
    *,
    mask: Path | None = None,
    confounds: Any = None,
    kept: NDArray[np.int64] | None = None,
    low_pass: float | None = None,
    high_pass: float | None = None,
    repetition_time: float | None = None,
) -> RegionSeries:
    """Average a scan over each label, clean the averages and standardize them.

    The averages are detrended, filtered, freed from confounds and z-scored over time by nilearn, all in one projection
    (Lindquist et al., Human Brain Mapping 2019, show why not one after the other).

    Args:
        scan: A 4-D NIfTI file.
        parcellation: The atlas, in the scan's space.
        mask: A brain mask on the scan's grid; voxels outside are left out, as are those that are NaN at any time. None
            for no mask.
        confounds: Table (volumes, confounds); None for none.
        kept: Indices of the volumes that scrubbing left; None for all.
        low_pass: Highest frequency, Hz; None for no limit.
        high_pass: Lowest frequency, Hz; None for no limit.
        repetition_time: Seconds between volumes, needed for filters; None takes it from the header.

    Raises:
        DataError: A file that cannot be read, a mask or confounds that do not fit, an atlas that lies elsewhere, a
            filter without a repetition time, or signals that are not finite.
    """
    image = _open(scan, "scan")
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise DataError(f"{scan} has the shape {image.shape}; expected a series of volumes (x, y, z, time).")
    volumes = int(image.shape[3])
    if confounds is not None and len(confounds) != volumes:
        raise DataError(
            f"{scan} has {volumes} volumes and its confounds {len(confounds)} rows; expected as many. "
            "One of the files is cut off or belongs to another scan."
        )
    if repetition_time is None:
        unit = _SECONDS.get(image.header.get_xyzt_units()[1], 1.0) if hasattr(image.header, "get_xyzt_units") else 1.0
        repetition_time = float(image.header.get_zooms()[3]) * unit or None
    if repetition_time is None and (low_pass is not None or high_pass is not None):
        raise DataError(f"{scan} does not say its repetition time, which a filter needs; give it in the sidecar JSON.")
    highest = max(low_pass or 0.0, high_pass or 0.0)
    if repetition_time is not None and highest >= 0.5 / repetition_time:
        raise DataError(
            f"{scan} has a volume every {repetition_time:g} s, which shows frequencies below {0.5 / repetition_time:g} "
            f"Hz; the filter asks for {highest:g} Hz. Choose a lower one, or correct the repetition time in the "
            "sidecar JSON."
        )
    try:
        data = image.get_fdata(dtype=np.float32, caching="unchanged")
        finite = np.isfinite(data).all(axis=3)
        data[~finite] = 0.0
        images = nibabel.Nifti1Image(data, image.affine)
        on_grid = resample_to_img(
            parcellation.image, images.slicer[..., 0], interpolation="nearest", copy_header=True, force_resample=False
        )
        volume, coverage = _covered(np.asarray(on_grid.dataobj).astype(np.int32), finite, parcellation, scan, mask)
        present = [place for place, label in enumerate(parcellation.labels) if (volume == label).any()]
        masker = NiftiLabelsMasker(
            nibabel.Nifti1Image(volume, images.affine),
            standardize="zscore_sample",
            detrend=True,
            low_pass=low_pass,
            high_pass=high_pass,
            t_r=repetition_time,
            resampling_target=None,
            reports=False,
        )
        signals = masker.fit_transform(images, confounds=confounds, sample_mask=kept)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{scan} could not be reduced to regions: {error}") from error
    if signals.shape[1] != len(present) or not np.isfinite(signals).all():
        raise DataError(
            f"{scan} gave signals for {signals.shape[1]} of {len(present)} regions, {np.isnan(signals).sum()} of the "
            "values NaN; expected finite signals for each. Check that confounds and scan are not constant."
        )
    values = np.zeros((len(signals), len(parcellation.labels)), np.float32)
    values[:, present] = signals
    return RegionSeries(values, coverage, volumes)


def _open(path: Path, what: str) -> Any:
    fault = file_fault(path)
    if fault:
        raise DataError(f"{path} {fault}; expected a {what} (NIfTI).")
    try:
        image = nibabel.load(path)
        claimed = math.prod(image.shape) * image.get_data_dtype().itemsize
        Geometry((1, 1, 1), image.affine)  # refuses one that cannot be inverted
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a {what} ({error}); expected a NIfTI file.") from error
    if claimed > _MOST_COMPRESSED * path.stat().st_size:
        raise DataError(
            f"{path}: its header claims {image.shape}, {claimed / 2**30:.1f} GiB, which a file of "
            f"{path.stat().st_size} bytes cannot hold; it is damaged."
        )
    return image


def _voxels(image: Any, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} ends early or is damaged ({error}). Write or download it again.") from error


def _covered(
    volume: NDArray[np.int32], finite: NDArray[np.bool_], parcellation: Parcellation, scan: Path, mask: Path | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The labels at finite voxels within the mask, and which share of each that is."""
    if not finite.any():
        raise DataError(f"{scan} holds no finite value; expected a signal. Write or download it again.")
    sizes = np.array([(volume == label).sum() for label in parcellation.labels])
    if mask is not None:
        inside = _voxels(_open(mask, "brain mask"), mask)
        if inside.shape != volume.shape:
            raise DataError(f"{mask} has the shape {inside.shape} and {scan} {volume.shape}; expected the same grid.")
        finite = finite & (inside > 0)
    volume = np.where(finite, volume, 0)
    left = np.array([(volume == label).sum() for label in parcellation.labels])
    if not left.any():
        raise DataError(
            f"No label of {parcellation.path} lies within {mask or scan}; expected both in one space, such as "
            "MNI152NLin2009cAsym. Choose the scans' space (--space) to suit the atlas."
        )
    return volume, np.where(sizes > 0, left / np.maximum(sizes, 1), 0.0)
