from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_table import FeatureTable, fit_and_test
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from medformer.connectome.baselines import BASELINES, InnerFolds, TrainingSpan, baseline_names, build_baseline
from medformer.connectome.columns import Columns, FeatureBlock
from medformer.connectome.pipeline import feature_pipeline
from medformer.crossval.plan import Fold
from medformer.crossval.run.estimator import EstimatorLearner, require_unfitted
from medformer.errors import ConfigError, DataError, UnknownNameError
from medformer.files import read_csv

NAMES = tuple(f"{kind}_{atlas}" for kind in ("ridge", "logistic", "svm") for atlas in ("one", "two", "all"))
EVERY = (*NAMES, "stack", "covariates")


def test_names_follow_from_the_features(cohort: Any) -> None:
    assert baseline_names(cohort.columns) == EVERY
    single = Columns((FeatureBlock("one", "tangent", 8),))
    assert baseline_names(single) == ("ridge_one", "logistic_one", "svm_one", "stack")
    assert {name.partition("_")[0] for name in EVERY} == set(BASELINES)


@pytest.mark.parametrize("name", EVERY)
def test_a_baseline_is_a_plain_estimator_that_repeats(name: str, cohort: Any) -> None:
    estimator = build_baseline(name, cohort.columns)
    require_unfitted(estimator)
    require_unfitted(clone(estimator))
    first = clone(estimator).fit(cohort.X[:45], cohort.y[:45])
    again = pickle.loads(pickle.dumps(clone(estimator))).fit(cohort.X[:45], cohort.y[:45])
    assert first.predict(cohort.X).tolist() == again.predict(cohort.X).tolist()
    assert np.array_equal(first.classes_, [0, 1])


@pytest.mark.parametrize("name", EVERY)
def test_a_baseline_runs_as_a_fold(name: str, cohort: Any, tmp_path: Path) -> None:
    ids = [f"s{row:02d}" for row in range(len(cohort.y))]
    X = cohort.X.copy()
    X[:, : cohort.columns.edges : 3] = np.clip(X[:, : cohort.columns.edges : 3] + 0.4 * cohort.y[:, None], -0.95, 0.95)
    table = FeatureTable(dict(zip(ids, X, strict=True)), dict(zip(ids, cohort.y.tolist(), strict=True)))
    learner = EstimatorLearner(table, build_baseline(name, cohort.columns))
    fit_and_test(learner, Fold(0, tuple(ids[:36]), tuple(ids[36:48]), tuple(ids[48:])), tmp_path)
    rows = read_csv(tmp_path / "predictions.csv")
    assert [row["id"] for row in rows] == ids[48:]
    scores = np.array([float(row["score"]) for row in rows])
    assert ((scores > 0) & (scores < 1)).all()
    if name != "covariates":
        assert roc_auc_score(cohort.y[48:], scores) > 0.8


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("ridge", lambda scale: RidgeClassifier(alpha=scale)),
        ("logistic", lambda scale: LogisticRegression(C=4 / scale, tol=1e-10, max_iter=10000)),
        ("svm", lambda scale: SVC(kernel="linear", C=1 / scale, tol=1e-8)),
    ],
)
def test_the_training_span_changes_no_score(kind: str, reference: Callable[[float], Any], cohort: Any) -> None:
    """The same classifier on all features, with the penalty in their units."""
    X = feature_pipeline(cohort.columns, "one").fit_transform(cohort.X)
    train, test = slice(0, 20), slice(20, 60)
    scale = float(np.square(X[train] - X[train].mean(axis=0)).sum(axis=1).mean())
    plain = reference(scale).fit(X[train], cohort.y[train])
    found = build_baseline(f"{kind}_one", cohort.columns).fit(cohort.X[train], cohort.y[train])
    assert found.decision_function(cohort.X[test]) == pytest.approx(plain.decision_function(X[test]), abs=5e-3)


def test_the_training_span_keeps_inner_products_and_has_a_mean_square_of_one() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(3.0, 2.0, (12, 200))
    X[3] = X[4]
    span = TrainingSpan()
    coordinates = span.fit_transform(X)
    assert coordinates.shape == (12, 12)
    assert np.square(coordinates).sum(axis=1).mean() == pytest.approx(1)
    assert span.transform(X) == pytest.approx(coordinates, abs=1e-9)
    centered = X - X.mean(axis=0)
    scale = np.square(centered).sum() / 12
    assert coordinates @ coordinates.T == pytest.approx(centered @ centered.T / scale, abs=1e-9)
    # Of a new row it keeps what the training rows can see of it.
    new = generator.normal(size=(2, 200))
    assert span.transform(new) @ coordinates.T == pytest.approx((new - X.mean(axis=0)) @ centered.T / scale, abs=1e-9)
    assert (TrainingSpan().fit(np.ones((4, 9))).transform(np.ones((2, 9))) == 0).all()


