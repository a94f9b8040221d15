from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from medformer.errors import DataError
from medformer.files import read_csv, read_json
from medformer.inference.classification import Decision, PlattScaling, learn_decision, read_decision
from medformer.inference.threshold import BalancedAccuracyThreshold


def draw(seed: int, n: int = 40) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    return 50 + 3 * (generator.normal(size=n) + labels), labels


@pytest.mark.parametrize("seed", range(3))
def test_the_sigmoid_is_the_logistic_regression_on_smoothed_targets(seed: int) -> None:
    values, labels = draw(seed)
    positives, negatives = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    twice = np.concatenate([values, values])[:, None]
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000).fit(
        twice - 50, np.repeat([1, 0], len(values)), sample_weight=np.concatenate([target, 1 - target])
    )
    found = PlattScaling().fit(values, labels)
    np.testing.assert_allclose(found.transform(values), reference.predict_proba(values[:, None] - 50)[:, 1], atol=1e-4)


def test_the_order_of_the_scores_is_kept_even_where_labels_run_against_them() -> None:
    values = np.arange(20.0)
    probabilities = PlattScaling().fit(values, (values < 10).astype(np.int64)).transform(values)
    assert (np.diff(probabilities) > 0).all()
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_separated_classes_give_finite_probabilities() -> None:
    values = np.array([-2.0, -1.0, 1.0, 2.0])
    probabilities = PlattScaling().fit(values, np.array([0, 0, 1, 1])).transform(values)
    np.testing.assert_allclose(probabilities[[0, -1]], [0.25, 0.75], atol=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_balanced_accuracy(seed: int) -> None:
    values, labels = draw(seed, 25)
    scores = np.round((values - values.min()) / np.ptp(values), 1)
    found = BalancedAccuracyThreshold().fit(scores, labels)

    def balanced(threshold: float) -> float:
        marked = scores >= threshold
        return float((marked[labels == 1].mean() + (~marked[labels == 0]).mean()) / 2)

    assert found.score_ == pytest.approx(balanced(found.threshold_))
    assert found.score_ == pytest.approx(max(balanced(threshold) for threshold in np.linspace(0, 1, 201)))


def test_of_thresholds_that_tie_the_one_nearest_a_half_is_taken() -> None:
    found = BalancedAccuracyThreshold().fit(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert (found.threshold_, found.score_) == (0.5, 1.0)
    useless = BalancedAccuracyThreshold().fit(np.full(4, 0.3), np.array([0, 1, 0, 1]))
    assert useless.score_ == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_not_enough(label: int) -> None:
    for learner in (PlattScaling(), BalancedAccuracyThreshold()):
        with pytest.raises(DataError, match="expected both classes"):
            learner.fit(np.array([0.1, 0.9]), np.full(2, label))


def test_a_decision_says_where_it_is_from(tmp_path: Path) -> None:
    scores, labels = np.linspace(0.1, 0.6, 10), np.repeat([0, 1], 5)
    path = tmp_path / "threshold.json"
    learned = learn_decision(tmp_path, "abcdefghij", labels, scores, calibrate=False, threshold="fit")
    assert learned == Decision(pytest.approx((scores[4] + scores[5]) / 2))
    assert read_json(path) == {
        "threshold": learned.threshold,
        "from": "balanced accuracy over inner validation cases (5 positive and 5 negative)",
        "validation_balanced_accuracy": 1.0,
        "learned": True,
        "cases": {"positive": 5, "negative": 5},
    }
    assert read_csv(tmp_path / "validation.csv")[0] == {"id": "a", "label": "0", "score": "0.1"}
    assert learn_decision(tmp_path, "abcdefghij", labels, scores, calibrate=False, threshold=0.3).threshold == 0.3
    assert read_json(path) == {"threshold": 0.3, "from": "config"}


def test_two_validation_cases_decide_nothing(tmp_path: Path) -> None:
    # Fitted on these two, the sigmoid has slope 170 and calls no later case positive, though the AUC is 1.
    outputs, labels = np.array([0.504, 0.506]), np.array([0, 1])
    steep = PlattScaling().fit(np.log(outputs / (1 - outputs)), labels)
    assert steep.slope_ > 100
    decision = learn_decision(tmp_path, "ab", labels, outputs, calibrate=True, threshold="fit")
    assert decision.threshold == 0.5 and decision.scaling is None and "too few" in decision.uncalibrated
    later = np.array([0.2, 0.5, 0.8])
    np.testing.assert_array_equal(decision.probabilities(later), later)
    content = read_json(tmp_path / "threshold.json")
    assert content["from"].startswith("default") and "1 positive and 1 negative" in content["from"]
    assert content["calibration"]["cases"] == {"positive": 1, "negative": 1} and "sigmoid" not in content
    assert read_decision(tmp_path) == decision


@pytest.mark.parametrize(("each", "threshold", "sigmoid"), [(4, False, False), (5, True, False), (10, True, True)])
def test_each_learned_number_needs_five_cases_of_each_class(
    tmp_path: Path, each: int, threshold: bool, sigmoid: bool
) -> None:
    scores, labels = np.linspace(0.1, 0.6, 2 * each), np.repeat([0, 1], each)
    names = [str(number) for number in range(2 * each)]
    learn_decision(tmp_path, names, labels, scores, calibrate=True, threshold="fit")
    content = read_json(tmp_path / "threshold.json")
    assert (content["learned"], content["calibration"]["learned"], "sigmoid" in content) == (
        threshold,
        sigmoid,
        sigmoid,
    )


@pytest.mark.parametrize("label", [0, 1])
def test_a_validation_part_of_one_class_decides_nothing(tmp_path: Path, label: int) -> None:
    names = [str(number) for number in range(30)]
    decision = learn_decision(
        tmp_path, names, np.full(30, label), np.linspace(0, 1, 30), calibrate=True, threshold="fit"
    )
    assert decision.threshold == 0.5 and decision.scaling is None


@pytest.mark.parametrize("log_odds", [True, False])
def test_a_decision_reads_back(tmp_path: Path, log_odds: bool) -> None:
    values, labels = draw(3)
    outputs = expit(values - 50) if log_odds else values
    names = [f"case{number}" for number in range(len(labels))]
    learned = learn_decision(tmp_path, names, labels, outputs, calibrate=True, threshold="fit", log_odds=log_odds)
    read = read_decision(tmp_path, log_odds=log_odds)
    assert read.threshold == learned.threshold
    np.testing.assert_array_equal(read.probabilities(outputs), learned.probabilities(outputs))
    assert [float(row["score"]) for row in read_csv(tmp_path / "validation.csv")] == list(read.probabilities(outputs))
