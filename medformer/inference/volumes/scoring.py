"""Scoring a folder of label maps, from any source, against a folder of reference label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medformer.errors import DataError
from medformer.evaluation.masks.volumes import volume_row
from medformer.evaluation.summary import summarize
from medformer.imaging.geometry import GRID_TOLERANCE, corner_distance, label_counts
from medformer.imaging.volumes import read_labels
from medformer.inference.frames.scoring import pair_folders
from medformer.progress import Reporter, SilentReporter

ENDINGS = (".nii.gz", ".nii")


def score_label_maps(
    predictions: Path, masks: Path, *, tolerance: float = 2.0, reporter: Reporter | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score every label map against the reference of the same name.

    Files are matched by their path below the two folders without the ending. Every value above 0 that a reference holds
    is a label, named after its value.

    Args:
        predictions: Folder of NIfTI label maps.
        masks: Folder of the references, on the same grids.
        tolerance: Of the normalized surface Dice, mm.
        reporter: Receives one step per case.

    Returns:
        One row per case (`volume_row`), and their summary (`summarize`).

    Raises:
        DataError: A folder is missing or holds no label maps, the two do not pair up, a file cannot be read, grids
            differ, or a prediction holds a value that no reference has.
    """
    reporter = reporter or SilentReporter()
    pairs = pair_folders(predictions, masks, ENDINGS)
    values = sorted({value for _, _, mask in pairs for value in label_counts(read_labels(mask).array) if value})
    if not values:
        raise DataError(f"The label maps in {masks} are all empty; expected at least one label above 0.")
    labels = {value: f"label {value}" for value in values}
    rows: list[dict[str, Any]] = []
    for case, prediction_file, mask_file in reporter.track(pairs, "scoring"):
        found, truth = read_labels(prediction_file), read_labels(mask_file)
        if found.geometry.shape == truth.geometry.shape:
            apart = corner_distance(found.geometry, truth.geometry) / min(truth.geometry.spacing)
            if apart > GRID_TOLERANCE:
                raise DataError(
                    f"{case}: {prediction_file} and {mask_file} lie {apart:.3g} voxels apart at a corner; expected one "
                    f"grid, within {GRID_TOLERANCE:g}. Resample the prediction onto the reference's grid."
                )
        spacing = truth.geometry.spacing
        rows.append(volume_row(case, found.array, truth.array, labels=labels, spacing=spacing, tolerance=tolerance))
        reporter.advance(0, dice=rows[-1]["dice"])
    return rows, summarize(rows)
