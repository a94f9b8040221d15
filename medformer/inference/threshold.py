"""Learning the probability threshold from validation cases."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from medformer.errors import DataError
from medformer.evaluation.masks.overlap import Counts, EmptyPolicy
from medformer.evaluation.masks.saliency import check_pair
from medformer.files import write_json

# Two means this close are one mean with different rounding.
_TIE = 1e-9


class ThresholdSelector:
    """Picks the threshold with the highest mean Dice over cases.

    Fit it on the inner validation part of a fold and nothing else: a threshold that has seen test cases makes their
    scores too good. Among thresholds that tie, the one nearest 0.5 wins, and the lower of two equally near.

    Args:
        low: First threshold that is tried.
        high: Last threshold that is tried.
        step: Distance between thresholds.
        empty: What Dice of two empty masks is.

    Attributes:
        threshold_: The learned threshold.
        score_: Its mean Dice on the cases it was fitted on.
        grid_: Every threshold tried, shape (n,).
        curve_: The mean Dice of each, shape (n,).
    """

    threshold_: float
    score_: float
    grid_: NDArray[np.float64]
    curve_: NDArray[np.float64]

    def __init__(
        self, *, low: float = 0.05, high: float = 0.95, step: float = 0.05, empty: EmptyPolicy = "one"
    ) -> None:
        self.low = low
        self.high = high
        self.step = step
        self.empty = empty

    def fit(self, probabilities: Iterable[NDArray[np.float32]], truths: Iterable[NDArray[np.bool_]]) -> Self:
        """Learn `threshold_`; both inputs may be generators, so that one case is in memory at a time.

        Args:
            probabilities: One float map (H, W) in [0, 1] per case.
            truths: One boolean mask per case, of the same shape, in the same order.

        Raises:
            DataError: There are no cases, their numbers differ, or a pair does not fit or holds NaN.
            ValueError: The grid is not within (0, 1].
        """
        if not (0.0 < self.low <= self.high <= 1.0 and self.step > 0.0):
            raise ValueError(f"expected 0 < low <= high <= 1 and step > 0, got {self.low}, {self.high}, {self.step}")
        steps = int(np.floor((self.high - self.low) / self.step + 1e-9))
        # Rounded, so that a report shows 0.35 and not 0.35000000000000003.
        grid = np.round(self.low + self.step * np.arange(steps + 1), 6)
        scores: list[list[float]] = []
        for index, (probability, truth) in enumerate(zip_longest(probabilities, truths)):
            if probability is None or truth is None:
                missing = "probability map" if probability is None else "mask"
                raise DataError(f"Validation case {index} has no {missing}; expected one map and one mask per case.")
            scores.append(self._dice(probability, truth, grid, f"validation case {index}"))
        means = _mean_of_known(np.array(scores, dtype=np.float64))
        if not scores or bool(np.isnan(means).all()):
            raise DataError(
                f"A threshold cannot be learned from {len(scores)} validation case(s) of which none has a Dice. "
                "Hold out more cases, or give the threshold as a number."
            )
        best = np.flatnonzero(means >= np.nanmax(means) - _TIE)
        chosen = best[np.argmin(np.round(np.abs(grid[best] - 0.5), 6))]
        self.grid_, self.curve_ = grid, means
        self.threshold_, self.score_ = float(grid[chosen]), float(means[chosen])
        return self

    def _dice(
        self, probability: NDArray[np.float32], truth: NDArray[np.bool_], grid: NDArray[np.float64], case: str
    ) -> list[float]:
        check_pair(probability, truth, case)
        if probability.dtype.kind != "f" or bool(np.isnan(probability).any()):
            raise DataError(f"{case}: expected float probabilities without NaN, got {probability.dtype}.")
        # The grid in the map's own precision, as when the mask is made: a pixel at the threshold is foreground.
        passed = np.searchsorted(grid.astype(probability.dtype), probability.ravel(), side="right")
        bins = len(grid) + 1
        marked = np.bincount(passed, minlength=bins)[::-1].cumsum()[::-1][1:]
        both = np.bincount(passed[truth.ravel()], minlength=bins)[::-1].cumsum()[::-1][1:]
        total = int(np.count_nonzero(truth))
        return [Counts(int(b), int(m), total, truth.size).dice(self.empty) for b, m in zip(both, marked, strict=True)]


def _mean_of_known(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Column means without NaN; NaN where a column has nothing else."""
    if not scores.size:
        return np.full(1, np.nan)
    known = ~np.isnan(scores)
    counts = known.sum(axis=0)
    sums = np.where(known, scores, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def settle_threshold(
    chosen: float | Literal["fit"],
    maps: Iterable[NDArray[np.float32]],
    truths: Iterable[NDArray[np.bool_]],
    *,
    cases: int,
    path: Path,
) -> float:
    """Take the threshold that a config names, or learn it, and write down where it is from.

    Args:
        chosen: A number in [0, 1], or `fit`.
        maps: Probability maps of the inner validation cases, (H, W) each; not touched unless `fit`.
        truths: Their masks.
        cases: How many there are, for the record.
        path: JSON file to write.
    """
    content: dict[str, Any] = {"threshold": chosen, "from": "config"}
    if chosen == "fit":
        selector = ThresholdSelector().fit(maps, truths)
        content = {
            "threshold": selector.threshold_,
            "from": f"mean Dice over {cases} inner validation cases",
            "validation_dice": selector.score_,
        }
    write_json(path, content)
    return float(content["threshold"])
