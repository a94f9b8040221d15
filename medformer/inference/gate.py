"""How much of a network is added to a linear model, decided by cases that trained neither."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.inference.classification import PlattScaling
from medformer.inference.threshold import count_classes, shortage

GATES = (0.25, 0.5, 1.0)
"""What a network's logits may be multiplied by, beside 0."""


@dataclass(frozen=True)
class Gate:
    """What a network's logits are multiplied by before they are added to those of a linear model.

    Attributes:
        value: One of `GATES`, or 0, which leaves the linear model alone.
        gain: By how much the best of `GATES` lowers the mean loss of inner validation cases; NaN where none was tried.
        error: Standard error of this gain.
        best: The gate whose gain that is.
        reason: Why, in a sentence without its stop.
    """

    value: float
    gain: float
    error: float
    best: float
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As plain data; what is not known is null."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def learn_gate(linear: NDArray[np.float64], deep: NDArray[np.float64], labels: NDArray[np.int64]) -> Gate:
    """Choose a gate on inner validation cases: 0 unless the network lowers the loss by more than its standard error.

    The rule of one standard error (Breiman et al. 1984, Classification and Regression Trees, 3.4.3) takes the simplest
    model that is not clearly worse than the best. The loss is the cross-entropy of the probabilities that
    `PlattScaling` makes of the sum, since outputs of a squared loss are no log odds.

    Args:
        linear: The linear model's output for each case, (n,).
        deep: The network's, (n,).
        labels: 0 or 1, (n,).
    """
    unknown = float("nan")
    if few := shortage(count_classes(labels), numbers=3):
        return Gate(0.0, unknown, unknown, unknown, few)
    before = _losses(linear, labels)
    gains = {gate: before - _losses(linear + gate * deep, labels) for gate in GATES}
    best = max(gains, key=lambda gate: float(gains[gate].mean()))
    gain, error = float(gains[best].mean()), float(gains[best].std(ddof=1)) / len(labels) ** 0.5
    if gain > error:
        return Gate(best, gain, error, best, "the network lowers the loss by more than a standard error")
    return Gate(0.0, gain, error, best, "the network does not lower the loss by more than a standard error")


def _losses(outputs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each case, (n,)."""
    scores = PlattScaling().fit(outputs, labels).transform(outputs).clip(1e-12, 1 - 1e-12)
    return -np.log(np.where(labels == 1, scores, 1.0 - scores))
