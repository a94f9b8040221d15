from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t
from sklearn.metrics import roc_auc_score

from medformer.evaluation.statistics import resampling
from medformer.evaluation.statistics.bootstrap import (
    ALL_EQUAL,
    grouped_interval,
    grouped_statistic_interval,
    paired_grouped_test,
)
from medformer.evaluation.statistics.resampling import Bootstrap

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bootstrap_coverage.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap_coverage", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_memory_of_draws() -> None:
    resampling.draw.cache_clear()


def test_is_scipys_bootstrap_read_further_out_when_every_case_is_its_own_group() -> None:
    values = np.random.default_rng(0).beta(5, 2, 30)
    ours = grouped_interval(values, range(30), Bootstrap(resamples=20_000, seed=1))
    wider = 1 - 2 * norm.cdf(np.sqrt(30 / 29) * t.ppf(0.025, 29))
    theirs = bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=wider, method="percentile", rng=2
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=2e-3)
    assert ours.high == pytest.approx(theirs.high, abs=2e-3)
    assert (ours.groups, ours.dropped) == (30, 0)


def test_is_as_wide_as_students_interval_for_symmetric_values() -> None:
    values = norm.ppf((np.arange(12) + 0.5) / 12)
    ours = grouped_interval(values, range(12), Bootstrap(resamples=50_000))
    reach = t.ppf(0.975, 11) * values.std(ddof=1) / np.sqrt(12)
    assert (ours.low, ours.high) == pytest.approx((-reach, reach), rel=0.03)


def test_correlated_groups_widen_the_interval_as_if_each_was_one_case() -> None:
    patients = np.random.default_rng(3).random(20)
    frames = np.repeat(patients, 10)
    alone = grouped_interval(frames, range(200))
    grouped = grouped_interval(frames, np.repeat(np.arange(20), 10).tolist())
    once = grouped_interval(patients, range(20))
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high))
    assert (grouped.high - grouped.low) > 2.5 * (alone.high - alone.low)


def test_large_groups_weigh_by_their_cases() -> None:
    values, groups = np.array([1.0] * 99 + [0.0]), ["a"] * 99 + ["b"]
    interval = grouped_interval(values, groups)
    assert interval.low == 0.0 and interval.high == 1.0


def test_groups_of_unequal_size_count_as_fewer() -> None:
    equal = np.repeat(np.arange(10), 6)
    unequal = np.repeat(np.arange(10), [51, *[1] * 9])
    assert resampling.effective_groups(np.bincount(equal)) == pytest.approx(10)
    assert resampling.effective_groups(np.bincount(unequal)) == pytest.approx(60**2 / (51**2 + 9))


def test_the_seed_decides_the_interval(no_memory_of_draws: None) -> None:
    values = np.random.default_rng(0).random(30)
    first = grouped_interval(values, range(30), Bootstrap(seed=5))
    resampling.draw.cache_clear()
    assert grouped_interval(values, range(30), Bootstrap(seed=5)) == first
    assert grouped_interval(values, range(30), Bootstrap(seed=6)) != first


def test_missing_values_and_their_groups_are_left_out() -> None:
    values = np.array([0.2, np.nan, 0.4, np.nan])
    interval = grouped_interval(values, ["a", "b", "c", "c"])
    assert interval.groups == 2
    assert (interval.low, interval.high) == pytest.approx((0.2, 0.4))


@pytest.mark.parametrize("values", [np.array([]), np.array([0.5]), np.array([0.5, 0.7])])
def test_fewer_than_two_groups_have_no_interval(values: np.ndarray) -> None:
    interval = grouped_interval(values, ["only"] * len(values))
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_drawing_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch, no_memory_of_draws: None) -> None:
    values = np.random.default_rng(0).random(50)

    def both() -> tuple[object, object]:
        resampling.draw.cache_clear()
        mean = grouped_interval(values, range(50), Bootstrap(resamples=999))
        return mean, grouped_statistic_interval(
            lambda rows: float(values[rows].max()), range(50), Bootstrap(resamples=999)
        )

    whole = both()
    monkeypatch.setattr(resampling, "_CHUNK", 3_000)
    assert both() == whole


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}])
def test_impossible_settings_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="level must be"):
        Bootstrap(**options)
    for call in (grouped_interval, paired_grouped_test):
        with pytest.raises(ValueError, match="3 values but 2 groups"):
            call(np.ones(3), range(2))


