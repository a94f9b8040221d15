"""How well predicted volumes agree with the reference: bias and limits of agreement.

Bland and Altman (Lancet 1986): the differences, predicted minus reference, have a mean (the bias) and a standard
deviation; 95 % of the differences are expected between bias - 1.96 SD and bias + 1.96 SD, the limits of agreement. All
three come with bootstrap intervals over groups: cases of one patient are drawn together.

A case where neither volume is above 0 is left out: two methods that both find nothing agree on no volume.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from medformer.evaluation.statistics.bootstrap import Interval, interval_of
from medformer.evaluation.statistics.resampling import check_options, draw, effective_groups, number_groups

COVERAGE = 0.95
"""Share of the differences that the limits of agreement are to hold."""

WIDTH = float(norm.ppf((1 + COVERAGE) / 2))
"""Of the limits, in standard deviations."""

RULE = (
    "difference: predicted minus reference volume (ml), over rows where either is above 0. bias: its mean. limits of "
    f"agreement: bias minus and plus {WIDTH:.2f} standard deviations, between which {COVERAGE:.0%} of the differences "
    "are expected if they are normally distributed (Bland and Altman, Lancet 1986). relative error: difference over "
    "reference volume, where that is above 0"
)


def agreement(
    prediction: NDArray[np.float64],
    truth: NDArray[np.float64],
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare predicted with reference volumes.

    Args:
        prediction: Volumes, shape (n,), in ml; a case with NaN in either is left out.
        truth: Of the reference, shape (n,).
        groups: The patient of each case; whole groups are drawn for the intervals.
        level: Coverage of the intervals.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        `n` cases that were compared, `sd` of their differences (ml), and `bias`, `lower` and `upper` limit (ml), each
        with `value`, `low` and `high`. A single case has a bias and no limits; intervals need two groups.

    Raises:
        ValueError: Lengths differ, or `level` or `resamples` is out of range.
    """
    if not len(prediction) == len(truth) == len(groups):
        raise ValueError(f"{len(prediction)} predictions, {len(truth)} references and {len(groups)} groups")
    check_options(level, resamples)
    compared = np.flatnonzero((np.maximum(prediction, truth) > 0) & np.isfinite(prediction) & np.isfinite(truth))
    difference = (prediction - truth)[compared]
    member = number_groups([groups[index] for index in compared])
    nan = float("nan")
    bias = float(difference.mean()) if len(compared) else nan
    sd = float(difference.std(ddof=1)) if len(compared) > 1 else nan
    values = {"bias": bias, "lower": bias - WIDTH * sd, "upper": bias + WIDTH * sd}
    if len(compared) < 2 or member.max() < 1:
        spans = dict.fromkeys(values, (nan, nan))
    else:
        drawn = _resample(difference - bias, member, resamples, seed)
        ends = {name: _interval(replicates, member, level) for name, replicates in drawn.items()}
        # Resampled around 0 and moved, so that nothing is lost where the bias is much larger than the spread.
        spans = {name: (bias + end.low, bias + end.high) for name, end in ends.items()}
    return {
        "n": len(compared),
        "sd": sd,
        **{name: {"value": value, "low": spans[name][0], "high": spans[name][1]} for name, value in values.items()},
    }


def relative_error(prediction: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predicted minus reference volume over the reference volume; NaN where the reference has none."""
    return np.divide(prediction - truth, truth, out=np.full(len(truth), np.nan), where=truth > 0)


def _resample(
    difference: NDArray[np.float64], member: NDArray[np.intp], resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Bias and limits of every resample, shape (resamples,) each; NaN where it holds one case alone."""
    sums = [np.bincount(member, weights=weights) for weights in (np.ones_like(difference), difference, difference**2)]
    # einsum adds in a fixed order, which a threaded product may not.
    count, total, squares = np.einsum("rg,kg->kr", draw(int(member.max()) + 1, resamples, seed), np.stack(sums))
    mean = total / count
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(np.maximum(squares - count * mean**2, 0.0) / (count - 1))
    return {"bias": mean, "lower": mean - WIDTH * sd, "upper": mean + WIDTH * sd}


def _interval(replicates: NDArray[np.float64], member: NDArray[np.intp], level: float) -> Interval:
    return interval_of(replicates, effective_groups(member), int(member.max()) + 1, level)
