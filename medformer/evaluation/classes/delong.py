"""DeLong's test of two AUCs on the same cases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from medformer.evaluation.classes.classification import check_scored, need_both
from medformer.evaluation.statistics.ranks import midranks

_NAN = float("nan")


class AucTest(NamedTuple):
    """Two AUCs; `difference` is the second minus the first, `p` is two-sided, and `reason` says why ends are NaN."""

    auc_a: float
    auc_b: float
    difference: float
    low: float
    high: float
    p: float
    reason: str = ""


def delong_test(label: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, level: float = 0.95) -> AucTest:
    """Test whether two scores of the same cases have the same AUC (DeLong et al., Biometrics 1988).

    The variance comes from midranks as in Sun and Xu (IEEE Signal Process. Lett. 2014): n log n instead of one
    comparison per pair. It takes the cases for independent; where patients have several, use
    `paired_classification_tests`. Against a constant score, whose AUC is 0.5 without a variance, the interval is that
    of a single AUC less 0.5.

    Args:
        label: 0 or 1, shape (n,).
        score_a: First model's probability of 1, shape (n,).
        score_b: Second model's, shape (n,).
        level: Coverage of the difference's interval, between 0 and 1.

    Returns:
        Scores that rank all pairs alike give a difference of 0 with p = 1 and without an interval. Interval and p are
        NaN when the AUCs differ but the cases show no spread of the difference, or a class has fewer than two cases.

    Raises:
        DataError: As `check_scored`, or only one class is there.
        ValueError: `level` is out of range, or lengths differ.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    (y, a, _), (_, b, _) = check_scored(label, score_a), check_scored(label, score_b)
    need_both(y, "A comparison of AUCs")
    auc_a, positives_a, negatives_a = _placements(y, a)
    auc_b, positives_b, negatives_b = _placements(y, b)
    if np.array_equal(positives_a, positives_b) and np.array_equal(negatives_a, negatives_b):
        return AucTest(auc_a, auc_b, 0.0, _NAN, _NAN, 1.0, "all pairs are ranked alike")
    difference = auc_b - auc_a
    error = _standard_error(positives_b - positives_a, negatives_b - negatives_a)
    if not error > 0:
        few = min(len(positives_a), len(negatives_a)) < 2
        reason = "fewer than 2 cases of a class" if few else "all cases differ equally"
        return AucTest(auc_a, auc_b, difference, _NAN, _NAN, _NAN, reason)
    reach = float(ndtri((1 + level) / 2)) * error
    p = float(2 * ndtr(-abs(difference) / error))
    return AucTest(auc_a, auc_b, difference, difference - reach, difference + reach, p)


def _placements(
    label: NDArray[np.float64], score: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUC, and per positive (m,) and per negative (n,) the share of the other class it is ranked rightly to.

    A case's midrank among all less its midrank among its own class counts the others it exceeds, ties for half.
    """
    positive, negative = score[label == 1], score[label == 0]
    ranks = midranks(np.concatenate([positive, negative]))
    exceeded = ranks[: len(positive)] - midranks(positive)
    above = len(positive) - (ranks[len(positive) :] - midranks(negative))
    return (
        float(exceeded.sum() / (len(positive) * len(negative))),
        exceeded / len(negative),
        above / len(positive),
    )


def _standard_error(of_positives: NDArray[np.float64], of_negatives: NDArray[np.float64]) -> float:
    if min(len(of_positives), len(of_negatives)) < 2:
        return _NAN
    variance = of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives)
    return float(np.sqrt(variance))