def test_a_thousand_cases_by_twenty_metrics_take_seconds(no_memory_of_draws: None) -> None:
    values = np.random.default_rng(0).random((20, 1000))
    start = time.process_time()
    for column in values:
        grouped_interval(column, range(1000))
    assert time.process_time() - start < 5


def test_the_mean_as_a_statistic_of_rows_has_the_interval_of_the_mean() -> None:
    generator = np.random.default_rng(1)
    values, groups = generator.random(60), generator.integers(0, 12, 60).tolist()
    direct = grouped_interval(values, groups)
    general = grouped_statistic_interval(lambda rows: float(values[rows].mean()), groups)
    assert (general.low, general.high) == pytest.approx((direct.low, direct.high), abs=1e-12)
    assert general.groups == direct.groups


def test_undefined_resamples_are_dropped_and_counted() -> None:
    label = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    score = np.linspace(1, 0, 12) + np.tile([0, 0.3], 6)

    def auc(rows: np.ndarray) -> float:
        positive, negative = score[rows[label[rows] == 1]], score[rows[label[rows] == 0]]
        apart = positive[:, None] - negative
        return float(((apart > 0) + (apart == 0) / 2).mean()) if apart.size else float("nan")

    assert auc(np.arange(12)) == pytest.approx(roc_auc_score(label, score))

    interval = grouped_statistic_interval(auc, range(12), classes=label.tolist())
    # Missing all three positives in twelve draws: (9 / 12) ** 12 = 3.2 %.
    assert interval.dropped == pytest.approx(0.032 * 2000, rel=0.3)
    assert interval.low < roc_auc_score(label, score) < interval.high
    assert interval.groups == 3


def test_a_statistic_that_is_mostly_undefined_has_no_interval() -> None:
    interval = grouped_statistic_interval(lambda rows: 0.5 if 0 in rows else float("nan"), range(9))
    assert math.isnan(interval.low) and interval.dropped == pytest.approx(2000 * (8 / 9) ** 9, rel=0.1)
    assert math.isnan(grouped_statistic_interval(lambda rows: float("nan"), range(9)).low)
    assert math.isnan(grouped_statistic_interval(lambda rows: 0.5, ["same"] * 9).low)


def test_a_class_in_one_group_only_has_no_interval() -> None:
    classes = [1, 0, 0, 0, 0, 0]
    assert math.isnan(grouped_statistic_interval(lambda rows: 0.5, range(6), classes=classes).low)
    with pytest.raises(ValueError, match="6 groups but 5 classes"):
        grouped_statistic_interval(lambda rows: 0.5, range(6), classes=classes[1:])


def test_identical_runs_differ_by_0_with_p_1() -> None:
    for test in (
        paired_grouped_test(np.zeros(30), np.repeat(np.arange(10), 3).tolist()),
        paired_grouped_test(np.array([0.0, np.nan]), ["a", "b"]),
    ):
        assert (test.difference, test.p, test.reason) == (0.0, 1.0, "nothing differs")
        assert np.isnan([test.low, test.high]).all()


