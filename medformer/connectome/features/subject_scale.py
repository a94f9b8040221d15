"""Each subject's connections brought to mean 0 and deviation 1, which needs no other subject."""

from __future__ import annotations

from medformer.connectome.columns import Columns
from medformer.connectome.features.block_transformer import BlockTransformer, Matrix


class SubjectScale(BlockTransformer):
    """Standardizes every row of a block over its connections: the input of METAFormer (Mahler et al., MLCN 2023).

    Nothing is learned. A row whose connections are all equal becomes zeros.

    Args:
        columns: Says how many covariates there are.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        scaled = block - block.mean(axis=1, keepdims=True)
        deviation = scaled.std(axis=1, keepdims=True)
        # Rounding leaves a little of a constant row.
        flat = deviation <= 1e-12 * abs(block).max(axis=1, keepdims=True)
        scaled[flat[:, 0]] = 0.0
        deviation[flat] = 1.0
        scaled /= deviation
        return scaled
