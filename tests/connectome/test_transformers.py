from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from medformer.connectome.columns import SelectAtlas, WithoutCovariates
from medformer.connectome.combat import ComBat
from medformer.connectome.measures import to_matrices, to_triangle
from medformer.connectome.pipeline import ConfoundRegression, FeatureScale, FisherZ, SubjectScale
from medformer.connectome.tangent import TangentSpace
from medformer.errors import ConfigError, DataError

BUILDERS: dict[str, Callable[[Any], Any]] = {
    "fisher": FisherZ,
    "subject": SubjectScale,
    "feature": FeatureScale,
    "confounds": lambda columns: ConfoundRegression(columns, ("site", "age")),
    "combat": ComBat,
    "tangent": TangentSpace,
}


def block_of(cohort: Any) -> Any:
    """The first atlas with its covariates."""
    return SelectAtlas(cohort.columns, "one").fit_transform(cohort.X)


@pytest.mark.parametrize("step", list(BUILDERS))
def test_covariates_pass_and_a_step_can_be_cloned_and_pickled(step: str, cohort_for: Callable[[str], Any]) -> None:
    cohort = cohort_for(step)
    X = block_of(cohort)
    transformer = BUILDERS[step](cohort.columns)
    found = transformer.fit_transform(X, cohort.y)
    assert found.shape == X.shape
    assert np.array_equal(found[:, -4:], X[:, -4:])
    assert not np.allclose(found[:, :-4], X[:, :-4])
    assert np.array_equal(clone(transformer).fit(X, cohort.y).transform(X), found)
    assert np.array_equal(pickle.loads(pickle.dumps(transformer)).transform(X), found)
    with pytest.raises(NotFittedError):
        clone(transformer).transform(X)
    with pytest.raises(DataError, match=f"got {X.shape[1] - 1} columns; expected the {X.shape[1]}"):
        transformer.transform(X[:, 1:])


def test_an_atlas_is_cut_out_and_covariates_are_dropped(cohort: Any) -> None:
    found = SelectAtlas(cohort.columns, "two").fit_transform(cohort.X)
    assert np.array_equal(found, cohort.X[:, 28:])
    assert np.array_equal(WithoutCovariates(cohort.columns).fit_transform(found), cohort.X[:, 28:43])
    with pytest.raises(ConfigError, match="'three'"):
        SelectAtlas(cohort.columns, "three").fit(cohort.X).transform(cohort.X)
    with pytest.raises(DataError, match="42 columns of connections; expected 43"):
        SelectAtlas(cohort.columns, "two").fit(cohort.X[:, 1:]).transform(cohort.X[:, 1:])


def test_fishers_z_is_finite_and_refuses_what_is_no_correlation(cohort: Any) -> None:
    X = block_of(cohort)
    X[0, :3] = (1.0, -1.0, 0.5)
    found = FisherZ(cohort.columns).fit_transform(X)
    assert found[0, :3] == pytest.approx([np.arctanh(0.999), -np.arctanh(0.999), np.arctanh(0.5)])
    X[0, 0] = 1.7
    with pytest.raises(DataError, match=r"1\.7"):
        FisherZ(cohort.columns).fit_transform(X)


def test_subject_scale_standardizes_rows_and_survives_a_flat_one(cohort: Any) -> None:
    X = block_of(cohort)
    X[2, :28] = 0.1
    X[3, :28] = 0.0
    found = SubjectScale(cohort.columns).fit_transform(X)[:, :28]
    assert (found[[2, 3]] == 0).all()
    rest = np.delete(found, [2, 3], axis=0)
    assert rest.mean(axis=1) == pytest.approx(0, abs=1e-12)
    assert rest.std(axis=1) == pytest.approx(1)


def test_feature_scale_standardizes_columns_of_the_training_part(cohort: Any) -> None:
    X = block_of(cohort)
    X[:, 4] = 0.0
    fitted = FeatureScale(cohort.columns).fit(X[:40])
    found = np.delete(fitted.transform(X[:40])[:, :28], 4, axis=1)
    assert found.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert found.std(axis=0) == pytest.approx(1)
    assert (fitted.transform(X)[:, 4] == 0).all()


def test_confound_regression_leaves_the_residual_of_least_squares_and_the_mean(cohort: Any) -> None:
    X = block_of(cohort)
    site = cohort.covariate("site")
    design = np.column_stack([site == 1, site == 2, cohort.covariate("age"), cohort.covariate("mean_fd")])
    fit = LinearRegression().fit(design[:45], X[:45, :28])
    found = ConfoundRegression(cohort.columns, ("age", "mean_fd", "site")).fit(X[:45]).transform(X)[:, :28]
    expected = X[:, :28] - fit.predict(design) + X[:45, :28].mean(axis=0)
    assert found == pytest.approx(expected, abs=1e-10)


def test_an_unseen_site_counts_as_the_average_site(cohort: Any) -> None:
    X = block_of(cohort)
    east = cohort.covariate("site") == 2
    fitted = ConfoundRegression(cohort.columns, ("site",)).fit(X[~east])
    # Only what centering takes from the average training site, which is nothing, is subtracted.
    assert np.array_equal(fitted.transform(X)[east], X[east])
    assert not np.allclose(fitted.transform(X)[~east], X[~east])


def test_a_missing_confound_is_named(cohort: Any) -> None:
    X = block_of(cohort)
    X[5, -1] = np.nan
    ConfoundRegression(cohort.columns, ("age",)).fit(X)
    with pytest.raises(DataError, match="'mean_fd', which 1 of 60"):
        ConfoundRegression(cohort.columns, ("mean_fd",)).fit(X)


def test_tangent_space_is_nilearns(cohort_for: Callable[[str], Any]) -> None:
    """On series, nilearn's own path; here from their stored covariances."""
    generator = np.random.default_rng(0)
    cohort = cohort_for("tangent")
    series = [generator.normal(size=(50, 8)) @ generator.normal(size=(8, 8)) for _ in range(60)]
    theirs = ConnectivityMeasure(kind="tangent").fit(series[:40])
    covariances = np.stack(ConnectivityMeasure(kind="covariance").fit_transform(series))
    X = np.hstack([to_triangle(covariances, diagonal=True), cohort.X[:, -4:]])
    found = TangentSpace(cohort.columns).fit(X[:40]).transform(X)[:, :-4]
    expected = np.asarray(theirs.transform(series))
    matrices = to_matrices(found, 8, diagonal=True)
    off = ~np.eye(8, dtype=bool)
    assert matrices[:, ~off] == pytest.approx(expected[:, ~off], abs=1e-8)
    assert matrices[:, off] == pytest.approx(np.sqrt(2) * expected[:, off], abs=1e-8)
    # The length of a vector is that of its matrix.
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.linalg.norm(expected, axis=(1, 2)))


def test_tangent_space_refuses_a_matrix_without_a_logarithm(cohort_for: Callable[[str], Any]) -> None:
    cohort = cohort_for("tangent")
    X = block_of(cohort)
    X[7, 0] = -5.0
    with pytest.raises(DataError, match="row 7 is not positive definite"):
        TangentSpace(cohort.columns).fit(X)
