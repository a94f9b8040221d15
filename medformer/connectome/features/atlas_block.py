"""The first and the last step of a pipeline: one atlas out of several, and the block without covariates."""

from __future__ import annotations

from medformer.connectome.columns import Columns
from medformer.connectome.features.block_transformer import BlockTransformer, Matrix
from medformer.errors import DataError


class AtlasBlock(BlockTransformer):
    """Keeps the columns of one atlas, and the covariates.

    Args:
        columns: The layout of the whole matrix.
        atlas: Which atlas.
    """

    def __init__(self, columns: Columns, atlas: str) -> None:
        self.columns = columns
        self.atlas = atlas

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        if block.shape[1] != self.columns.edges:
            raise DataError(
                f"Got {block.shape[1]} columns of connections; expected {self.columns.edges}, those of "
                f"{', '.join(self.columns.atlases)} side by side."
            )
        return block[:, self.columns.slice(self.atlas)]


class WithoutCovariates(BlockTransformer):
    """Drops the covariates: a classifier after it sees connections alone.

    Args:
        columns: Says how many covariates there are.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def transform(self, X: Matrix) -> Matrix:
        return self._split(self._like_fitted(X))[0]
