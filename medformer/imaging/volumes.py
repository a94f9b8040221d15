"""Reading volumes and label maps: one array contract for NIfTI files and folders of one DICOM series.

Rules, the same for every file:

* Axes and affine are those of the file; nothing is turned or resampled.
* Axes of size 1 behind the third are dropped. Several volumes in one file are the channels of an image; points in time
  are refused, as are several label maps in one file, complex numbers, colors, ANALYZE files and units other than
  millimeters.
* Values are scaled as the header says. NaN and infinity are refused unless they are asked for, never replaced.
* Labels are whole numbers; floating-point ones pass within `WHOLE` of a whole number, as scaling leaves them.
* Arrays come in the file's own (Fortran) order.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.dicom import read_series, series_geometry
from medformer.imaging.dicom_files import looks_like_dicom
from medformer.imaging.geometry import LABEL_RANGE, Geometry, Volume, empty_voxels, smallest_integer, turn_onto
from medformer.imaging.nifti_file import NiftiFile, open_nifti
from medformer.imaging.seg_frames import read_dicom_seg

WHOLE = 1e-3
"""How far a stored label may be off a whole number."""


def read_geometry(path: Path) -> Geometry:
    """Read where the voxels of a file or DICOM series lie, from headers alone.

    Raises:
        DataError: As `read_volume`, as far as headers tell.
    """
    if path.is_dir():
        return series_geometry(path)
    with open_nifti(path) as file:
        return file.geometry


def count_channels(paths: Sequence[Path]) -> int:
    """How many channels the files of a case hold together, from headers alone; a DICOM series holds one.

    Raises:
        DataError: As `read_geometry`.
    """
    count = 0
    for path in paths:
        if path.is_dir():
            count += 1
        else:
            with open_nifti(path) as file:
                count += file.volumes
    return count


def read_volume(path: Path, *, nonfinite: Literal["error", "keep"] = "error") -> Volume:
    """Read an image of one channel, or the first channel of one that has several.

    Args:
        path: A NIfTI file (.nii, .nii.gz, .hdr or .img), or a folder that holds one DICOM series.
        nonfinite: Whether NaN and infinite voxels are an error or are kept.

    Returns:
        The volume, float32.

    Raises:
        DataError: The file is missing, damaged, cut off, too large, a scan over time, has no sensible geometry, or
            holds values that are not finite.
        ResourceError: There is not enough memory.
    """
    with closing(read_channels(path, nonfinite=nonfinite)) as channels:
        return next(channels)


def read_channels(path: Path, *, nonfinite: Literal["error", "keep"] = "error") -> Generator[Volume, None, None]:
    """Read the channels of an image one after another, each when it is asked for; see `read_volume`.

    The file is unpacked once. With its last channel comes its hash, which the others lack.
    """
    if path.is_dir():
        yield read_series(path)
        return
    with open_nifti(path) as file:
        chunks = file.chunks()
        for number in range(1, file.volumes + 1):
            array = _channel(file, chunks, nonfinite)
            last = number == file.volumes
            if last:
                next(chunks, None)  # compares the checksum
            yield Volume(array, file.geometry, path, file.dtype.name, file.sha256() if last else "", file.remark)


def _channel(
    file: NiftiFile, chunks: Iterator[tuple[int, NDArray[Any]]], nonfinite: Literal["error", "keep"]
) -> NDArray[Any]:
    """The next volume of a file, float32."""
    bad = 0
    first = -1
    flat = _empty(file, np.float32)
    for start, values in chunks:
        piece = flat[start : start + len(values)]
        with np.errstate(over="ignore", invalid="ignore"):
            piece[:] = _scaled(values, file)
            # A float64 sum of float32 values is finite unless one of them is not.
            suspicious = nonfinite == "error" and not math.isfinite(float(np.sum(piece, dtype=np.float64)))
        if suspicious:
            wrong = np.flatnonzero(~np.isfinite(piece))
            if len(wrong):
                first = start + int(wrong[0]) if first < 0 else first
                bad += len(wrong)
        if start + len(values) == len(flat):
            break
    if bad:
        raise DataError(
            f"{file.path} holds {bad:,} voxels that are NaN or infinite as float32 (the first at "
            f"{_place(first, file)}); expected finite values. Correct the image at its source; "
            "nothing is replaced here."
        )
    return flat.reshape(file.geometry.shape, order="F")


def is_segmentation(path: Path) -> bool:
    """Whether a label map is a DICOM file; its name need not say so, and where it says NIfTI it is not opened."""
    return not path.name.lower().removesuffix(".gz").endswith((".nii", ".hdr", ".img")) and looks_like_dicom(path)


def read_labels(path: Path, grid: Geometry | None = None) -> Volume:
    """Read a label map.

    Args:
        path: A NIfTI file (.nii, .nii.gz, .hdr or .img), or a DICOM segmentation (.dcm).
        grid: Of the image that it belongs to. A NIfTI file is turned onto its axes (see `turn_onto`); the frames of a
            segmentation are placed on it. None for the file's own grid.

    Returns:
        The labels in the smallest of uint8, uint16, int16 and int32 that holds them.

    Raises:
        DataError: As `read_volume`, or a value that is no whole number or beyond 32 bits, or a segmentation that does
            not lie on the grid (see `read_dicom_seg`).
        ResourceError: There is not enough memory.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a label map: a NIfTI file, or a DICOM segmentation (.dcm).")
    if is_segmentation(path):
        return read_dicom_seg(path, grid)
    low, high = 0, 0
    with open_nifti(path) as file:
        if file.volumes > 1:
            raise DataError(
                f"{path} holds {file.volumes} volumes in one file; expected one label map of three axes, also where "
                "the image has several channels. Store one map; a map for each label has to be joined first."
            )
        as_stored = file.scale is None and file.dtype.kind in "iu" and file.dtype.itemsize <= 2
        flat = _empty(file, file.dtype.newbyteorder("=") if as_stored else np.int32)
        for start, values in file.chunks():
            whole = values if as_stored else _whole(_scaled(values, file), start, file)
            low, high = min(low, int(whole.min())), max(high, int(whole.max()))
            flat[start : start + len(whole)] = whole
        array = flat.astype(smallest_integer(low, high), copy=False).reshape(file.geometry.shape, order="F")
        found = Volume(array, file.geometry, path, file.dtype.name, file.sha256(), file.remark)
    return found if grid is None else turn_onto(found, grid)


