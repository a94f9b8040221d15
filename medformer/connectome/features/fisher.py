"""Fisher's z of correlation coefficients."""

from __future__ import annotations

import numpy as np

from medformer.connectome.columns import Columns
from medformer.connectome.features.block_transformer import BlockTransformer, Matrix
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

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        lowest, highest = float(block.min()), float(block.max())
        if not (lowest >= -1.001 and highest <= 1.001):
            raise DataError(
                f"Fisher's z got values between {lowest:g} and {highest:g}; expected correlations in [-1, 1]. Switch "
                "it off for measures that are no correlations, and for features that are Fisher-transformed already."
            )
        clipped: Matrix = block.clip(-_LIMIT, _LIMIT)
        return np.arctanh(clipped, out=clipped)
