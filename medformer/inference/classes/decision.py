"""From a classifier's outputs to probabilities and decisions, learned on cases that did not train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from medformer.files import read_json, write_csv
from medformer.inference.threshold import BalancedAccuracyThreshold, count_positives, learn_threshold

VALIDATION_SCORES = "validation.csv"
"""A fold's table of inner validation scores: id, label, score."""

THRESHOLD = "threshold.json"
"""A fold's threshold, where it is from, and the sigmoid if there is one."""

# The flattest sigmoid, per standard deviation of the scores: its order is still the scores' order.
_FLATTEST = 0.01

# Scores are kept this far from 0 and 1, where log odds are infinite.
_LEAST = 1e-6


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
        positives = count_positives(labels)
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

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of the positive class, shape (n,)."""
        return np.asarray(expit(self.slope_ * values + self.intercept_))


@dataclass(frozen=True)
class Decision:
    """What a fold learned from its inner validation part.

    Attributes:
        threshold: A case is positive where its probability is at least this.
        scaling: The sigmoid that makes probabilities; None where outputs are probabilities already.
        log_odds: Whether the sigmoid is one of the outputs' log odds, or of the outputs themselves.
    """

    threshold: float
    scaling: PlattScaling | None = None
    log_odds: bool = True

    def probabilities(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities of class 1 for a classifier's outputs (n,)."""
        return outputs if self.scaling is None else self.scaling.transform(_scaled(outputs, self.log_odds))


def learn_decision(
    folder: Path,
    ids: Sequence[str],
    labels: NDArray[np.int64],
    outputs: NDArray[np.float64],
    *,
    calibrate: bool,
    threshold: float | Literal["fit"],
    log_odds: bool = True,
) -> Decision:
    """Learn sigmoid and threshold, and leave `validation.csv` and `threshold.json` in a fold's folder.

    Args:
        folder: Of the fold.
        ids: Inner validation cases.
        labels: Theirs, 0 or 1, (n,).
        outputs: Theirs by the classifier, (n,): in [0, 1], unless a sigmoid of other decision values is fitted.
        calibrate: Fit a sigmoid.
        threshold: A number in [0, 1], or `fit`: the one with the highest balanced accuracy.
        log_odds: Fit the sigmoid on the outputs' log odds; otherwise on the outputs.

    Raises:
        DataError: A class is missing.
    """
    scaling = PlattScaling().fit(_scaled(outputs, log_odds), labels) if calibrate else None
    scores = Decision(0.5, scaling, log_odds).probabilities(outputs)
    rows = [
        {"id": name, "label": int(label), "score": float(score)}
        for name, label, score in zip(ids, labels, scores, strict=True)
    ]
    write_csv(folder / VALIDATION_SCORES, rows, ["id", "label", "score"])
    about = {} if scaling is None else {"sigmoid": {"slope": scaling.slope_, "intercept": scaling.intercept_}}
    learned = learn_threshold(
        threshold,
        BalancedAccuracyThreshold(),
        scores,
        labels,
        cases=len(labels),
        path=folder / THRESHOLD,
        about=about,
    )
    return Decision(learned, scaling, log_odds)


def read_decision(folder: Path, *, log_odds: bool = True) -> Decision:
    """Read what `learn_decision` left in a fold's folder; `log_odds` as it was given there."""
    content = read_json(folder / THRESHOLD)
    scaling = None
    if "sigmoid" in content:
        scaling = PlattScaling()
        scaling.slope_ = float(content["sigmoid"]["slope"])
        scaling.intercept_ = float(content["sigmoid"]["intercept"])
    return Decision(float(content["threshold"]), scaling, log_odds)


def _scaled(outputs: NDArray[np.float64], log_odds: bool) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(outputs, _LEAST, 1 - _LEAST))) if log_odds else outputs
