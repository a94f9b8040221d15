"""A learner for feature vectors: any scikit-learn classifier of two classes, fitted on training cases alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import some
from medformer.crossval.run.classes import ClassPredictor, labels_of
from medformer.crossval.run.contract import Context
from medformer.crossval.vectors import Vectors, stack_features
from medformer.data.cases import Case
from medformer.errors import DataError, LeakageError
from medformer.inference.single_thread import single_thread
from medformer.seeds import derive_seed


class Described(Protocol):
    """Cases with a feature vector each; the studies of connectomes and of classified volumes are such."""

    @property
    def by_id(self) -> Mapping[str, Case]:
        """Cases by id; their labels are read."""

    @property
    def vectors(self) -> Vectors:
        """A vector (d,) per id; the mapping may load them when asked."""


_OWN = ("id", "fold", "repeat", "group", "site", "label", "score", "threshold", "prediction")


class EstimatorLearner:
    """Fits a clone of an estimator on the training part of a fold (a `Learner`).

    The estimator is cloned for each fold, and refused when a part of it is fitted already, because that part may have
    seen test cases. The validation part decides the threshold, and the scale of the scores where an estimator has no
    probabilities of its own.

    The score is `predict_proba` of class 1. An estimator that only has `decision_function` gets a sigmoid fitted on
    the validation part (`PlattScaling`). Parts that draw random numbers and leave `random_state` open get a seed
    derived from the run's, the repeat and the fold. Linear algebra runs on one thread, so that the numbers do not
    depend on how many cores a worker has.

    Args:
        study: Cases with a label, 1 (positive) or 0, and a vector (d,) of finite numbers for each.
        estimator: An unfitted classifier or pipeline.
        threshold: `"fit"`, the threshold with the highest balanced accuracy (highest Youden index) on the validation
            part, or a number in [0, 1].
        covariates: Add the cases' covariates, such as age and sex, as columns of the table.

    Raises:
        LeakageError: A part of the estimator is fitted.
        ValueError: The estimator has no scores, the threshold is out of range, or a covariate is named like a column of
            the table.
    """

    def __init__(
        self,
        study: Described,
        estimator: Any,
        *,
        threshold: float | Literal["fit"] = "fit",
        covariates: bool = False,
    ) -> None:
        if threshold != "fit" and not 0.0 <= threshold <= 1.0:
            raise ValueError(f"a threshold must be 'fit' or in [0, 1], got {threshold}")
        named = {name for case in study.by_id.values() for name in case.covariates} if covariates else set()
        if clashes := sorted(named & set(_OWN)):
            raise ValueError(f"covariates must not be named like columns of the table, got {', '.join(clashes)}")
        if not (hasattr(estimator, "predict_proba") or hasattr(estimator, "decision_function")):
            raise ValueError(f"expected a classifier with predict_proba or decision_function, got {estimator!r}")
        require_unfitted(estimator)
        self.study: Any = study
        self.estimator = estimator
        self.threshold = threshold
        self.covariates = covariates

    def fit(self, context: Context) -> ClassPredictor:
        """Leave `threshold.json` and `validation.csv`; an interrupted fold simply starts again.

        Raises:
            DataError: A case has no label or no usable vector, or a part holds a single class.
        """
        # A test case without a label would be missing from every number.
        labels_of(self.study.by_id, context.fold.test)
        estimator = self._fitted(context)
        return ClassPredictor.learn(
            FittedEstimator(estimator),
            self.study,
            context,
            calibrate=not hasattr(estimator, "predict_proba"),
            threshold=self.threshold,
            log_odds=False,
            covariates=self.covariates,
        )

    def _fitted(self, context: Context) -> Any:
        from sklearn.base import clone

        estimator = clone(self.estimator)
        # Cloning keeps what declares itself frozen, so look again at what will really be fitted.
        require_unfitted(estimator)
        _seed(estimator, context.seed("estimator"))
        train = context.fold.train
        matrix, labels = stack_features(self.study.vectors, train), labels_of(self.study.by_id, train)
        if len(set(labels.tolist())) < 2:
            raise DataError(
                f"The {len(labels)} training cases of fold {context.fold.index} all have label {labels[0]}; expected "
                "both classes. Use fewer folds, or stratify by label."
            )
        with single_thread():
            return estimator.fit(matrix, labels)


@dataclass(frozen=True)
class FittedEstimator:
    """A fitted estimator (a `Scorer`)."""

    estimator: Any

    def outputs(self, study: Described, names: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities of class 1, or decision values of an estimator without them, (n,).

        Raises:
            DataError: A case has no usable vector, or its output is not finite.
        """
        with single_thread():
            matrix = stack_features(study.vectors, names)
            if hasattr(self.estimator, "predict_proba"):
                outputs = self.estimator.predict_proba(matrix)[:, list(self.estimator.classes_).index(1)]
            else:
                outputs = self.estimator.decision_function(matrix)
        bad = [name for name, finite in zip(names, np.isfinite(outputs), strict=True) if not finite]
        if bad:
            raise DataError(f"The estimator gives {some(bad)} a score that is not finite. Scale the features.")
        return np.asarray(outputs, np.float64)


def require_unfitted(estimator: Any) -> None:
    """Refuse an estimator when it, or any part of it, is fitted: it may have seen test cases.

    Scikit-learn's rule decides: what was learned is an attribute whose name ends in an underscore. Numbers hidden in a
    plain function, and features that were selected or scaled with the help of test cases before they came here, cannot
    be recognized; `medformer.crossval.checks.canary` says which of those a permutation reveals.

    Raises:
        LeakageError: Names the part and what it has learned.
    """
    for part in [estimator, *estimator.get_params(deep=True).values()]:
        # A method brings the object along that it is bound to.
        part = getattr(part, "__self__", part)
        if isinstance(part, type) or not hasattr(part, "get_params"):
            continue
        learned = sorted(name for name in vars(part) if name.endswith("_") and not name.startswith("_"))
        if learned:
            raise LeakageError(
                f"{type(part).__name__} is fitted already (it has {some(learned, 3)}), on cases that may be test cases "
                "of a fold. Give it unfitted: every fold fits a copy of its own on its training part."
            )


def _seed(estimator: Any, seed: int) -> None:
    """Give every open `random_state` of the estimator and its parts a seed of its own."""
    open_ = {
        name: derive_seed(seed, name) % 2**32
        for name, value in estimator.get_params(deep=True).items()
        if value is None and name.split("__")[-1] == "random_state"
    }
    if open_:
        estimator.set_params(**open_)
