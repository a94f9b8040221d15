"""Volumes as a run works on them: of a manifest, or of a folder in a known layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medformer.config import VolumeDataConfig
from medformer.crossval.run.directory import RunDirectory
from medformer.data.manifest import Case, Manifest, read_manifest
from medformer.data.problems import Problem
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.read.dataset_file import DatasetInfo
from medformer.data.volumes.read.layouts import (
    VolumeScan,
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
    "its own. Where that is not so, prepare a manifest with `medformer volume prepare --group-pattern`.",
    "inferred": "The files do not say which volumes are of one patient; volumes that seem to be of one were kept "
    "together (medformer/data/volumes/read/layouts.py says why).",
}


@dataclass(frozen=True)
class Volumes:
    """Volumes of a manifest or a folder (a `Dataset`).

    Attributes:
        manifest: The cases.
        info: What they have in common.
        scanned: Whether they come from a folder, so that no manifest file is there yet.
        problems: What did not fit in that folder.
    """

    manifest: Manifest
    info: DatasetInfo
    scanned: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def path(self) -> Path:
        """The manifest file."""
        return self.manifest.path

    @property
    def root(self) -> Path:
        """The folder that paths in tables are relative to."""
        return self.manifest.root

    @property
    def cases(self) -> Sequence[Case]:
        """In the order of the manifest."""
        return self.manifest.cases

    @property
    def by_id(self) -> Mapping[str, Case]:
        """Cases by id."""
        return self.manifest.by_id

    def digest(self) -> str:
        """SHA-256 over all that is said of the cases."""
        return digest([self.manifest.digest(), self.info.labels, self.info.channels])


def open_volumes(config: VolumeDataConfig, out: Path | None, reporter: Reporter) -> Volumes:
    """Read a manifest, or list a folder in a known layout.

    Args:
        config: Names either.
        out: Run folder in which the manifest of a folder will be kept; what an earlier session read of the volumes is
            not read again.
        reporter: Receives the progress.

    Raises:
        ConfigError: Nothing is named.
        DataError: See `read_manifest` and `scan_volumes`.
    """
    if not config.manifest:
        raise ConfigError(
            "No data: give --data with a folder of volumes (imagesTr/ and labelsTr/, images/ and labels/, or DICOM "
            "series), or with a manifest, which `medformer volume prepare` writes from one."
        )
    path = Path(config.manifest)
    run = RunDirectory(out or Path())
    cache = run.inventory if out is not None and run.is_run() else None
    if not path.is_dir():
        manifest = read_manifest(path, ungrouped=config.ungrouped)
        info = declared_info(manifest)
        if info is None:
            info = info_from_records(manifest.cases, inspect_volumes(manifest.cases, cache=cache, reporter=reporter))
        return Volumes(manifest, info)
    scan = scan_volumes(path, ungrouped=config.ungrouped)
    cases, info = complete(scan, reporter, cache)
    return Volumes(Manifest(run.path / MANIFEST, path.resolve(), cases), info, scanned=True, problems=scan.problems)


def complete(scan: VolumeScan, reporter: Reporter, cache: Path | None = None) -> tuple[tuple[Case, ...], DatasetInfo]:
    """Return the cases of a folder with their hashes, and what they have in common.

    Args:
        scan: Of the folder.
        reporter: Receives the progress.
        cache: Where an earlier pass over these volumes is kept.

    Raises:
        DataError: A volume cannot be read, and the folder declares no labels.
    """
    if scan.info is not None and cache is None:
        return with_hashes(scan.cases, reporter=reporter), scan.info
    records = inspect_volumes(scan.cases, cache=cache, reporter=reporter)
    info = scan.info or info_from_records(scan.cases, records, channels=scan.channels, patients=scan.patients)
    return with_hashes(scan.cases, records), info
