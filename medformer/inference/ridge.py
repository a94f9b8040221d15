"""Ridge regression of labels on connections, with the score of each row by a model that was fitted without it.

Everything is computed from inner products of rows, because there are far fewer rows than connections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.columns import Matrix

PENALTY = 1.0
"""Where training rows have a mean squared length of 1; that of the ridge among the baselines."""


@dataclass(frozen=True)
class RidgeModel:
    """A fitted ridge regression.

    Attributes:
        weights: Of the connections, (d,).
        intercept: Is not penalized.
        left_out: Of each training row, the score by a model that is fitted without it, (n,).
    """

    weights: Matrix
    intercept: float
    left_out: Matrix


def fit_ridge(rows: NDArray[np.floating], targets: Matrix, *, penalty: float = PENALTY) -> RidgeModel:
    """Fit a ridge regression in closed form.

    Leaving out one row needs no second fit (Allen, Technometrics 1974: the predicted residual is the residual over one
    minus the leverage).

    Args:
        rows: Connections, (n, d); n at least 2.
        targets: Numbers to predict, (n,).
        penalty: Above 0.
    """
    rows = np.asarray(rows, np.float64)
    center = rows.mean(axis=0)
    rows = rows - center
    products = rows @ rows.T
    # Connections without any variation count as they are.
    square = float(np.trace(products)) / len(targets) or 1.0
    inverse = np.linalg.inv(products / square + penalty * np.eye(len(targets)))
    # The intercept has no penalty; it is taken out of the system, and the weights of the rows then add up to zero.
    ones = inverse.sum(axis=1)
    inverse -= np.outer(ones, ones) / ones.sum()
    dual = inverse @ targets
    weights = dual @ rows / square
    return RidgeModel(weights, float(targets.mean() - weights @ center), targets - dual / np.diag(inverse))
