"""Finds preprocessed functional scans in a folder of BIDS derivatives as fMRIPrep writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from medformer.errors import DataError
from medformer.files import files_below, read_json

_ENDING = "_desc-preproc_bold.nii.gz"
_GRID = ("space", "res", "cohort", "den")  # entities that say how a scan was resampled, not which scan it is


@dataclass(frozen=True)
class BoldScan:
    """One scan.

    Attributes:
        path: The preprocessed series of volumes.
        id: Its entities without those of the grid, such as sub-01_ses-1_task-rest.
        subject: Such as sub-01.
        entities: By name, such as {"sub": "01", "task": "rest", "space": ...}.
    """

    path: Path
    id: str
    subject: str
    entities: Mapping[str, str]

    @property
    def mask(self) -> Path | None:
        """The brain mask on the same grid, if there is one."""
        path = self.path.with_name(self.path.name.replace("_desc-preproc_bold", "_desc-brain_mask"))
        return path if path.exists() else None

    @property
    def confounds(self) -> Path | None:
        """The table of confounds, under its name since or before fMRIPrep 20.2, if there is one."""
        names = (f"{self.id}_desc-confounds_{kind}.tsv" for kind in ("timeseries", "regressors"))
        return next((self.path.with_name(name) for name in names if self.path.with_name(name).exists()), None)

    @property
    def repetition_time(self) -> float | None:
        """Seconds between volumes from the sidecar JSON; None where it does not say."""
        sidecar = self.path.with_name(self.path.name.removesuffix(".nii.gz") + ".json")
        try:
            value = float(read_json(sidecar)["RepetitionTime"])
        except (OSError, KeyError, TypeError, ValueError):
            return None
        return value if math.isfinite(value) and value > 0 else None


def find_scans(folder: Path, *, space: str | None = None, task: str | None = None) -> list[BoldScan]:
    """List every scan once, sorted by id.

    Args:
        folder: Derivatives; searched with all folders below.
        space: The template to take, such as MNI152NLin2009cAsym; None where each scan has one MNI template.
        task: Only this task; None for all.

    Raises:
        DataError: No such folder, no scans, or several templates or resolutions to choose from.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected BIDS derivatives with files *{_ENDING}.")
    every = [_scan(path) for path in files_below(folder) if fnmatchcase(path.name, f"sub-*{_ENDING}")]
    found = [scan for scan in every if task is None or scan.entities.get("task") == task]
    chosen = [
        scan
        for scan in found
        if (scan.entities.get("space", "").startswith("MNI") if space is None else scan.entities.get("space") == space)
    ]
    if not chosen:
        seen = sorted({scan.entities.get("space", "none") for scan in every})
        tasks = sorted({scan.entities.get("task", "none") for scan in every})
        raise DataError(
            f"{folder} holds no scan in {space or 'an MNI template'}{f' of task {task}' if task else ''}; found "
            f"{len(every)} files *{_ENDING}"
            + (f" (spaces {', '.join(seen)}; tasks {', '.join(tasks)})." if every else ".")
        )
    by_id: dict[str, BoldScan] = {}
    for scan in chosen:
        other = by_id.setdefault(scan.id, scan)
        if other is not scan:
            raise DataError(
                f"{scan.id} is there more than once ({other.path.name}, {scan.path.name}); expected one template and "
                "resolution. Choose a template with --space, or keep one resolution in the folder."
            )
    return [by_id[identity] for identity in sorted(by_id)]


def _scan(path: Path) -> BoldScan:
    parts = path.name.removesuffix(_ENDING).split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    identity = "_".join(part for part in parts if part.split("-", 1)[0] not in _GRID)
    return BoldScan(path, identity, f"sub-{entities['sub']}", entities)
