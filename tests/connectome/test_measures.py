from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from medformer.connectome.measures import (
    MEASURES,
    STORED_SHRINKAGE,
    block_from_correlation,
    block_from_series,
    constant_regions,
    to_matrices,
    triangle_size,
)
from medformer.errors import DataError, UnknownNameError

REGIONS = 9


@pytest.fixture
def series() -> NDArray[np.float64]:
    generator = np.random.default_rng(1)
    mixed = generator.normal(size=(70, REGIONS)) @ generator.normal(size=(REGIONS, REGIONS))
    return mixed * generator.uniform(1, 100, REGIONS) + 1000


def matrix(block: NDArray[np.float32], measure: str) -> NDArray[np.float32]:
    return to_matrices(block[None], REGIONS, MEASURES[measure].part.diagonal)[0]


def standardized(series: NDArray[np.float64]) -> NDArray[np.float64]:
    return (series - series.mean(axis=0)) / series.std(axis=0)


def test_correlation_is_pearsons(series: NDArray[np.float64]) -> None:
    block = block_from_series(series, "correlation")
    assert block.dtype == np.float32
    assert matrix(block, "correlation") == pytest.approx(np.corrcoef(series.T), abs=1e-6)


def test_the_others_follow_from_the_shrunk_covariance(series: NDArray[np.float64]) -> None:
    raw = LedoitWolf().fit(series).covariance_
    assert matrix(block_from_series(series, "covariance"), "covariance") == pytest.approx(raw, rel=1e-5)
    shrunk = LedoitWolf().fit(standardized(series)).covariance_
    assert matrix(block_from_series(series, "tangent"), "tangent") == pytest.approx(shrunk, abs=1e-6)
    precision = np.linalg.inv(shrunk)
    assert matrix(block_from_series(series, "precision"), "precision") == pytest.approx(precision, rel=1e-4, abs=1e-5)
    scale = np.sqrt(np.diag(precision))
    partial = -precision / np.outer(scale, scale)
    np.fill_diagonal(partial, 1.0)
    assert matrix(block_from_series(series, "partial"), "partial") == pytest.approx(partial, abs=1e-5)


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "covariance"])
def test_units_do_not_matter(series: NDArray[np.float64], measure: str) -> None:
    changed = block_from_series(series * np.arange(1, REGIONS + 1) - 5, measure)
    assert changed == pytest.approx(block_from_series(series, measure), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("measure", list(MEASURES))
def test_a_constant_region_is_unconnected_and_disturbs_no_other(series: NDArray[np.float64], measure: str) -> None:
    dead = series.copy()
    dead[:, 4] = 812.3
    assert constant_regions(dead).tolist() == [index == 4 for index in range(REGIONS)]
    found = matrix(block_from_series(dead, measure), measure)
    others = np.delete(np.arange(REGIONS), 4)
    assert (found[4, others] == 0).all()
    assert found[4, 4] == (0 if measure == "covariance" else 1)
    alive = block_from_series(np.delete(dead, 4, axis=1), measure)
    expected = to_matrices(alive[None], REGIONS - 1, MEASURES[measure].part.diagonal)[0]
    assert np.array_equal(found[np.ix_(others, others)], expected)


@pytest.mark.parametrize("measure", list(MEASURES))
def test_short_and_silent_scans_give_finite_numbers(series: NDArray[np.float64], measure: str) -> None:
    assert np.isfinite(block_from_series(series[:4], measure)).all()
    assert np.isfinite(block_from_series(np.zeros((20, REGIONS)), measure)).all()


def test_series_that_cannot_be_used_are_named(series: NDArray[np.float64]) -> None:
    series[3, 2] = np.nan
    with pytest.raises(DataError, match="of sub-7 holds 1 value"):
        block_from_series(series, "correlation", case="sub-7")
    with pytest.raises(DataError, match=r"of sub-7 has shape \(1, 9\)"):
        block_from_series(series[:1], "correlation", case="sub-7")
    with pytest.raises(UnknownNameError, match="partial"):
        block_from_series(series, "partiel")


def test_stored_correlations_pass_or_are_shrunk_by_the_documented_weight(series: NDArray[np.float64]) -> None:
    edges = block_from_series(series, "correlation")
    assert np.array_equal(block_from_correlation(edges, REGIONS, "correlation"), edges)
    shrunk = (1 - STORED_SHRINKAGE) * np.corrcoef(series.T) + STORED_SHRINKAGE * np.eye(REGIONS)
    for measure in ("covariance", "tangent"):
        assert matrix(block_from_correlation(edges, REGIONS, measure), measure) == pytest.approx(shrunk, abs=1e-6)
    inverse = np.linalg.inv(shrunk)
    assert matrix(block_from_correlation(edges, REGIONS, "precision"), "precision") == pytest.approx(inverse, abs=1e-4)


@pytest.mark.parametrize("measure", list(MEASURES))
def test_stored_half_precision_correlations_of_fewer_scans_than_regions_give_finite_numbers(measure: str) -> None:
    series = np.random.default_rng(0).normal(size=(6, 30))
    series[:, 1] = series[:, 0]
    edges = block_from_series(series, "correlation").astype(np.float16)
    block = block_from_correlation(edges, 30, measure)
    assert block.shape == (triangle_size(30, MEASURES[measure].part.diagonal),)
    assert np.isfinite(block).all()


def test_what_cannot_be_a_correlation_is_refused() -> None:
    with pytest.raises(DataError, match=r"2\.3"):
        block_from_correlation(np.array([0.1, 2.3, 0.2]), 3, "correlation")
    with pytest.raises(DataError, match="nan"):
        block_from_correlation(np.array([0.1, np.nan, 0.2]), 3, "correlation")
    with pytest.raises(DataError, match="expected"):
        block_from_correlation(np.zeros(4), 3, "correlation")
