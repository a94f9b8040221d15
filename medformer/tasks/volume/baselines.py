"""What accompanies a segmentation network on the same folds: the label that each place mostly has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.run.contract import Context, Row
from medformer.data.manifest import Case
from medformer.imaging.geometry import reorient
from medformer.imaging.volumes import read_labels
from medformer.inference.baselines.label_prior import LabelPrior
from medformer.progress import Reporter
from medformer.tasks.volume.dataset import Scans
from medformer.tasks.volume.predictor import scored_row


@dataclass(frozen=True)
class PriorLearner:
    """Fits the label prior on the label maps of the training cases (a `Learner`).

    Attributes:
        study: The cases.
    """

    study: Scans

    def fit(self, context: Context) -> PriorPredictor:
        """Nothing is left in the fold's folder; an interrupted fold simply starts again."""
        values = np.array([0, *(value for value, _ in self.study.data.info.labels)])
        cases = (self.study.by_id[name] for name in context.fold.train)
        return PriorPredictor(LabelPrior(len(values)).fit(self._classes(case, values) for case in cases), values)

    def _classes(self, case: Case, values: NDArray[np.intp]) -> NDArray[np.intp]:
        """The classes of a case's label map, in the orientation of the plan."""
        labels = read_labels(case.required_mask())
        turned = reorient(labels.array, labels.geometry.affine, self.study.config.plan.orientation)[0]
        return np.searchsorted(values, turned)


@dataclass(frozen=True)
class PriorPredictor:
    """Predicts the prior for every volume (a `Predictor`); no label map is exported, so `mask` is empty.

    Attributes:
        prior: Fitted.
        values: Label value of each class.
    """

    prior: LabelPrior
    values: NDArray[np.intp]

    def predict(self, study: Scans, names: Sequence[str], out: Path, reporter: Reporter) -> Iterator[Row]:
        """Yield the scores of each test case."""
        for case in reporter.track([study.by_id[name] for name in names], "prior_mask, test cases"):
            truth = read_labels(case.required_mask())
            found = np.zeros_like(truth.array)
            # A view in the prior's orientation: writing to it writes in the orientation of the case.
            turned = reorient(found, truth.geometry.affine, study.config.plan.orientation)[0]
            turned[...] = self.values[self.prior.predict(turned.shape)]
            yield scored_row(case, found, truth, study.data.info.labels, study, mask="")
