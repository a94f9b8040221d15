"""The t-test for scores of cross-validation folds, whose training sets overlap, and many tests at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

# Differences that are this close are one number with different rounding.
_SAME = 1e-12


class FoldTest(NamedTuple):
    """Result of `corrected_resampled_ttest`.

    Attributes:
        mean: Mean difference over folds; NaN without any.
        low: Lower end of its interval; NaN with a single fold, and where all folds differ equally.
        high: Upper end; NaN likewise.
        t: Statistic; NaN likewise, and 0 where nothing differs.
        df: Degrees of freedom, folds less one.
        p: Two-sided; NaN likewise, and 1 where nothing differs.
        reason: Why there is no interval; empty where there is one, or no fold.
    """

    mean: float
    low: float
    high: float
    t: float
    df: int
    p: float
    reason: str = ""


def corrected_resampled_ttest(
    differences: ArrayLike, train_sizes: ArrayLike, test_sizes: ArrayLike, *, level: float = 0.95
) -> FoldTest:
    """Test whether the differences of all folds (of all repeats) are 0 on average.

    Folds share training cases, so their variance over k is too small; it is multiplied by 1/k + n_test/n_train
    instead (Nadeau and Bengio, Machine Learning 2003; for repeated cross-validation Bouckaert and Frank, PAKDD 2004).
    Folds of unequal size enter with their mean ratio. NaN differences, of folds where a metric is undefined, are
    left out with their sizes.

    Args:
        differences: Second model minus first, one per fold, shape (k,).
        train_sizes: Training cases of each fold, shape (k,).
        test_sizes: Test cases of each fold, shape (k,).
        level: Coverage of the interval, between 0 and 1.

    Returns:
        Differences that are all the same leave no variance and so no interval; where all are 0, p is 1.

    Raises:
        ValueError: Lengths differ, a size is not positive, or `level` is out of range.
    """
    d = np.asarray(differences, np.float64)
    train, test = np.asarray(train_sizes, np.float64), np.asarray(test_sizes, np.float64)
    if not d.shape == train.shape == test.shape == (d.size,):
        raise ValueError(f"differences {d.shape}, train_sizes {train.shape} and test_sizes {test.shape} must match")
    if not (train > 0).all() or not (test > 0).all() or not 0.0 < level < 1.0:
        raise ValueError(f"sizes must be positive and level in (0, 1), got {train}, {test} and {level}")
    known = ~np.isnan(d)
    d, ratio = d[known], test[known] / train[known]
    folds, nan = d.size, float("nan")
    if not folds:
        return FoldTest(nan, nan, nan, nan, 0, nan)
    mean = float(d.mean())
    if not d.any():
        return FoldTest(0.0, nan, nan, 0.0, folds - 1, 1.0, "no fold differs")
    if folds < 2:
        return FoldTest(mean, nan, nan, nan, 0, nan, "a single fold")
    if np.ptp(d) <= _SAME:
        return FoldTest(mean, nan, nan, nan, folds - 1, nan, "all folds differ equally")
    error = math.sqrt(float(d.var(ddof=1)) * (1 / folds + float(ratio.mean())))
    statistic = mean / error
    reach = float(stdtrit(folds - 1, (1 + level) / 2)) * error
    p = float(2 * stdtr(folds - 1, -abs(statistic)))
    return FoldTest(mean, mean - reach, mean + reach, statistic, folds - 1, p)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values by Holm's step-down method (Scandinavian Journal of Statistics 1979).

    Rejecting what is at most alpha keeps the chance of any false rejection at alpha, however the tests depend on each
    other. NaN, a test that could not be made, stays NaN and does not count as a test.

    Args:
        p_values: Shape (k,).

    Returns:
        Adjusted p-values in the same order, shape (k,), at most 1.

    Raises:
        ValueError: A p-value lies outside [0, 1].
    """
    given = np.asarray(p_values, np.float64).ravel()
    known = given[~np.isnan(given)]
    if ((known < 0) | (known > 1)).any():
        raise ValueError(f"p-values must be in [0, 1], got {given.tolist()}")
    order = np.argsort(known, kind="stable")
    stepped = np.maximum.accumulate(known[order] * np.arange(known.size, 0, -1))
    adjusted = np.empty_like(known)
    adjusted[order] = np.minimum(stepped, 1.0)
    result = np.full(given.shape, np.nan)
    result[~np.isnan(given)] = adjusted
    return result
