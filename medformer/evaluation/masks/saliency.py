"""PraNet's evaluation protocol for polyp segmentation, step by step.

The numbers of PraNet (Fan et al., MICCAI 2020), which later polyp papers quote, come from a MATLAB toolbox for
salient-object detection that scores 8-bit maps. Its steps:

1. Stretch each map to [0, 1] by its own minimum and maximum (`mapminmax`). A constant map stays as it is.
2. Binarize at 256 thresholds, t = 0, 1/255, ..., 1, with map >= t. Threshold 0 marks everything, so a perfect
   binary map with foreground fraction p scores a mean Dice of (255 + 2p / (1 + p)) / 256, just below 1.
3. Dice and IoU per threshold, 0 where nothing overlaps; averaged over thresholds and images.
4. Weighted F-measure with beta = 1 (Margolin et al., CVPR 2014); S-measure with alpha = 0.5 (Fan et al., ICCV
   2017); mean absolute error, all on the stretched map.
5. E-measure (Fan et al., IJCAI 2018) per threshold: the curve is averaged over images first; max E is the
   highest point of that mean curve, mean E its average.

Dice, IoU and E come from cumulative histograms, with the binarization floor(255 x) >= 255 t; see `map_measures` for the
others.

The protocol has no rule for an image without foreground beyond what its formulas give: Dice, IoU and weighted F
are 0 there, S is 1 minus the mean of the map, E the fraction of unmarked pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation.masks.map_measures import alignment_curve, structure_measure, weighted_f_measure

LEVELS = 256

# A value this close to k / 255, in levels, is an 8-bit value that went through float32.
_GRID_TOLERANCE = 1e-3


class MapScores(NamedTuple):
    """One map against one mask under PraNet's protocol.

    Attributes:
        mean_dice: Mean of Dice over the 256 thresholds.
        mean_iou: Mean of IoU over the 256 thresholds.
        weighted_f: Weighted F-measure.
        s_measure: Structure measure.
        mae: Mean absolute error of the stretched map.
        e_curve: E-measure at threshold k / 255, k = 0..255; float64, shape (256,).
    """

    mean_dice: float
    mean_iou: float
    weighted_f: float
    s_measure: float
    mae: float
    e_curve: NDArray[np.float64]


def score_map(prediction: NDArray[np.generic], truth: NDArray[np.bool_], *, case: str = "") -> MapScores:
    """Score one prediction map.

    Args:
        prediction: Shape (H, W): uint8 in 0..255, float in [0, 1], or a boolean mask.
        truth: Boolean mask of the same shape.
        case: Named in errors.

    Raises:
        DataError: Shapes differ or are not 2-D, the truth is not boolean, or the map holds NaN or leaves [0, 1].
    """
    check_pair(prediction, truth, case)
    stretched = stretch(prediction, case=case)
    marked, overlap = _counts(stretched, truth)
    foreground = int(np.count_nonzero(truth))
    dice, iou = _overlap(marked, overlap, foreground)
    return MapScores(
        mean_dice=float(dice.mean()),
        mean_iou=float(iou.mean()),
        weighted_f=weighted_f_measure(stretched, truth),
        s_measure=structure_measure(stretched, truth),
        mae=float(np.abs(stretched - truth).mean()),
        e_curve=alignment_curve(marked, overlap, foreground, truth.size),
    )


def stretch(prediction: NDArray[np.generic], *, case: str = "") -> NDArray[np.float64]:
    """Stretch a map to [0, 1] by its own minimum and maximum; a constant map stays as it is (step 1).

    A float map whose every value is k / 255 up to rounding is the 8-bit map it was read from, and is scored as that.

    Raises:
        DataError: The map holds NaN or leaves [0, 1].
    """
    unit = _unit(prediction, case)
    low, high = unit.min(), unit.max()
    return (unit - low) / (high - low) if high > low else unit


def overlap_curves(
    stretched: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dice and IoU at threshold k / 255, k = 0..255, each of shape (256,); 0 where nothing overlaps (step 3)."""
    return _overlap(*_counts(stretched, truth), int(np.count_nonzero(truth)))


def _counts(stretched: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels marked at each threshold, and those of them in the mask."""
    level = (stretched * (LEVELS - 1)).astype(np.intp)
    level[truth] += LEVELS
    outside, inside = np.bincount(level.ravel(), minlength=2 * LEVELS).reshape(2, LEVELS)[:, ::-1].cumsum(1)[:, ::-1]
    return outside + inside, inside


def _overlap(
    marked: NDArray[np.int64], overlap: NDArray[np.int64], foreground: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = marked + foreground
    # Both numerators are 0 where the denominator is: 1 only avoids the division.
    return 2 * overlap / np.maximum(total, 1), overlap / np.maximum(total - overlap, 1)


def max_and_mean_e(curves: Iterable[NDArray[np.float64]]) -> tuple[float, float]:
    """Highest point and average of the mean E-curve over images (step 5); NaN without images."""
    stack = [np.asarray(curve, dtype=np.float64) for curve in curves]
    if not stack:
        return float("nan"), float("nan")
    mean = np.mean(stack, axis=0)
    return float(mean.max()), float(mean.mean())


def check_pair(
    prediction: NDArray[np.generic], truth: NDArray[np.bool_], case: str = "", *, volumes: bool = False
) -> None:
    """Refuse arrays that are not one image, or with `volumes` one volume, and its boolean mask.

    Raises:
        DataError: Shapes differ, have another number of axes or hold no pixel; or the truth is not boolean.
    """
    prefix = f"{case}: " if case else ""
    if prediction.shape != truth.shape:
        raise DataError(
            f"{prefix}the prediction has size {_size(prediction)}, the mask {_size(truth)}; they must be equal. "
            "Export predictions at the original size of the image."
        )
    if not (truth.ndim == 2 or (volumes and truth.ndim == 3)) or truth.size == 0:
        expected = "one image (H, W)" + (" or volume (D, H, W)" if volumes else "")
        raise DataError(f"{prefix}the arrays have shape {truth.shape}, expected {expected} with pixels.")
    if truth.dtype != np.bool_:
        raise DataError(f"{prefix}the mask is {truth.dtype}, expected boolean. Threshold it first.")


def check_map(prediction: NDArray[np.generic], case: str = "") -> None:
    """Refuse what is no map of probabilities, 8-bit levels or foreground, of any number of axes.

    Raises:
        DataError: Another type, NaN, or a float outside [0, 1].
    """
    prefix = f"{case}: " if case else ""
    if prediction.dtype in (np.bool_, np.uint8):
        return
    if prediction.dtype.kind != "f":
        raise DataError(f"{prefix}the map is {prediction.dtype}, expected uint8, bool or float in [0, 1].")
    low, high = float(prediction.min()), float(prediction.max())
    # Written so that NaN, which compares false, is refused too.
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"{prefix}the map ranges from {low:g} to {high:g}, expected probabilities in [0, 1]. "
            "Apply the sigmoid to logits; look for NaN in the network's output."
        )


def _unit(prediction: NDArray[np.generic], case: str) -> NDArray[np.float64]:
    check_map(prediction, case)
    unit = prediction.astype(np.float64)
    if prediction.dtype == np.bool_:
        return unit
    if prediction.dtype == np.uint8:
        return unit / (LEVELS - 1)
    level = np.rint(unit * (LEVELS - 1))
    if np.abs(unit * (LEVELS - 1) - level).max() < _GRID_TOLERANCE:
        unit = level / (LEVELS - 1)
    return unit


def _size(array: NDArray[np.generic]) -> str:
    return " x ".join(str(length) for length in array.shape)
