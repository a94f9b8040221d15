from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from medformer.errors import DataError
from medformer.evaluation.classes.delong import delong_test

# Albumin (g/dl), total protein (g/dl), Krebs-Goplerud score and outcome of the 43 complete patients of DeLong et al.,
# Biometrics 1988. What SAS/STAT prints for them is in its guide, LOGISTIC procedure, "Comparing ROC Curves".
# fmt: off
ALBUMIN = np.array(
    [
        3.0, 3.2, 3.9, 2.8, 3.2, 0.9, 2.5, 1.6, 3.8, 3.7, 3.2, 3.8, 4.1, 3.6, 4.3, 3.6, 2.3, 4.2, 4.0, 3.5, 3.8,
        3.0, 4.5, 3.7, 3.1, 4.1, 4.3, 4.3, 3.2, 2.6, 3.3, 1.7, 3.7, 3.3, 4.2, 3.5, 2.9, 2.1, 2.8, 4.0, 3.3, 3.7,
        3.6,
    ]
) / 10
PROTEIN = np.array(
    [
        5.8, 6.3, 6.8, 4.8, 5.8, 4.0, 5.7, 5.6, 5.7, 6.7, 5.4, 6.6, 6.6, 5.7, 7.0, 6.7, 4.4, 7.6, 6.6, 5.8, 6.8,
        4.7, 7.4, 7.4, 6.6, 8.2, 7.0, 6.5, 5.1, 4.7, 6.8, 4.0, 6.1, 6.3, 7.7, 6.2, 5.7, 4.8, 6.2, 7.0, 5.7, 6.9,
        6.6,
    ]
) / 10
SCORE = 1 - np.array(
    [
        10, 5, 3, 6, 3, 5, 8, 5, 5, 6, 4, 6, 5, 5, 4, 4, 6, 4, 6, 6, 7, 8, 5, 5, 6, 6, 5, 4, 5, 6, 6, 7, 5, 7, 6,
        5, 9, 7, 8, 7, 6, 5, 5,
    ]
) / 10
OUTCOME = np.array(
    [
        0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1,
        1, 0, 1, 0, 1, 1, 1, 1,
    ]
)
# fmt: on


