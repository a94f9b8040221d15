from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medformer.connectome.columns import Columns, FeatureBlock
from medformer.connectome.combat import ComBat
from medformer.errors import ConfigError, DataError

SITES = ("north", "south", "east")

Matrix = NDArray[np.float64]


def reference(values: Matrix, sites: NDArray[np.int64], covariates: Matrix) -> Matrix:
    """The equations of Johnson et al. 2007, written out connection by connection and subject by subject."""
    names = sorted(set(sites.tolist()))
    count, width = values.shape
    design = np.array([[float(site == name) for name in names] for site in sites])
    design = np.hstack([design, covariates])
    coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
    shares = np.array([np.mean(sites == name) for name in names])
    result = values.copy()
    standard, expected, sigma = np.empty_like(values), np.empty_like(values), np.empty(width)
    for v in range(width):
        sigma[v] = np.sqrt(np.mean((values[:, v] - design @ coefficients[:, v]) ** 2))
        for i in range(count):
            expected[i, v] = shares @ coefficients[: len(names), v] + covariates[i] @ coefficients[len(names) :, v]
            standard[i, v] = (values[i, v] - expected[i, v]) / sigma[v]
    for name in names:
        rows = np.flatnonzero(sites == name)
        n = len(rows)
        gamma_hat = [standard[rows, v].mean() for v in range(width)]
        delta_hat = [standard[rows, v].var(ddof=1) for v in range(width)]
        gamma_bar, tau2 = np.mean(gamma_hat), np.var(gamma_hat, ddof=1)
        mean, variance = np.mean(delta_hat), np.var(delta_hat, ddof=1)
        lam = (mean**2 + 2 * variance) / variance
        theta = (mean**3 + mean * variance) / variance
        for v in range(width):
            gamma, delta = gamma_hat[v], delta_hat[v]
            for _ in range(500):
                gamma = (n * tau2 * gamma_hat[v] + delta * gamma_bar) / (n * tau2 + delta)
                delta = (theta + 0.5 * sum((standard[i, v] - gamma) ** 2 for i in rows)) / (n / 2 + lam - 1)
            for i in rows:
                result[i, v] = sigma[v] * (standard[i, v] - gamma) / np.sqrt(delta) + expected[i, v]
    return result


def edges(matrix: Matrix, columns: Columns) -> Matrix:
    return matrix[:, : columns.edges]


def test_it_equals_the_published_equations(cohort: Any) -> None:
    few = Columns((FeatureBlock("few", "correlation", 4),), cohort.columns.covariates, SITES)
    X = np.hstack([cohort.X[:, :6], cohort.X[:, cohort.columns.edges :]])
    found = ComBat(few).fit_transform(X)
    covariates = np.column_stack([cohort.covariate("age"), cohort.covariate("sex")])
    # The covariates enter centered, so that the mean is that of the average subject.
    expected = reference(X[:, :6], cohort.covariate("site").astype(int), covariates - covariates.mean(axis=0))
    assert edges(found, few) == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(found[:, 6:], X[:, 6:])


def test_it_removes_the_planted_shift_and_keeps_the_effect_of_age() -> None:
    generator = np.random.default_rng(0)
    subjects, columns = 300, Columns((FeatureBlock("one", "correlation", 15),), ("site", "age"), SITES)
    site = np.arange(subjects) % 3
    age = generator.uniform(8, 30, subjects) + 4 * site
    slope = generator.normal(0, 0.02, columns.edges)
    clean = generator.normal(0, 0.1, (subjects, columns.edges)) + age[:, None] * slope
    noisy = clean + generator.normal(0, 0.3, (3, columns.edges))[site]
    found = edges(ComBat(columns, ("age",)).fit_transform(np.column_stack([noisy, site, age])), columns)

    def site_spread(values: Matrix) -> float:
        free = values - age[:, None] * slope
        return float(np.stack([free[site == s].mean(axis=0) for s in range(3)]).std(axis=0).mean())

    def age_slopes(values: Matrix) -> Matrix:
        return np.polyfit(age, values, 1)[0]

    assert site_spread(noisy) > 0.2
    assert site_spread(found) < 0.02
    assert age_slopes(found) == pytest.approx(slope, abs=0.006)
    # Without being told to keep it, ComBat takes the part of age that sites differ in for theirs.
    lost = edges(ComBat(columns, ()).fit_transform(np.column_stack([noisy, site, age])), columns)
    assert np.abs(age_slopes(lost) - slope).mean() > 2 * np.abs(age_slopes(found) - slope).mean()


