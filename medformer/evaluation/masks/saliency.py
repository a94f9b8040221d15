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
from medformer.evaluation.masks.map_measures import (
    REACH,
    alignment_curve,
    mean_absolute_error,
    structure_measure,
    weighted_f_measure,
)
from medformer.evaluation.masks.map_parts import cut


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
    check_map(prediction, case)
    parts = cut(prediction, truth, margin=REACH)
    overlap = _from_each_level(parts.inside)
    marked = overlap + _from_each_level(parts.outside)
    foreground = int(np.count_nonzero(parts.truth))
    dice, iou = _overlap(marked, overlap, foreground)
    return MapScores(
        mean_dice=float(dice.mean()),
        mean_iou=float(iou.mean()),
        weighted_f=weighted_f_measure(parts.scores, parts.truth),
        s_measure=structure_measure(parts.quadrants),
        mae=mean_absolute_error(parts.quadrants),
        e_curve=alignment_curve(marked, overlap, foreground, truth.size),
    )


def _from_each_level(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels at each level or above."""
    return histogram[::-1].cumsum()[::-1]


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


def _size(array: NDArray[np.generic]) -> str:
    return " x ".join(str(length) for length in array.shape)
