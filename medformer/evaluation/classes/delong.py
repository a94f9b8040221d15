"""DeLong's interval of an AUC and test of two AUCs on the same cases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from medformer.errors import DataError
from medformer.evaluation.classes.classification import check_scored

_NAN = float("nan")


class AucInterval(NamedTuple):
    """An AUC; the ends are NaN where the cases show no spread (see `delong_interval`)."""

    auc: float
    low: float
    high: float


class AucTest(NamedTuple):
    """Two AUCs; `difference` is the second minus the first, and `p` is two-sided."""

    auc_a: float
    auc_b: float
    difference: float
    low: float
    high: float
    p: float


def delong_interval(label: ArrayLike, score: ArrayLike, level: float = 0.95) -> AucInterval:
    """Compute the AUC with its normal interval, cut to [0, 1], as pROC and SAS report it.

    Variance by DeLong et al. (Biometrics 1988), through midranks as in Sun and Xu (IEEE Signal Process. Lett. 2014):
    n log n instead of one comparison per pair. It takes the cases for independent; where patients have several, use
    `classification_intervals`.

    Args:
        label: 0 or 1, shape (n,).
        score: Probability of 1, shape (n,).
        level: Coverage, between 0 and 1.

    Returns:
        NaN ends when a class has fewer than two cases, or the classes are separated completely: the estimated
        variance is 0 then, which says nothing about the true one.

    Raises:
        DataError: As `check_scored`, or only one class is there.
        ValueError: `level` is out of range, or lengths differ.
    """
    _check_level(level)
    y, s = _scored(label, score)
    auc, of_positives, of_negatives = _placements(y, s)
    error = _standard_error(of_positives, of_negatives)
    if not error > 0:
        return AucInterval(auc, _NAN, _NAN)
    reach = float(norm.ppf((1 + level) / 2)) * error
    return AucInterval(auc, max(0.0, auc - reach), min(1.0, auc + reach))


def delong_test(label: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, level: float = 0.95) -> AucTest:
    """Test whether two scores of the same cases have the same AUC (DeLong et al., Biometrics 1988).

    Args:
        label: 0 or 1, shape (n,).
        score_a: First model's probability of 1, shape (n,).
        score_b: Second model's, shape (n,).
        level: Coverage of the difference's interval, between 0 and 1.

    Returns:
        Scores that rank all pairs alike give a difference of 0 with p = 1. Interval and p are NaN when the AUCs differ
        but the cases show no spread of the difference, or a class has fewer than two cases.

    Raises:
        DataError: As `check_scored`, or only one class is there.
        ValueError: `level` is out of range, or lengths differ.
    """
    _check_level(level)
    (y, a), (_, b) = _scored(label, score_a), _scored(label, score_b)
    auc_a, positives_a, negatives_a = _placements(y, a)
    auc_b, positives_b, negatives_b = _placements(y, b)
    if np.array_equal(positives_a, positives_b) and np.array_equal(negatives_a, negatives_b):
        return AucTest(auc_a, auc_b, 0.0, 0.0, 0.0, 1.0)
    difference = auc_b - auc_a
    error = _standard_error(positives_b - positives_a, negatives_b - negatives_a)
    if not error > 0:
        return AucTest(auc_a, auc_b, difference, _NAN, _NAN, _NAN)
    reach = float(norm.ppf((1 + level) / 2)) * error
    p = float(2 * norm.sf(abs(difference) / error))
    return AucTest(auc_a, auc_b, difference, difference - reach, difference + reach, p)


def _placements(
    label: NDArray[np.float64], score: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUC, and per positive (m,) and per negative (n,) the share of the other class it is ranked rightly to.

    A case's midrank among all less its midrank among its own class counts the others it exceeds, ties for half.
    """
    positive, negative = score[label == 1], score[label == 0]
    ranks = rankdata(np.concatenate([positive, negative]))
    exceeded = ranks[: len(positive)] - rankdata(positive)
    above = len(positive) - (ranks[len(positive) :] - rankdata(negative))
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


def _scored(label: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, s, _ = check_scored(label, score)
    if not 0 < y.sum() < len(y):
        raise DataError(
            f"An AUC needs positive and negative cases; all {len(y)} have label {y[0]:g}. "
            "Leave this part of the table out of the comparison."
        )
    return y, s


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
