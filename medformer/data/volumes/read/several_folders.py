"""Several folders of volumes as one data set, such as one for each hospital."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from medformer.data.problems import first_ten
from medformer.data.volumes.read.dataset_file import Patients
from medformer.data.volumes.read.layout_readers import VolumeScan
from medformer.data.volumes.read.layouts import Layout, scan_volumes
from medformer.errors import ConfigError, DataError, counted


def scan_folders(
    folders: Sequence[Path],
    *,
    layout: Layout = "auto",
    ungrouped: Literal["error", "each"] = "error",
    group_pattern: str | None = None,
    sites: Sequence[str] = (),
    site_pattern: str | None = None,
) -> VolumeScan:
    """List the cases of one or several folders of one data set; see `scan_volumes`.

    Of several folders, ids begin with the site, and so do patients that a file's name tells: number 7 of one hospital
    is not number 7 of another. Patients of DICOM files keep their pseudonyms, which tell them apart.

    Args:
        folders: Where to look.
        layout: How the folders are laid out.
        ungrouped: See `scan_volumes`.
        group_pattern: See `scan_volumes`.
        sites: Where the volumes come from: one name for all folders, or one for each; empty for the folders' names.
        site_pattern: See `scan_volumes`.

    Raises:
        DataError: See `scan_volumes`; also where two cases have one id, or folders declare other labels or channels.
        ConfigError: See `scan_volumes`; also where sites are not one for each folder, or two folders have one name.
    """
    once: dict[Path, Path] = {}
    for path in folders:
        once.setdefault(path.resolve(), path)
    paths = list(once.values())
    if sites and site_pattern is not None:
        raise ConfigError("Got --site and --site-pattern; expected one of them.")
    if sites and len(sites) not in (1, len(paths)):
        raise ConfigError(
            f"Got {counted(len(sites), 'site')} for {counted(len(paths), 'folder')}; expected one --site for all, or "
            "one for each folder, in the same order."
        )
    names = [Path(os.path.abspath(path)).name for path in paths]
    if not sites and site_pattern is None and len(set(names)) < len(names):
        raise ConfigError(f"Two folders are named {max(names, key=names.count)}; give a --site for each folder.")
    places: Sequence[str | None] = [*sites] * (len(paths) // len(sites)) if sites else [None] * len(paths)
    scans = [
        scan_volumes(
            path, layout=layout, ungrouped=ungrouped, group_pattern=group_pattern, site=site, site_pattern=site_pattern
        )
        for path, site in zip(paths, places, strict=True)
    ]
    return scans[0] if len(scans) == 1 else _joined(paths, scans, pattern=group_pattern)


def _joined(folders: Sequence[Path], scans: Sequence[VolumeScan], *, pattern: str | None) -> VolumeScan:
    """Several folders as one data set."""
    cases, problems = [], []
    for scan in scans:
        own = scan.layout == "dicom" and pattern is None
        for case in scan.cases:
            group = case.group if own and case.group != case.id else f"{case.site}/{case.group}"
            cases.append(replace(case, id=f"{case.site}/{case.id}", group=group))
        problems += [replace(problem, case_id=f"{scan.cases[0].site}/{problem.case_id}") for problem in scan.problems]
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise DataError(
            f"{counted(len(twice), 'id is that of cases', 'ids are those of cases')} in two folders; expected each id "
            f"once:{first_ten(twice)}\nGive a --site for each folder, or rename the files."
        )
    declared = [(folder, scan.info) for folder, scan in zip(folders, scans, strict=True) if scan.info]
    for folder, info in declared[1:]:
        first = declared[0][1]
        if (info.labels, info.channels, info.regions) != (first.labels, first.channels, first.regions):
            raise DataError(
                f"{folder} declares the labels {info.shown_labels} and the channels {', '.join(info.channels)}, "
                f"{declared[0][0]} {first.shown_labels} and {', '.join(first.channels)}; expected the same in all "
                "folders. Correct one dataset.json, or prepare the folders by themselves."
            )
    known = [
        patients for patients in ("case is patient", "inferred") if any(scan.patients == patients for scan in scans)
    ]
    patients: Patients = cast(Patients, known[0]) if known else "known"
    channels = {scan.channels for scan in scans}
    return VolumeScan(
        tuple(cases),
        tuple(problems),
        replace(declared[0][1], patients=patients) if declared else None,
        channels.pop() if len(channels) == 1 else (),
        patients,
        ", ".join(dict.fromkeys(scan.layout for scan in scans)),
    )
