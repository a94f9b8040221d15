"""Ridge regression of labels on the connections of several atlases, with the score of each row by a model without it.

Everything is computed from inner products of rows, because there are far fewer rows than connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from medformer.connectome.columns import Matrix

PENALTY = 1.0
"""Where training rows have a mean squared length of 1; that of the ridge among the baselines."""


@dataclass(frozen=True)
class RidgeModel:
    """A fitted sum of ridge regressions, one for each atlas.

    Attributes:
        weights: Of the connections of each atlas, (d,).
        intercept: Is not penalized.
        left_out: Of each training row, the score by models that are fitted without it, (n,).
        shares: What the score of each atlas is multiplied by before the scores are added; 0 leaves an atlas out.
    """

    weights: Mapping[str, Matrix]
    intercept: float
    left_out: Matrix
    shares: Mapping[str, float]


def fit_ridge(blocks: Mapping[str, NDArray[np.floating]], targets: Matrix, *, penalty: float = PENALTY) -> RidgeModel:
    """Fit a ridge regression for each atlas, and add their scores as suits rows that were left out best.

    The shares are never negative, which keeps them steady where atlases say nearly the same (Breiman, Stacked
    regressions, Machine Learning 1996). Where no share above 0 lowers the error, all atlases have the same.

    Args:
        blocks: Connections by atlas, (n, d); n at least 2.
        targets: Numbers to predict, (n,).
        penalty: Above 0.
    """
    weights, intercepts, left_out = {}, {}, {}
    for atlas, block in blocks.items():
        rows = np.asarray(block, np.float64)
        center = rows.mean(axis=0)
        rows = rows - center
        products = rows @ rows.T
        # An atlas without any variation counts as it is.
        square = float(np.trace(products)) / len(targets) or 1.0
        dual, left_out[atlas] = solve_ridge(products / square, targets, penalty)
        weights[atlas] = dual @ rows / square
        intercepts[atlas] = float(targets.mean() - weights[atlas] @ center)
    found, _ = nnls(np.stack(list(left_out.values()), axis=1), targets)
    if not found.any():
        found = np.full(len(blocks), 1.0 / len(blocks))
    shares = dict(zip(blocks, map(float, found), strict=True))
    return RidgeModel(
        {atlas: share * weights[atlas] for atlas, share in shares.items()},
        sum(share * intercepts[atlas] for atlas, share in shares.items()),
        np.sum([share * left_out[atlas] for atlas, share in shares.items()], axis=0),
        shares,
    )


def solve_ridge(kernel: Matrix, targets: Matrix, penalty: float) -> tuple[Matrix, Matrix]:
    """Return the weights of the training rows, and the scores of each row by the model without it, both (n,).

    Leaving out one row needs no second fit (Allen, Technometrics 1974: the predicted residual is the residual over one
    minus the leverage).

    Args:
        kernel: Inner products of rows that are centered, (n, n).
        targets: (n,).
        penalty: Above 0.
    """
    inverse = np.linalg.inv(kernel + penalty * np.eye(len(targets)))
    # The intercept has no penalty; it is taken out of the system, and the weights of the rows then add up to zero.
    ones = inverse.sum(axis=1)
    inverse -= np.outer(ones, ones) / ones.sum()
    dual: Matrix = inverse @ targets
    return dual, targets - dual / np.diag(inverse)
