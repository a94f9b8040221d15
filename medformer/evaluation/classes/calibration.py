"""Whether a score of 0.7 means 7 in 10: recalibration slope and intercept, and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from medformer.evaluation.metrics import BINS, NEAREST

_ITERATIONS = 100
_CONVERGED = 1e-9


class Recalibration(NamedTuple):
    """Logistic recalibration of scores, shape (r,) for r resamples.

    Attributes:
        slope: 1 is right; below 1 the scores are too extreme, above 1 too cautious.
        intercept: 0 is right; above 0 the scores are too low on the whole, below 0 too high.
    """

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationBins:
    """A reliability diagram; shape (bins,), except for the edges.

    Attributes:
        edges: Of the bins, shape (bins + 1,).
        score: Mean score; NaN in an empty bin.
        observed: Share of positives; NaN in an empty bin.
        count: Cases.
    """

    edges: NDArray[np.float64]
    score: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.intp]


def recalibrate(
    label: NDArray[np.float64], score: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> Recalibration:
    """Fit how the log odds of being positive depend on the logit of the score (Cox, Biometrika 1958).

    The slope is b of logit P(positive) = a + b logit(score), by unpenalized maximum likelihood. The intercept is
    calibration in the large: a of logit P(positive) = a + logit(score), where the slope is held at 1.

    Args:
        label: 0 or 1, shape (n,).
        score: Probability of 1, shape (n,).
        weights: How often each case counts in each of r resamples, shape (r, n). Without them, one fit of all cases.

    Returns:
        Both. NaN where no finite estimate exists: with one class only (both), or when the score separates the classes
        without overlap or does not vary (slope).
    """
    x = logit(np.clip(score, NEAREST, 1 - NEAREST))
    # A scaled logit keeps the two parameters comparable, and the fit well conditioned.
    center, scale = float(x.mean()), float(x.std()) or 1.0
    constant = np.ones((1, len(x)))
    line = np.stack([constant[0], (x - center) / scale])
    whole = np.ones((1, len(x)))
    begin_in_the_large = _fits(constant, x, label, whole, _both(label, whole))
    begin_line = _fits(line, np.zeros_like(x), label, whole, _overlapping(x, label, whole))
    if weights is None:
        return Recalibration(begin_line[:, 1] / scale, begin_in_the_large[:, 0])
    in_the_large = _fits(constant, x, label, weights, _both(label, weights), begin_in_the_large)
    lines = _fits(line, np.zeros_like(x), label, weights, _overlapping(x, label, weights), begin_line)
    return Recalibration(lines[:, 1] / scale, in_the_large[:, 0])


def calibration_bins(label: NDArray[np.float64], score: NDArray[np.float64], bins: int = BINS) -> CalibrationBins:
    """Mean score and share of positives in equally wide bins of the score.

    Args:
        label: 0 or 1, shape (n,).
        score: Probability of 1, shape (n,).
        bins: Their number.
    """
    place = bin_of(score, bins)
    count = np.bincount(place, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return CalibrationBins(
        edges=np.linspace(0.0, 1.0, bins + 1),
        score=np.bincount(place, weights=score, minlength=bins) / filled,
        observed=np.bincount(place, weights=label, minlength=bins) / filled,
        count=count,
    )


def expected_calibration_error(label: NDArray[np.float64], score: NDArray[np.float64], bins: int = BINS) -> float:
    """Mean over cases of how far their bin's mean score lies from its share of positives (Naeini et al., AAAI 2015)."""
    gap = np.bincount(bin_of(score, bins), weights=score - label, minlength=bins)
    return float(np.abs(gap).sum() / len(score))


def bin_of(score: NDArray[np.float64], bins: int = BINS) -> NDArray[np.intp]:
    """Return the bin of each score, shape (n,)."""
    return np.minimum((np.asarray(score) * bins).astype(np.intp), bins - 1)


def _both(label: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which resamples hold both classes, shape (r,)."""
    present = weights > 0
    return np.logical_and(present[:, label == 1].any(axis=1), present[:, label == 0].any(axis=1))


def _overlapping(x: NDArray[np.float64], label: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell where the classes' ranges of x overlap: only there a slope is finite (Albert and Anderson 1984)."""
    lowest: list[NDArray[np.float64]] = []
    highest: list[NDArray[np.float64]] = []
    for kind in (0, 1):
        chosen = label == kind
        present = weights[:, chosen] > 0
        lowest.append(np.min(np.where(present, x[chosen], np.inf), axis=1, initial=np.inf))
        highest.append(np.max(np.where(present, x[chosen], -np.inf), axis=1, initial=-np.inf))
    return (highest[0] > lowest[1]) & (highest[1] > lowest[0])


def _fits(
    design: NDArray[np.float64],
    offset: NDArray[np.float64],
    label: NDArray[np.float64],
    weights: NDArray[np.float64],
    defined: NDArray[np.bool_],
    begin: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Fit logistic regressions of one or two parameters by damped Newton steps, all resamples at once.

    A full step can overshoot where the likelihood is flat. Shortened by log(1 + s) / s, where s is the largest change
    of a case's logit, it always climbs (Sun and Tran-Dinh, Math. Programming 2019), and near the top it is a full one.

    Args:
        design: Parameters by cases, shape (p, n), p at most 2, the last one varying.
        offset: Part of each logit that is not fitted, shape (n,).
        label: 0 or 1, shape (n,).
        weights: Shape (r, n).
        defined: Resamples that have a finite estimate, shape (r,).
        begin: Where to start, shape (1, p).

    Returns:
        Estimates, shape (r, p); NaN where not defined.
    """
    parameters = len(design)
    fitted = np.full((len(weights), parameters), np.nan)
    rows = np.flatnonzero(defined)
    current = np.zeros((len(rows), parameters))
    if begin is not None and not np.isnan(begin).any():
        current += begin
    squares = np.stack([design[i] * design[j] for i in range(parameters) for j in range(i, parameters)])
    ends = design[:, [int(design[-1].argmin()), int(design[-1].argmax())]]
    w = weights[rows]
    for _ in range(_ITERATIONS):
        if not len(rows):
            break
        chance = expit(offset + np.einsum("rp,pn->rn", current, design))
        slope = np.einsum("rn,pn->rp", w * (label - chance), design)
        bend = np.einsum("rn,kn->rk", w * chance * (1 - chance), squares)
        step = _solve(bend, slope)
        reach = np.abs(np.einsum("rp,pe->re", step, ends)).max(axis=1)
        current = current + step * np.where(reach > 0, np.log1p(reach) / np.maximum(reach, 1e-300), 1.0)[:, None]
        done = reach < _CONVERGED
        fitted[rows[done]] = current[done]
        # A likelihood too flat for floating point gives NaN steps, and these stay without an estimate.
        going = ~done & np.isfinite(reach)
        rows, current, w = rows[going], current[going], w[going]
    return fitted


def _solve(bend: NDArray[np.float64], slope: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve the symmetric one- or two-dimensional systems of all resamples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if slope.shape[1] == 1:
            return slope / bend
        determinant = bend[:, 0] * bend[:, 2] - bend[:, 1] ** 2
        first = bend[:, 2] * slope[:, 0] - bend[:, 1] * slope[:, 1]
        second = bend[:, 0] * slope[:, 1] - bend[:, 1] * slope[:, 0]
        return np.stack([first, second], axis=1) / determinant[:, None]
