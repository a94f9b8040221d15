"""Features of few subjects, reduced to as many numbers as there are training subjects."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

Matrix = NDArray[np.float64]

# Directions with a smaller share of the variance are rounding.
_NEGLIGIBLE = 1e-12


class TrainingSpan(TransformerMixin, BaseEstimator):
    """Coordinates of rows in the span of the centered training rows, scaled to a mean squared length of 1.

    The weights of a linear classifier with an L2 penalty and a free intercept lie in that span, so such a classifier
    gives the same scores on these n coordinates as on all d features (the representer theorem), for the cost of one
    matrix of inner products; so does one that is fitted on a part of the rows. The scale makes one strength of the
    penalty mean the same for any atlas and measure. Labels are not used.

    There are always n coordinates; those of directions that the rows do not span are 0.

    Attributes:
        rows_: Centered training rows, shape (n, d).
        center_: Mean of the training rows, shape (d,).
        axes_: Takes inner products with the training rows to coordinates, shape (n, n).
    """

    rows_: Matrix
    center_: Matrix
    axes_: Matrix

    def fit(self, X: Matrix, y: Any = None) -> Self:
        self._learn(X)
        return self

    def fit_transform(self, X: Matrix, y: Any = None) -> Matrix:
        return self._learn(X)

    def transform(self, X: Matrix) -> Matrix:
        check_is_fitted(self)
        products: Matrix = (np.asarray(X, np.float64) - self.center_) @ self.rows_.T
        return products @ self.axes_

    def _learn(self, X: Matrix) -> Matrix:
        """Learn the axes and return the coordinates of the training rows, which come with them."""
        matrix = np.asarray(X, np.float64)
        self.center_ = matrix.mean(axis=0)
        self.rows_ = matrix - self.center_
        values, vectors = np.linalg.eigh(self.rows_ @ self.rows_.T)
        # At least one direction is spanned by none: the rows are centered.
        lengths = np.sqrt(np.where(values > _NEGLIGIBLE * values[-1], values, 0.0))
        scale = np.sqrt(np.square(lengths).mean()) or 1.0
        self.axes_ = vectors * np.divide(1.0, lengths * scale, out=np.zeros_like(lengths), where=lengths > 0)
        coordinates: Matrix = vectors * (lengths / scale)
        return coordinates


class SpanPart(TransformerMixin, BaseEstimator):
    """One of several equally wide parts of a matrix, such as the training spans of atlases side by side.

    Args:
        index: Which part, from 0.
        parts: How many there are.

    Attributes:
        n_features_in_: Columns of all parts.
    """

    n_features_in_: int

    def __init__(self, index: int, parts: int) -> None:
        self.index = index
        self.parts = parts

    def fit(self, X: Matrix, y: Any = None) -> Self:
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Matrix) -> Matrix:
        check_is_fitted(self)
        width = X.shape[1] // self.parts
        return X[:, self.index * width : (self.index + 1) * width]
