"""How many cases lie above every threshold, and the areas under the two curves that follow from it.

The areas are scikit-learn's to the last bit, because its sums are taken in its order. It checks its input each time,
which takes fifty times as long as the sums do, and a report needs hundreds of areas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Steps(NamedTuple):
    """What is called positive at each threshold, shape (k,) each, from the highest score to the lowest.

    Attributes:
        threshold: Each distinct score once.
        false: Negative cases with at least that score.
        true: Positive cases with at least that score.
    """

    threshold: NDArray[np.float64]
    false: NDArray[np.float64]
    true: NDArray[np.float64]


def steps(label: NDArray[np.float64], score: NDArray[np.float64]) -> Steps:
    """Count cases above every threshold; tied scores form one step.

    Args:
        label: 0 or 1, shape (n,), n at least 1.
        score: Shape (n,).
    """
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    true = np.cumsum(label[order])[ends]
    return Steps(falling[ends], 1.0 + ends - true, true)


def roc_area(label: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """Area under the ROC curve, by the trapezoidal rule over its corners; both classes must be there."""
    _, false, true = steps(label, score)
    corner = np.ones(len(true), np.bool_)
    corner[1:-1] = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    x = np.append(0.0, false[corner]) / false[-1]
    y = np.append(0.0, true[corner]) / true[-1]
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def average_precision(label: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """Precision at every threshold, weighted by the recall that it adds; a positive case must be there."""
    _, false, true = steps(label, score)
    precision, recall = true / (true + false), true / true[-1]
    return float(max(0.0, -(np.diff(np.append(recall[::-1], 0.0)) * precision[::-1]).sum()))
