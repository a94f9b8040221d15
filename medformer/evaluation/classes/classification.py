"""A binary classification in numbers: discrimination, decisions at the threshold, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medformer.errors import DataError
from medformer.evaluation.classes.calibration import calibration_bins as calibration_bins
from medformer.evaluation.classes.calibration import expected_calibration_error, recalibrate
from medformer.evaluation.metrics import CLASSES

# Two distinct scores among fewer cases than this are no sign that the scores are decisions.
_FEW_CASES = 10


class RocCurve(NamedTuple):
    """Shape (k,) each, from the strictest threshold to the loosest."""

    false_positive_rate: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    threshold: NDArray[np.float64]


class PrecisionRecallCurve(NamedTuple):
    """Shape (k,) each, by rising recall."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


class Scored(NamedTuple):
    """Checked input, shape (n,) each; labels are 0.0 and 1.0."""

    label: NDArray[np.float64]
    score: NDArray[np.float64]
    prediction: NDArray[np.float64]


def classification_metrics(
    label: ArrayLike,
    score: ArrayLike,
    prediction: ArrayLike,
    *,
    ids: Sequence[str] | None = None,
    part: bool = False,
) -> dict[str, float]:
    """Compute every metric of `medformer.evaluation.metrics.CLASSES`.

    What is not defined is NaN: everything that compares classes when only one is there, F1 without a positive label
    or decision, and the calibration slope when the score separates the classes completely.

    Args:
        label: 0 or 1, shape (n,).
        score: Probability of 1, in [0, 1], shape (n,).
        prediction: The decision, 0 or 1, shape (n,).
        ids: Names of the cases for messages, shape (n,).
        part: These cases are a part of a table that was checked as a whole.

    Raises:
        DataError: As `check_scored`.
    """
    scored = check_scored(label, score, prediction, ids=ids, part=part)
    return {name: float(VALUES[name](scored)) for name in CLASSES}


def roc_curve(label: ArrayLike, score: ArrayLike) -> RocCurve:
    """Sensitivity against false-positive rate at every threshold, corners included.

    Raises:
        DataError: As `check_scored`, or only one class is there.
    """
    y, s, _ = check_scored(label, score)
    need_both(y, "A ROC curve")
    return RocCurve(*_learn().roc_curve(y, s, drop_intermediate=False))


def pr_curve(label: ArrayLike, score: ArrayLike) -> PrecisionRecallCurve:
    """Precision against recall at every threshold.

    Raises:
        DataError: As `check_scored`, or only one class is there.
    """
    y, s, _ = check_scored(label, score)
    need_both(y, "A precision-recall curve")
    precision, recall, _thresholds = _learn().precision_recall_curve(y, s)
    return PrecisionRecallCurve(recall[::-1], precision[::-1])


def check_scored(
    label: ArrayLike,
    score: ArrayLike,
    prediction: ArrayLike | None = None,
    *,
    ids: Sequence[str] | None = None,
    part: bool = False,
) -> Scored:
    """Check labels, scores and decisions.

    Args:
        label: 0 or 1, shape (n,).
        score: Probability of 1, shape (n,).
        prediction: The decision, shape (n,).
        ids: Names of the cases for messages, shape (n,).
        part: Do not look for decisions given as scores: some cases alone may well have extreme scores only.

    Returns:
        Them as floats; without `prediction`, the decision at 0.5.

    Raises:
        DataError: No cases, a label or decision other than 0 and 1, a score that is no number in [0, 1] (the case is
            named), or scores that are decisions instead of probabilities.
        ValueError: Lengths differ.
    """
    y, s = np.asarray(label, np.float64), np.asarray(score, np.float64)
    d = np.asarray(s >= 0.5 if prediction is None else prediction, np.float64)
    if not y.shape == s.shape == d.shape == (y.size,) or (ids is not None and len(ids) != len(y)):
        raise ValueError(f"label {y.shape}, score {s.shape}, prediction {d.shape} and ids must have one length")
    if not y.size:
        raise DataError("There are no classified cases; expected at least one row with label and score.")
    for name, values, wrong, expected in (
        ("label", y, ~np.isin(y, (0.0, 1.0)), "0 (negative) or 1 (positive)"),
        ("score", s, ~((s >= 0) & (s <= 1)), "a probability between 0 and 1"),
        ("prediction", d, ~np.isin(d, (0.0, 1.0)), "0 or 1"),
    ):
        if wrong.any():
            first = int(wrong.argmax())
            more = f" (and {int(wrong.sum()) - 1} more cases)" if wrong.sum() > 1 else ""
            case = ids[first] if ids is not None else f"row {first + 1}"
            raise DataError(f"{case}{more}: {name} is {values[first]:g}, expected {expected}. Correct the table.")
    if not part:
        _refuse_decisions(s, d)
    return Scored(y, s, d)


