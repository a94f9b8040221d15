"""Lesions found, missed and falsely detected: counted by connected components, not by pixels.

A lesion is a connected component of a mask; elements that touch at an edge, face or corner belong together (8
neighbors in 2-D, 26 in 3-D). Components below 10 px (in volumes: below 3 voxels) are ignored in both masks: the
reference masks of CVC-ClinicDB hold 19 specks of 1 to 6 px that were drawn by accident, and no lesion below 100 px.

A predicted and a reference lesion can form a pair when their IoU is at least 0.1: touching is not enough, a rough
outline is. Each lesion is in at most one pair, and pairs are chosen so that there are as many as possible; their number
does not depend on any order. So a lesion that was marked in two pieces is one hit and one false alarm, and one mark
over two lesions is one hit and one miss.

Over cases, lesions are summed before precision, recall and F1 are taken: a case with five lesions weighs five times
as much as a case with one, and a false alarm on a case without a lesion counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.evaluation.masks.overlap import count, union_box
from medformer.evaluation.statistics.bootstrap import ratio_interval
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap, number_groups

MIN_IOU = 0.1

# By number of axes; with any other number of axes, every component counts.
MIN_SIZES: dict[int, int] = {2: 10, 3: 3}

RULE = (
    f"a lesion is a connected component of at least {MIN_SIZES[2]} px (8 neighbors), in volumes {MIN_SIZES[3]} voxels "
    f"(26 neighbors); it is found when a predicted one reaches an IoU of {MIN_IOU} with it, each counting for one at "
    "most. Precision, recall and F1 are taken from sums over cases"
)


class Lesions(NamedTuple):
    """Lesions of one case.

    Attributes:
        true: In the reference.
        predicted: In the prediction.
        hit: Pairs of the two.
    """

    true: int
    predicted: int
    hit: int


def count_lesions(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    min_iou: float = MIN_IOU,
    min_size: int | None = None,
    case: str = "",
) -> Lesions:
    """Count the lesions of two masks, and how many of them match.

    Args:
        prediction: Boolean mask of any number of axes.
        truth: Same shape.
        min_iou: A pair must reach it; 0 takes any overlap.
        min_size: Elements of the smallest lesion; `MIN_SIZES` unless given.
        case: Named in errors.

    Raises:
        DataError: The masks are no boolean arrays of one shape.
        ValueError: `min_iou` is outside [0, 1].
    """
    # Here, since predicting scores nothing and these take a while to import.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not 0.0 <= min_iou <= 1.0:
        raise ValueError(f"min_iou must be in [0, 1], got {min_iou}")
    count(prediction, truth, case=case)
    least = MIN_SIZES.get(truth.ndim, 1) if min_size is None else min_size
    box = union_box(prediction, truth)
    touching = np.ones((3,) * truth.ndim, bool)
    predicted, true = (ndimage.label(mask[box], structure=touching)[0] for mask in (prediction, truth))
    area_predicted, area_true = np.bincount(predicted.ravel()), np.bincount(true.ravel())
    shared = (predicted > 0) & (true > 0)
    # One number per pair of labels, since sorting numbers is quicker than sorting pairs.
    base = len(area_predicted)
    codes, overlap = np.unique(true[shared].astype(np.int64) * base + predicted[shared], return_counts=True)
    first, second = np.divmod(codes, base)
    large = (area_true[first] >= least) & (area_predicted[second] >= least)
    fit = large & (overlap / (area_true[first] + area_predicted[second] - overlap) >= min_iou)
    graph = csr_array((np.ones(int(fit.sum()), np.int8), (first[fit], second[fit])), shape=(len(area_true), base))
    return Lesions(
        true=int((area_true[1:] >= least).sum()),
        predicted=int((area_predicted[1:] >= least).sum()),
        hit=int((maximum_bipartite_matching(graph) >= 0).sum()),
    )


def detection(
    counts: NDArray[np.float64], groups: Sequence[Hashable], bootstrap: Bootstrap = DEFAULT
) -> dict[str, Any]:
    """Lesion-wise precision, recall and F1 over cases, from their sums.

    Args:
        counts: Lesions in the reference, in the prediction, and pairs of the two, of each case: shape (3, n). A case
            with NaN is left out.
        groups: The patient or sequence of each case; whole groups are drawn for the interval.
        bootstrap: Level and draws of the interval for F1.

    Returns:
        `true`, `predicted`, `hit`, `precision`, `recall`, `f1`, and the interval for F1 (`Interval.to_json`). A ratio
        without a denominator is NaN.
    """
    known = np.flatnonzero(~np.isnan(counts).any(axis=0))
    true, predicted, hit = counts[:, known]
    member = number_groups([groups[index] for index in known])
    found = 2 * np.bincount(member, weights=hit)
    whole = np.bincount(member, weights=true + predicted)
    interval = ratio_interval(found[whole > 0], whole[whole > 0], bootstrap)
    totals = Lesions(*(int(part.sum()) for part in (true, predicted, hit)))
    return {
        **totals._asdict(),
        "precision": _ratio(totals.hit, totals.predicted),
        "recall": _ratio(totals.hit, totals.true),
        "f1": _ratio(2 * totals.hit, totals.true + totals.predicted),
        **interval.to_json(),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
