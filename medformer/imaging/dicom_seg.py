"""Label maps as DICOM segmentation objects, written and read through highdicom (needs the extra `dicom`).

One binary segment for each label; labels are coded as generic tissue, since a name alone does not say more. The
values of the labels are kept in the segments' tracking identifiers. Slices without any label are left out of the file,
as is usual; read it with its source to have the full grid back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer import __version__
from medformer.errors import DataError, ResourceError
from medformer.files import atomic_path
from medformer.imaging.dicom import dicom_module, series_geometry, sorted_slices
from medformer.imaging.geometry import Geometry, Volume, same_grid, smallest_integer

_TRACKING = "label {}"
_ERRORS = (OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError, IndexError, NotImplementedError)
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_TOLERANCE = 1e-3  # mm; positions are stored as decimal strings


def write_dicom_seg(path: Path, labels: NDArray[Any], names: Mapping[int, str], source: Path) -> None:
    """Write a label map as a DICOM segmentation of the series it was made from.

    The file is read back and compared (voxels, place, frame of reference, names) before it takes its name.

    Args:
        path: A name that ends in .dcm.
        labels: Integers (columns, rows, slices) on the grid of the series as `read_series` gives it.
        names: Name of each label value above 0; labels without a voxel become empty segments.
        source: The folder of the series.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: Labels that do not fit the series or its names, or a series that highdicom cannot refer to.
        ResourceError: The folder is not writable, the disk is full, or it returned something else than was written.
    """
    labels = np.asarray(labels)
    highdicom, pydicom = dicom_module("highdicom"), dicom_module("pydicom")
    slices = sorted_slices(source)
    geometry = series_geometry(source)
    _check(path, labels, names, geometry)
    values = sorted(names)
    numbers = np.searchsorted(values, labels).astype(smallest_integer(0, len(values))) + 1
    numbers[labels == 0] = 0
    headers = [pydicom.dcmread(entry.path, stop_before_pixels=True) for entry in slices]
    for header in headers:
        # The standard wants these present though they may be empty; de-identification tends to remove them.
        for name in _MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, None)
    series = max((int(header.get("SeriesNumber", 0) or 0) for header in headers), default=0)
    try:
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=np.ascontiguousarray(numbers.T),
            segmentation_type="BINARY",
            segment_descriptions=[_segment(highdicom, number + 1, v, names[v]) for number, v in enumerate(values)],
            series_instance_uid=highdicom.UID(),
            series_number=series + 1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="medformer",
            manufacturer_model_name="medformer",
            software_versions=__version__,
            device_serial_number="0",
            omit_empty_frames=bool(labels.any()),
            series_description="medformer segmentation",
            content_description="Segmentation by medformer",
            content_label="MEDFORMER",
        )
    except _ERRORS as error:
        raise DataError(f"{source} cannot carry a DICOM segmentation ({error}). Write NIfTI instead.") from error
    with atomic_path(path) as temporary:
        made.save_as(temporary)
        reason = _difference(temporary, labels, names, source, str(headers[0].get("FrameOfReferenceUID", "")))
        if reason:
            raise ResourceError(f"{path} was written, but {reason}. Check the disk; the file was not kept.")


def read_dicom_seg(path: Path, source: Path | None = None) -> Volume:
    """Read a DICOM segmentation as a label map.

    Args:
        path: The file.
        source: The folder of the series that it belongs to; the result is then on that grid. None for the box that the
            file's own frames span.

    Returns:
        Label values (columns, rows, slices): those that `write_dicom_seg` was given, else the segment numbers.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: No segmentation, segments that overlap or are not binary, frames that make no volume, or ones that
            do not lie on the grid of the source.
    """
    made = _open(path)
    highdicom = dicom_module("highdicom")
    try:
        volume = made.get_volume(combine_segments=True)
        if source is not None:
            volume = volume.match_geometry(_box(highdicom, series_geometry(source)), tol=1e-2)
        affine = np.asarray(volume.get_affine("RAS"), dtype=np.float64)[:, [2, 1, 0, 3]]
    except _ERRORS as error:
        raise DataError(
            f"{path} makes no label map ({error}); expected binary segments that do not overlap, on one regular grid"
            + (f", that of {source}." if source is not None else ".")
        ) from error
    table = np.zeros(int(max(made.segment_numbers)) + 1, np.int64)
    for segment in made.SegmentSequence:
        own = re.fullmatch(_TRACKING.format(r"(\d+)"), str(segment.get("TrackingID", "")))
        table[int(segment.SegmentNumber)] = int(own.group(1)) if own else int(segment.SegmentNumber)
    numbers = np.asarray(volume.array).T
    values = table.astype(smallest_integer(0, int(table.max())))[numbers]
    low_high = (int(values.min()), int(values.max()))
    array = values.astype(smallest_integer(*low_high), copy=False)
    return Volume(array, Geometry(array.shape, affine), path, "binary segments")


def _open(path: Path) -> Any:
    highdicom = dicom_module("highdicom")
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a DICOM segmentation. Correct the path.")
    from pydicom.errors import InvalidDicomError

    try:
        return highdicom.seg.segread(path)
    except (*_ERRORS, InvalidDicomError) as error:
        raise DataError(f"{path} is no DICOM segmentation that can be read ({error}).") from error


def _check(path: Path, labels: NDArray[Any], names: Mapping[int, str], geometry: Geometry) -> None:
    if path.suffix.lower() != ".dcm":
        raise DataError(f"{path} does not end in .dcm; choose such a name.")
    if labels.dtype.kind not in "iu" or labels.shape != geometry.shape:
        raise DataError(
            f"The labels for {path} are {labels.dtype} of shape {labels.shape}; expected integers of the shape of the "
            f"series, {geometry.shape}."
        )
    if not names or min(names) < 1:
        raise DataError(f"The names for {path} are {dict(names)}; expected a name for each label value above 0.")
    unnamed = sorted({int(value) for value in np.unique(labels)} - {0, *names})
    if unnamed:
        raise DataError(f"The labels for {path} hold {unnamed}, which have no name; named are {sorted(names)}.")


def _segment(highdicom: Any, number: int, value: int, name: str) -> Any:
    from pydicom.sr.codedict import codes

    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="medformer", version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=_TRACKING.format(value),
    )


def _box(highdicom: Any, geometry: Geometry) -> Any:
    """A grid as highdicom states it: (slices, rows, columns) in the patient convention."""
    columns, rows, slices = geometry.shape
    return highdicom.VolumeGeometry(
        geometry.affine[:, [2, 1, 0, 3]],
        (slices, rows, columns),
        "PATIENT",
        from_reference_convention="RAS",
    )


def _difference(path: Path, labels: NDArray[Any], names: Mapping[int, str], source: Path, frame: str) -> str:
    try:
        found = read_dicom_seg(path, source)
        made = _open(path)
    except DataError as error:
        return f"it cannot be read back ({error})"
    if not np.array_equal(found.array, labels):
        return "its voxels differ from what was written"
    reason = same_grid(found.geometry, series_geometry(source), tolerance_mm=_TOLERANCE)
    if reason:
        return f"it lies elsewhere than its series: {reason}"
    if str(made.get("FrameOfReferenceUID", "")) != frame:
        return "its frame of reference differs from the series'"
    if [str(segment.SegmentLabel) for segment in made.SegmentSequence] != [names[v][:64] for v in sorted(names)]:
        return "its segments have other names"
    return ""
