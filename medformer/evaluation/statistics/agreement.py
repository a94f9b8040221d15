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
from scipy.special import ndtri

from medformer.evaluation.statistics.bootstrap import FEWEST_GROUPS, Interval, interval_of, support
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap, number_groups

COVERAGE = 0.95
"""Share of the differences that the limits of agreement are to hold."""

WIDTH = float(ndtri((1 + COVERAGE) / 2))
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
    bootstrap: Bootstrap = DEFAULT,
) -> dict[str, Any]:
    """Compare predicted with reference volumes.

    Args:
        prediction: Volumes, shape (n,), in ml; a case with NaN in either is left out.
        truth: Of the reference, shape (n,).
        groups: The patient of each case; whole groups are drawn for the intervals.
        bootstrap: Level and draws of the intervals.

    Returns:
        `n` cases that were compared, `sd` of their differences (ml), and `bias`, `lower` and `upper` limit (ml), each
        with `value`, `low` and `high`. A single case has a bias and no limits; intervals need two groups.

    Raises:
        ValueError: Lengths differ.
    """
    if not len(prediction) == len(truth) == len(groups):
        raise ValueError(f"{len(prediction)} predictions, {len(truth)} references and {len(groups)} groups")
    compared = np.flatnonzero((np.maximum(prediction, truth) > 0) & np.isfinite(prediction) & np.isfinite(truth))
    difference = (prediction - truth)[compared]
    member = number_groups([groups[index] for index in compared])
    nan = float("nan")
    bias = float(difference.mean()) if len(compared) else nan
    sd = float(difference.std(ddof=1)) if len(compared) > 1 else nan
    values = {"bias": bias, "lower": bias - WIDTH * sd, "upper": bias + WIDTH * sd}
    # Resampled around 0 and moved, so that nothing is lost where the bias is much larger than the spread.
    ends = _intervals(difference - bias, member, bootstrap)
    return {
        "n": len(compared),
        "sd": sd,
        **{
            name: {"value": value, **end.to_json(), "low": bias + end.low, "high": bias + end.high}
            for (name, value), end in zip(values.items(), ends, strict=True)
        },
    }


def relative_error(prediction: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predicted minus reference volume over the reference volume; NaN where the reference has none."""
    return np.divide(prediction - truth, truth, out=np.full(len(truth), np.nan), where=truth > 0)


def _intervals(difference: NDArray[np.float64], member: NDArray[np.intp], bootstrap: Bootstrap) -> list[Interval]:
    """Intervals of the bias and of the lower and upper limit."""
    found = support(member)
    if found.groups < FEWEST_GROUPS:
        return [interval_of(np.empty(0), found, bootstrap)] * 3
    sums = [np.bincount(member, weights=weights) for weights in (np.ones_like(difference), difference, difference**2)]
    count, total, squares = bootstrap.sums(np.stack(sums))
    mean = total / count
    # A resample that holds one case alone has no standard deviation.
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(np.maximum(squares - count * mean**2, 0.0) / (count - 1))
    return [interval_of(replicates, found, bootstrap) for replicates in (mean, mean - WIDTH * sd, mean + WIDTH * sd)]
