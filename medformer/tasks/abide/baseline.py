"""A linear baseline of a run as what predicts: fitted again on each fold's training part, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.columns import Columns
from medformer.crossval.run.classes import ClassPredictor, Scorer
from medformer.crossval.run.collect import planned_folds
from medformer.crossval.run.contract import Context
from medformer.crossval.vectors import Vectors
from medformer.data.cases import Case
from medformer.data.connectomes.cohort import read_cohort
from medformer.errors import ConfigError, DataError, UnknownNameError
from medformer.inference.classification import read_decision
from medformer.progress import Reporter
from medformer.tasks.abide.features import CohortFeatures, read_contents, require_contents
from medformer.tasks.abide.predictor import Subjects
from medformer.tasks.abide.study import AbideStudy
from medformer.tasks.trained import Trained, open_run

_WITHOUT_CONNECTIONS = "covariates"


@dataclass(frozen=True)
class BaselineScorer:
    """A fitted baseline and the layout of its features (a `Scorer`).

    Attributes:
        scorer: Of vectors of that layout.
        columns: The layout.
        contents: What was stored of each atlas in training; see `require_contents`.
    """

    scorer: Scorer
    columns: Columns
    contents: Mapping[str, str]

    def outputs(self, study: Subjects, names: Sequence[str]) -> NDArray[np.float64]:
        """Scores before calibration, (n,)."""
        require_contents(study.data, self.columns, self.contents)
        vectors = CohortFeatures(study.data, study.config, self.columns)
        return self.scorer.outputs(_Subjects(study.by_id, vectors), names)


@dataclass(frozen=True)
class _Subjects:
    by_id: Mapping[str, Case]
    vectors: Vectors


def load_baseline(trained: Trained, name: str, reporter: Reporter) -> ClassPredictor:
    """Fit a baseline of a run again in each of its folds, with the calibration and threshold that the run learned.

    A fitted baseline holds the connectomes of its training subjects, so a run does not keep it. The subjects of the run
    have to be there, and are compared with those that it was made from.

    Args:
        trained: The run.
        name: Of the baseline.
        reporter: Receives one step per fold.

    Raises:
        ConfigError: A bundle, no baseline of that name has finished, or one that does not read connections.
        DataError: The cohort is not the one of the run, or not there.
    """
    if trained.known_cases is None:
        raise ConfigError(
            f"--model {name}: {trained.path} is a bundle, which holds networks alone. Give the run itself."
        )
    run, config = open_run(trained.path, trained.task)
    if name == _WITHOUT_CONNECTIONS:
        raise ConfigError(
            f"--model {name}: it knows site, age, sex and motion alone, which new subjects need not have. Take another "
            "baseline, or the network."
        )
    if name not in run.baselines:
        raise UnknownNameError("finished baseline of this run", name, [*run.baselines])
    record, own = run.record(), run.baseline(name)
    cohort = read_cohort(record["manifest"])
    if cohort.digest() != record["data_sha256"]:
        raise DataError(
            f"--model {name} is fitted again on the subjects of {run.path}, and {cohort.path} is not the cohort that "
            "this was made from. Restore it, or predict with the network."
        )
    study, members = AbideStudy(config=config, data=cohort), []
    with TemporaryDirectory() as folder:
        for fold in reporter.track([one for one in planned_folds(run) if run.fold(one.index) in trained.folders], name):
            context = Context(fold, Path(folder), own, config.seed, False, reporter)
            scorer, _ = study.baseline(name).fit(context).members[0]
            decision = read_decision(own.fold(fold.index), log_odds=False)
            contents = read_contents(run.fold(fold.index))
            members.append((BaselineScorer(scorer, study.features.columns, contents), decision))
    return ClassPredictor(members, covariates=True)
