"""Turning a folder of volumes into cases for training; whatever is left out is named.

`layout_readers` says which layouts there are. A case's id is its file's name without channel number and ending; for
DICOM, the series' folder below the data's folder. No volume is opened here: hashes and label values come from the
records of `describe_volume`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medformer.data.cases import Case, image_hash
from medformer.data.folders import find_groups, find_sites
from medformer.data.inventory import Record
from medformer.data.manifest import Manifest
from medformer.data.problems import first_ten
from medformer.data.volumes.read.dataset_file import DatasetInfo, Patients, info_path, read_info
from medformer.data.volumes.read.layout_readers import READERS, VolumeScan, recognize
from medformer.errors import DataError
from medformer.progress import Reporter, SilentReporter

Layout = Literal["auto", "msd", "nnunet", "folders", "cases", "dicom"]

MAX_LABELS = 1000
"""Different values that the label maps of a data set may hold."""

_WITHOUT_PATIENTS = {"msd", "nnunet"}
"""Layouts that have no place for patients, so that every case counts as one."""

_HIPPOCAMPUS = re.compile(r"hippocampus_(\d{3})")
"""In the Medical Segmentation Decathlon, `hippocampus_001` to `hippocampus_394` are the two hippocampi of 197 scans
under consecutive numbers, the odd one first. The data set does not document this (it speaks of 195 patients). In 200 of
its training cases, whose largest intensities run from 113 to 1.7 million, those of 46 of the 50 pairs (2k - 1, 2k)
agree within a factor of 1.5, with a median of 1.14; those of neighbors that are no such pair differ by 2.4 in the
median. By the descriptors of the leakage audit, the partner is the most similar of the 199 others in 21 of the 50
pairs, and in 1 of 53 neighbors that are no pair."""


def scan_volumes(
    folder: str | os.PathLike[str],
    *,
    layout: Layout = "auto",
    ungrouped: Literal["error", "each"] = "error",
    group_pattern: str | None = None,
    site: str | None = None,
    site_pattern: str | None = None,
) -> VolumeScan:
    """List the cases of a folder.

    The group, which is the patient, comes from `group_pattern`, else from the DICOM files. The Decathlon's and
    nnU-Net's layouts do not name patients: every case then counts as one, except in data sets whose pairs are known
    (`inferred_patient`). `patients` says which.

    Args:
        folder: Where to look.
        layout: How the folder is laid out; `auto` recognizes it.
        ungrouped: What to do in the other layouts where the patient is unknown: refuse, or take the case for one.
        group_pattern: Regular expression with one group, searched in each id: the patient.
        site: Where the volumes come from; the name of the folder where it is not given.
        site_pattern: Regular expression with one group, searched in each id: the same.

    Raises:
        DataError: The folder does not exist, has none of the layouts, holds no volume, patients are unknown, or the
            site pattern finds nothing in an id.
        ConfigError: The pattern does not compile or has not exactly one group, or labels are regions.
    """
    folder = Path(os.path.abspath(folder))
    if group_pattern is not None:
        find_groups(group_pattern, [])  # a bad pattern is said before anything is read
    if site_pattern is not None:
        find_groups(site_pattern, [], wanted="site")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with volumes. Correct the path.")
    kind = recognize(folder) if layout == "auto" else layout
    found = READERS[kind](folder)
    if not found.cases:
        errors = [problem for problem in found.problems if problem.severity == "error"] or found.problems
        raise DataError(
            f"No complete case was found in {folder} (layout {kind}); expected at least one image.{first_ten(errors)}"
        )
    groups, patients = _groups(found.cases, group_pattern, ungrouped, kind)
    names = [case.id for case in found.cases]
    usual = folder.name if site is None else site
    sites = [usual] * len(names) if site_pattern is None else find_sites(site_pattern, names)
    cases = tuple(
        replace(case, group=group or case.id, site=place)
        for case, group, place in zip(found.cases, groups, sites, strict=True)
    )
    info = found.info and replace(found.info, patients=patients)
    return replace(found, cases=cases, info=info, patients=patients, layout=kind)


def with_hashes(
    cases: Sequence[Case], records: Mapping[str, Record] | None = None, *, reporter: Reporter | None = None
) -> tuple[Case, ...]:
    """The cases with the hashes of their files, ready for `write_manifest`.

    Args:
        cases: Of a scan.
        records: Of these cases; without them, the files are read.
        reporter: Receives one step per case.
    """
    hashed = []
    for case in (reporter or SilentReporter()).track(cases, "hashing"):
        known = {} if records is None else records[case.id].hashes
        covariates = dict(case.covariates)
        if case.mask is not None:
            covariates["mask_sha256"] = known.get("mask") or image_hash([case.mask])
        hashed.append(replace(case, sha256=known.get("file") or image_hash(case.images), covariates=covariates))
    return tuple(hashed)


def declared_info(manifest: Manifest) -> DatasetInfo | None:
    """What the sidecar of a manifest says; None without one.

    Raises:
        DataError: The sidecar is damaged.
    """
    return read_info(manifest.path) if info_path(manifest.path).is_file() else None


def info_from_records(
    cases: Sequence[Case],
    records: Mapping[str, Record],
    *,
    channels: tuple[str, ...] = (),
    patients: Patients = "known",
) -> DatasetInfo:
    """Labels named as all DICOM segmentations name them, else after their values; channels after their position.

    Args:
        cases: Of the data set.
        records: Of these cases; a label map that could not be read counts for nothing here.
        channels: Names of the channels, where they are known.
        patients: Where the groups come from.

    Raises:
        DataError: The label maps hold more values than labels could be.
    """
    values: set[int] = set()
    names: dict[int, set[str]] = {}
    for case in cases:
        for value, name in records[case.id].facts.get("names", {}).items():
            names.setdefault(int(value), set()).add(str(name))
        values.update(map(int, records[case.id].facts.get("labels", ())))
        if len(values) > MAX_LABELS:
            raise DataError(
                f"Up to {case.mask} the label maps hold {len(values)} different values; expected at most "
                f"{MAX_LABELS} labels. Check that these are label maps, not images."
            )
    # The count that most cases have, so that one odd case is named as such and not all others.
    counts = Counter(len(records[case.id].facts.get("channels", case.images)) for case in cases)
    count = max(counts, key=lambda channels: (counts[channels], channels))
    agreed = {value: min(some) for value, some in names.items() if len(some) == 1}
    times = Counter(agreed.values())

    def named(value: int) -> str:
        name = agreed.get(value, "")
        usable = name.strip() and name.isprintable() and not name.isdecimal() and times[name] == 1
        return name if usable else f"label {value}"

    return DatasetInfo(
        labels=tuple((value, named(value)) for value in sorted(values) if value > 0),
        channels=channels or tuple(f"channel {number}" for number in range(1, count + 1)),
        patients=patients,
    )


def inferred_patient(case_id: str) -> str:
    """The patient that a case of a public data set seems to belong to; empty for every other case."""
    match = _HIPPOCAMPUS.fullmatch(case_id)
    return f"hippocampus-pair-{(int(match.group(1)) + 1) // 2:03}" if match else ""


def _groups(found: Sequence[Case], pattern: str | None, ungrouped: str, layout: str) -> tuple[list[str], Patients]:
    """The patient of each case, empty where the case counts as one, and where the patients come from."""
    unnamed = pattern is None and layout in _WITHOUT_PATIENTS
    inferred = [inferred_patient(case.id) for case in found]
    if unnamed and all(inferred):
        return inferred, "inferred"
    given = [case.group for case in found]
    groups = given if pattern is None else find_groups(pattern, [case.id for case in found])
    unknown = [case.id for case, group in zip(found, groups, strict=True) if not group]
    if unknown and ungrouped == "error" and not unnamed:
        if pattern is None:
            advice = "Give --group-pattern when the file name contains it"
        else:
            advice = f"--group-pattern '{pattern}' finds nothing in these names: correct it"
        raise DataError(
            f"{len(unknown)} of {len(found)} volumes have no patient, such as '{unknown[0]}', so leakage cannot be "
            f"ruled out. {advice}, or give --ungrouped each when every volume really is of another patient."
        )
    return groups, "case is patient" if unknown else "known"
