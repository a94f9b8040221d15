"""Tangent space: covariances as deviations from the training subjects' geometric mean."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from nilearn.connectome import ConnectivityMeasure

from medformer.connectome.columns import BlockTransformer, Matrix
from medformer.connectome.given_covariance import GivenCovariance
from medformer.connectome.measures import to_matrices, to_triangle, triangle_regions
from medformer.errors import DataError


class TangentSpace(BlockTransformer):
    """Projects covariances at their geometric mean (Varoquaux et al., MICCAI 2010), by nilearn.

    With C the geometric mean of the training covariances, a subject's S becomes log(C^-1/2 S C^-1/2). Off-diagonal
    entries are multiplied by √2, so that Euclidean lengths of vectors are those of matrices.

    Args:
        columns: Says how many covariates there are.

    Attributes:
        measure_: nilearn's estimator; `mean_` and `whitening_` are what it learned.
    """

    learned_parts: ClassVar[tuple[type, ...]] = (ConnectivityMeasure, GivenCovariance)
    measure_: ConnectivityMeasure

    def _learn(self, block: Matrix, covariates: Matrix, y: Any) -> None:
        matrices = _positive(block)
        self.measure_ = ConnectivityMeasure(cov_estimator=GivenCovariance(), kind="tangent").fit(matrices)

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        matrices = _positive(block)
        # nilearn refuses a single subject, although its projection depends on no other.
        alone = len(matrices) == 1
        projected = np.asarray(self.measure_.transform(matrices * 2 if alone else matrices))[: len(matrices)]
        upper = to_triangle(projected, diagonal=True)
        rows, columns = np.triu_indices(projected.shape[1])
        upper[:, rows != columns] *= np.sqrt(2.0)
        return upper


def _positive(block: Matrix) -> list[Matrix]:
    """Covariances (R, R) of all rows.

    Raises:
        DataError: One has no logarithm.
    """
    matrices = to_matrices(block, triangle_regions(block.shape[1], diagonal=True), diagonal=True)
    for row, matrix in enumerate(matrices):
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            raise DataError(
                f"The covariance in row {row} is not positive definite; the tangent space needs the measure 'tangent', "
                "whose covariances are shrunk and always are."
            ) from None
    return list(matrices)
