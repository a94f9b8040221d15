from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from medformer.evaluation.classes.calibration import calibration_bins, expected_calibration_error, recalibrate
from medformer.evaluation.metrics import NEAREST


def cases(seed: int, n: int = 200, slope: float = 1.0, intercept: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    score = expit(generator.normal(0, 1.5, n))
    label = generator.random(n) < expit(intercept + slope * logit(score))
    return label.astype(np.float64), score


def by_optimizer(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by a general optimizer."""
    x = logit(np.clip(score, NEAREST, 1 - NEAREST))

    def loss(eta: np.ndarray) -> float:
        return float((weights * (np.logaddexp(0, eta) - label * eta)).sum())

    line = minimize(lambda p: loss(p[0] + p[1] * x), [0.0, 0.0], method="BFGS", options={"gtol": 1e-8})
    shift = minimize(lambda p: loss(p[0] + x), [0.0], method="BFGS", options={"gtol": 1e-8})
    return float(line.x[1]), float(shift.x[0])


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_a_general_optimizer_and_scikit_learn(seed: int) -> None:
    label, score = cases(seed)
    slope, intercept = (float(values[0]) for values in recalibrate(label, score))
    assert (slope, intercept) == pytest.approx(by_optimizer(label, score, np.ones(200)), abs=1e-5)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(score)[:, None], label)
    assert slope == pytest.approx(theirs.coef_[0, 0], abs=1e-4)


def test_finds_what_was_put_in() -> None:
    slope, intercept = recalibrate(*cases(0, 100_000))
    assert (slope[0], intercept[0]) == pytest.approx((1, 0), abs=0.03)
    assert recalibrate(*cases(1, 100_000, slope=0.5)).slope[0] == pytest.approx(0.5, abs=0.03)
    assert recalibrate(*cases(2, 100_000, intercept=0.8)).intercept[0] == pytest.approx(0.8, abs=0.03)


def test_weights_are_repeated_cases() -> None:
    label, score = cases(3, 60)
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=20).astype(np.float64)
    together = recalibrate(label, score, weights)
    for index, row in enumerate(weights.astype(int)):
        alone = recalibrate(np.repeat(label, row), np.repeat(score, row))
        assert together.slope[index] == pytest.approx(alone.slope[0], rel=1e-7)
        assert together.intercept[index] == pytest.approx(alone.intercept[0], rel=1e-7)


def test_saturated_scores_stay_finite_and_converge() -> None:
    label = np.array([0, 0, 0, 1, 1, 1, 1, 0.0])
    score = np.array([0, 0, 0, 1, 1, 1, 0, 1.0])
    slope, intercept = (float(values[0]) for values in recalibrate(label, score))
    # One of four is wrong at either end: the odds are 3 where the logit is logit(1 - 1e-6).
    assert slope == pytest.approx(np.log(3) / logit(1 - NEAREST), abs=1e-7)
    assert intercept == pytest.approx(0, abs=1e-7)


def test_scores_far_off_converge() -> None:
    label = np.array([1.0] * 30 + [0.0])
    score = np.r_[np.full(15, 1e-6), np.full(15, 2e-6), 1.5e-6]
    found = recalibrate(label, score)
    assert found.intercept[0] == pytest.approx(by_optimizer(label, score, np.ones(31))[1], abs=1e-4)
    assert expit(found.intercept[0] + logit(score)).sum() == pytest.approx(30, abs=1e-6)


@pytest.mark.parametrize(
    ("label", "score"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),
    ],
)
def test_without_overlap_there_is_no_slope(label: list[int], score: list[float]) -> None:
    found = recalibrate(np.array(label, float), np.array(score))
    assert np.isnan(found.slope[0]) and np.isfinite(found.intercept[0])


def test_one_class_has_neither() -> None:
    found = recalibrate(np.ones(4), np.array([0.1, 0.5, 0.6, 0.9]))
    assert np.isnan(found.slope[0]) and np.isnan(found.intercept[0])


def test_bins_hold_every_case_once() -> None:
    label, score = cases(5)
    bins = calibration_bins(label, score, bins=7)
    assert bins.count.sum() == 200 and bins.edges.tolist() == np.linspace(0, 1, 8).tolist()
    inside = (score >= bins.edges[3]) & (score < bins.edges[4])
    assert bins.score[3] == pytest.approx(score[inside].mean())
    assert bins.observed[3] == pytest.approx(label[inside].mean())


def test_edges_and_empty_bins() -> None:
    bins = calibration_bins(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.5, 1.0]))
    assert bins.count.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert np.isnan(bins.score[1]) and np.isnan(bins.observed[1])


def test_expected_calibration_error_by_hand() -> None:
    # Bin 0.2..0.3: mean 0.25 against 1/2, two cases; bin 0.9..1: 0.95 against 1, one case; bin 0..0.1: 0 against 0.
    label, score = np.array([0, 1, 1, 0.0]), np.array([0.24, 0.26, 0.95, 0.0])
    assert expected_calibration_error(label, score) == pytest.approx((2 * 0.25 + 0.05) / 4)
    bins = calibration_bins(*cases(6))
    gap = np.nansum(bins.count * np.abs(bins.score - bins.observed)) / 200
    assert expected_calibration_error(*cases(6)) == pytest.approx(gap)
