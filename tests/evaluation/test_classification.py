from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
from sklearn import metrics

from medformer.errors import DataError
from medformer.evaluation.classes.classification import (
    VALUES,
    calibration_bins,
    check_scored,
    classification_metrics,
    pr_curve,
    roc_curve,
)
from medformer.evaluation.classes.intervals import (
    classification_intervals,
    paired_classification_tests,
    weighted_metrics,
)
from medformer.evaluation.metrics import CLASSES, Metric
from medformer.evaluation.statistics.bootstrap import grouped_interval, grouped_statistic_interval
from medformer.evaluation.statistics.resampling import Bootstrap, draw, number_groups
from medformer.evaluation.summary import summarize


def cases(n: int = 120, seed: int = 0, digits: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = (generator.random(n) < 0.4).astype(int)
    score = np.round(1 / (1 + np.exp(-generator.normal(0, 1, n) - label)), digits)
    return label, score, (score >= 0.6).astype(int)


def test_the_twelve_numbers_by_their_definitions() -> None:
    label, score, prediction = cases(digits=1)
    found = classification_metrics(label, score, prediction)
    assert list(found) == list(CLASSES) and all(type(value) is float for value in found.values())
    positive, negative = score[label == 1], score[label == 0]
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    tp, fp = ((prediction == 1) & (label == 1)).sum(), ((prediction == 1) & (label == 0)).sum()
    tn, fn = ((prediction == 0) & (label == 0)).sum(), ((prediction == 0) & (label == 1)).sum()
    assert found["auc"] == pytest.approx(pairs.mean())
    assert found["accuracy"] == pytest.approx((tp + tn) / 120)
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["balanced_accuracy"] == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["mcc"] == pytest.approx(np.corrcoef(label, prediction)[0, 1])
    assert found["brier"] == pytest.approx(np.mean((score - label) ** 2))
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(label, score))


