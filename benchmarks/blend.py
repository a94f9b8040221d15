"""A learner that blends the scores of other models on the same folds: an ensemble that learns from nothing new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from medformer.crossval.plan import some
from medformer.crossval.run.classes import ClassPredictor
from medformer.crossval.run.contract import Context
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import DataError
from medformer.files import read_csv
from medformer.inference.classification import VALIDATION_SCORES

_FLOOR = 1e-6


class BlendLearner:
    """Averages the models' log odds, each standardized over the inner validation cases (a `Learner`).

    All models weigh the same, whatever their scores: no weight is chosen, so none can be chosen on a test fold. The
    average becomes a probability by a sigmoid (`PlattScaling`), and the threshold is learned, both on the inner
    validation cases, from the scores that each model's fold left there.

    Args:
        study: The subjects.
        members: Finished runs, or baselines inside one, on one plan.

    Raises:
        DataError: Fewer than two members.
    """

    def __init__(self, study: Any, members: Sequence[RunDirectory]) -> None:
        if len(members) < 2:
            raise DataError(f"Got {len(members)} model(s) to blend; expected at least two.")
        self.study = study
        self.members = tuple(members)

    def fit(self, context: Context) -> ClassPredictor:
        """Leave `threshold.json` and `validation.csv` in the fold's folder.

        Raises:
            DataError: A member has not finished the fold, or ran on another plan.
        """
        fold = context.fold
        scores = []
        for member in self.members:
            folder = member.fold(fold.index)
            learned = _read(folder / VALIDATION_SCORES, fold.validation)
            asked = _read(folder / "predictions.csv", fold.test)
            values = np.array(list(learned.values()))
            center, spread = values.mean(), values.std() or 1.0
            scores.append({name: (value - center) / spread for name, value in (learned | asked).items()})
        return ClassPredictor.learn(
            Blend(scores), self.study, context, calibrate=True, threshold="fit", log_odds=False, covariates=True
        )


@dataclass(frozen=True)
class Blend:
    """Averages scores that are known (a `Scorer`).

    Attributes:
        scores: By id, of each model.
    """

    scores: Sequence[Mapping[str, float]]

    def outputs(self, study: Any, names: Sequence[str]) -> NDArray[np.float64]:
        """The mean score, (n,)."""
        return np.mean([[known[name] for name in names] for known in self.scores], axis=0)


def _read(path: Path, names: Sequence[str]) -> dict[str, float]:
    """Log odds of some cases.

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
    return dict(zip(names, logit(np.clip(scores, _FLOOR, 1 - _FLOOR)).tolist(), strict=True))
