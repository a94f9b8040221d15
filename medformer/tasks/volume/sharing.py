"""What a fold learned from volumes, as it may be passed on: nothing in it names a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medformer.config import VolumeConfig
from medformer.data.volumes.plan.volume_plan import read_volume_plan, write_volume_plan
from medformer.inference.classification import THRESHOLD
from medformer.inference.threshold import copy_threshold
from medformer.inference.volumes.components import read_components, write_components
from medformer.tasks.volume.network import PLAN
from medformer.tasks.volume.predictor import COMPONENTS
from medformer.training.saving import copy_weights


def share_fold(config: VolumeConfig, folder: Path, out: Path) -> None:
    """Copy network and plan of a fold, and its rules of components or its calibration and threshold.

    Args:
        config: Of the run.
        folder: Of the fold.
        out: Folder to write into.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the config.
    """
    copy_weights(folder, out)
    write_volume_plan(out / PLAN, read_volume_plan(folder / PLAN))
    if config.target == "segmentation":
        write_components(out / COMPONENTS, read_components(folder / COMPONENTS))
    else:
        copy_threshold(folder / THRESHOLD, out / THRESHOLD)


def describe_folds(config: VolumeConfig, folders: Sequence[Path]) -> dict[str, Any]:
    """Say how each fold prepares volumes, and what it finds, as plain data."""
    plans = {folder.name: read_volume_plan(folder / PLAN) for folder in folders}
    first = next(iter(plans.values()))
    segments = config.target == "segmentation"
    return {
        "labels": {str(value): name for value, name in first.found} or {"1": "positive", "0": "negative"},
        **({"regions": {region.name: list(region.values) for region in first.regions}} if first.regions else {}),
        "input": {
            "volumes": "NIfTI or DICOM, of any size, spacing and orientation",
            "channels": len(first.intensity),
            "turned_to": first.orientation,
            "by_fold": {
                name: {
                    "spacing_mm": list(plan.spacing),
                    "patch": list(plan.patch),
                    "intensity": [asdict(entry) for entry in plan.intensity],
                }
                for name, plan in plans.items()
            },
        },
        "output": {"label": "of each voxel, on the grid of the volume"}
        if segments
        else {"score": "of class 1 (positive), from 0 to 1"},
    }
