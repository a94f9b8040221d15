"""Scores against labels at every threshold, and the areas below both curves, in numpy alone.

The numbers are scikit-learn's to the last digit. Its functions check and convert their input again and again, which for
a table of some hundred cases takes fifty times as long as the counting, and a report asks for thousands of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def counts_above(label: Floats, score: Floats) -> tuple[Floats, Floats, Floats]:
    """Negatives and positives whose score is at least each threshold, and the thresholds, falling; shape (k,) each.

    Args:
        label: 0 and 1, shape (n,), at least one case.
        score: Shape (n,).
    """
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    positives = np.cumsum(label[order])[last]
    return 1.0 + last - positives, positives, falling[last]


def roc_area(label: Floats, score: Floats) -> float:
    """Area below sensitivity against false-positive rate; both classes are there."""
    negatives, positives, _ = counts_above(label, score)
    if len(negatives) > 2:
        # Corners only: points on a line between their neighbors change the area by rounding.
        corner = (np.diff(negatives, 2) != 0) | (np.diff(positives, 2) != 0)
        kept = np.concatenate([[True], corner, [True]])
        negatives, positives = negatives[kept], positives[kept]
    x = np.append(0.0, negatives) / negatives[-1]
    y = np.append(0.0, positives) / positives[-1]
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2.0).sum())


def precision_and_recall(label: Floats, score: Floats) -> tuple[Floats, Floats]:
    """Precision and recall at every threshold, by falling recall, and the end of both, 1 and 0; a positive is there."""
    negatives, positives, _ = counts_above(label, score)
    precision, recall = positives / (positives + negatives), positives / positives[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)


def average_precision(label: Floats, score: Floats) -> float:
    """Precision at each threshold, weighted by the recall that it adds; a positive is there."""
    precision, recall = precision_and_recall(label, score)
    return max(0.0, float(-(np.diff(recall) * precision[:-1]).sum()))


def f1(label: Floats, prediction: Floats) -> float:
    """Harmonic mean of precision and recall; a positive label or decision is there."""
    return float(2.0 * (label * prediction).sum() / (label.sum() + prediction.sum()))


def matthews(label: Floats, prediction: Floats) -> float:
    """Correlation of labels and decisions (Matthews, 1975); 0 where one of them is constant."""
    right, number = float((label == prediction).sum()), float(len(label))
    truly = np.array([number - label.sum(), label.sum()])
    decided = np.array([number - prediction.sum(), prediction.sum()])
    spread = (number**2 - decided @ decided) * (number**2 - truly @ truly)
    return float((right * number - truly @ decided) / np.sqrt(spread)) if spread else 0.0
