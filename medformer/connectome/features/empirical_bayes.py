"""The posterior shift and variance of one site's connections under priors that they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Change of a step: of shifts in standard deviations, of variances relative to themselves.
_TOLERANCE = 1e-6
_MOST_STEPS = 1000

Matrix = NDArray[np.float64]


def site_posterior(residuals: Matrix) -> tuple[Matrix, Matrix]:
    """Shrink the mean and variance of each connection towards those of the site's other connections.

    Shifts have a normal prior and variances an inverse gamma one, whose parameters are the moments of the plain
    estimates over all connections (Johnson, Li and Rabinovic, Biostatistics 2007, section 3.2). The two posterior
    estimates depend on each other and are found by turns.

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
