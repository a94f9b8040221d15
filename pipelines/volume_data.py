"""The volume task's data: from folders to a manifest, what is wrong with it, and scoring label maps from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from medformer.config import VolumeDataConfig
from medformer.crossval.run.directory import RunDirectory
from medformer.data.audit import audit, split_parts, write_findings
from medformer.data.manifest import Case, Manifest, read_manifest, write_manifest
from medformer.data.problems import Problem, quarantine, require_usable, write_problems
from medformer.data.volumes.inspect.check import volume_problems
from medformer.data.volumes.inspect.describe import inspect_volumes
from medformer.data.volumes.inspect.descriptors import VOLUMES
from medformer.data.volumes.read.dataset_file import DatasetInfo, write_info
from medformer.data.volumes.read.layouts import (
    Layout,
    VolumeScan,
    declared_info,
    info_from_records,
    scan_volumes,
    with_hashes,
)
from medformer.data.volumes.read.medmnist import write_medmnist
from medformer.errors import ConfigError
from medformer.files import digest
from medformer.inference.frames.scoring import write_scores
from medformer.inference.volumes.scoring import score_label_maps
from medformer.progress import Reporter
from pipelines.console import make_reporter, say
from pipelines.outputs import claim

Target = Literal["segmentation", "classification"]

MANIFEST = "manifest.csv"
"""Name of the manifest that a run on a folder keeps beside its results."""


@dataclass(frozen=True)
class Volumes:
    """What a run works on.

    Attributes:
        manifest: Its cases.
        info: What they have in common.
        scanned: Whether they come from a folder, so that no manifest file is there yet.
        problems: What did not fit in that folder.
    """

    manifest: Manifest
    info: DatasetInfo
    scanned: bool = False
    problems: tuple[Problem, ...] = ()

    def digest(self) -> str:
        """SHA-256 over all that is said of the cases."""
        return digest([self.manifest.digest(), self.info.labels, self.info.channels])

    def keep(self) -> None:
        """Write the manifest of a folder, so that the report and `predict` find the cases again."""
        if self.scanned:
            write_manifest(self.manifest.path, self.manifest.cases)
            write_info(self.manifest.path, self.info)


def open_volumes(config: VolumeDataConfig, out: Path, reporter: Reporter) -> Volumes:
    """Read a manifest, or list a folder in a known layout.

    Args:
        config: Names either.
        out: Folder in which the manifest of a folder will be kept.
        reporter: Told about the progress.

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
    if not path.is_dir():
        manifest = read_manifest(path, ungrouped=config.ungrouped)
        info = declared_info(manifest) or info_from_records(
            manifest.cases, inspect_volumes(manifest.cases, reporter=reporter)
        )
        return Volumes(manifest, info)
    scan = scan_volumes(path, ungrouped=config.ungrouped)
    cases, info = _completed(scan, reporter)
    return Volumes(Manifest(out / MANIFEST, path.resolve(), cases), info, scanned=True, problems=scan.problems)


def _completed(scan: VolumeScan, reporter: Reporter) -> tuple[tuple[Case, ...], DatasetInfo]:
    """The cases of a folder with their hashes, and what they have in common."""
    if scan.info is not None:
        return with_hashes(scan.cases, reporter=reporter), scan.info
    records = inspect_volumes(scan.cases, reporter=reporter)
    info = info_from_records(scan.cases, records, channels=scan.channels, patients=scan.patients)
    return with_hashes(scan.cases, records), info


