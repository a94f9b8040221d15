"""A predictor of two classes: members that score cases, a threshold, and the rows of its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import some
from medformer.crossval.run.contract import Row
from medformer.data.manifest import Case
from medformer.errors import DataError
from medformer.progress import Reporter


class Member(Protocol):
    """What scores cases: the networks or the estimator of one fold, with its preprocessing and calibration."""

    def scores(self, study: Any, names: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities of class 1, (n,)."""


class ClassPredictor:
    """Averages the probabilities of its members and compares them with a threshold (a `Predictor`).

    Args:
        members: One per fold.
        threshold: A case is positive where its probability is at least this.
        covariates: Add the cases' covariates as columns.
    """

    def __init__(self, members: Sequence[Member], threshold: float, *, covariates: bool = False) -> None:
        self.members = members
        self.threshold = threshold
        self.covariates = covariates

    def predict(self, study: Any, names: Sequence[str], out: Path, reporter: Reporter) -> Iterator[Row]:
        """Yield id, site, label (empty where unknown), score, threshold and prediction of each case."""
        for name, score in zip(names, np.mean(self.scores(study, names), axis=0), strict=True):
            case = study.by_id[name]
            yield {
                "id": name,
                "site": case.site,
                **(case.covariates if self.covariates else {}),
                "label": "" if case.label is None else case.label,
                "score": float(score),
                "threshold": self.threshold,
                "prediction": int(score >= self.threshold),
            }

    def scores(self, study: Any, names: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities of class 1 by each member, (members, n)."""
        return np.stack([member.scores(study, names) for member in self.members])


def labels_of(cases: Mapping[str, Case], names: Sequence[str]) -> NDArray[np.int64]:
    """The labels of some cases, (n,).

    Raises:
        DataError: One has none.
    """
    missing = [name for name in names if name not in cases or cases[name].label is None]
    if missing:
        raise DataError(f"There is no label for {some(missing)}; expected 0 or 1 for every case of the plan.")
    wrong = [name for name in names if cases[name].label not in (0, 1)]
    if wrong:
        raise DataError(f"The label of {wrong[0]} is {cases[wrong[0]].label!r}; expected 0 or 1 (1 is positive).")
    return np.array([cases[name].label for name in names], np.int64)
