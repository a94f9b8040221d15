"""One segmented image as one row of numbers: everything a summary needs, so that the table is the only source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation.overlap import EmptyPolicy, count
from medformer.evaluation.saliency import LEVELS, check_pair, score_map

# Upper ends of the strata as fractions of the image area; a lesion exactly on a cut belongs to the larger one.
SMALL_BELOW = 0.05
MEDIUM_BELOW = 0.15

SIZES: dict[str, str] = {
    "none": "no foreground",
    "small": f"foreground below {SMALL_BELOW:.0%} of the image",
    "medium": f"{SMALL_BELOW:.0%} to below {MEDIUM_BELOW:.0%} of the image",
    "large": f"{MEDIUM_BELOW:.0%} of the image or more",
}

# The columns of `case_row` that are averaged, with what they mean.
METRICS: dict[str, str] = {
    "dice": "twice the shared area over the sum of predicted and reference area, where a pixel is predicted when its "
    "probability reaches the threshold",
    "iou": "shared area over the area that either mask covers, at the same threshold",
    "sensitivity": "share of the reference's pixels that were marked; it does not count lesions, and images with an "
    "empty reference are left out",
    "precision": "share of the marked pixels that belong to the reference; images without a marked pixel are left out",
    "mean_dice_256": "PraNet protocol: Dice averaged over 256 thresholds of the map stretched to 0..1, so that no "
    "threshold is chosen",
    "mean_iou_256": "PraNet protocol: IoU averaged over the same thresholds",
    "weighted_f": "PraNet protocol: F-measure (beta 1) of the stretched map that weighs errors by their distance from "
    "the reference (Margolin et al., CVPR 2014)",
    "s_measure": "PraNet protocol: structure measure (alpha 0.5), how alike map and reference are by region and by "
    "object (Fan et al., ICCV 2017)",
    "mae": "PraNet protocol: mean absolute difference of stretched map and reference per pixel, lower is better",
}

COLUMNS: tuple[str, ...] = (
    "id",
    "threshold",
    "empty_policy",
    "pixels",
    "truth_px",
    "pred_px",
    "overlap_px",
    "truth_fraction",
    "size",
    *METRICS,
    "e_curve",
)


def case_row(
    case: str,
    prediction: NDArray[np.generic],
    truth: NDArray[np.bool_],
    *,
    threshold: float = 0.5,
    empty: EmptyPolicy = "one",
) -> dict[str, Any]:
    """Score one image.

    Args:
        case: The id.
        prediction: Shape (H, W): float probabilities in [0, 1], a uint8 map in 0..255, or a boolean mask.
        truth: Boolean mask of the same shape, at the original size of the image.
        threshold: A pixel is foreground where its probability is at least this; a map is not stretched for it.
        empty: What Dice and IoU of two empty masks are.

    Returns:
        A value for each of `COLUMNS`. `e_curve` holds the 256 E-measures at thresholds 0, 1/255, ..., 1, five
        decimals each, joined by semicolons: the highest point of a mean curve cannot be had from single numbers.

    Raises:
        DataError: The arrays do not fit each other, or hold what is no probability.
    """
    check_pair(prediction, truth, case)
    scores = score_map(prediction, truth, case=case)
    counts = count(binarize(prediction, threshold, case=case), truth, case=case)
    fraction = counts.truth / counts.size
    return {
        "id": case,
        "threshold": float(threshold),
        "empty_policy": empty,
        "pixels": counts.size,
        "truth_px": counts.truth,
        "pred_px": counts.prediction,
        "overlap_px": counts.both,
        "truth_fraction": fraction,
        "size": size_stratum(fraction),
        "dice": counts.dice(empty),
        "iou": counts.iou(empty),
        "sensitivity": counts.sensitivity(),
        "precision": counts.precision(),
        "mean_dice_256": scores.mean_dice,
        "mean_iou_256": scores.mean_iou,
        "weighted_f": scores.weighted_f,
        "s_measure": scores.s_measure,
        "mae": scores.mae,
        "e_curve": ";".join(f"{value:.5f}" for value in scores.e_curve),
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
