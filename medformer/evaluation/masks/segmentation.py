"""One segmented image or volume as one row of numbers, with all that a summary needs: the table is the only source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation.masks.lesions import count_lesions
from medformer.evaluation.masks.map_parts import LEVELS
from medformer.evaluation.masks.overlap import Counts, EmptyPolicy, count
from medformer.evaluation.masks.saliency import check_map, check_pair, score_map
from medformer.evaluation.masks.surface import TOLERANCES, Unit, check_spacing, surface_scores

# Upper ends of the strata as fractions of the image area; a lesion exactly on a cut belongs to the larger one.
SMALL_BELOW = 0.05
MEDIUM_BELOW = 0.15

_MM3_PER_ML = 1000.0

SIZES: dict[str, str] = {
    "none": "no foreground",
    "small": f"foreground below {SMALL_BELOW:.0%} of the image",
    "medium": f"{SMALL_BELOW:.0%} to below {MEDIUM_BELOW:.0%} of the image",
    "large": f"{MEDIUM_BELOW:.0%} of the image or more",
}


def case_row(
    case: str,
    prediction: NDArray[np.generic],
    truth: NDArray[np.bool_],
    *,
    threshold: float = 0.5,
    empty: EmptyPolicy = "one",
    spacing: Sequence[float] | None = None,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Score one image or volume.

    Args:
        case: The id.
        prediction: Shape (H, W) or (D, H, W): float probabilities in [0, 1], a uint8 map in 0..255, or a boolean mask.
        truth: Boolean mask of the same shape, at the original size of the image.
        threshold: A pixel is foreground where its probability is at least this; a map is not stretched for it.
        empty: What overlap and outlines of two empty masks score.
        spacing: Size of a pixel or voxel along each axis in mm; a volume needs it. Without it, distances are in px.
        tolerance: Of the NSD, in the unit of the distances (`medformer.evaluation.masks.surface.TOLERANCES`).

    Returns:
        One value per column, always in the same order. Columns that end in `_px` count elements, of a volume voxels;
        with a spacing, HD95, NSD and its tolerance end in `_mm` instead. `fp_px` is the number of pixels marked on an
        image without foreground, NaN on others. `e_curve` holds the 256 E-measures at thresholds 0, 1/255, ..., 1, five
        decimals each, joined by semicolons: the highest point of a mean curve cannot be computed from single numbers.

        A volume has `fp_ml` (milliliters) instead of `fp_px`. It has no stratum of size with its fraction and no
        PraNet protocol, which are defined for images alone.

    Raises:
        DataError: The arrays do not fit each other, or hold what is no probability.
        ValueError: The spacing does not fit the axes, or a volume has none.
    """
    check_pair(prediction, truth, case, volumes=True)
    check_map(prediction, case)
    image = truth.ndim == 2
    if not image and spacing is None:
        raise ValueError(
            f"{case} is a volume: give the spacing of its voxels in mm, which its distances are measured in"
        )
    steps = check_spacing(spacing, truth.ndim)
    unit: Unit = "px" if spacing is None else "mm"
    mask = binarize(prediction, threshold, case=case)
    counts = count(mask, truth, case=case)
    tolerance = TOLERANCES[unit] if tolerance is None else float(tolerance)
    outline = surface_scores(mask, truth, spacing=spacing, tolerance=tolerance, empty=empty, case=case)
    lesions = count_lesions(mask, truth, case=case)
    false_alarm = math.nan if counts.truth else float(counts.prediction)
    return {
        "id": case,
        "threshold": float(threshold),
        "empty_policy": empty,
        "pixels": counts.size,
        "truth_px": counts.truth,
        "pred_px": counts.prediction,
        "overlap_px": counts.both,
        **(_size_columns(counts) if image else {}),
        "dice": counts.dice(empty),
        "iou": counts.iou(empty),
        "sensitivity": counts.sensitivity(),
        "precision": counts.precision(),
        f"hd95_{unit}": outline.hd95,
        f"nsd_{unit}": outline.nsd,
        f"nsd_tolerance_{unit}": tolerance,
        "lesions_true": lesions.true,
        "lesions_pred": lesions.predicted,
        "lesions_hit": lesions.hit,
        **({"fp_px": false_alarm} if image else {"fp_ml": false_alarm * float(math.prod(steps)) / _MM3_PER_ML}),
        **(_map_columns(prediction, truth, case) if image else {}),
    }


def binarize(prediction: NDArray[np.generic], threshold: float, *, case: str = "") -> NDArray[np.bool_]:
    """Mark the pixels whose probability is at least `threshold`; the one rule that scores and exported masks share.

    Args:
        prediction: Float probabilities, a uint8 map in 0..255, or a boolean mask, which passes unchanged.
        threshold: In [0, 1].
        case: Named in errors.

    Raises:
        DataError: The map holds NaN or is of another type.
        ValueError: The threshold is outside [0, 1].
    """
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"a threshold must be in [0, 1], got {threshold}")
    if prediction.dtype == np.bool_:
        return np.asarray(prediction, dtype=np.bool_)
    prefix = f"{case}: " if case else ""
    if prediction.dtype == np.uint8:
        return np.asarray(prediction.astype(np.float64) / (LEVELS - 1) >= threshold)
    if prediction.dtype.kind != "f":
        raise DataError(f"{prefix}the map is {prediction.dtype}, expected uint8, bool or float in [0, 1].")
    if bool(np.isnan(prediction).any()):
        raise DataError(f"{prefix}the map holds NaN, expected probabilities in [0, 1].")
    return np.greater_equal(prediction, threshold)


def size_stratum(fraction: float) -> str:
    """Name the stratum of a lesion that covers `fraction` of its image (`SIZES`)."""
    if fraction <= 0.0:
        return "none"
    if fraction < SMALL_BELOW:
        return "small"
    return "medium" if fraction < MEDIUM_BELOW else "large"


def e_curve(row: Mapping[str, Any]) -> NDArray[np.float64]:
    """Read the E-curve of a row back, shape (256,).

    Raises:
        DataError: The column is missing or does not hold 256 numbers.
    """
    text = str(row.get("e_curve", ""))
    try:
        curve = np.array([float(value) for value in text.split(";")])
    except ValueError:
        curve = np.empty(0)
    if curve.shape != (LEVELS,):
        raise DataError(
            f"{row.get('id', 'a row')}: the e_curve column holds {text[:40]!r}, expected {LEVELS} numbers "
            "joined by semicolons. Score the case again instead of editing the table."
        )
    return curve


def _size_columns(counts: Counts) -> dict[str, Any]:
    fraction = counts.truth / counts.size
    return {"truth_fraction": fraction, "size": size_stratum(fraction)}


def _map_columns(prediction: NDArray[np.generic], truth: NDArray[np.bool_], case: str) -> dict[str, Any]:
    """What scores the map itself, without a threshold."""
    scores = score_map(prediction, truth, case=case)
    return {
        "mean_dice_256": scores.mean_dice,
        "mean_iou_256": scores.mean_iou,
        "weighted_f": scores.weighted_f,
        "s_measure": scores.s_measure,
        "mae": scores.mae,
        "e_curve": ";".join(f"{value:.5f}" for value in scores.e_curve),
    }
