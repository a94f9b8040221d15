"""Cases that consist of a feature vector and a label, and one fold of a learner on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.config.shared import CrossvalConfig
from medformer.crossval.plan import Fold
from medformer.crossval.run.contract import Learner
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.execute import LearnerJob
from medformer.data.cases import Case


@dataclass(frozen=True)
class FeatureTable:
    """What an `EstimatorLearner` learns from (a `Described`).

    Attributes:
        vectors: A vector (d,) per id.
        labels: 1 or 0 per id; a wrong value, to test how it is refused.
        sites: Site per id.
        covariates: Covariates per id.
        crossval: How often the plan is drawn.
    """

    vectors: Mapping[str, NDArray[np.floating[Any]]]
    labels: Mapping[str, Any]
    sites: Mapping[str, str] = field(default_factory=dict)
    covariates: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    crossval: CrossvalConfig = field(default_factory=CrossvalConfig)

    @cached_property
    def by_id(self) -> dict[str, Case]:
        """Cases by id."""
        return {
            name: Case(
                name,
                site=self.sites.get(name, ""),
                covariates=self.covariates.get(name, {}),
                label=self.labels.get(name),
            )
            for name in self.vectors.keys() | self.labels.keys()
        }


def fit_and_test(learner: Learner, fold: Fold, folder: Path, seed: int = 0) -> None:
    """Do the work of one fold in a folder, as a run would."""
    LearnerJob(learner, RunDirectory(folder), seed)(fold, folder, False)
