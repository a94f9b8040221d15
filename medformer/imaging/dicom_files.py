"""DICOM files in folders: which series there are, and the attributes of their files (needs the extra `dicom`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medformer.errors import ConfigError, DataError
from medformer.files import walk

NO_IMAGES = {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG"}
"""Modalities of objects that lie beside the slices of a series and are none."""

_NAMES = {".dcm", ".dicom", ".ima"}
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "Modality",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
]


@dataclass(frozen=True)
class Series:
    """The files of one series in one folder.

    Attributes:
        folder: Where they lie.
        uid: Series instance UID.
        files: Sorted by name.
        patient: Patient ID; empty if it is not given.
        study: Study instance UID; empty if it is not given.
        modality: Such as MR or CT; empty if it is not given.
        description: Of the series; empty if it is not given.
        fault: Why the files of the folder cannot be read; empty if they can. The rest is empty then.
    """

    folder: Path
    uid: str
    files: tuple[Path, ...]
    patient: str = ""
    study: str = ""
    modality: str = ""
    description: str = ""
    fault: str = ""


def find_series(folder: Path) -> list[Series]:
    """List every DICOM series in a folder and the folders below it, sorted by folder and UID.

    Hidden files, DICOMDIR and files that are not DICOM are skipped, and so is what is no image (`NO_IMAGES`) beside
    images. A folder whose files cannot be read is one series with a `fault`, so that it costs no other folder.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: No such folder, or one that cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected DICOM files, or folders of them.")
    found: dict[tuple[Path, str], list[tuple[Path, Any]]] = {}
    faults: list[Series] = []
    for place in sorted(place for place, _ in walk(folder)):
        try:
            headers = read_headers(place)
        except DataError as error:
            faults.append(Series(place, "", (), fault=str(error)))
            continue
        for path, header in headers:
            found.setdefault((place, str(header.get("SeriesInstanceUID", ""))), []).append((path, header))
    series = [
        Series(
            place,
            uid,
            tuple(path for path, _ in entries),
            *(
                str(entries[0][1].get(name, "") or "")
                for name in ("PatientID", "StudyInstanceUID", "Modality", "SeriesDescription")
            ),
        )
        for (place, uid), entries in found.items()
    ]
    return sorted([*series, *faults], key=lambda one: (one.folder, one.uid))


def looks_like_dicom(path: Path) -> bool:
    """Whether a file has the name or the first bytes of a DICOM file."""
    if path.suffix.lower() in _NAMES:
        return True
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def frame_of_reference(path: Path) -> str:
    """The coordinate system of a DICOM file, or of the series in a folder; empty where it states none.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: It cannot be read.
    """
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for _, header in (entry for file in files if file.name != "DICOMDIR" for entry in _read_header(file)):
        if path.is_file() or str(header.get("Modality", "")) not in NO_IMAGES:
            return str(header.get("FrameOfReferenceUID", "") or "")
    return ""


def dicom_module(name: str) -> Any:
    """Import pydicom or highdicom.

    Raises:
        ConfigError: It is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"DICOM needs {name}; install it with: pip install medformer[dicom]") from error


def read_headers(folder: Path) -> list[tuple[Path, Any]]:
    """The files of a folder with their attributes; what is no image is left out where there are images.

    Raises:
        ConfigError: The extra `dicom` is not installed.
        DataError: The folder or a file in it cannot be read.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}); expected a folder that may be read.") from error
    found = [entry for path in paths if path.name != "DICOMDIR" for entry in _read_header(path)]
    known = {path for path, _ in found}
    # Files without an ending, as scanners export them: a damaged one would be missed, at an end of the stack unnoticed.
    bare = any(_is_bare(path) for path in known)
    lost = next((path for path in paths if path not in known and bare and _is_bare(path)), None)
    if lost is not None:
        raise DataError(
            f"{lost} is no DICOM file, although it is named like those beside it. Fetch it again, or remove it."
        )
    images = [(path, header) for path, header in found if str(header.get("Modality", "")) not in NO_IMAGES]
    return images or found


def _read_header(path: Path) -> list[tuple[Path, Any]]:
    """A file with its attributes; nothing where it is no DICOM file and has no name of one."""
    pydicom = dicom_module("pydicom")
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        list(header)  # attributes are decoded when they are asked for: all of them here, where a fault is expected
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}). Change its access, or remove it."
        ) from error
    except Exception as error:  # a damaged file makes pydicom raise anything
        if path.suffix.lower() in _NAMES:
            raise DataError(f"{path} is no readable DICOM file ({error}). Fetch it again, or remove it.") from error
        return []
    return [(path, header)] if header else []


def _is_bare(path: Path) -> bool:
    """Whether a name is one of a slice without an ending, such as IM0007 or a UID, and not README."""
    ending = path.suffix[1:]
    return (not ending or ending.isdigit()) and any(letter.isdigit() for letter in path.name)