def _refuse_decisions(score: NDArray[np.float64], prediction: NDArray[np.float64]) -> None:
    """Refuse scores that only repeat the decision, such as 0 and 1 or 0.1 and 0.9.

    Two values alone are no proof: a model of one yes-or-no covariate has no more, and they are probabilities.
    """
    values = np.unique(score)
    if len(score) < _FEW_CASES or len(values) != 2:
        return
    hard = values[0] == 0 and values[1] == 1
    mirrored = abs(values.sum() - 1) < 1e-9 and np.array_equal(score == values[1], prediction == 1)
    if hard or mirrored:
        shown = " and ".join(f"{value:g}" for value in values)
        raise DataError(
            f"The scores of all {len(score)} cases are {shown}: these are decisions, and an AUC of decisions means "
            "little. Give the probability of the positive class as the score (predict_proba or a sigmoid's output), "
            "and the decision as the prediction."
        )


def need_both(label: NDArray[np.float64], what: str) -> None:
    """Refuse labels of one class for what compares the classes.

    Raises:
        DataError: All cases have the same label.
    """
    if not 0 < label.sum() < len(label):
        raise DataError(
            f"{what} needs positive and negative cases; all {len(label)} have label {label[0]:g}. "
            "Use a part of the table that has both."
        )


def _learn() -> Any:
    """scikit-learn's metrics, which bring pandas: only tables of classes need them."""
    from sklearn import metrics

    return metrics


def _both(scored: Scored, value: Callable[[], float]) -> float:
    """The value where both classes are there, NaN elsewhere."""
    return value() if 0 < scored.label.sum() < len(scored.label) else float("nan")


def _recall(scored: Scored, kind: int) -> float:
    chosen = scored.label == kind
    return float((scored.prediction[chosen] == kind).mean()) if chosen.any() else float("nan")


VALUES: Mapping[str, Callable[[Scored], float]] = {
    "auc": lambda of: _both(of, lambda: _learn().roc_auc_score(of.label, of.score)),
    "average_precision": lambda of: _both(of, lambda: _learn().average_precision_score(of.label, of.score)),
    "accuracy": lambda of: _learn().accuracy_score(of.label, of.prediction),
    "balanced_accuracy": lambda of: (_recall(of, 0) + _recall(of, 1)) / 2,
    "sensitivity": lambda of: _recall(of, 1),
    "specificity": lambda of: _recall(of, 0),
    "f1": lambda of: _learn().f1_score(of.label, of.prediction) if of.label.any() or of.prediction.any() else np.nan,
    "mcc": lambda of: _both(of, lambda: _learn().matthews_corrcoef(of.label, of.prediction)),
    "brier": lambda of: ((of.score - of.label) ** 2).mean(),
    "calibration_slope": lambda of: recalibrate(of.label, of.score).slope[0],
    "calibration_intercept": lambda of: recalibrate(of.label, of.score).intercept[0],
    "ece": lambda of: expected_calibration_error(of.label, of.score),
}
"""How each metric of `CLASSES` is computed from checked cases."""
