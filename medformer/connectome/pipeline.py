"""The steps from one atlas's connections to what a classifier sees, as one unfitted scikit-learn pipeline.

Beside ComBat and the tangent space, which have files of their own, the steps are here: Fisher's z of correlations, the
regression of confounds, and the ways to bring connections to one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from medformer.connectome.columns import BlockTransformer, Columns, Matrix, SelectAtlas, WithoutCovariates
from medformer.connectome.combat import ComBat
from medformer.connectome.measures import MEASURES
from medformer.errors import DataError, UnknownNameError
from medformer.registry import Entry, Registry

# A coefficient of 1 has no finite z; two regions that share their signal count as this.
LIMIT = 0.999


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
        clipped: Matrix = block.clip(-LIMIT, LIMIT)
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


class ConfoundRegression(BlockTransformer):
    """Subtracts from each connection what least squares on the training rows explain by confounds.

    The mean of each connection stays. A site is coded by one indicator per training site. All regressors are centered
    on the training rows, so a test site without training subjects counts as the average site. Labels are never used.

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


SCALES: Registry[type[SubjectScale | FeatureScale | Deviation] | None] = Registry(
    "scale",
    [
        Entry("none", None, "connections as they are"),
        Entry("subject", SubjectScale, "each subject's connections to mean 0 and deviation 1"),
        Entry("deviation", Deviation, "the same, less the mean of the training subjects, over one deviation for all"),
        Entry("feature", FeatureScale, "each connection to mean 0 and deviation 1 over the training subjects"),
    ],
)

HARMONIZATIONS: Registry[type[ComBat] | None] = Registry(
    "harmonization",
    [
        Entry("none", None, "sites as they are"),
        Entry(
            "combat", ComBat, "shift and scale of each site removed", paper="Johnson et al. 2007; Fortin et al. 2017"
        ),
    ],
)

UNSEEN_SITE = ("pooled", "error")


def feature_pipeline(
    columns: Columns,
    atlas: str,
    *,
    fisher: bool = True,
    confounds: Sequence[str] = (),
    harmonize: Literal["none", "combat"] = "none",
    preserve: Sequence[str] = ("age", "sex"),
    unseen_site: Literal["pooled", "error"] = "pooled",
    scale: Literal["none", "subject", "feature", "deviation"] = "none",
) -> Pipeline:
    """Wire the steps of one atlas: select, transform, harmonize, regress, scale, and drop the covariates.

    It maps (n, `columns.width`) to (n, size of the atlas's block), and learns from training rows alone, without labels.
    The tangent space is part of it where that is the measure.

    Args:
        columns: The layout of the features.
        atlas: Which block.
        fisher: Fisher's z, where the measure is a correlation coefficient (correlation, partial); no other has one.
        confounds: Covariates whose linear effect is removed.
        harmonize: A name in `HARMONIZATIONS`.
        preserve: Covariates whose effect ComBat keeps.
        unseen_site: What ComBat does with a site without training subjects: leave it (`"pooled"`), or stop.
        scale: A name in `SCALES`.

    Raises:
        ConfigError: There is no such atlas, covariate or name.
    """
    measure = columns.block(atlas).measure
    if unseen_site not in UNSEEN_SITE:
        raise UnknownNameError("policy for unseen sites", unseen_site, UNSEEN_SITE)
    steps: list[tuple[str, Any]] = [("atlas", SelectAtlas(columns, atlas))]
    if measure == "tangent":
        from medformer.connectome.tangent import TangentSpace

        steps.append(("tangent", TangentSpace(columns)))
    elif fisher and MEASURES[measure].part.coefficient:
        steps.append(("fisher", FisherZ(columns)))
    if HARMONIZATIONS[harmonize].part:
        for name in ("site", *preserve):
            columns.covariate(name)
        steps.append(("combat", ComBat(columns, tuple(preserve), unseen_site)))
    if confounds:
        for name in confounds:
            columns.covariate(name)
        steps.append(("confounds", ConfoundRegression(columns, tuple(confounds))))
    scaler = SCALES[scale].part
    if scaler:
        steps.append(("scale", scaler(columns)))
    steps.append(("block", WithoutCovariates(columns)))
    return Pipeline(steps)
