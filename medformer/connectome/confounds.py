"""Taking the linear effect of age, sex, motion and site out of connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.block_transformer import BlockTransformer, Matrix
from medformer.connectome.columns import Columns


class ConfoundRegression(BlockTransformer):
    """Subtracts from each connection what least squares on the training rows explain by confounds.

    The mean of each connection stays. A site is coded by one indicator per training site. All regressors are centered
    on the training rows, so a test site without training subjects counts as the average site; `unseen` finds these
    rows. Labels are never used.

    Args:
        columns: The layout; says where the covariates are.
        confounds: Names of covariates.

    Attributes:
        sites_: Training sites, as indices into the names; empty unless a site is a confound.
        centers_: Mean of each regressor over the training rows, shape (r,).
        effects_: Change of each connection per unit of a regressor, shape (r, d).
    """

    sites_: NDArray[np.int64]
    centers_: Matrix
    effects_: Matrix

    def __init__(self, columns: Columns, confounds: Sequence[str]) -> None:
        self.columns = columns
        self.confounds = confounds

    def unseen(self, X: Matrix) -> NDArray[np.bool_]:
        """Rows (n,) of a site that is a confound and has no training subject."""
        if "site" not in self.confounds:
            return np.zeros(len(X), np.bool_)
        return ~np.isin(self._sites(self._split(self._checked(X))[1]), self.sites_)

    def _learn(self, block: Matrix, covariates: Matrix, y: Any) -> None:
        by_site = "site" in self.confounds
        self.sites_ = np.unique(self._sites(covariates)) if by_site else np.empty(0, np.int64)
        regressors = self._regressors(covariates)
        self.centers_ = regressors.mean(axis=0)
        centered = regressors - self.centers_
        # The indicators of all sites add up to a constant: the pseudo-inverse takes the shortest solution.
        self.effects_ = np.linalg.pinv(centered) @ (block - block.mean(axis=0))

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        centered = self._regressors(covariates) - self.centers_
        if "site" in self.confounds:
            unseen = ~np.isin(self._sites(covariates), self.sites_)
            centered[np.ix_(unseen, np.arange(len(self.sites_)))] = 0.0
        return block - centered @ self.effects_

    def _regressors(self, covariates: Matrix) -> Matrix:
        """Shape (n, r): an indicator per training site, then the other confounds."""
        parts = [self._covariate(covariates, name)[:, None] for name in self.confounds if name != "site"]
        if "site" in self.confounds:
            parts.insert(0, (self._sites(covariates)[:, None] == self.sites_).astype(np.float64))
        return np.hstack(parts) if parts else np.zeros((len(covariates), 0))
