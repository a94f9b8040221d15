"""Turning a folder of volumes into cases; nothing is dropped without being named.

`layout_readers` says which layouts there are. A case's id is its file's name without channel number and ending; for
DICOM, the series' folder below the data's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medformer.data.frames.layouts import group_expression
from medformer.data.manifest import Case, Manifest, image_hash
from medformer.data.problems import Problem
from medformer.data.volumes.read.dataset_file import DatasetInfo, Patients, info_path, read_info
from medformer.data.volumes.read.label_values import present_values
from medformer.data.volumes.read.layout_readers import (
    Found,
    read_dicom,
    read_folders,
    read_msd,
    read_nnunet,
    recognize,
)
from medformer.data.volumes.read.msd_patients import inferred_patient
from medformer.errors import DataError
from medformer.files import sha256
from medformer.imaging.volumes import read_labels
from medformer.progress import Reporter, SilentReporter

Layout = Literal["auto", "msd", "nnunet", "folders", "dicom"]

_READERS = {"msd": read_msd, "nnunet": read_nnunet, "folders": read_folders, "dicom": read_dicom}

_WITHOUT_PATIENTS = {"msd", "nnunet"}
"""Layouts that have no place for patients, so that every case is taken for one."""


@dataclass(frozen=True)
class VolumeScan:
    """What a folder holds.

    Attributes:
        cases: Ready for `write_manifest`.
        info: Ready for `write_info`.
        problems: Everything that does not fit.
        layout: How the folder is laid out.
    """

    cases: tuple[Case, ...]
    info: DatasetInfo
    problems: tuple[Problem, ...]
    layout: str


def scan_volumes(
    folder: str | os.PathLike[str],
    *,
    layout: Layout = "auto",
    ungrouped: Literal["error", "each"] = "error",
    group_pattern: str | None = None,
    site: str | None = None,
    reporter: Reporter | None = None,
) -> VolumeScan:
    """List the cases of a folder.

    The group, which is the patient, comes from `group_pattern`, else from the DICOM files. The Decathlon's and
    nnU-Net's layouts cannot say; every case is then taken for a patient unless `known_patients` knows better, and
    `info.patients` says so.

    Args:
        folder: Where to look.
        layout: How the folder is laid out; `auto` recognizes it.
        ungrouped: What to do in the other layouts where nothing tells the patient: refuse, or take the case for one.
        group_pattern: Regular expression with one group, searched in each id: the patient.
        site: Hospital or data set, instead of the folder's name.
        reporter: Told about the hashing.

    Raises:
        DataError: The folder does not exist, has none of the layouts, holds no volume, or patients are unknown.
        ConfigError: The pattern does not compile or has not exactly one group, or labels are regions.
    """
    folder = Path(os.path.abspath(folder))
    pattern = group_expression(group_pattern)
    kind = recognize(folder) if layout == "auto" else layout
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with volumes. Correct the path.")
    reading = _READERS[kind](folder)
    if not reading.found:
        raise DataError(f"No complete case was found in {folder} (layout {kind}); expected at least one image.")
    groups, patients = _groups(reading.found, pattern, ungrouped, kind)
    reporter = reporter or SilentReporter()
    reporter.start("listing", len(reading.found))
    cases = []
    try:
        for found, group in zip(reading.found, groups, strict=True):
            cases.append(_case(found, group or found.id, folder.name if site is None else site))
            reporter.advance()
    finally:
        reporter.finish()
    info = reading.info or info_from_files(cases, channels=reading.channels, reporter=reporter)
    info = replace(info, patients=patients)
    return VolumeScan(tuple(cases), info, reading.problems, kind)


def info_of(manifest: Manifest, *, reporter: Reporter | None = None) -> DatasetInfo:
    """What the sidecar of a manifest says, or without one, what its files show.

    Raises:
        DataError: The sidecar is damaged.
    """
    if info_path(manifest.path).is_file():
        return read_info(manifest.path)
    return info_from_files(manifest.cases, reporter=reporter)


def info_from_files(
    cases: Sequence[Case], *, channels: tuple[str, ...] = (), reporter: Reporter | None = None
) -> DatasetInfo:
    """Labels named after the values that occur in the label maps, channels after their position.

    A label map that cannot be read counts for nothing here; `check_volumes` names it.

    Args:
        cases: Whose label maps are read.
        channels: Names of the channels, where they are known.
        reporter: Told about the reading.

    Raises:
        DataError: The label maps hold more values than labels could be.
    """
    reporter = reporter or SilentReporter()
    reporter.start("labels", len(cases))
    values: set[int] = set()
    try:
        for case in cases:
            if case.mask is not None:
                values.update(_values(case.mask))
            if len(values) > _MOST_LABELS:
                raise DataError(
                    f"Up to {case.mask} the label maps hold {len(values)} different values; expected at most "
                    f"{_MOST_LABELS} labels. Check that these are label maps, not images."
                )
            reporter.advance()
    finally:
        reporter.finish()
    count = max(len(case.images) for case in cases)
    return DatasetInfo(
        labels=tuple((value, f"label {value}") for value in sorted(values) if value > 0),
        channels=channels or tuple(f"channel {number}" for number in range(1, count + 1)),
    )


_MOST_LABELS = 1000


def _values(mask: Path) -> set[int]:
    try:
        return set(present_values(read_labels(mask).array))
    except DataError:
        return set()


def _groups(
    found: Sequence[Found], pattern: re.Pattern[str] | None, ungrouped: str, layout: str
) -> tuple[list[str], Patients]:
    """The patient of each case, empty where it is to be taken for one, and where they come from."""
    tacit = pattern is None and layout in _WITHOUT_PATIENTS
    inferred = [inferred_patient(case.id) for case in found]
    if tacit and all(inferred):
        return inferred, "inferred"
    groups = []
    for case in found:
        match = None if pattern is None else pattern.search(case.id)
        groups.append(case.patient if pattern is None else (match.group(1) or "") if match else "")
    unknown = [case.id for case, group in zip(found, groups, strict=True) if not group]
    if unknown and ungrouped == "error" and not tacit:
        raise DataError(
            f"{len(unknown)} of {len(found)} volumes have no patient, such as '{unknown[0]}', so leakage cannot be "
            "ruled out. Give --group-pattern when the file name tells it, or --ungrouped each when every volume really "
            "is of another patient."
        )
    return groups, "case is patient" if unknown else "known"


def _case(found: Found, group: str, site: str) -> Case:
    covariates: Mapping[str, str] = {} if found.mask is None else {"mask_sha256": sha256(found.mask)}
    return Case(
        id=found.id,
        image=found.images[0],
        mask=found.mask,
        group=group,
        site=site,
        split=found.split,
        sha256=image_hash(found.images),
        covariates=covariates,
        further=found.images[1:],
    )