def test_a_model_that_knows_everything_and_one_that_knows_nothing() -> None:
    label = np.array([0, 1] * 20)
    perfect = classification_metrics(label, np.linspace(0.1, 0.2, 40) + 0.7 * label, label)
    assert [perfect[name] for name in ("auc", "average_precision", "accuracy", "mcc", "f1")] == [1.0] * 5
    assert math.isnan(perfect["calibration_slope"])
    nothing = classification_metrics(label, np.full(40, 0.5), np.zeros(40))
    assert nothing["auc"] == nothing["average_precision"] == nothing["balanced_accuracy"] == 0.5
    assert nothing["mcc"] == nothing["f1"] == nothing["ece"] == 0.0 and nothing["calibration_intercept"] == 0.0


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_leaves_what_compares_classes_undefined(only: int) -> None:
    _, score, prediction = cases(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classification_metrics(np.full(20, only), score, prediction)
    undefined = {name for name, value in found.items() if math.isnan(value)}
    both = {"auc", "average_precision", "balanced_accuracy", "mcc", "calibration_slope", "calibration_intercept"}
    assert undefined == both | {"specificity" if only else "sensitivity"}
    assert math.isnan(classification_metrics([0, 0], [0.1, 0.2], [0, 0])["f1"])


@pytest.mark.parametrize(
    ("score", "prediction"),
    [
        ([0.0, 1.0] * 10, [0, 1] * 10),
        ([0, 1] * 10, [0, 0] * 10),
        ([0.2, 0.8] * 10, [0, 1] * 10),
    ],
)
def test_decisions_are_no_scores(score: list[float], prediction: list[int]) -> None:
    with pytest.raises(DataError, match=r"these are decisions.*Give the probability of the positive class"):
        classification_metrics([0, 1] * 9 + [1, 0], score, prediction)


def test_few_values_are_allowed_where_they_are_probabilities() -> None:
    label = [0, 1, 1, 0, 1] * 4
    prevalence = [0.425] * 10 + [0.4375] * 10
    assert 0 <= classification_metrics(label, prevalence, [0] * 20)["auc"] <= 1
    covariate = [0.3, 0.8] * 10
    assert 0 <= classification_metrics(label, covariate, [0, 1] * 10)["auc"] <= 1
    assert 0 <= classification_metrics(label, [0.0, 1.0] * 10, [0, 1] * 10, part=True)["auc"] <= 1
    assert classification_metrics(label, [0.3] * 20, [0] * 20)["auc"] == 0.5
    assert classification_metrics([0, 1], [0.0, 1.0], [0, 1])["auc"] == 1.0


def test_what_cannot_be_scored_is_named() -> None:
    with pytest.raises(DataError, match=r"sub-02: score is nan, expected a probability between 0 and 1"):
        classification_metrics([0, 1, 1], [0.1, np.nan, 0.4], [0, 1, 0], ids=["sub-01", "sub-02", "sub-03"])
    with pytest.raises(DataError, match=r"row 1 \(and 1 more cases\): score is 1.5"):
        classification_metrics([0, 1, 1], [1.5, -3, 0.4], [0, 1, 0])
    with pytest.raises(DataError, match="row 3: label is 2, expected 0"):
        classification_metrics([0, 1, 2], [0.1, 0.3, 0.4], [0, 1, 0])
    with pytest.raises(DataError, match=r"row 2: prediction is 0\.7"):
        classification_metrics([0, 1], [0.1, 0.7], [0, 0.7])
    with pytest.raises(DataError, match="no classified cases"):
        classification_metrics([], [], [])
    with pytest.raises(ValueError, match="one length"):
        classification_metrics([0, 1], [0.1, 0.7], [0])


def test_curves_are_those_of_the_areas() -> None:
    label, score, prediction = cases(digits=1)
    found = classification_metrics(label, score, prediction)
    roc, pr = roc_curve(label, score), pr_curve(label, score)
    assert metrics.auc(roc.false_positive_rate, roc.sensitivity) == pytest.approx(found["auc"])
    assert (roc.false_positive_rate[0], roc.sensitivity[0]) == (0, 0)
    assert (roc.false_positive_rate[-1], roc.sensitivity[-1]) == (1, 1)
    assert (np.diff(pr.recall) >= 0).all() and (pr.recall[0], pr.recall[-1]) == (0, 1)
    assert (np.diff(pr.recall) * pr.precision[1:]).sum() == pytest.approx(found["average_precision"])
    assert calibration_bins(label, score).count.sum() == 120
    for curve in (roc_curve, pr_curve):
        with pytest.raises(DataError, match="needs positive and negative cases; all 2 have label 0"):
            curve([0, 0], [0.1, 0.4])


@pytest.mark.parametrize("digits", [1, 8])
def test_weighted_metrics_are_those_of_repeated_cases(digits: int) -> None:
    scored = check_scored(*cases(60, seed=2, digits=digits))
    weights = np.concatenate([*Bootstrap(resamples=30, seed=1).weights(number_groups(range(60))), np.ones((1, 60))])
    together = weighted_metrics(scored, weights)
    assert list(together) == list(CLASSES)
    for index, row in enumerate(weights.astype(int)):
        alone = classification_metrics(*(np.repeat(column, row) for column in scored))
        for name, value in alone.items():
            assert together[name][index] == pytest.approx(value, rel=1e-7, abs=1e-9, nan_ok=True), name


def test_a_new_metric_needs_a_row_and_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Metric("npv", "NPV", "share of negative decisions that are right", "class", per_case=False, rests_on="all")
    monkeypatch.setitem(CLASSES, "npv", row)  # type: ignore[arg-type]
    monkeypatch.setitem(VALUES, "npv", lambda of: 1 - of.label[of.prediction == 0].mean())  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    label, score = rng.integers(0, 2, 40), rng.random(40)
    prediction = (score > 0.4).astype(int)
    groups = [index // 2 for index in range(40)]
    known = classification_metrics(label, score, prediction)["npv"]
    assert known == pytest.approx((label[score <= 0.4] == 0).mean())
    interval = classification_intervals(label, score, prediction, groups, Bootstrap(resamples=200))["npv"]
    assert interval.low < known < interval.high
    rows = [
        {"id": str(k), "label": y, "score": s, "prediction": int(s > 0.4)}
        for k, (y, s) in enumerate(zip(label, score, strict=True))
    ]
    summary = summarize(rows, Bootstrap(resamples=50))
    assert summary["pooled"]["metrics"]["npv"]["value"] == known and summary["definitions"]["metrics"]["npv"]


def test_weighted_metrics_know_what_is_undefined() -> None:
    scored = check_scored([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], [0, 1, 0, 1])
    weights = np.array([[4, 0, 0, 0], [0, 0, 2, 2], [2, 0, 0, 2], [1, 1, 1, 1.0]])
    together = weighted_metrics(scored, weights)
    for index, row in enumerate(weights.astype(int)):
        alone = classification_metrics(*(np.repeat(column, row) for column in scored))
        assert [together[name][index] for name in CLASSES] == pytest.approx(list(alone.values()), nan_ok=True)


def test_intervals_hold_the_values_and_match_the_general_way() -> None:
    label, score, prediction = cases()
    groups = (np.arange(120) // 3).tolist()
    found = classification_metrics(label, score, prediction)
    intervals = classification_intervals(label, score, prediction, groups, Bootstrap(resamples=500))
    assert list(intervals) == list(CLASSES)
    assert all(intervals[name].low < found[name] < intervals[name].high for name in CLASSES)
    auc = grouped_statistic_interval(
        lambda rows: float(metrics.roc_auc_score(label[rows], score[rows])),
        groups,
        Bootstrap(resamples=500),
        classes=label.tolist(),
    )
    assert intervals["auc"] == pytest.approx(auc, abs=1e-12)
    accuracy = grouped_interval((prediction == label).astype(float), groups, Bootstrap(resamples=500))
    assert intervals["accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_intervals_are_the_same_every_time() -> None:
    label, score, prediction = cases()
    first = classification_intervals(label, score, prediction, range(120), Bootstrap(resamples=300, seed=4))
    draw.cache_clear()
    assert classification_intervals(label, score, prediction, range(120), Bootstrap(resamples=300, seed=4)) == first
    assert classification_intervals(label, score, prediction, range(120), Bootstrap(resamples=300, seed=5)) != first


def test_what_rests_on_one_group_has_no_interval() -> None:
    label, score, prediction = cases(40)
    groups = ["one" if kind else f"other {index % 7}" for index, kind in enumerate(label)]
    intervals = classification_intervals(label, score, prediction, groups, Bootstrap(resamples=200))
    on_one = {name for name, metric in CLASSES.items() if metric.rests_on in ("positives", "both")}
    assert {"auc", "sensitivity"} <= on_one and not {"accuracy", "brier", "ece", "specificity"} & on_one
    assert {name for name, interval in intervals.items() if math.isnan(interval.low)} == on_one
    assert intervals["specificity"].groups == 7 and intervals["sensitivity"].groups == 1
    single = classification_intervals(np.ones(40), score, prediction, range(40), Bootstrap(resamples=200))
    assert math.isnan(single["auc"].low) and single["sensitivity"].low < single["sensitivity"].high


def test_two_thousand_resamples_of_a_thousand_cases_take_seconds() -> None:
    label, score, prediction = cases(1000)
    start = time.process_time()
    intervals = classification_intervals(label, score, prediction, (np.arange(1000) // 4).tolist())
    assert time.process_time() - start < 10
    assert intervals["auc"].dropped == 0


def test_paired_tests_of_a_run_with_itself_and_with_a_worse_one() -> None:
    label, score, prediction = cases(300)
    groups = (np.arange(300) // 3).tolist()
    same = paired_classification_tests(label, (score, prediction), (score, prediction), groups, names=CLASSES)
    assert all((test.difference, test.p, test.reason) == (0.0, 1.0, "nothing differs") for test in same.values())
    noise = np.random.default_rng(0).random(300)
    worse = paired_classification_tests(label, (score, prediction), (noise, noise > 0.5), groups)["auc"]
    assert worse.p < 1e-6 and worse.high < 0
    expected = metrics.roc_auc_score(label, noise) - metrics.roc_auc_score(label, score)
    assert worse.difference == pytest.approx(expected)
    again = paired_classification_tests(label, (noise, noise > 0.5), (score, prediction), groups)["auc"]
    assert (again.low, again.high) == pytest.approx((-worse.high, -worse.low), abs=1e-3)
    with pytest.raises(ValueError, match="300 cases but 2 groups"):
        paired_classification_tests(label, (score, prediction), (noise, noise > 0.5), groups[:2])