def _scaled(values: NDArray[Any], file: NiftiFile) -> NDArray[Any]:
    if file.scale is None:
        return values
    slope, inter = file.scale
    return values * np.float64(slope) + np.float64(inter)


def _whole(values: NDArray[Any], start: int, file: NiftiFile) -> NDArray[Any]:
    whole = values if values.dtype.kind in "iu" else np.rint(values)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            off = np.abs(values - whole)
        # Negated so that NaN fails as well.
        worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        if not off[worst] <= WHOLE:
            raise DataError(
                f"{file.path} holds {values[worst]:g} at {_place(start + worst, file)}; expected labels, which are "
                "whole numbers. It may be a probability map or have been resampled with interpolation: threshold it, "
                "or resample the labels with nearest neighbor."
            )
    if whole.min() < LABEL_RANGE.min or whole.max() > LABEL_RANGE.max:
        raise DataError(
            f"{file.path} holds labels from {whole.min():g} to {whole.max():g}; expected at most 32 bits "
            f"({LABEL_RANGE.min} to {LABEL_RANGE.max}). Renumber the labels."
        )
    return whole


def _empty(file: NiftiFile, dtype: Any) -> NDArray[Any]:
    return empty_voxels(file.path, (math.prod(file.geometry.shape),), dtype)


def _place(flat: int, file: NiftiFile) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(flat, file.geometry.shape, order="F"))