def test_scales_are_brought_together(cohort: Any) -> None:
    found = edges(ComBat(cohort.columns).fit_transform(cohort.X), cohort.columns)
    site = cohort.covariate("site")

    def ratio(values: Matrix) -> float:
        return float(np.mean(values[site == 2].std(axis=0) / values[site == 0].std(axis=0)))

    assert ratio(edges(cohort.X, cohort.columns)) > 1.5
    assert ratio(found) < 1.2


def test_an_unseen_site_passes_unchanged_or_stops(cohort: Any) -> None:
    south = cohort.covariate("site") == 1
    fitted = ComBat(cohort.columns).fit(cohort.X[~south])
    assert np.array_equal(fitted.transform(cohort.X)[south], cohort.X[south])
    assert not np.allclose(fitted.transform(cohort.X)[~south], cohort.X[~south])
    with pytest.raises(DataError, match="no training subjects of south; expected only north, east"):
        ComBat(cohort.columns, unseen="error").fit(cohort.X[~south]).transform(cohort.X)


def test_a_connection_that_does_not_vary_passes_and_disturbs_no_other(cohort: Any) -> None:
    X = cohort.X.copy()
    X[:, 5] = 0.0
    found = ComBat(cohort.columns).fit_transform(X)
    assert np.isfinite(found).all()
    assert (found[:, 5] == 0).all()
    fewer = Columns((FeatureBlock("one", "correlation", 8),), cohort.columns.covariates, SITES)
    assert ComBat(fewer).fit(X[:, [*range(28), *range(43, 47)]]).deviations_[5] == 0


def test_a_connection_that_varies_in_no_subject_of_one_site_stays_finite(cohort: Any) -> None:
    X = cohort.X.copy()
    X[cohort.covariate("site") == 1, 5] = 0.0
    assert np.isfinite(ComBat(cohort.columns).fit_transform(X)).all()


def test_a_site_of_one_subject_is_only_shifted(cohort: Any) -> None:
    X = cohort.X.copy()
    site = cohort.columns.covariate("site")
    X[:, site] = np.where(X[:, site] == 2, 0, X[:, site])
    X[7, site] = 2
    fitted = ComBat(cohort.columns).fit(X)
    assert (fitted.scales_[2] == 1).all()
    assert (fitted.shifts_[2] != 0).all()
    assert np.isfinite(fitted.transform(X)).all()


def test_one_site_or_one_sex_is_no_obstacle(cohort: Any) -> None:
    X = cohort.X[cohort.covariate("site") == 0].copy()
    X[:, cohort.columns.covariate("sex")] = 1
    found = ComBat(cohort.columns).fit_transform(X)
    assert edges(found, cohort.columns).mean(axis=0) == pytest.approx(edges(X, cohort.columns).mean(axis=0), abs=1e-6)


def test_a_covariate_that_is_the_site_cannot_be_preserved(cohort: Any) -> None:
    X = cohort.X.copy()
    X[:, cohort.columns.covariate("sex")] = cohort.covariate("site") == 1
    with pytest.raises(DataError, match="cannot tell age, sex from site on 60 training subjects"):
        ComBat(cohort.columns).fit(X)
    with pytest.raises(ConfigError, match="cannot preserve 'site'"):
        ComBat(cohort.columns, preserve=("site",)).fit(X)


def test_missing_and_impossible_covariates_are_named(cohort: Any) -> None:
    X = cohort.X.copy()
    X[3, cohort.columns.covariate("age")] = np.nan
    with pytest.raises(DataError, match="'age', which 1 of 60"):
        ComBat(cohort.columns).fit(X)
    X[3] = cohort.X[3]
    X[3, cohort.columns.covariate("site")] = 3
    with pytest.raises(DataError, match=r"site 3.*3 names"):
        ComBat(cohort.columns).fit(X)
