"""Which of fMRIPrep's confounds are regressed out of a scan, and how much its subject moved.

The strategies are nilearn's presets (Wang et al., PLOS Computational Biology 2024, compare them), with and without
regression of the global signal.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from nilearn.interfaces.fmriprep import load_confounds_strategy
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.imaging.bids import BoldScan
from medformer.missing import is_missing

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
"""Preset and options by name: `simple` is motion (24), white matter and fluid, and slow drifts; `scrubbing` also leaves
out volumes of high motion; `compcor` is motion, drifts and components of tissue without signal."""


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
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path} cannot serve the strategy '{strategy}': {error}") from error
    if table is not None and not np.isfinite(table.to_numpy()).all():
        raise DataError(
            f"{path} holds confounds that are not finite after its first row; run fMRIPrep on the scan again."
        )
    return ScanConfounds(table, None if kept is None else np.asarray(kept, np.int64), _mean_displacement(path))


def _mean_displacement(path: Path) -> float:
    with open(path, newline="", encoding="utf-8") as file:
        cells = [row.get("framewise_displacement") for row in csv.DictReader(file, delimiter="\t")]
    try:
        # The first volume moved against nothing.
        values = [float(cell) for cell in cells if cell and not is_missing(cell)]
    except ValueError:
        return float("nan")
    return float(np.mean(values)) if values else float("nan")
