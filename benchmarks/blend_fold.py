"""A fold job that blends the scores of other models on the same folds: an ensemble that learns from nothing new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from medformer.crossval.plan import Fold, some
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import DataError
from medformer.files import read_csv, write_csv
from medformer.inference.classes.decision import THRESHOLD, VALIDATION_SCORES, PlattScaling, prediction_rows
from medformer.inference.threshold import BalancedAccuracyThreshold, learn_threshold

_OWN = frozenset(("id", "fold", "repeat", "group", "site", "label", "score", "threshold", "prediction"))
_FLOOR = 1e-6


class BlendFold:
    """Averages the models' log odds, each standardized over the inner validation cases (see `FoldJob`).

    All models weigh the same, whatever their scores: no weight is chosen, so none can be chosen on a test fold. The
    average becomes a probability by a sigmoid (`PlattScaling`), and the threshold is settled, both on the inner
    validation cases, from the scores that each model's fold left there.

    Args:
        members: Finished runs, or baselines inside one, on one plan.
        threshold: `"fit"` or a number in [0, 1].

    Raises:
        DataError: Fewer than two members.
    """

    def __init__(self, members: Sequence[RunDirectory], threshold: float | Literal["fit"] = "fit") -> None:
        if len(members) < 2:
            raise DataError(f"Got {len(members)} model(s) to blend; expected at least two.")
        self.members = tuple(members)
        self.threshold = threshold

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `threshold.json`, `validation.csv` and `predictions.csv` in `folder`."""
        known = [_read(member.fold(fold.index) / VALIDATION_SCORES, fold.validation) for member in self.members]
        asked = [_read(member.fold(fold.index) / "predictions.csv", fold.test) for member in self.members]
        labels = known[0][1]
        pairs = [_standardized(learned, new) for (learned, _), (new, _) in zip(known, asked, strict=True)]
        scaling = PlattScaling().fit(np.mean([learned for learned, _ in pairs], axis=0), labels)
        validation = scaling.transform(np.mean([learned for learned, _ in pairs], axis=0))
        scores = scaling.transform(np.mean([new for _, new in pairs], axis=0))
        threshold = learn_threshold(
            self.threshold,
            BalancedAccuracyThreshold(),
            validation,
            labels,
            cases=len(labels),
            path=folder / THRESHOLD,
            about={"sigmoid": {"slope": scaling.slope_, "intercept": scaling.intercept_}},
        )
        rows = {row["id"]: row for row in read_csv(self.members[0].fold(fold.index) / "predictions.csv")}
        predicted = prediction_rows(
            fold.test,
            asked[0][1],
            scores,
            threshold,
            sites={name: str(rows[name].get("site", "")) for name in fold.test},
            covariates={
                name: {key: str(value) for key, value in rows[name].items() if key not in _OWN} for name in fold.test
            },
        )
        write_csv(folder / "predictions.csv", predicted, list(predicted[0]))


def _read(path: Path, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Log odds and labels of some cases.

    Raises:
        DataError: The table is missing, or lacks a case.
    """
    try:
        rows = {str(row["id"]): row for row in read_csv(path)}
    except FileNotFoundError:
        raise DataError(f"{path} is missing; expected the scores of a finished fold. Finish that run first.") from None
    missing = [name for name in names if name not in rows]
    if missing:
        raise DataError(f"{path} has no score of {some(missing)}; expected a run on the same plan.")
    scores = np.array([float(rows[name]["score"]) for name in names])
    labels = np.array([int(float(rows[name]["label"])) for name in names], np.int64)
    return np.asarray(logit(np.clip(scores, _FLOOR, 1 - _FLOOR))), labels


def _standardized(
    learned: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in standard deviations of the first."""
    center, spread = learned.mean(), learned.std() or 1.0
    return (learned - center) / spread, (new - center) / spread
