"""Writing label maps as DICOM segmentation objects through highdicom (needs the extra `dicom`).

One binary segment for each label; labels are coded as generic tissue, since a name alone does not say more. The
values of the labels are kept in the segments' tracking identifiers. Slices without any label are left out of the file,
as is usual; read it on the grid of its series (`seg_frames.read_dicom_seg`) to have all of them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer import __version__
from medformer.errors import DataError, ResourceError
from medformer.files import atomic_path
from medformer.imaging.dicom import series_geometry, sorted_slices
from medformer.imaging.dicom_files import dicom_module
from medformer.imaging.geometry import Geometry, smallest_integer
from medformer.imaging.seg_frames import TRACKING, open_seg, read_dicom_seg

# What highdicom raises where the attributes of a series are missing or not those that a segmentation needs.
_UNSUITABLE = (ValueError, TypeError, AttributeError, KeyError)
_CHARACTERS = "ISO_IR 192"  # UTF-8: the names of labels are in any script, whatever the series is written in
_LONGEST_NAME = 64  # characters of a segment's label
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
_TOLERANCE = 1e-3  # voxels; positions are stored as decimal strings


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
        # Text is kept as bytes in the series' character set until it is asked for.
        header.decode()
        header.SpecificCharacterSet = _CHARACTERS
    segments = [_segment(highdicom, number + 1, value, names[value]) for number, value in enumerate(values)]
    series = max((int(header.get("SeriesNumber", 0) or 0) for header in headers), default=0)
    try:
        made = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=np.ascontiguousarray(numbers.T),
            segmentation_type="BINARY",
            segment_descriptions=segments,
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
            specific_character_set=_CHARACTERS,
        )
    except _UNSUITABLE as error:
        raise DataError(f"{source} cannot carry a DICOM segmentation ({error}). Write NIfTI instead.") from error
    with atomic_path(path) as temporary:
        made.save_as(temporary)
        frame = str(headers[0].get("FrameOfReferenceUID", ""))
        reason = _difference(temporary, labels, [_label(names[value]) for value in values], geometry, frame)
        if reason:
            raise ResourceError(f"{path} was written, but {reason}. Check the disk; the file was not kept.")


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
        segment_label=_label(name),
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="medformer", version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=TRACKING.format(value),
    )


def _label(name: str) -> str:
    """A name as a segment's label can hold it: a backslash would end it."""
    return name.replace("\\", "/")[:_LONGEST_NAME].strip()


def _difference(path: Path, labels: NDArray[Any], names: Sequence[str], grid: Geometry, frame: str) -> str:
    try:
        found = read_dicom_seg(path, grid)
        file = open_seg(path)
    except DataError as error:
        return f"it cannot be read back ({error})"
    if not np.array_equal(found.array, labels):
        return "its voxels differ from what was written"
    off = file.off(grid)
    if off > _TOLERANCE:
        return f"it lies {off:.3g} voxels off its series"
    if str(file.made.get("FrameOfReferenceUID", "")) != frame:
        return "its frame of reference differs from the series'"
    found_names = [str(segment.SegmentLabel) for segment in file.made.SegmentSequence]
    if found_names != list(names):
        return f"its segments are named {found_names} and not {list(names)}"
    return ""
