"""The threshold that turns a probability into a decision, learned from the inner validation part.

Two learners, `DiceThreshold` for maps and `BalancedAccuracyThreshold` for cases, in the style of scikit-learn. Among
thresholds that tie, both take the one nearest 0.5, and the lower of two equally near.

Nothing is learned from too few cases (`shortage`): a threshold that two cases chose says more about these two than
about the next one. Where cases do not suffice, a default stands, and the fold's files and the report say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medformer.config.shared import Fraction
from medformer.errors import CheckpointError, DataError
from medformer.evaluation.masks.overlap import Counts
from medformer.evaluation.masks.saliency import check_pair
from medformer.files import write_json
from medformer.records import Content, read_record

FEWEST = 5
"""Inner validation cases, of each class where there are classes, that every learned number needs.

A regression with fewer than 5 to 9 cases of the rarer class per parameter gives biased parameters with intervals that
do not hold (Vittinghoff and McCulloch, American Journal of Epidemiology 2007).
"""

DEFAULT = 0.5
"""The threshold where none can be learned."""

# Two means this close are one mean with different rounding.
_TIE = 1e-9

# The thresholds that are tried for maps; rounded, so that a report shows 0.35 and not 0.35000000000000003.
_GRID = np.round(0.05 * np.arange(1, 20), 6)


def shortage(counts: Mapping[str, int], numbers: int = 1) -> str:
    """Say which cases are too few to learn from; empty where they suffice.

    Args:
        counts: Inner validation cases of each kind that is needed, such as `{"positive": 3, "negative": 9}`.
        numbers: How many numbers are learned from them.
    """
    needed = FEWEST * numbers
    if all(count >= needed for count in counts.values()):
        return ""
    each = " of each" if len(counts) > 1 else ""
    return f"too few inner validation cases ({_listed(counts)}; at least {needed}{each} are needed)"


def _listed(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {kind}" for kind, count in counts.items())


def count_classes(labels: NDArray[np.int64]) -> dict[str, int]:
    """Count the cases of each class, for `shortage`."""
    positives = int(np.count_nonzero(labels == 1))
    return {"positive": positives, "negative": len(labels) - positives}


class ThresholdLearner(Protocol):
    """Learns a threshold from probabilities and the truth.

    Attributes:
        criterion: What is highest at the threshold.
        key: Its name in files.
        threshold_: What was learned.
        score_: Its criterion on the cases it was fitted on.
    """

    criterion: str
    key: str
    threshold_: float
    score_: float

    def fit(self, scores: Any, truths: Any, /) -> Self:
        """Learn `threshold_`."""


def learn_threshold(
    chosen: float | Literal["fit"],
    learner: ThresholdLearner,
    scores: Any,
    truths: Any,
    *,
    count: Callable[[], Mapping[str, int]],
    path: Path,
    about: Mapping[str, Any] | None = None,
) -> float:
    """Take the threshold that a config names, or learn it where the cases suffice, and write down where it is from.

    Args:
        chosen: A number in [0, 1], or `fit`.
        learner: What learns it.
        scores: Probabilities of the inner validation cases, as the learner takes them; not touched unless it learns.
        truths: Their masks or labels.
        count: Counts the cases that can teach it, by kind; not called unless `fit`.
        path: JSON file to write.
        about: What else the file says.

    Raises:
        DataError: The cases cannot be read.
    """
    content: dict[str, Any] = {"threshold": chosen, "from": "config"}
    if chosen == "fit":
        counts = count()
        reason = shortage(counts)
        learned = {"learned": not reason, "cases": dict(counts)}
        if reason:
            content = {"threshold": DEFAULT, "from": f"default, because there are {reason}", **learned}
        else:
            learner.fit(scores, truths)
            content = {
                "threshold": learner.threshold_,
                "from": f"{learner.criterion} over inner validation cases ({_listed(counts)})",
                f"validation_{learner.key}": learner.score_,
                **learned,
            }
    write_json(path, {**content, **(about or {})})
    return float(content["threshold"])


class Sigmoid(Content):
    """The sigmoid that makes probabilities of a classifier's outputs."""

    slope: float
    intercept: float


class Calibration(Content):
    """Whether a sigmoid was learned, from how many cases of each class, and why not."""

    learned: bool = True
    cases: dict[str, int] = Field(default_factory=dict)
    reason: str = ""


class ThresholdFile(Content):
    """What `learn_threshold` wrote."""

    threshold: Fraction
    learned: bool = True
    cases: dict[str, int] = Field(default_factory=dict)
    sigmoid: Sigmoid | None = None
    calibration: Calibration | None = None


def read_threshold(path: Path) -> ThresholdFile:
    """Read what `learn_threshold` wrote.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    return read_record(path, ThresholdFile, "Train again with --resume.", error=CheckpointError)


def copy_threshold(path: Path, target: Path) -> None:
    """Copy what `read_threshold` reads of a file, and nothing else.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    write_json(target, read_threshold(path).declared)


