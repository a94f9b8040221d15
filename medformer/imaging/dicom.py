"""Reading a DICOM series as one volume (needs the extra `dicom`).

A series is read only if its slices make one regular box: same series, frame of reference, size, spacing and
orientation, one slice at each step, stacked at right angles. Anything else is refused with the numbers, because a
volume made from it would be distorted. highdicom turns the slices' attributes into an affine and from the patient
convention of DICOM (left, back, head) into RAS; that affine is then compared with the position of every slice.

Arrays are (columns, rows, slices), as dcm2niix writes them. Values are rescaled by each slice's own slope and intercept
or modality table; window and presentation settings are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.dicom_files import dicom_module, read_headers
from medformer.imaging.geometry import Geometry, Volume, empty_voxels

_TURN = 1e-3  # how far two slices' direction cosines may differ
_UNEVEN = 0.05  # share of a voxel by which a slice may be off its place, or a gap off the others
_SAME = 1e-3  # mm


@dataclass(frozen=True)
class _Slice:
    path: Path
    header: Any
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]

    @property
    def size(self) -> tuple[int, int]:
        return int(self.header.Columns), int(self.header.Rows)


def series_geometry(folder: Path) -> Geometry:
    """Where the voxels of a series lie, from its headers.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: As `read_series`.
    """
    return _grid(sorted_slices(folder), folder)


def read_series(folder: Path) -> Volume:
    """Read a folder that holds one series.

    Returns:
        float32 (columns, rows, slices).

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: No series, several, objects that are no images, slices that do not make one regular box, or pixels
            that cannot be decoded or are not finite.
        ResourceError: There is not enough memory.
    """
    pydicom = dicom_module("pydicom")
    from pydicom.pixels import apply_modality_lut

    slices = sorted_slices(folder)
    geometry = _grid(slices, folder)
    columns, rows, count = geometry.shape
    planes = empty_voxels(folder, (count, rows, columns), np.float32)
    stored = ""
    for plane, entry in zip(planes, slices, strict=True):
        try:
            data = pydicom.dcmread(entry.path)
            pixels = data.pixel_array
            plane[:] = apply_modality_lut(pixels, data)
        except Exception as error:  # a damaged file makes pydicom raise anything
            why = " ".join(str(error).split())
            raise DataError(
                f"{entry.path} could not be decoded ({why}); expected intact pixels of {columns} x {rows}. Fetch it "
                "again; if its compression is named above, install pylibjpeg or decompress the series first."
            ) from error
        if not np.isfinite(plane).all():
            raise DataError(f"{entry.path} holds pixels that are not finite; expected numbers. Export it again.")
        stored = stored or pixels.dtype.name
    return Volume(planes.T, geometry, folder, stored)


def sorted_slices(folder: Path) -> list[_Slice]:
    """The slices of the one series in a folder, in order along their normal.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: As `read_series`, except for what concerns the pixels.
    """
    headers = read_headers(folder) if folder.is_dir() else []
    if not headers:
        raise DataError(
            f"{folder} is a folder without DICOM files; expected the slices of one series. Give a folder that holds "
            "them, or a NIfTI file."
        )
    slices = []
    for path, header in headers:
        try:
            slices.append(_slice(path, header))
        except (ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{path} has attributes that make no sense ({error}). Export it again.") from error
    for what, value in (
        ("series", lambda entry: str(entry.header.get("SeriesInstanceUID", ""))),
        ("frames of reference", lambda entry: str(entry.header.get("FrameOfReferenceUID", ""))),
        ("image sizes", lambda entry: f"{entry.size[0]} x {entry.size[1]}"),
        ("pixel spacings", lambda entry: "{:.4f} x {:.4f} mm".format(*entry.spacing.round(4))),
    ):
        _require_one(folder, what, slices, value)
    first = slices[0]
    turned = [entry for entry in slices if np.abs(entry.orientation - first.orientation).max() > _TURN]
    if turned:
        raise DataError(
            f"{folder} holds slices of several orientations: {_list(turned[0].orientation)} in {turned[0].path.name} "
            f"and {len(turned) - 1} more of {len(slices)}, {_list(first.orientation)} in {first.path.name}; expected "
            "one. Remove localizers and reformatted views."
        )
    return sorted(slices, key=lambda entry: float(entry.position @ _normal(first)))


def _slice(path: Path, header: Any) -> _Slice:
    missing = [
        name
        for name in ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
        if not header.get(name)
    ]
    frames = int(header.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise DataError(
            f"{path} holds {frames} frames ({_kind(header)}); expected one slice in each file. "
            "Convert it to single-frame DICOM, or to NIfTI with dcm2niix."
        )
    if missing:
        raise DataError(
            f"{path} is no slice of a volume ({_kind(header)} without {', '.join(missing)}). "
            "Keep only the images of one series in the folder."
        )
    if int(header.get("SamplesPerPixel", 1)) != 1 or header.get("PhotometricInterpretation") not in (
        "MONOCHROME1",
        "MONOCHROME2",
    ):
        raise DataError(
            f"{path} holds {header.get('PhotometricInterpretation', 'pixels of an unknown kind')}; "
            "expected gray values. Remove color captures from the series."
        )
    try:
        values = [
            np.array([float(value) for value in header[name].value], dtype=np.float64)
            for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        ]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} has attributes that are no numbers ({error}). Export it again.") from error
    position, orientation, spacing = values
    if [len(value) for value in values] != [3, 6, 2] or not all(np.isfinite(value).all() for value in values):
        raise DataError(f"{path} states its place as {_list(position)}, {_list(orientation)}, {_list(spacing)}.")
    right, down = orientation[:3], orientation[3:]
    if np.abs((right @ right - 1.0, down @ down - 1.0, right @ down)).max() > _TURN or spacing.min() <= 0:
        raise DataError(
            f"{path} states direction cosines {_list(orientation)} and pixel spacing {_list(spacing)} mm; expected two "
            "unit vectors at right angles and sizes above zero. Export it again."
        )
    return _Slice(path, header, position, orientation, spacing)


def _grid(slices: Sequence[_Slice], folder: Path) -> Geometry:
    highdicom = dicom_module("highdicom")
    first = slices[0]
    depth = np.array([entry.position @ _normal(first) for entry in slices])
    step = _even_step(slices, depth, folder)
    box = highdicom.VolumeGeometry.from_attributes(
        image_position=first.position.tolist(),
        image_orientation=first.orientation.tolist(),
        rows=first.size[1],
        columns=first.size[0],
        pixel_spacing=first.spacing.tolist(),
        spacing_between_slices=step,
        number_of_frames=len(slices),
        coordinate_system="PATIENT",
    )
    affine = np.asarray(box.get_affine("RAS"), dtype=np.float64)[:, [2, 1, 0, 3]]
    stated = np.array([entry.position for entry in slices]) * (-1.0, -1.0, 1.0)
    made = affine[:3, 3] + np.arange(len(slices))[:, None] * affine[:3, 2]
    off = np.linalg.norm(made - stated, axis=1)
    worst = int(np.argmax(off))
    if off[worst] > _UNEVEN * min(*first.spacing, step):
        raise DataError(
            f"{folder} does not make a straight stack: {slices[worst].path.name} lies {off[worst]:.3g} mm off "
            "its place (slices shifted against each other, as under a tilted gantry). Resample it to a straight volume "
            "first, for example with dcm2niix."
        )
    return Geometry((first.size[0], first.size[1], len(slices)), affine)


def _normal(entry: _Slice) -> NDArray[np.float64]:
    """The direction in which slices follow each other: highdicom's, for which (slice, row, column) is right-handed."""
    normal: NDArray[np.float64] = np.cross(entry.orientation[3:], entry.orientation[:3]).astype(np.float64)
    return normal


