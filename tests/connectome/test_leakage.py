"""Rows that were not fitted on can influence neither the fit nor each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from medformer.connectome.baselines import TrainingSpan
from medformer.connectome.columns import Columns, SelectAtlas, WithoutCovariates
from medformer.connectome.combat import ComBat
from medformer.connectome.pipeline import (
    ConfoundRegression,
    Deviation,
    FeatureScale,
    FisherZ,
    SubjectScale,
    feature_pipeline,
)
from medformer.connectome.tangent import TangentSpace

STEPS = (
    "tangent",
    "combat",
    "confounds",
    "feature_scale",
    "subject_scale",
    "deviation",
    "fisher",
    "span",
)
TRAIN, TEST = np.arange(0, 42), np.arange(42, 60)


def pipeline(step: str, columns: Columns) -> Any:
    if step == "span":
        return Pipeline([("features", feature_pipeline(columns, "one")), ("step", TrainingSpan())])
    parts: dict[str, Any] = {
        "tangent": TangentSpace(columns),
        "combat": ComBat(columns),
        "confounds": ConfoundRegression(columns, ("site", "age", "sex", "mean_fd")),
        "feature_scale": FeatureScale(columns),
        "subject_scale": SubjectScale(columns),
        "deviation": Deviation(columns),
        "fisher": FisherZ(columns),
    }
    return Pipeline(
        [("atlas", SelectAtlas(columns, "one")), ("step", parts[step]), ("end", WithoutCovariates(columns))]
    )


def learned(estimator: BaseEstimator) -> dict[str, Any]:
    """Everything whose name ends in an underscore, down through the parts."""
    found: dict[str, Any] = {}
    for name, value in vars(estimator).items():
        if name.endswith("_"):
            found[name] = learned(value) if isinstance(value, BaseEstimator) else value
    return found


def assert_same(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    else:
        assert np.array_equal(first, second)


def disturbed(X: NDArray[np.float64], columns: Columns, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Other subjects in those rows: valid, but far from what they were, of one site, old, and moving a lot."""
    changed = X.copy()
    changed[rows, : columns.edges] = X[rows[::-1], : columns.edges] * 0.5
    if columns.blocks[0].measure == "tangent":
        changed[rows, : columns.edges] = X[rows[::-1], : columns.edges] * 900.0
    changed[np.ix_(rows, range(columns.edges, columns.width))] = (1, 90.0, 1, 9.0)
    return changed


@pytest.mark.parametrize("step", STEPS)
def test_test_rows_cannot_influence_what_is_learned_or_the_training_rows(
    step: str, cohort_for: Callable[[str], Any]
) -> None:
    """Both are fitted on the training rows of one whole matrix, whose test rows are wildly different."""
    cohort = cohort_for(step)
    results = []
    for X in (cohort.X, disturbed(cohort.X, cohort.columns, TEST)):
        fitted = pipeline(step, cohort.columns).fit(X[TRAIN], cohort.y[TRAIN])
        fitted.transform(X[TEST])
        results.append((learned(fitted.named_steps["step"]), fitted.transform(X[TRAIN])))
    assert_same(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("step", STEPS)
def test_transforming_changes_nothing_that_was_learned(step: str, cohort_for: Callable[[str], Any]) -> None:
    cohort = cohort_for(step)
    fitted = pipeline(step, cohort.columns).fit(cohort.X[TRAIN], cohort.y[TRAIN])
    twin = pipeline(step, cohort.columns).fit(cohort.X[TRAIN], cohort.y[TRAIN])
    fitted.transform(disturbed(cohort.X, cohort.columns, TEST))
    assert_same(learned(fitted.named_steps["step"]), learned(twin.named_steps["step"]))


@pytest.mark.parametrize("step", STEPS)
def test_a_row_depends_on_no_other_test_row(step: str, cohort_for: Callable[[str], Any]) -> None:
    cohort = cohort_for(step)
    fitted = pipeline(step, cohort.columns).fit(cohort.X[TRAIN], cohort.y[TRAIN])
    whole = fitted.transform(cohort.X[TEST])
    among_others = fitted.transform(disturbed(cohort.X, cohort.columns, TEST[1:])[TEST])
    assert np.array_equal(among_others[0], whole[0])
    assert not np.allclose(among_others[1:], whole[1:])
    alone = fitted.transform(cohort.X[TEST[:1]])
    assert alone[0] == pytest.approx(whole[0], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("step", STEPS)
def test_labels_are_not_looked_at(step: str, cohort_for: Callable[[str], Any]) -> None:
    cohort = cohort_for(step)
    with_labels = pipeline(step, cohort.columns).fit(cohort.X, cohort.y)
    without = pipeline(step, cohort.columns).fit(cohort.X)
    assert_same(learned(with_labels.named_steps["step"]), learned(without.named_steps["step"]))


@pytest.mark.parametrize("step", ["tangent", "combat", "confounds", "feature_scale", "deviation", "span"])
def test_the_training_rows_do_influence_what_is_learned(step: str, cohort_for: Callable[[str], Any]) -> None:
    """Otherwise the tests above would pass for steps that learn nothing."""
    cohort = cohort_for(step)
    first = pipeline(step, cohort.columns).fit(cohort.X[TRAIN])
    second = pipeline(step, cohort.columns).fit(cohort.X[TEST])
    with pytest.raises(AssertionError):
        assert_same(learned(first.named_steps["step"]), learned(second.named_steps["step"]))


def test_a_label_never_reaches_the_features_of_its_own_row(cohort: Any) -> None:
    fitted = ComBat(cohort.columns).fit(cohort.X, cohort.y)
    assert np.array_equal(fitted.transform(cohort.X), clone(fitted).fit_transform(cohort.X, 1 - cohort.y))
