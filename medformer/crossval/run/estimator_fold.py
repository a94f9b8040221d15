"""A fold job for feature vectors: any scikit-learn classifier of two classes, fitted on training cases alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import Fold, some
from medformer.errors import DataError, LeakageError
from medformer.files import write_csv
from medformer.inference.classes.decision import learn_decision, prediction_rows
from medformer.inference.single_thread import single_thread
from medformer.seeds import derive_seed

Vector = NDArray[np.floating[Any]]

_OWN = ("id", "fold", "repeat", "group", "site", "label", "score", "threshold", "prediction")


class EstimatorFold:
    """Fits a clone of an estimator on the training part and predicts the test part once.

    (See `medformer.crossval.run.fold_job.FoldJob`.) The estimator is cloned for each fold, and refused when a part of
    it is fitted already, because that part may have seen test cases. The validation part decides the threshold, and the
    scale of the scores where an estimator has no probabilities of its own.

    The score is `predict_proba` of class 1. An estimator that only has `decision_function` gets a sigmoid fitted on
    the validation part (`PlattScaling`). Parts that draw random numbers and leave `random_state` open get a seed
    derived from the run's, the repeat and the fold. Linear algebra runs on one thread, so that the numbers do not
    depend on how many cores a worker has.

    Args:
        features: A vector (d,) of finite numbers per id; the mapping may load them when asked.
        labels: 1 (positive) or 0 per id. Permuted labels are passed here.
        estimator: An unfitted classifier or pipeline.
        sites: Site per id.
        covariates: Further columns of the table by id, such as age and sex; the same for every id.
        threshold: `"fit"`, the threshold with the highest balanced accuracy (highest Youden index) on the validation
            part, or a number in [0, 1].
        seed: The run's seed.

    Raises:
        LeakageError: A part of the estimator is fitted.
        ValueError: The estimator has no scores, the threshold is out of range, or a covariate is named like a column of
            the table.
    """

    def __init__(
        self,
        features: Mapping[str, Vector],
        labels: Mapping[str, int],
        estimator: Any,
        *,
        sites: Mapping[str, str] | None = None,
        covariates: Mapping[str, Mapping[str, str]] | None = None,
        threshold: float | Literal["fit"] = "fit",
        seed: int = 0,
    ) -> None:
        if threshold != "fit" and not 0.0 <= threshold <= 1.0:
            raise ValueError(f"a threshold must be 'fit' or in [0, 1], got {threshold}")
        clashes = sorted({name for row in (covariates or {}).values() for name in row} & set(_OWN))
        if clashes:
            raise ValueError(f"covariates must not be named like columns of the table, got {', '.join(clashes)}")
        if not (hasattr(estimator, "predict_proba") or hasattr(estimator, "decision_function")):
            raise ValueError(f"expected a classifier with predict_proba or decision_function, got {estimator!r}")
        require_unfitted(estimator)
        self.features = features
        self.labels = labels
        self.estimator = estimator
        self.sites = sites or {}
        self.covariates = covariates or {}
        self.threshold = threshold
        self.seed = seed

    def __call__(self, fold: Fold, folder: Path, resume: bool) -> None:
        """Leave `threshold.json`, `validation.csv` and `predictions.csv`; an interrupted fold simply starts again."""
        with single_thread():
            estimator = self._fitted(fold)
            decision = learn_decision(
                folder,
                fold.validation,
                self._labels(fold.validation),
                self._outputs(estimator, fold.validation),
                calibrate=not hasattr(estimator, "predict_proba"),
                threshold=self.threshold,
                log_odds=False,
            )
            if fold.test:
                rows = prediction_rows(
                    fold.test,
                    self._labels(fold.test),
                    decision.probabilities(self._outputs(estimator, fold.test)),
                    decision.threshold,
                    sites=self.sites,
                    covariates=self.covariates,
                )
                write_csv(folder / "predictions.csv", rows, list(rows[0]))

    def _fitted(self, fold: Fold) -> Any:
        from sklearn.base import clone

        estimator = clone(self.estimator)
        # Cloning keeps what declares itself frozen, so look again at what will really be fitted.
        require_unfitted(estimator)
        _seed(estimator, derive_seed(self.seed, "repeat", fold.repeat, "fold", fold.index, "estimator"))
        matrix, labels = self._matrix(fold.train), self._labels(fold.train)
        if len(set(labels.tolist())) < 2:
            raise DataError(
                f"The {len(labels)} training cases of fold {fold.index} all have label {labels[0]}; expected both "
                "classes. Use fewer folds, or stratify by label."
            )
        return estimator.fit(matrix, labels)

    def _outputs(self, estimator: Any, names: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities of class 1, or decision values of an estimator without them, shape (n,)."""
        matrix = self._matrix(names)
        if hasattr(estimator, "predict_proba"):
            outputs = estimator.predict_proba(matrix)[:, list(estimator.classes_).index(1)]
        else:
            outputs = estimator.decision_function(matrix)
        bad = [name for name, finite in zip(names, np.isfinite(outputs), strict=True) if not finite]
        if bad:
            raise DataError(f"The estimator gives {some(bad)} a score that is not finite. Scale the features.")
        return np.asarray(outputs, np.float64)

    def _labels(self, names: Sequence[str]) -> NDArray[np.int64]:
        missing = [name for name in names if name not in self.labels]
        if missing:
            raise DataError(f"There is no label for {some(missing)}; expected 0 or 1 for every case of the plan.")
        wrong = [name for name in names if self.labels[name] not in (0, 1)]
        if wrong:
            raise DataError(f"The label of {wrong[0]} is {self.labels[wrong[0]]!r}; expected 0 or 1 (1 is positive).")
        return np.array([int(self.labels[name]) for name in names], np.int64)

    def _matrix(self, names: Sequence[str]) -> NDArray[np.float64]:
        return stack_features(self.features, names)


def stack_features(features: Mapping[str, Vector], names: Sequence[str]) -> NDArray[np.float64]:
    """Put the vectors of some cases into a matrix (n, d).

    Raises:
        DataError: No cases, or one without a vector, with one of another length, or one that holds NaN or infinity.
    """
    if not names:
        raise DataError("A part of a fold is empty; expected cases to train on and cases to select a threshold on.")
    missing = [name for name in names if name not in features]
    if missing:
        raise DataError(f"There are no features for {some(missing)}; expected a vector for every case of the plan.")
    vectors = [np.asarray(features[name], np.float64) for name in names]
    for name, vector in zip(names, vectors, strict=True):
        if vector.ndim != 1 or vector.shape != vectors[0].shape:
            raise DataError(
                f"The features of {name} have shape {vector.shape}, those of {names[0]} {vectors[0].shape}; expected "
                "vectors of one length."
            )
        if not np.isfinite(vector).all():
            raise DataError(
                f"The features of {name} hold {np.count_nonzero(~np.isfinite(vector))} value(s) that are NaN or "
                "infinite. Leave the case out, or fill them before."
            )
    return np.stack(vectors)


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
