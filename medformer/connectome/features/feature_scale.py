"""Each connection brought to mean 0 and deviation 1 over the training subjects."""

from __future__ import annotations

from typing import Any

from sklearn.preprocessing import StandardScaler

from medformer.connectome.columns import Columns
from medformer.connectome.features.block_transformer import BlockTransformer, Matrix


class FeatureScale(BlockTransformer):
    """Scikit-learn's `StandardScaler` on the block alone.

    Args:
        columns: Says how many covariates there are.

    Attributes:
        scaler_: The fitted scaler.
    """

    scaler_: StandardScaler

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def _learn(self, block: Matrix, covariates: Matrix, y: Any) -> None:
        self.scaler_ = StandardScaler().fit(block)

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        scaled: Matrix = self.scaler_.transform(block)
        return scaled