def components(label: np.ndarray, score: np.ndarray) -> tuple[list[float], list[float]]:
    """The structural components of the 1988 paper, one comparison per pair."""
    positive, negative = score[label == 1], score[label == 0]

    def kernel(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    return (
        [sum(kernel(x, y) for y in negative) / len(negative) for x in positive],
        [sum(kernel(x, y) for x in positive) / len(positive) for y in negative],
    )


def naive_test(label: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Difference, its standard error from the covariance matrices of the components, and p."""
    ten, one = zip(components(label, a), components(label, b), strict=True)
    s = np.cov(np.array(ten)) / len(ten[0]) + np.cov(np.array(one)) / len(one[0])
    contrast = np.array([-1.0, 1.0])
    difference = float(contrast @ np.array([np.mean(ten[0]), np.mean(ten[1])]))
    error = float(np.sqrt(contrast @ s @ contrast))
    return difference, error, float(2 * norm.sf(abs(difference) / error))


def cases(seed: int, digits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = (generator.random(70) < 0.3).astype(int)
    shared = generator.normal(0, 1, 70) + label
    a, b = (1 / (1 + np.exp(-shared - generator.normal(0, 0.7, 70))) for _ in range(2))
    return label, np.round(a, digits), np.round(b, digits)


def area_interval(
    label: Sequence[int] | np.ndarray, score: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """An AUC with its interval, cut to [0, 1]: that of the difference from a score that knows nothing."""
    test = delong_test(label, np.full(len(label), 0.5), score, level)
    return test.auc_b, float(np.maximum(0.0, 0.5 + test.low)), float(np.minimum(1.0, 0.5 + test.high))


@pytest.mark.parametrize(
    ("score", "area", "low", "high"),
    [(ALBUMIN, 0.7366, 0.5549, 0.9182), (SCORE, 0.7258, 0.5243, 0.9273), (PROTEIN, 0.6478, 0.4518, 0.8439)],
)
def test_published_areas_and_intervals(score: np.ndarray, area: float, low: float, high: float) -> None:
    assert area_interval(OUTCOME, score) == pytest.approx((area, low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("score", "difference", "low", "high", "chi_square", "p"),
    [(ALBUMIN, 0.0108, -0.1761, 0.1976, 0.0127, 0.9102), (PROTEIN, -0.0780, -0.2830, 0.1271, 0.5554, 0.4561)],
)
def test_published_comparison(
    score: np.ndarray, difference: float, low: float, high: float, chi_square: float, p: float
) -> None:
    test = delong_test(OUTCOME, SCORE, score)
    assert (test.difference, test.low, test.high, test.p) == pytest.approx((difference, low, high, p), abs=5e-5)
    assert norm.isf(test.p / 2) ** 2 == pytest.approx(chi_square, abs=5e-5)


@pytest.mark.parametrize("digits", [1, 8])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_paper_pair_by_pair(seed: int, digits: int) -> None:
    label, a, b = cases(seed, digits)
    difference, error, p = naive_test(label, a, b)
    test = delong_test(label, a, b, level=0.9)
    reach = norm.ppf(0.95) * error
    expected = (roc_auc_score(label, a), roc_auc_score(label, b), difference, difference - reach, difference + reach, p)
    assert test[:6] == pytest.approx(expected, abs=1e-9) and not test.reason
    ten, one = components(label, a)
    alone = np.sqrt(np.var(ten, ddof=1) / len(ten) + np.var(one, ddof=1) / len(one))
    area = roc_auc_score(label, a)
    ends = max(0.0, area - 1.959963985 * alone), min(1.0, area + 1.959963985 * alone)
    assert area_interval(label, a) == pytest.approx((area, *ends), abs=1e-8)


def test_swapping_the_models_turns_the_sign() -> None:
    label, a, b = cases(0, 8)
    forth, back = delong_test(label, a, b), delong_test(label, b, a)
    assert (back.difference, back.low, back.high) == pytest.approx((-forth.difference, -forth.high, -forth.low))
    assert back.p == pytest.approx(forth.p)


def test_identical_runs_differ_by_0_with_p_1() -> None:
    label, a, _ = cases(0, 8)
    for test in (delong_test(label, a, a), delong_test(label, a, a**3), delong_test([0, 1], [0.2, 0.7], [0.2, 0.7])):
        assert (test.difference, test.p, test.reason) == (0.0, 1.0, "all pairs are ranked alike")
        assert math.isnan(test.low) and math.isnan(test.high)


def test_cases_without_spread_have_no_interval() -> None:
    label, apart = [0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]
    area, low, high = area_interval(label, apart)
    assert area == 1.0 and math.isnan(low) and math.isnan(high)
    reversed_ = delong_test(label, apart, apart[::-1])
    assert reversed_.difference == -1.0 and math.isnan(reversed_.p)
    assert math.isnan(area_interval([0, 0, 1], [0.1, 0.5, 0.3])[1])


def test_many_cases_are_quick() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 200_000)
    a, b = generator.random(200_000), generator.random(200_000)
    start = time.process_time()
    assert delong_test(label, a, b).p > 0.001
    assert time.process_time() - start < 5


def test_impossible_input_is_named() -> None:
    with pytest.raises(DataError, match="needs positive and negative cases; all 3 have label 1"):
        area_interval([1, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="row 2: score is nan"):
        delong_test([1, 0, 1], [0.1, 0.2, 0.3], [0.1, np.nan, 0.3])
    with pytest.raises(DataError, match="these are decisions"):
        area_interval([0, 1] * 10, [0.0, 1.0] * 9 + [1.0, 0.0])
    with pytest.raises(ValueError, match="level"):
        area_interval([0, 1], [0.1, 0.2], level=95)
    with pytest.raises(ValueError, match="one length"):
        area_interval([0, 1], [0.1, 0.2, 0.3])