def prepare(
    *, source: Path, out: Path, layout: str, ungrouped: str, group_pattern: str | None, overwrite: bool
) -> None:
    """Turn a folder in a known layout, or an .npz file of MedMNIST3D, into one manifest."""
    reporter = make_reporter()
    if source.is_file():
        if source.suffix != ".npz":
            raise ConfigError(f"{source} is a file; expected a folder of volumes, or an .npz file of MedMNIST3D.")
        if out.exists() and any(out.iterdir()) and not overwrite:
            raise ConfigError(f"--out {out} is not empty. Add --overwrite to replace it, or choose another folder.")
        say(f"Manifest: {write_medmnist(source, out)}")
        return
    if layout not in get_args(Layout):
        raise ConfigError(f"--layout {layout}: expected {', '.join(get_args(Layout))}.")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out} exists. Add --overwrite to replace it, or choose another name.")
    scan = scan_volumes(
        source,
        layout=cast(Layout, layout),
        ungrouped="each" if ungrouped == "each" else "error",
        group_pattern=group_pattern,
    )
    cases, info = _completed(scan, reporter)
    _tell(scan, out)
    write_manifest(out, cases)
    write_info(out, info)
    groups = len({case.group for case in cases})
    labels = ", ".join(f"{value} {name}" for value, name in info.labels) or "none"
    say(f"{len(cases)} volumes of {groups} patients, {len(info.channels)} channel(s), labels: {labels}: {out}")
    for note in notes(info):
        say(f"note: {note}")
    say(f"Next: medformer volume check {out}")


def check(*, data: Path, out: Path | None, target: Target, accept: list[str], ungrouped: str) -> None:
    """Read every volume, list what is wrong with it, and audit the split for leakage."""
    if out is not None and RunDirectory(out).is_run():
        raise ConfigError(f"--out {out} is the folder of a run, whose audit would be replaced. Choose another folder.")
    reporter = make_reporter()
    source = VolumeDataConfig(manifest=str(data), ungrouped="each" if ungrouped == "each" else "error")
    volumes = open_volumes(source, Path(), reporter)
    cases = volumes.manifest.cases
    records = inspect_volumes(cases, masks=bool(volumes.info.labels), reporter=reporter)
    problems = [*volumes.problems, *volume_problems(cases, records, volumes.info, target=target)]
    for problem in problems:
        say(str(problem))
    warnings = sum(problem.severity == "warning" for problem in problems)
    say(f"{len(cases)} volumes, {len(quarantine(problems))} cannot be used, {warnings} warnings.")
    for note in notes(volumes.info):
        say(f"note: {note}")
    if out is not None:
        write_problems(out / "problems.csv", problems)
    require_usable(problems)
    parts = split_parts(cases)
    result = audit(cases, [("", parts)], records, VOLUMES).accepting(accept)
    if out is not None:
        write_findings(out / "audit.json", result, problems)
    result.raise_if_leaking()
    sides = " / ".join(parts) if len(parts) <= 3 else f"{len(parts)} patients"
    say(
        f"No leak between {sides}."
        if not result.findings
        else f"{len(result.findings)} findings, all accepted by name."
    )


def evaluate(*, predictions: Path, masks: Path, out: Path, overwrite: bool, tolerance: float) -> None:
    """Score a folder of label maps."""
    claim(out, overwrite=overwrite)
    rows, summary = score_label_maps(predictions, masks, tolerance=tolerance, reporter=make_reporter())
    table, numbers = write_scores(out, rows, summary)
    say(f"{summary['n']} volumes; two empty labels: {summary['definitions']['empty_policy']}")
    for label, part in summary["by_label"].items():
        means = {name: part["metrics"][name]["mean"] for name in ("dice", "hd95_mm", "nsd_mm")}
        say(f"  {label}: Dice {means['dice']:.4f}, HD95 {means['hd95_mm']:.2f} mm, NSD {means['nsd_mm']:.4f}")
    say(f"Table: {table}")
    say(f"Numbers: {numbers}")


_PATIENTS = {
    "case is patient": "The layout does not say which volumes are of one patient, so each was taken for a patient of "
    "its own. Where that is not so, prepare a manifest with `medformer volume prepare --group-pattern`.",
    "inferred": "The files do not say which volumes are of one patient; volumes that seem to be of one were kept "
    "together (medformer/data/volumes/read/layouts.py says why).",
}


def notes(info: DatasetInfo) -> list[str]:
    """What a reader of results on these data must know."""
    return [_PATIENTS[info.patients]] if info.patients in _PATIENTS else []


def _tell(scan: VolumeScan, out: Path) -> None:
    if not scan.problems:
        return
    table = out.with_name(f"{out.stem}.problems.csv")
    write_problems(table, scan.problems)
    say(f"{len(scan.problems)} files were left out or need a look; all of them are in {table}:")
    for problem in scan.problems[:10]:
        say(f"  {problem}")
