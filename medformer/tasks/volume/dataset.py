"""Volumes as a run works on them: of a manifest, or of a folder in a known layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medformer.config import VolumeConfig
from medformer.crossval.run.contract import Study
from medformer.crossval.run.directory import RunDirectory
from medformer.data.cases import Case
from medformer.data.inventory import Inventory
from medformer.data.manifest import Manifest, read_manifest
from medformer.data.problems import Problem
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.read.channels import ENDINGS
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.data.volumes.read.layout_readers import VolumeScan
from medformer.data.volumes.read.layouts import (
    declared_info,
    info_from_records,
    scan_volumes,
    with_hashes,
)
from medformer.errors import ConfigError
from medformer.files import digest
from medformer.progress import Reporter

MANIFEST = "manifest.csv"
"""Name of the manifest that a run on a folder keeps beside its results."""

PATIENT_NOTES = {
    "case is patient": "The layout does not say which volumes are of one patient, so each was taken for a patient of "
    "its own. Where that is not so, give --group-pattern.",
    "inferred": "The files do not say which volumes are of one patient; volumes that seem to be of one were kept "
    "together (medformer/data/volumes/read/layouts.py says why).",
}


@dataclass(frozen=True)
class Volumes(Manifest):
    """Volumes of a manifest, or of a folder whose manifest file is still to be written.

    Attributes:
        info: What the cases have in common.
        scanned: Whether they come from a folder, so that no manifest file is there yet.
        problems: What did not fit in that folder.
        records: What was read of the cases to find their labels or hashes; None where nothing was.
    """

    info: DatasetInfo
    scanned: bool = False
    problems: tuple[Problem, ...] = ()
    records: Inventory | None = None

    def digest(self) -> str:
        """SHA-256 over all that is said of the cases."""
        regions = [[region.name, region.values, region.written] for region in self.info.regions]
        return digest([super().digest(), self.info.labels, self.info.channels, *([regions] if regions else [])])


Scans = Study[VolumeConfig, Volumes]
"""What is learned from: volumes with label maps or classes, and their config."""


def open_volumes(config: VolumeConfig, out: Path | None, reporter: Reporter) -> Volumes:
    """Read a manifest, or list a folder in a known layout.

    Args:
        config: Names either in its section `data`; the target decides what is read of the volumes, if anything is.
        out: Run folder in which the manifest of a folder will be kept; what an earlier session read of the volumes is
            not read again.
        reporter: Receives the progress.

    Raises:
        ConfigError: Nothing is named.
        DataError: See `read_manifest` and `scan_volumes`.
    """
    if not config.data.manifest:
        raise ConfigError(
            "No data: give --data with a folder of volumes (imagesTr/ and labelsTr/, images/ and labels/, or DICOM "
            "series), or with a manifest, which `medformer volume prepare` writes from one."
        )
    path = Path(config.data.manifest)
    run = RunDirectory(out or Path())
    inspect = partial(
        inspect_volumes,
        masks=config.target == "segmentation",
        features=config.target == "classification",
        cache=run.inventory if out is not None and run.is_run() else None,
        reporter=reporter,
    )
    if not path.is_dir():
        if path.name.lower().endswith((".npz", *ENDINGS)):
            how = (
                f"Run `medformer volume prepare {path} --out FOLDER` first."
                if path.suffix == ".npz"
                else "Give its folder."
            )
            raise ConfigError(f"{path} is no manifest; expected a CSV file, or a folder of volumes. {how}")
        if config.data.group_pattern is not None:
            raise ConfigError(
                f"--group-pattern (data.group_pattern) finds patients in the names of a folder's files, and {path} is "
                "a manifest. Fill its column `group`, or `prepare` it again with the pattern."
            )
        manifest = read_manifest(path, ungrouped=config.data.ungrouped)
        records, info = None, declared_info(manifest)
        if info is None:
            records = inspect(manifest.cases)
            info = info_from_records(manifest.cases, records)
        return Volumes(manifest.path, manifest.root, manifest.cases, info, records=records)
    scan = scan_volumes(path, ungrouped=config.data.ungrouped, group_pattern=config.data.group_pattern)
    records = inspect(scan.cases)
    cases, info = complete(scan, records, reporter)
    return Volumes(
        run.path / MANIFEST, path.resolve(), cases, info, scanned=True, problems=scan.problems, records=records
    )


def complete(scan: VolumeScan, records: Inventory | None, reporter: Reporter) -> tuple[tuple[Case, ...], DatasetInfo]:
    """Return the cases of a folder with their hashes, and what they have in common.

    Args:
        scan: Of the folder.
        records: Of its cases; without them files are hashed, and read where the folder declares no labels.
        reporter: Receives the progress.

    Raises:
        DataError: A volume cannot be read, and the folder declares no labels.
    """
    if records is None and scan.info is not None:
        return with_hashes(scan.cases, reporter=reporter), scan.info
    if records is None:
        records = inspect_volumes(scan.cases, reporter=reporter)
    info = scan.info or info_from_records(scan.cases, records, channels=scan.channels, patients=scan.patients)
    return with_hashes(scan.cases, records), info
