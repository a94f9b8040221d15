"""Fisher's z of correlations, and the ways to bring connections to one scale."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.preprocessing import StandardScaler

from medformer.connectome.block_transformer import BlockTransformer, Matrix
from medformer.errors import DataError

# A coefficient of 1 has no finite z; two regions that share their signal count as this.
_LIMIT = 0.999


class FisherZ(BlockTransformer):
    """`arctanh` of every connection, which evens out the sampling variance of correlations (Fisher 1915).

    Coefficients beyond ±0.999 count as ±0.999 (z = ±3.8).

    Args:
        columns: Says how many covariates there are.

    Raises:
        DataError: A value cannot be a correlation.
    """

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        lowest, highest = float(block.min()), float(block.max())
        if not (lowest >= -1.001 and highest <= 1.001):
            raise DataError(
                f"Fisher's z got values between {lowest:g} and {highest:g}; expected correlations in [-1, 1]. Switch "
                "it off for measures that are no correlations, and for features that are Fisher-transformed already."
            )
        clipped: Matrix = block.clip(-_LIMIT, _LIMIT)
        return np.arctanh(clipped, out=clipped)


class SubjectScale(BlockTransformer):
    """Standardizes every row of a block over its connections: the input of METAFormer (Mahler et al., MLCN 2023).

    Nothing is learned. A row whose connections are all equal becomes zeros.

    Args:
        columns: Says how many covariates there are.
    """

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        scaled = block - block.mean(axis=1, keepdims=True)
        deviation = scaled.std(axis=1, keepdims=True)
        # Rounding leaves a little of a constant row.
        flat = deviation <= 1e-12 * abs(block).max(axis=1, keepdims=True)
        scaled[flat[:, 0]] = 0.0
        deviation[flat] = 1.0
        scaled /= deviation
        return scaled


class Deviation(SubjectScale):
    """Standardizes every subject, takes off the mean over training subjects, and divides by one number.

    Unlike `FeatureScale` it leaves connections that vary much between subjects larger than those that vary little,
    which are the noisier ones.

    Args:
        columns: Says how many covariates there are.

    Attributes:
        mean_: Of each connection, shape (d,).
        scale_: Root mean square of what is left; 1 where nothing is.
    """

    mean_: Matrix
    scale_: float

    def _learn(self, block: Matrix, covariates: Matrix, y: Any) -> None:
        standard = super()._apply(block, covariates)
        self.mean_ = standard.mean(axis=0)
        self.scale_ = float(((standard - self.mean_) ** 2).mean()) ** 0.5 or 1.0

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        return (super()._apply(block, covariates) - self.mean_) / self.scale_


class FeatureScale(BlockTransformer):
    """Scikit-learn's `StandardScaler` on the block alone.

    Args:
        columns: Says how many covariates there are.

    Attributes:
        scaler_: The fitted scaler.
    """

    learned_parts: ClassVar[tuple[type, ...]] = (StandardScaler,)
    scaler_: StandardScaler

    def _learn(self, block: Matrix, covariates: Matrix, y: Any) -> None:
        self.scaler_ = StandardScaler().fit(block)

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        scaled: Matrix = self.scaler_.transform(block)
        return scaled