def _even_step(slices: Sequence[_Slice], depth: NDArray[np.float64], folder: Path) -> float:
    if len(slices) == 1:
        header = slices[0].header
        stated = header.get("SpacingBetweenSlices") or header.get("SliceThickness")
        if not stated or not float(stated) > 0:
            raise DataError(f"{slices[0].path} is a single slice without a thickness; expected one above zero.")
        return float(stated)
    gaps = np.diff(depth)
    twice = np.flatnonzero(gaps < _SAME)
    if len(twice):
        one, two = slices[twice[0]], slices[twice[0] + 1]
        raise DataError(
            f"{folder} holds {len(twice)} slices at a position that is taken already (first {one.path.name} and "
            f"{two.path.name}, both at {_list(one.position)} mm); expected one slice at each position. Remove copies, "
            "and split time points or echoes into folders of their own."
        )
    usual = float(np.median(gaps))
    if (np.abs(gaps - usual) > _UNEVEN * usual).any():
        least = float(gaps.min())
        steps = np.rint(gaps / least)
        at = int(np.argmax(gaps))
        between = f"between {slices[at].path.name} and {slices[at + 1].path.name}"
        if (np.abs(gaps - steps * least) <= _UNEVEN * least).all():
            raise DataError(
                f"{folder} misses {int((steps - 1).sum())} slices, or mixes two spacings: {gaps[at]:.4g} mm {between}, "
                f"where others are {least:.4g} mm apart ({len(slices)} files). Fetch the series again."
            )
        raise DataError(
            f"{folder} has uneven slices: {least:.4g} to {gaps[at]:.4g} mm apart (the most {between}, usually "
            f"{usual:.4g} mm); expected one distance. Resample it to even slices first."
        )
    return float((depth[-1] - depth[0]) / (len(slices) - 1))


def _require_one(folder: Path, what: str, slices: Sequence[_Slice], value: Callable[[_Slice], str]) -> None:
    found: dict[str, list[str]] = {}
    for entry in slices:
        found.setdefault(value(entry), []).append(entry.path.name)
    if len(found) > 1:
        listed = "; ".join(
            f"{one or 'none'} ({len(names)} files, such as {names[0]})" for one, names in list(found.items())[:4]
        )
        raise DataError(
            f"{folder} holds {len(found)} {what}: {listed}; expected one. Give each series a folder of its own."
        )


def _kind(header: Any) -> str:
    uid = header.get("SOPClassUID")
    return str(getattr(uid, "name", "") or header.get("Modality", "") or "an unknown object")


def _list(values: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
