from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.run.classes import ClassPredictor
from medformer.data.cases import Case
from medformer.inference.classification import Decision
from medformer.progress import SilentReporter


class Scores:
    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def outputs(self, study: Any, names: Sequence[str]) -> NDArray[np.float64]:
        return np.array(self.scores)


def rows(predictor: ClassPredictor, *cases: Case) -> list[dict[str, Any]]:
    study = SimpleNamespace(by_id={case.id: case for case in cases})
    return list(predictor.predict(study, [case.id for case in cases], Path(), SilentReporter()))


def test_a_score_at_the_threshold_is_positive() -> None:
    found = rows(
        ClassPredictor([(Scores(0.49, 0.5), Decision(0.5))], covariates=True),
        Case("a", site="X", covariates={"sex": "F"}, label=0),
        Case("b", covariates={"sex": "M"}, label=1),
    )
    assert [row["prediction"] for row in found] == [0, 1] and [row["site"] for row in found] == ["X", ""]
    assert list(found[0]) == ["id", "site", "sex", "label", "score", "threshold", "prediction"]
    assert [row["label"] for row in found] == [0, 1] and [row["sex"] for row in found] == ["F", "M"]


def test_members_are_averaged_and_so_are_their_thresholds() -> None:
    members = [(Scores(0.2, 0.6), Decision(0.3)), (Scores(0.6, 0.8), Decision(0.5))]
    found = rows(ClassPredictor(members), Case("a"), Case("b", label=1))
    np.testing.assert_allclose([row["score"] for row in found], [0.4, 0.7])
    np.testing.assert_allclose([row["threshold"] for row in found], 0.4)
    assert [row["label"] for row in found] == ["", 1]
