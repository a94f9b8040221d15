from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from medformer.evaluation.statistics.ttest import corrected_resampled_ttest, holm


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    """The fold scores of scikit-learn's example "Statistical comparison of models using grid search"."""
    x, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    models = {
        "rbf": SVC(kernel="rbf"),
        "linear": SVC(kernel="linear"),
        "cubic": SVC(kernel="poly", degree=3),
        "quadratic": SVC(kernel="poly", degree=2),
    }
    return {name: cross_val_score(model, x, y, scoring="roc_auc", cv=folds) for name, model in models.items()}


# Statistic and right-tailed p times six comparisons, as the example prints them.
@pytest.mark.parametrize(
    ("first", "second", "statistic", "p"),
    [
        ("rbf", "linear", 0.750, 1.000),
        ("rbf", "cubic", 1.657, 0.302),
        ("rbf", "quadratic", 4.565, 0.000),
        ("linear", "cubic", 1.111, 0.807),
        ("linear", "quadratic", 4.276, 0.000),
        ("cubic", "quadratic", 3.851, 0.001),
    ],
)
def test_scikit_learns_worked_example(
    scores: dict[str, np.ndarray], first: str, second: str, statistic: float, p: float
) -> None:
    test = corrected_resampled_ttest(scores[first] - scores[second], [90] * 100, [10] * 100)
    assert test.t == pytest.approx(statistic, abs=5e-4)
    assert min(1.0, 6 * test.p / 2) == pytest.approx(p, abs=5e-4)
    assert test.df == 99


def test_the_examples_first_comparison_in_full(scores: dict[str, np.ndarray]) -> None:
    differences = scores["rbf"] - scores["linear"]
    test = corrected_resampled_ttest(differences, [90] * 100, [10] * 100)
    assert test.p / 2 == pytest.approx(0.227, abs=5e-4)
    assert test.mean == pytest.approx(0.010, abs=5e-4)
    error = np.sqrt(differences.var(ddof=1) * (1 / 100 + 10 / 90))
    assert (test.low, test.high) == pytest.approx(student.interval(0.95, 99, loc=test.mean, scale=error))


def test_without_test_cases_to_speak_of_it_is_the_plain_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, 8)
    test = corrected_resampled_ttest(differences, [1e12] * 8, [1] * 8, level=0.9)
    plain = ttest_1samp(differences, 0)
    assert (test.t, test.p, test.df) == pytest.approx((plain.statistic, plain.pvalue, plain.df))
    assert (test.low, test.high) == pytest.approx(tuple(plain.confidence_interval(0.9)))


def test_identical_runs_differ_by_0_with_p_1() -> None:
    for folds in (5, 1):
        test = corrected_resampled_ttest([0.0] * folds, [80] * folds, [20] * folds)
        assert (test.mean, test.t, test.df, test.p, test.reason) == (0.0, 0.0, folds - 1, 1.0, "no fold differs")
        assert math.isnan(test.low) and math.isnan(test.high)


def test_p_and_interval_say_the_same() -> None:
    generator = np.random.default_rng(1)
    for _ in range(100):
        test = corrected_resampled_ttest(generator.normal(0.08, 0.05, 5), [80] * 5, [20] * 5)
        assert (test.p < 0.05) == (not test.low <= 0 <= test.high)


def test_degenerate_folds() -> None:
    alone = corrected_resampled_ttest([0.1], [80], [20])
    assert alone.mean == 0.1 and math.isnan(alone.p) and math.isnan(alone.low)
    constant = corrected_resampled_ttest([-0.25] * 4, [75] * 4, [25] * 4)
    assert (constant.mean, constant.df, constant.reason) == (-0.25, 3, "all folds differ equally")
    assert all(math.isnan(value) for value in (constant.low, constant.high, constant.t, constant.p))
    rounded = corrected_resampled_ttest([0.3 - 0.2, 0.2 - 0.1, 0.1], [75] * 3, [25] * 3)
    assert math.isnan(rounded.p), "differences that rounding alone sets apart"
    missing = corrected_resampled_ttest([0.1, np.nan, 0.3], [80, 1, 80], [20, 99, 20])
    assert missing == corrected_resampled_ttest([0.1, 0.3], [80, 80], [20, 20])
    assert math.isnan(corrected_resampled_ttest([np.nan], [80], [20]).p)


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="must match"):
        corrected_resampled_ttest([0.1, 0.2], [80], [20])
    with pytest.raises(ValueError, match="sizes must be positive"):
        corrected_resampled_ttest([0.1, 0.2], [80, 0], [20, 20])
    with pytest.raises(ValueError, match="level in"):
        corrected_resampled_ttest([0.1, 0.2], [80, 80], [20, 20], level=95)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; none may fall below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert holm([]).shape == (0,)


def test_holm_leaves_out_tests_that_could_not_be_made() -> None:
    adjusted = holm([0.01, np.nan, 0.02])
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.02]) and np.isnan(adjusted[1])
    assert holm([1.0, 1.0]) == pytest.approx([1.0, 1.0])


def test_holm_refuses_what_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        holm([0.1, 1.5])
