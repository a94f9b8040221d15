"""A predictor of two classes: members that score cases, a threshold, and the rows of its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import some
from medformer.crossval.run.contract import Context, Row
from medformer.data.cases import Case
from medformer.errors import DataError
from medformer.inference.classification import Decision, learn_decision
from medformer.inference.export_table import Exports
from medformer.progress import Reporter


class Scorer(Protocol):
    """What scores cases: the networks or the estimator of one fold, with its preprocessing."""

    def outputs(self, study: Any, names: Sequence[str]) -> NDArray[np.float64]:
        """Scores of class 1 before calibration, (n,)."""


class ClassPredictor:
    """Averages the calibrated probabilities of its members and compares them with a threshold (a `Predictor`).

    Args:
        members: What scores, with calibration and threshold, one per fold.
        covariates: Add the cases' covariates as columns.

    Attributes:
        threshold: A case is positive where its probability is at least this: the mean of the members' thresholds.
    """

    def __init__(self, members: Sequence[tuple[Scorer, Decision]], *, covariates: bool = False) -> None:
        self.members = members
        self.covariates = covariates
        self.threshold = sum(decision.threshold for _, decision in members) / len(members)

    @classmethod
    def learn(
        cls,
        scorer: Scorer,
        study: Any,
        context: Context,
        *,
        calibrate: bool,
        threshold: float | Literal["fit"],
        log_odds: bool = True,
        covariates: bool = False,
    ) -> Self:
        """Learn calibration and threshold on the inner validation part of a fold; see `learn_decision`."""
        names = context.fold.validation
        decision = learn_decision(
            context.folder,
            names,
            labels_of(study.by_id, names),
            scorer.outputs(study, names),
            calibrate=calibrate,
            threshold=threshold,
            log_odds=log_odds,
        )
        return cls([(scorer, decision)], covariates=covariates)

    def predict(self, study: Any, names: Sequence[str], out: Exports, reporter: Reporter) -> Iterator[Row]:
        """Yield the rows of cases; see `rows`."""
        return self.rows([study.by_id[name] for name in names], self.scores(study, names))

    def rows(self, cases: Sequence[Case], scores: NDArray[np.float64]) -> Iterator[Row]:
        """Yield id, site, label (empty where unknown), score, threshold and prediction of each case.

        Args:
            cases: Those that were scored.
            scores: Theirs by each member, (members, n), which are averaged.
        """
        for case, score in zip(cases, scores.mean(axis=0), strict=True):
            yield {
                "id": case.id,
                "site": case.site,
                **(case.described if self.covariates else {}),
                "label": "" if case.label is None else case.label,
                "score": float(score),
                "threshold": self.threshold,
                "prediction": int(score >= self.threshold),
            }

    def scores(self, study: Any, names: Sequence[str]) -> NDArray[np.float64]:
        """Calibrated probabilities of class 1 by each member, (members, n)."""
        return np.stack([decision.probabilities(scorer.outputs(study, names)) for scorer, decision in self.members])


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
