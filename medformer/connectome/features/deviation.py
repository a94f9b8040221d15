"""Each subject's connections as deviations from the training subjects' mean connectome."""

from __future__ import annotations

from typing import Any

from medformer.connectome.features.block_transformer import Matrix
from medformer.connectome.features.subject_scale import SubjectScale


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
