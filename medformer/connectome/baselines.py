"""Strong and simple classifiers that a network has to beat on the same folds.

All are linear, with hyper-parameters that are fixed beforehand: connections are scaled to a mean squared length of 1
(`TrainingSpan`), so that one penalty suits every atlas and measure. Each is an unfitted scikit-learn estimator over the
whole feature matrix, fitted on a fold's training part alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

from medformer.connectome.columns import Columns, Matrix
from medformer.connectome.pipeline import feature_pipeline
from medformer.errors import ConfigError, DataError, UnknownNameError
from medformer.registry import Entry, Registry

# Directions with a smaller share of the variance are rounding.
_NEGLIGIBLE = 1e-12


class TrainingSpan(TransformerMixin, BaseEstimator):
    """Coordinates of rows in the span of the centered training rows, scaled to a mean squared length of 1.

    The weights of a linear classifier with an L2 penalty and a free intercept lie in that span, so such a classifier
    gives the same scores on these n coordinates as on all d features (the representer theorem), for the cost of one
    matrix of inner products; so does one that is fitted on a part of the rows. The scale makes one strength of the
    penalty mean the same for any atlas and measure. Labels are not used.

    There are always n coordinates; those of directions that the rows do not span are 0.

    Attributes:
        rows_: Centered training rows, shape (n, d).
        center_: Mean of the training rows, shape (d,).
        axes_: Takes inner products with the training rows to coordinates, shape (n, n).
    """

    rows_: Matrix
    center_: Matrix
    axes_: Matrix

    def fit(self, X: Matrix, y: Any = None) -> Self:
        self._learn(X)
        return self

    def fit_transform(self, X: Matrix, y: Any = None) -> Matrix:
        return self._learn(X)

    def transform(self, X: Matrix) -> Matrix:
        check_is_fitted(self)
        products: Matrix = (np.asarray(X, np.float64) - self.center_) @ self.rows_.T
        return products @ self.axes_

    def _learn(self, X: Matrix) -> Matrix:
        """Learn the axes and return the coordinates of the training rows, which come with them."""
        matrix = np.asarray(X, np.float64)
        self.center_ = matrix.mean(axis=0)
        self.rows_ = matrix - self.center_
        values, vectors = np.linalg.eigh(self.rows_ @ self.rows_.T)
        # At least one direction is spanned by none: the rows are centered.
        lengths = np.sqrt(np.where(values > _NEGLIGIBLE * values[-1], values, 0.0))
        scale = np.sqrt(np.square(lengths).mean()) or 1.0
        self.axes_ = vectors * np.divide(1.0, lengths * scale, out=np.zeros_like(lengths), where=lengths > 0)
        coordinates: Matrix = vectors * (lengths / scale)
        return coordinates


class SpanPart(TransformerMixin, BaseEstimator):
    """One of several equally wide parts of a matrix, such as the training spans of atlases side by side.

    Args:
        index: Which part, from 0.
        parts: How many there are.

    Attributes:
        n_features_in_: Columns of all parts.
    """

    n_features_in_: int

    def __init__(self, index: int, parts: int) -> None:
        self.index = index
        self.parts = parts

    def fit(self, X: Matrix, y: Any = None) -> Self:
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Matrix) -> Matrix:
        check_is_fitted(self)
        width = X.shape[1] // self.parts
        return X[:, self.index * width : (self.index + 1) * width]


# Inner folds of the stack.
_MOST_FOLDS = 5

# Means every atlas in the name of a baseline.
ALL = "all"

# An atlas's unfitted steps, from the whole feature matrix to what a classifier sees.
Features = Callable[[str], Pipeline]

Builder = Callable[[Columns, Features, str], Pipeline]


def _ridge() -> RidgeClassifier:
    return RidgeClassifier(alpha=1.0, solver="cholesky")


def _logistic() -> LogisticRegression:
    # A logistic loss is at most a quarter as curved as a squared one: with C = 4 the penalty weighs as in the ridge.
    return LogisticRegression(C=4.0, max_iter=1000)


def _svm() -> SVC:
    return SVC(kernel="linear", C=1.0)


def _linear(classifier: Callable[[], Any], columns: Columns, features: Features, atlas: str) -> Pipeline:
    """One classifier on one atlas, or on all, each of which then weighs the same."""
    if atlas == ALL:
        steps = [("features", _spans(columns, features)), ("span", TrainingSpan())]
    else:
        steps = [("features", features(atlas)), ("span", TrainingSpan())]
    return Pipeline([*steps, ("classifier", classifier())])


def _stack(columns: Columns, features: Features, atlas: str) -> Pipeline:
    """Ridge and support vector machine of each atlas, weighed by a logistic regression of their inner predictions.

    The features are computed once, not in each inner fold. Where a step of them learns (tangent space, ComBat,
    confounds), it has seen the rows of inner test parts, though never their labels. This affects only the weights of
    the stack, and no row of the fold's test part.
    """
    count = len(columns.atlases)
    members = [
        (f"{kind}_{name}", Pipeline([("part", SpanPart(index, count)), ("classifier", classifier())]))
        for index, name in enumerate(columns.atlases)
        for kind, classifier in (("ridge", _ridge), ("svm", _svm))
    ]
    final = Pipeline([("scale", StandardScaler()), ("classifier", _logistic())])
    stack = StackingClassifier(members, final_estimator=final, cv=InnerFolds())
    return Pipeline([("features", _spans(columns, features)), ("classifier", stack)])


def _covariates(columns: Columns, features: Features, atlas: str) -> Pipeline:
    """Predicts the diagnosis from site, age, sex and motion alone."""
    if not columns.covariates:
        raise ConfigError("The baseline 'covariates' got no columns of covariates; expected site, age, sex or mean_fd.")
    parts: list[tuple[str, Any, list[int]]] = []
    numbers = [columns.covariate(name) for name in columns.covariates if name != "site"]
    if "site" in columns.covariates:
        parts.append(("site", OneHotEncoder(handle_unknown="ignore"), [columns.covariate("site")]))
    if numbers:
        parts.append(("numbers", StandardScaler(), numbers))
    return Pipeline([("features", ColumnTransformer(parts)), ("classifier", _logistic())])


def _spans(columns: Columns, features: Features) -> FeatureUnion:
    """The training spans of all atlases side by side, equally wide."""
    spans = [(name, Pipeline([("features", features(name)), ("span", TrainingSpan())])) for name in columns.atlases]
    return FeatureUnion(spans)


BASELINES: Registry[Builder] = Registry(
    "baseline",
    [
        Entry("ridge", partial(_linear, _ridge), "ridge classifier of an atlas or of all, penalty 1"),
        Entry("logistic", partial(_linear, _logistic), "logistic regression of an atlas or of all, L2, C = 4"),
        Entry("svm", partial(_linear, _svm), "linear support vector machine of an atlas or of all, C = 1"),
        Entry("stack", _stack, "ridge and SVM of each atlas, stacked by a logistic regression (5 inner folds)"),
        Entry("covariates", _covariates, "logistic regression of site, age, sex and motion, without connections"),
    ],
)

_OF_ATLASES = ("ridge", "logistic", "svm")


def baseline_names(columns: Columns) -> tuple[str, ...]:
    """The baselines that some features allow, such as `ridge_cc200`, `ridge_all`, `stack` and `covariates`."""
    atlases = [*columns.atlases, ALL] if len(columns.atlases) > 1 else list(columns.atlases)
    names = [f"{kind}_{atlas}" for kind in _OF_ATLASES for atlas in atlases]
    return (*names, "stack", *(["covariates"] if columns.covariates else []))


def build_baseline(name: str, columns: Columns, features: Features | None = None) -> Pipeline:
    """Build an unfitted baseline for `EstimatorLearner`.

    Args:
        name: One of `baseline_names`.
        columns: The layout of the features.
        features: The steps of an atlas before the classifier; by default `feature_pipeline` with its defaults, which
            is Fisher's z of correlations and nothing that learns.

    Raises:
        UnknownNameError: These features allow no baseline of that name.
    """
    known = baseline_names(columns)
    if name not in known:
        raise UnknownNameError("baseline", name, known)
    kind, _, atlas = name.partition("_")
    return BASELINES[kind].part(columns, features or partial(feature_pipeline, columns), atlas)


class InnerFolds:
    """Stratified folds inside a training part, as many as its smaller class allows; a scikit-learn splitter.

    There are five where every class has that many rows, fewer otherwise. The same rows always come into the same folds.
    """

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds; the most there can be where no labels are given.

        Raises:
            DataError: A class has one row, so a fold would have to train without it.
        """
        if y is None:
            return _MOST_FOLDS
        classes, counts = np.unique(y, return_counts=True)
        if len(classes) < 2 or counts.min() < 2:
            found = ", ".join(f"{count} of class {name}" for name, count in zip(classes, counts, strict=True))
            raise DataError(f"The training part has {found}; expected at least 2 subjects of each of two classes.")
        return int(min(_MOST_FOLDS, counts.min()))

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows to train on and rows to test on, for each fold."""
        folds = StratifiedKFold(self.get_n_splits(X, y), shuffle=True, random_state=0)
        yield from folds.split(X, y)