class DiceThreshold:
    """Picks the threshold with the highest mean Dice over cases, from 0.05 to 0.95; two empty masks count 1.

    Fit it on the inner validation part of a fold and nothing else: a threshold that has seen test cases makes their
    scores too good.

    Attributes:
        threshold_: The learned threshold.
        score_: Its mean Dice on the cases it was fitted on.
        grid_: Every threshold tried, shape (n,).
        curve_: The mean Dice of each, shape (n,).
    """

    criterion = "mean Dice"
    key = "dice"
    threshold_: float
    score_: float
    grid_: NDArray[np.float64]
    curve_: NDArray[np.float64]

    def fit(self, probabilities: Iterable[NDArray[np.float32]], truths: Iterable[NDArray[np.bool_]]) -> Self:
        """Learn `threshold_`; both inputs may be generators, so that one case is in memory at a time.

        Args:
            probabilities: One float map (H, W) in [0, 1] per case.
            truths: One boolean mask per case, of the same shape, in the same order.

        Raises:
            DataError: There are no cases, their numbers differ, or a pair does not fit or holds NaN.
        """
        scores: list[list[float]] = []
        for index, (probability, truth) in enumerate(zip_longest(probabilities, truths)):
            if probability is None or truth is None:
                missing = "probability map" if probability is None else "mask"
                raise DataError(f"Validation case {index} has no {missing}; expected one map and one mask per case.")
            scores.append(_dice(probability, truth, f"validation case {index}"))
        if not scores:
            raise DataError(
                "A threshold cannot be learned from 0 validation case(s). Hold out more cases, or give the threshold "
                "as a number."
            )
        self.grid_, self.curve_ = _GRID, np.mean(scores, axis=0)
        self.threshold_, self.score_ = _best(self.grid_, self.curve_)
        return self


def _dice(probability: NDArray[np.float32], truth: NDArray[np.bool_], case: str) -> list[float]:
    """Dice at each threshold of the grid; two empty masks count 1."""
    check_pair(probability, truth, case)
    if probability.dtype.kind != "f" or bool(np.isnan(probability).any()):
        raise DataError(f"{case}: expected float probabilities without NaN, got {probability.dtype}.")
    # The grid in the map's own precision, as when the mask is made: a pixel at the threshold is foreground.
    passed = np.searchsorted(_GRID.astype(probability.dtype), probability.ravel(), side="right")
    bins = len(_GRID) + 1
    marked = np.bincount(passed, minlength=bins)[::-1].cumsum()[::-1][1:]
    both = np.bincount(passed[truth.ravel()], minlength=bins)[::-1].cumsum()[::-1][1:]
    total = int(np.count_nonzero(truth))
    return [Counts(int(b), int(m), total, truth.size).dice() for b, m in zip(both, marked, strict=True)]


class BalancedAccuracyThreshold:
    """Picks the threshold with the highest balanced accuracy, which is the one with the highest Youden index.

    (Youden's J is sensitivity + specificity - 1, twice the balanced accuracy minus 1.) Thresholds lie halfway between
    neighboring scores.

    Attributes:
        threshold_: A case is positive where its score is at least this.
        score_: The balanced accuracy on the cases it was fitted on.
    """

    criterion = "balanced accuracy"
    key = "balanced_accuracy"
    threshold_: float
    score_: float

    def fit(self, scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Self:
        """Learn `threshold_` from scores in [0, 1] and labels in {0, 1}, both of shape (n,).

        Raises:
            DataError: A class is missing.
        """
        positives = count_positives(labels)
        edges = np.unique(np.concatenate([[0.0], scores, [1.0]]))
        tried = (edges[:-1] + edges[1:]) / 2
        order = np.argsort(scores, kind="stable")
        below = np.searchsorted(scores[order], tried, side="left")
        missed = np.concatenate([[0], np.cumsum(labels[order] == 1)])[below]
        sensitivity = 1 - missed / positives
        specificity = (below - missed) / (len(labels) - positives)
        balanced = (sensitivity + specificity) / 2
        self.threshold_, self.score_ = _best(tried, balanced)
        return self


def count_positives(labels: NDArray[np.int64]) -> int:
    """Return the number of positives.

    Raises:
        DataError: A class is missing.
    """
    positives = count_classes(labels)["positive"]
    if positives in (0, len(labels)):
        raise DataError(
            f"{len(labels)} validation case(s) hold {positives} positive(s); expected both classes. Hold out a larger "
            "share, stratify by label, or give the threshold as a number."
        )
    return positives


def _best(tried: NDArray[np.float64], scores: NDArray[np.float64]) -> tuple[float, float]:
    """Return the threshold with the highest score, by the rule for ties, and its score."""
    tied = np.flatnonzero(scores >= scores.max() - _TIE)
    chosen = tied[np.argmin(np.round(np.abs(tried[tied] - 0.5), 9))]
    return float(tried[chosen]), float(scores[chosen])
