"""From preprocessed scans (fMRIPrep's derivatives in BIDS) to series of regions in the layout that `prepare` reads.

A scan that cannot be used is listed with its reason and does not stop the others. A scan that was extracted with the
same settings is not extracted again, so that a run of many hours can be stopped and called again.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from nilearn.interfaces.fmriprep import load_confounds_strategy
from numpy.typing import NDArray

from medformer.connectome.atlases import ATLASES, atlas_name, require_regions
from medformer.data.connectomes.prepare.participants import read_participants, write_phenotype
from medformer.data.connectomes.read.files import derivative, label_table, write_series
from medformer.errors import ConfigError, DataError, UnknownNameError
from medformer.files import digest, read_json, sha256, write_csv, write_json
from medformer.imaging.bids import BoldScan, find_scans
from medformer.imaging.parcellation import Parcellation, extract_series, read_parcellation
from medformer.missing import is_missing
from medformer.progress import Reporter, SilentReporter

STRATEGIES: Mapping[str, tuple[str, Mapping[str, str]] | None] = MappingProxyType(
    {
        "none": None,
        "simple": ("simple", {}),
        "simple-gsr": ("simple", {"global_signal": "basic"}),
        "scrubbing": ("scrubbing", {}),
        "scrubbing-gsr": ("scrubbing", {"global_signal": "basic"}),
        "compcor": ("compcor", {}),
    }
)
"""Which of fMRIPrep's confounds are regressed out, by name: nilearn's presets (Wang et al., PLOS Computational Biology
2024, compare them) and options, with and without regression of the global signal. `simple` is motion (24), white matter
and fluid, and slow drifts; `scrubbing` also leaves out volumes of high motion; `compcor` is motion, drifts and
components of tissue without signal."""


@dataclass(frozen=True)
class ScanConfounds:
    """Of one scan.

    Attributes:
        table: Confounds (volumes, confounds); None for none.
        kept: Indices of the volumes that scrubbing and the start of the scan leave; None for all.
        mean_fd: Mean framewise displacement of all volumes, mm; NaN where the file does not say.
    """

    table: Any
    kept: NDArray[np.int64] | None
    mean_fd: float


def load_scan_confounds(scan: BoldScan, strategy: str) -> ScanConfounds:
    """Load what `strategy` needs.

    Raises:
        DataError: The file is missing or damaged, or lacks what the strategy needs; or too many volumes moved.
    """
    preset = STRATEGIES[strategy]
    path = scan.confounds
    if path is None:
        if preset is None:
            return ScanConfounds(None, None, float("nan"))
        raise DataError(
            f"{scan.path} has no table of confounds ({scan.id}_desc-confounds_timeseries.tsv beside it), which the "
            f"strategy '{strategy}' needs."
        )
    if preset is None:
        return ScanConfounds(None, None, _mean_displacement(path))
    name, options = preset
    try:
        table, kept = load_confounds_strategy(str(scan.path), denoise_strategy=name, **options)
        finite = table is None or bool(np.isfinite(table.to_numpy()).all())
    except TypeError:
        raise DataError(
            f"{path} holds words among its numbers (unknown values are n/a); run fMRIPrep on the scan again, or "
            "correct the table."
        ) from None
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path} cannot serve the strategy '{strategy}': {error}") from error
    if not finite:
        raise DataError(
            f"{path} holds confounds that are not finite after its first row; run fMRIPrep on the scan again."
        )
    return ScanConfounds(table, None if kept is None else np.asarray(kept, np.int64), _mean_displacement(path))


def _mean_displacement(path: Path) -> float:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            cells = [row.get("framewise_displacement") for row in csv.DictReader(file, delimiter="\t")]
        # The first volume moved against nothing.
        values = [float(cell) for cell in cells if cell and not is_missing(cell)]
    except (ValueError, csv.Error):
        return float("nan")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    return float(np.mean(values)) if values else float("nan")


PIPELINE = "fmriprep"

_RECORD = ("id", "path", "reason", "volumes", "kept_volumes", "mean_fd", "empty_regions", "least_coverage")


@dataclass(frozen=True)
class Settings:
    """How signals are cleaned.

    Attributes:
        strategy: Which confounds; a key of `medformer.data.connectomes.prepare.extract.STRATEGIES`.
        low_pass: Highest frequency, Hz; None for no limit.
        high_pass: Lowest frequency, Hz; None for no limit (fMRIPrep's cosines among the confounds do this already).
        fewest_volumes: A scan that keeps fewer volumes after scrubbing is refused.
    """

    strategy: str = "simple"
    low_pass: float | None = None
    high_pass: float | None = None
    fewest_volumes: int = 50


@dataclass(frozen=True)
class Extracted:
    """What was written.

    Attributes:
        folder: What `prepare` reads, with the pipeline `fmriprep` and the strategy's name.
        kept: Ids of the scans with series.
        refused: For the others, why.
        table: One row per scan: why it was refused, or its volumes, motion and coverage.
        without_participant: Scans that the table of participants does not list.
        without_scan: Participants in the table who have no scan.
    """

    folder: Path
    kept: tuple[str, ...]
    refused: Mapping[str, str]
    table: Path
    without_participant: tuple[str, ...] = ()
    without_scan: tuple[str, ...] = ()


def atlas_file(text: str) -> tuple[str, Path]:
    """Split `NAME=FILE`, or name an atlas by its file: `aal_roi_atlas.nii.gz` is aal, others go by their whole stem."""
    name, _, file = text.rpartition("=")
    path = Path(file)
    if name:
        return atlas_name(name), path
    stem = path.name.removesuffix(".gz").removesuffix(".nii").lower()
    first = atlas_name(stem.split("_")[0])
    return (first if first in ATLASES else re.sub("[^a-z0-9]+", "-", stem).strip("-")), path


def atlas_files(texts: Sequence[str]) -> dict[str, Path]:
    """The files of atlases by name; see `atlas_file`.

    Raises:
        ConfigError: Two files have one name, so that one would be left out.
    """
    found: dict[str, Path] = {}
    for name, path in map(atlas_file, texts):
        if name in found:
            raise ConfigError(
                f"--atlas names {found[name]} and {path} both '{name}'; call one of them otherwise, with NAME=FILE."
            )
        found[name] = path
    return found


def extract_bids(
    bids: Path,
    atlases: Mapping[str, Path],
    out: Path,
    *,
    settings: Settings | None = None,
    space: str | None = None,
    task: str | None = None,
    participants: Path | None = None,
    reporter: Reporter | None = None,
) -> Extracted:
    """Extract series of every scan.

    Args:
        bids: Derivatives with `*_desc-preproc_bold.nii.gz`.
        atlases: Label volumes by the atlas's name (letters, digits and hyphens).
        out: Where to: `Outputs/fmriprep/<strategy>/rois_<atlas>/`, `extraction.csv` beside these with one row per
            scan, `Outputs/labels/<atlas>_labels.csv` with each region's number and place, and, where there is a table
            of participants, `Phenotypic.csv` with a row per scan and its mean framewise displacement, and one per
            participant without a scan, which names no file.
        settings: How signals are cleaned.
        space: The template; None where each scan has one MNI template.
        task: Only this task; None for all.
        participants: The table; `participants.tsv` of the derivatives or of the folder above when not given.
        reporter: Shows the progress.

    Raises:
        ConfigError: A setting that makes no sense.
        DataError: No scans, an unclear choice of them, an atlas that cannot be used, a table of participants that lists
            nobody who was scanned, or nothing could be extracted.
        ResourceError: The folder is not writable or the disk is full.
    """
    settings = settings or Settings()
    _check(settings, atlases)
    scans = find_scans(bids, space=space, task=task)
    parcellations = {name: read_parcellation(path) for name, path in atlases.items()}
    for name, parcellation in parcellations.items():
        require_regions(name, len(parcellation.labels), str(parcellation.path))
    people = read_participants(bids, participants, scans)
    fingerprint = digest([asdict(settings), {name: sha256(path) for name, path in atlases.items()}])
    reporter = reporter or SilentReporter()
    rows = []
    for scan in reporter.track(scans, "extract"):
        row = _one(scan, parcellations, settings, Path(out), fingerprint)
        if row["reason"]:
            reporter.line(f"{scan.id}: {row['reason']}")
        rows.append(row)
    table = Path(out) / "Outputs" / PIPELINE / settings.strategy / "extraction.csv"
    write_csv(table, rows, _RECORD)
    _write_labels(Path(out), parcellations)
    if people is not None:
        write_phenotype(Path(out), scans, rows, people)
    kept = tuple(str(row["id"]) for row in rows if not row["reason"])
    refused = {str(row["id"]): str(row["reason"]) for row in rows if row["reason"]}
    if not kept:
        first, reason = next(iter(refused.items()))
        raise DataError(f"None of {len(scans)} scans could be used; the first, {first}: {reason}")
    strangers = () if people is None else tuple(scan.id for scan in scans if scan.subject not in people.of)
    absent = () if people is None else tuple(people.without_scans)
    return Extracted(Path(out), kept, refused, table, strangers, absent)


def _check(settings: Settings, atlases: Mapping[str, Path]) -> None:
    if settings.strategy not in STRATEGIES:
        raise UnknownNameError("confound strategy", settings.strategy, STRATEGIES)
    low, high = settings.low_pass, settings.high_pass
    if any(limit is not None and limit <= 0 for limit in (low, high)) or (low and high and high >= low):
        raise ConfigError(f"Got frequencies from {high} to {low} Hz; expected positive numbers, the first one lower.")
    wrong = [name for name in atlases if not name.replace("-", "").isalnum()]
    if not atlases or wrong or settings.fewest_volumes < 2:
        raise ConfigError(
            f"Got the atlases {', '.join(atlases) or 'none'} and fewest_volumes={settings.fewest_volumes}; expected at "
            "least one, names of letters, digits and hyphens, and at least 2 volumes."
        )


def _one(
    scan: BoldScan, parcellations: Mapping[str, Parcellation], settings: Settings, out: Path, fingerprint: str
) -> dict[str, Any]:
    """Extract a scan unless that was done before, and return its row."""
    record = out / "scans" / f"{scan.id}.json"
    folder = out / "Outputs" / PIPELINE / settings.strategy
    inputs = [path.stat() for path in (scan.path, scan.mask, scan.confounds) if path is not None]
    state = [fingerprint, *([file.st_size, file.st_mtime_ns] for file in inputs)]
    with suppress(OSError, ValueError, KeyError, TypeError):
        earlier = read_json(record)
        kinds = [derivative(name) for name in parcellations]
        if earlier["state"] == state and all((folder / kind / f"{scan.id}_{kind}.1D").exists() for kind in kinds):
            return dict(earlier["row"])
    row: dict[str, Any] = {**dict.fromkeys(_RECORD, ""), "id": scan.id, "path": str(scan.path)}
    try:
        row.update(_series(scan, parcellations, settings, folder))
    except DataError as error:
        for name in parcellations if record.exists() else ():
            # An earlier call with other settings wrote a series.
            (folder / derivative(name) / f"{scan.id}_{derivative(name)}.1D").unlink(missing_ok=True)
        return {**row, "reason": str(error)}
    write_json(record, {"state": state, "row": row})
    return row


def _series(
    scan: BoldScan, parcellations: Mapping[str, Parcellation], settings: Settings, folder: Path
) -> dict[str, Any]:
    confounds = load_scan_confounds(scan, settings.strategy)
    found = {
        name: extract_series(
            scan.path,
            parcellation,
            mask=scan.mask,
            confounds=confounds.table,
            kept=confounds.kept,
            low_pass=settings.low_pass,
            high_pass=settings.high_pass,
            repetition_time=scan.repetition_time,
        )
        for name, parcellation in parcellations.items()
    }
    one = next(iter(found.values()))
    if len(one.values) < settings.fewest_volumes:
        raise DataError(
            f"{scan.path} keeps {len(one.values)} of {one.volumes} volumes; expected {settings.fewest_volumes} or more."
        )
    for name, series in found.items():
        write_series(folder, scan.id, name, series.values, parcellations[name].labels)
    empty = {name: int((series.coverage == 0).sum()) for name, series in found.items()}
    least = {name: f"{series.coverage.min():.3f}" for name, series in found.items()}
    return {
        "volumes": one.volumes,
        "kept_volumes": len(one.values),
        "mean_fd": "" if math.isnan(confounds.mean_fd) else f"{confounds.mean_fd:.6f}",
        "empty_regions": " ".join(f"{name}:{count}" for name, count in empty.items()),
        "least_coverage": " ".join(f"{name}:{share}" for name, share in least.items()),
    }


def _write_labels(out: Path, parcellations: Mapping[str, Parcellation]) -> None:
    for name, parcellation in parcellations.items():
        rows = [
            {"index": label, "name": str(label), **{axis: f"{at:.1f}" for axis, at in zip("xyz", place, strict=True)}}
            for label, place in zip(parcellation.labels, parcellation.coordinates.tolist(), strict=True)
        ]
        write_csv(label_table(out, name), rows, ("index", "name", "x", "y", "z"))
