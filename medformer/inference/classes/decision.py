"""From a classifier's scores to probabilities and decisions, learned on cases that did not train it.

settle_decision(chosen, scores, labels, *, path, scaling=None) -> threshold, and `threshold.json`
prediction_rows(ids, labels, scores, threshold, *, sites=None, covariates=None) -> rows of `predictions.csv`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from medformer.errors import DataError
from medformer.files import write_csv, write_json

VALIDATION_SCORES = "validation.csv"
"""A fold's table of inner validation scores: id, label, score."""

# The flattest sigmoid, per standard deviation of the scores: its order is still the scores' order.
_FLATTEST = 0.01

# Balanced accuracies this close are one with different rounding.
_TIE = 1e-9


class PlattScaling:
    """Turns decision values into probabilities by a rising sigmoid (Platt 1999, with his smoothed targets).

    The sigmoid always rises: on few cases the best fit may fall, which would turn the classifier's order around.

    Attributes:
        slope_: Per unit of the decision value, above 0.
        intercept_: Log odds at a decision value of 0.
    """

    slope_: float
    intercept_: float

    def fit(self, values: NDArray[np.float64], labels: NDArray[np.int64]) -> Self:
        """Learn the sigmoid from decision values and labels in {0, 1}, both of shape (n,).

        Raises:
            DataError: A class is missing.
        """
        positives = _count_both(labels)
        negatives = len(labels) - positives
        target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        center, spread = float(values.mean()), float(values.std()) or 1.0
        standard = (values - center) / spread

        def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            logits = parameters[0] * standard + parameters[1]
            residual = expit(logits) - target
            value = float(np.sum(np.logaddexp(0.0, logits) - target * logits))
            return value, np.array([residual @ standard, residual.sum()])

        found = minimize(
            loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(_FLATTEST, None), (None,) * 2]
        )
        self.slope_ = float(found.x[0]) / spread
        self.intercept_ = float(found.x[1]) - self.slope_ * center
        return self

    @classmethod
    def of(cls, slope: float, intercept: float) -> Self:
        """The sigmoid with these numbers."""
        scaling = cls()
        scaling.slope_, scaling.intercept_ = slope, intercept
        return scaling

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of the positive class, shape (n,)."""
        return np.asarray(expit(self.slope_ * values + self.intercept_))


class DecisionThreshold:
    """Picks the threshold with the highest balanced accuracy, which is the one with the highest Youden index.

    (Youden's J is sensitivity + specificity - 1, twice the balanced accuracy minus 1.) Thresholds lie halfway between
    neighboring scores. Among those that tie, the one nearest 0.5 wins, and the lower of two equally near.

    Attributes:
        threshold_: A case is positive where its score is at least this.
        score_: The balanced accuracy on the cases it was fitted on.
    """

    threshold_: float
    score_: float

    def fit(self, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Self:
        """Learn `threshold_` from scores in [0, 1] and labels in {0, 1}, both of shape (n,).

        Raises:
            DataError: A class is missing.
        """
        positives = _count_both(labels)
        edges = np.unique(np.concatenate([[0.0], scores, [1.0]]))
        tried = (edges[:-1] + edges[1:]) / 2
        order = np.argsort(scores, kind="stable")
        below = np.searchsorted(scores[order], tried, side="left")
        missed = np.concatenate([[0], np.cumsum(labels[order] == 1)])[below]
        sensitivity = 1 - missed / positives
        specificity = (below - missed) / (len(labels) - positives)
        balanced = (sensitivity + specificity) / 2
        best = np.flatnonzero(balanced >= balanced.max() - _TIE)
        chosen = best[np.argmin(np.round(np.abs(tried[best] - 0.5), 9))]
        self.threshold_, self.score_ = float(tried[chosen]), float(balanced[chosen])
        return self


def settle_decision(
    chosen: float | Literal["fit"],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    path: Path,
    scaling: PlattScaling | None = None,
) -> float:
    """Take the threshold that a config names, or learn it, and write down where it is from.

    Args:
        chosen: A number in [0, 1], or `fit`: the one with the highest balanced accuracy.
        scores: Of the inner validation cases, (n,).
        labels: Theirs, 0 or 1.
        path: JSON file to write.
        scaling: How decision values became the scores, for the record.

    Raises:
        DataError: A class is missing.
    """
    content: dict[str, Any] = {"threshold": chosen, "from": "config"}
    if chosen == "fit":
        selector = DecisionThreshold().fit(scores, labels)
        content = {
            "threshold": selector.threshold_,
            "from": f"balanced accuracy over {len(labels)} inner validation cases",
            "validation_balanced_accuracy": selector.score_,
        }
    if scaling is not None:
        content["sigmoid"] = {"slope": scaling.slope_, "intercept": scaling.intercept_}
    write_json(path, content)
    return float(content["threshold"])


def prediction_rows(
    ids: Sequence[str],
    labels: Sequence[int] | NDArray[np.int64],
    scores: NDArray[np.float64],
    threshold: float,
    *,
    sites: Mapping[str, str] | None = None,
    covariates: Mapping[str, Mapping[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Return a fold's predictions as rows of its table, one per test case.

    Args:
        ids: Of the cases.
        labels: Theirs, 1 is positive.
        scores: Probabilities of class 1.
        threshold: A case is positive where its score is at least this.
        sites: Site per id.
        covariates: Further columns by id; the same for every id.
    """
    return [
        {
            "id": name,
            "site": (sites or {}).get(name, ""),
            **(covariates or {}).get(name, {}),
            "label": int(label),
            "score": float(score),
            "threshold": float(threshold),
            "prediction": int(score >= threshold),
        }
        for name, label, score in zip(ids, labels, scores, strict=True)
    ]


def write_validation_scores(
    folder: Path, ids: Sequence[str], labels: Sequence[int] | NDArray[np.int64], scores: NDArray[np.float64]
) -> None:
    """Leave a fold's inner validation scores in its folder: what thresholds and blends are learned from."""
    rows = [
        {"id": name, "label": int(label), "score": float(score)}
        for name, label, score in zip(ids, labels, scores, strict=True)
    ]
    write_csv(folder / VALIDATION_SCORES, rows, ["id", "label", "score"])


def _count_both(labels: NDArray[np.int64]) -> int:
    """Number of positives."""
    positives = int(np.count_nonzero(labels == 1))
    if positives in (0, len(labels)):
        raise DataError(
            f"{len(labels)} validation case(s) hold {positives} positive(s); expected both classes. Hold out a larger "
            "share, stratify by label, or give the threshold as a number."
        )
    return positives