def test_the_same_difference_in_every_group_has_neither_interval_nor_p() -> None:
    # 0.1 and 0.1 + 1e-17 are one number: without a spread, nothing says how other groups would differ.
    test = paired_grouped_test(np.full(24, 0.7) - np.full(24, 0.6), np.repeat(np.arange(8), 3).tolist())
    assert test.difference == pytest.approx(0.1)
    assert np.isnan([test.low, test.high, test.p]).all() and test.reason == ALL_EQUAL


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, 1234.5])
def test_equal_resamples_give_no_interval_but_a_reason(value: float) -> None:
    for groups in (2, 8, 200):
        found = grouped_interval(np.full(groups, value), list(range(groups)))
        assert np.isnan([found.low, found.high]).all()
        assert found.to_json() | {"low": None, "high": None} == {"low": None, "high": None, "no_interval": ALL_EQUAL}
    assert grouped_interval(np.full(3, value), ["a"] * 3).reason == "fewer than 2 groups"
    one = [1.0, *[0.0] * 5]
    of_class = grouped_statistic_interval(lambda rows: float(len(rows)), list(range(6)), classes=one)
    assert of_class.reason == "fewer than 2 groups of a class"
    assert grouped_interval(np.array([np.nan]), ["a"]).reason == ""
    spread = grouped_interval(value + np.arange(8) / 100, list(range(8)))
    assert spread.low < spread.high and "no_interval" not in spread.to_json()


def test_a_clear_difference_is_found_and_none_is_not() -> None:
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(25), 4).tolist()
    noise = generator.normal(0, 0.1, 100)
    clear, none = paired_grouped_test(noise + 0.1, groups), paired_grouped_test(noise - noise.mean(), groups)
    assert clear.p < 1e-6 and clear.low > 0 and clear.difference == pytest.approx(0.1 + noise.mean())
    assert none.p > 0.9 and none.low < 0 < none.high
    assert paired_grouped_test(-noise - 0.1, groups).p == pytest.approx(clear.p)


@pytest.mark.parametrize("groups", [2, 4, 5, 6, 9, 30])
def test_p_and_interval_say_the_same(groups: int) -> None:
    generator = np.random.default_rng(groups)
    excluded = 0
    for seed in range(60):
        differences = np.round(generator.normal(0.06, 0.1, groups * 3), 1)
        test = paired_grouped_test(
            differences, np.repeat(np.arange(groups), 3).tolist(), Bootstrap(resamples=1000, seed=seed)
        )
        if test.reason:
            # Rounded to a tenth, a few groups can all differ equally.
            assert groups < 5 and np.isnan(test.low)
            continue
        assert (test.p < 0.05) == (not test.low <= 0 <= test.high)
        assert test.low <= test.difference <= test.high
        excluded += test.p < 0.05
    assert excluded > 0 if groups > 5 else excluded == 0


def test_p_of_a_true_null_is_small_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    small = 0
    for seed in range(400):
        groups = np.repeat(np.arange(25), generator.integers(1, 9, 25))
        differences = (generator.normal(0, 1, 25)[groups] + generator.normal(0, 1, len(groups))) / 10
        small += paired_grouped_test(differences, groups.tolist(), Bootstrap(resamples=500, seed=seed)).p < 0.05
    assert 0.02 < small / 400 < 0.09


def test_one_group_has_a_difference_and_no_test() -> None:
    test = paired_grouped_test(np.array([0.1, 0.2]), ["a", "a"])
    assert test.difference == pytest.approx(0.15) and math.isnan(test.p) and math.isnan(test.low)
    assert math.isnan(paired_grouped_test(np.array([]), []).difference)


def test_intervals_over_patients_cover_where_intervals_over_frames_do_not(benchmark: ModuleType) -> None:
    found = benchmark.coverage(benchmark.SHAPES["skewed"], cohorts=200, resamples=1000, seed=0)
    # Three standard errors of a share of 200 are 4.6 %.
    assert 0.904 <= found["grouped"] <= 0.996
    assert found["naive"] < 0.75


@pytest.mark.slow
def test_published_coverage(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["bootstrap_coverage.py", "--json"])
    benchmark.main()
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["cohorts"] == 500 and len(report["results"]) == 3
    for result in report["results"]:
        assert 0.93 <= result["grouped"] <= 0.97, result
        assert result["naive"] < 0.85, result