def test_test_rows_and_test_labels_leave_every_score_of_the_others_as_it_is(cohort: Any) -> None:
    changed = cohort.X.copy()
    changed[51:, : cohort.columns.edges] = -changed[51:, : cohort.columns.edges]
    for name in ("stack", "svm_all"):
        fitted = build_baseline(name, cohort.columns).fit(cohort.X[:45], cohort.y[:45])
        method = fitted.predict_proba if hasattr(fitted, "predict_proba") else fitted.decision_function
        assert np.array_equal(method(cohort.X[45:])[:6], method(changed[45:])[:6])


def test_the_steps_before_a_classifier_are_the_callers(cohort: Any) -> None:
    features = partial(feature_pipeline, cohort.columns, harmonize="combat", confounds=("mean_fd",), scale="feature")
    estimator = build_baseline("ridge_one", cohort.columns, features)
    assert list(estimator.named_steps["features"].named_steps) == [
        "atlas", "fisher", "combat", "confounds", "scale", "block"
    ]  # fmt: skip
    assert np.isfinite(estimator.fit(cohort.X, cohort.y).decision_function(cohort.X)).all()


def test_what_the_features_do_not_allow_is_named(cohort: Any) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ridge_one'"):
        build_baseline("ridge_on", cohort.columns)
    bare = Columns((FeatureBlock("one", "correlation", 8),))
    with pytest.raises(UnknownNameError, match="covariates"):
        build_baseline("covariates", bare)


@pytest.mark.parametrize(("subjects", "expected"), [(10, 5), (3, 3), (2, 2)])
def test_inner_folds_are_as_many_as_the_smaller_class_allows(subjects: int, expected: int) -> None:
    y = np.array([1] * subjects + [0] * 20)
    folds = list(InnerFolds().split(np.zeros((len(y), 1)), y))
    assert len(folds) == InnerFolds().get_n_splits(None, y) == expected
    assert all(set(y[train]) == set(y[test]) == {0, 1} for train, test in folds)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(y)))


def test_one_subject_of_a_class_is_named(cohort: Any) -> None:
    y = np.zeros(60, int)
    y[3] = 1
    with pytest.raises(DataError, match="59 of class 0, 1 of class 1; expected at least 2"):
        build_baseline("stack", cohort.columns).fit(cohort.X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"harmonize": "combt"}, "combat"),
        ({"scale": "subjects"}, "subject"),
        ({"unseen_site": "skip"}, "pooled"),
        ({"confounds": ("iq",)}, "'iq'"),
        ({"harmonize": "combat", "preserve": ("iq",)}, "'iq'"),
    ],
)
def test_a_pipeline_is_checked_before_it_is_fitted(options: dict[str, Any], message: str, cohort: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        feature_pipeline(cohort.columns, "one", **options)


def test_a_pipeline_ends_in_the_block_of_its_atlas(cohort_for: Callable[[str], Any]) -> None:
    tangent = cohort_for("tangent")
    steps = feature_pipeline(tangent.columns, "two")
    assert list(steps.named_steps) == ["atlas", "tangent", "block"]
    assert steps.fit_transform(tangent.X).shape == (60, 21)
    plain = cohort_for("correlation")
    assert np.array_equal(
        feature_pipeline(plain.columns, "two", fisher=False).fit_transform(plain.X), plain.X[:, 28:43]
    )


@pytest.mark.real_data
def test_ridge_on_abide_reaches_what_honest_linear_models_reach(medformer_data: Path) -> None:
    with np.load(medformer_data / "abide" / "abide_fc_697.npz", allow_pickle=False) as store:
        X, y = store["fc_cc200"].astype(np.float64), store["dx"].astype(int)
    columns = Columns((FeatureBlock("cc200", "correlation", 200),))
    scores = np.zeros(len(y))
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(X, y):
        fitted = build_baseline("ridge_cc200", columns).fit(X[train], y[train])
        scores[test] = fitted.decision_function(X[test])
    # 10 folds give .725; far more than that would be a leak.
    assert 0.67 < roc_auc_score(y, scores) < 0.77
