"""ComBat: the shift and the scale that a site adds to every connection, estimated for all connections together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.columns import BlockTransformer, Columns, Matrix
from medformer.errors import ConfigError, DataError

# Change of a step: of shifts in standard deviations, of variances relative to themselves.
_TOLERANCE = 1e-6
_MOST_STEPS = 1000


class ComBat(BlockTransformer):
    """Parametric empirical-Bayes site harmonization (Johnson et al. 2007; for imaging, Fortin et al. 2017).

    For connection v of subject i at site s, with preserved covariates x::

        y_isv = mean_v + x_i effect_v + deviation_v (shift_sv + scale_sv noise_isv)

    `mean`, `effect` and `deviation` are least squares on the training rows; `shift` and `scale` are posterior
    estimates under priors that a site's connections share (`_site_posterior`). A row becomes
    `mean + x effect + deviation (residual - shift) / scale`, with the residual in units of the deviation.

    A connection that does not vary passes unchanged. Of a site with one training subject only the shift is estimated.

    Args:
        columns: The layout; says where the covariates are.
        preserve: Covariates whose effect stays.
        unseen: What to do with a row from a site without training subjects: `"pooled"` takes the pooled mean and
            deviation for its own, so that it passes unchanged; `"error"` stops.

    Attributes:
        sites_: Training sites, as indices into the names, ascending, shape (s,).
        means_: Shape (d,), at the training rows' average covariates and site shares.
        centers_: Mean of each preserved covariate, shape (p,).
        effects_: Shape (p, d).
        deviations_: Pooled within-site standard deviation, shape (d,); 0 where a connection does not vary.
        shifts_: In units of the deviation, shape (s, d).
        scales_: Standard deviation within a site, in units of the deviation, shape (s, d).
    """

    sites_: NDArray[np.int64]
    means_: Matrix
    centers_: Matrix
    effects_: Matrix
    deviations_: Matrix
    shifts_: Matrix
    scales_: Matrix

    def __init__(
        self,
        columns: Columns,
        preserve: Sequence[str] = ("age", "sex"),
        unseen: Literal["pooled", "error"] = "pooled",
    ) -> None:
        self.columns = columns
        self.preserve = preserve
        self.unseen = unseen

    def _learn(self, block: Matrix, covariates: Matrix, y: Any) -> None:
        if "site" in self.preserve:
            raise ConfigError("ComBat cannot preserve 'site', which it removes; preserve age, sex or mean_fd.")
        sites = self._sites(covariates)
        self.sites_, members, counts = np.unique(sites, return_inverse=True, return_counts=True)
        preserved = self._preserved(covariates)
        self.centers_ = preserved.mean(axis=0)
        regressors = preserved - self.centers_
        indicators = np.eye(len(self.sites_))[members]
        design = np.hstack([indicators, regressors])
        # A regressor that is the same for all has no effect, and does no harm.
        if np.linalg.matrix_rank(design) < len(self.sites_) + np.count_nonzero(np.ptp(regressors, axis=0)):
            raise DataError(
                f"ComBat cannot tell {', '.join(self.preserve)} from "
                f"site on {len(block)} training subjects of {len(self.sites_)} site(s); expected each to vary within "
                "sites, and more subjects than sites and covariates. Preserve less, or merge small sites."
            )
        coefficients = np.linalg.pinv(design) @ block
        self.means_ = counts / len(block) @ coefficients[: len(self.sites_)]
        self.effects_ = coefficients[len(self.sites_) :]
        variances = np.square(block - design @ coefficients).mean(axis=0)
        # Rounding leaves a little of a connection that is constant or wholly explained.
        varies = variances > 1e-20 * np.maximum(np.square(block).max(axis=0), 1e-300)
        self.deviations_ = np.sqrt(np.where(varies, variances, 0.0))
        self._learn_sites(block, regressors @ self.effects_, members, varies)

    def _learn_sites(self, block: Matrix, explained: Matrix, members: NDArray[np.int64], varies: Any) -> None:
        """Estimate shifts and scales from what the mean and the regressors do not explain."""
        self.shifts_ = np.zeros((len(self.sites_), block.shape[1]))
        self.scales_ = np.ones_like(self.shifts_)
        residuals = (block - self.means_ - explained)[:, varies] / self.deviations_[varies]
        for site in range(len(self.sites_)):
            shift, variance = _site_posterior(residuals[members == site])
            self.shifts_[site, varies] = shift
            self.scales_[site, varies] = np.sqrt(variance)

    def _apply(self, block: Matrix, covariates: Matrix) -> Matrix:
        sites = self._sites(covariates)
        known = np.isin(sites, self.sites_)
        if self.unseen == "error" and not known.all():
            strange = sorted({self.columns.sites[site] for site in sites[~known]})
            raise DataError(
                f"ComBat has no training subjects of {', '.join(strange)}; expected only "
                f"{', '.join(self.columns.sites[site] for site in self.sites_)}. Stratify folds by site, or leave "
                "unseen sites uncorrected (unseen site: pooled)."
            )
        harmonized = block.copy()
        # In one product: how many rows a site has must not change the last digit of any.
        expected = self.means_ + (self._preserved(covariates) - self.centers_) @ self.effects_
        for position, site in enumerate(self.sites_):
            rows = sites == site
            # What a connection that does not vary is shifted and scaled by is 0 and 1.
            shift = self.deviations_ * self.shifts_[position]
            harmonized[rows] = expected[rows] + (block[rows] - expected[rows] - shift) / self.scales_[position]
        return harmonized

    def _preserved(self, covariates: Matrix) -> Matrix:
        parts = [self._covariate(covariates, name) for name in self.preserve]
        return np.column_stack(parts) if parts else np.zeros((len(covariates), 0))


def _site_posterior(residuals: Matrix) -> tuple[Matrix, Matrix]:
    """Shrink the mean and variance of each connection towards those of the site's other connections.

    Shifts have a normal prior and variances an inverse gamma one, whose parameters are the moments of the plain
    estimates over all connections (Johnson, Li and Rabinovic, Biostatistics 2007, section 3.2). The two posterior
    estimates depend on each other, so they are updated alternately until they converge.

    Args:
        residuals: One site's standardized residuals, shape (n, d).

    Returns:
        Shift and variance of each connection, both (d,). A single subject shows no variance: it is 1.
    """
    count = len(residuals)
    mean = residuals.mean(axis=0)
    center, spread = mean.mean(), mean.var(ddof=1) if len(mean) > 1 else 0.0
    if count < 2:
        return _shift(count, spread, center, mean, np.ones_like(mean)), np.ones_like(mean)
    plain = residuals.var(axis=0, ddof=1)
    typical, varying = plain.mean(), plain.var(ddof=1) if len(mean) > 1 else 0.0
    if varying <= 1e-12 * typical**2:
        # The prior is a point: no connection's variance differs from that of the others.
        variance = np.full_like(mean, typical)
        return _shift(count, spread, center, mean, variance), variance
    shape = 2.0 + typical**2 / varying
    rate = typical * (shape - 1.0)
    squares = np.square(residuals - mean).sum(axis=0)
    shift, variance = mean, plain
    for _ in range(_MOST_STEPS):
        new_shift = _shift(count, spread, center, mean, variance)
        new_variance = (rate + 0.5 * (squares + count * np.square(mean - new_shift))) / (0.5 * count + shape - 1.0)
        change = max(np.abs(new_shift - shift).max(), np.abs(new_variance / np.maximum(variance, 1e-12) - 1.0).max())
        shift, variance = new_shift, new_variance
        if change < _TOLERANCE:
            break
    return shift, variance


def _shift(count: int, spread: float, center: float, mean: Matrix, variance: Matrix) -> Matrix:
    """Posterior mean of the shift, given the variance (equation 3.1 there)."""
    return (count * spread * mean + variance * center) / (count * spread + variance)
