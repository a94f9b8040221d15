"""A covariance that is known, in the place of one that nilearn would estimate from a series."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator


class GivenCovariance(BaseEstimator):
    """Takes a covariance (R, R) where nilearn's `ConnectivityMeasure` would take a series (T, R).

    `fit` returns a new object: nilearn keeps the estimator and fits it again to the subjects that it transforms, and a
    fitted tangent space must not remember a subject.

    Attributes:
        covariance_: What was given.
    """

    covariance_: NDArray[np.float64]

    def fit(self, X: NDArray[np.float64], y: Any = None) -> Self:
        given = type(self)()
        given.covariance_ = X
        return given
