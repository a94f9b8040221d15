from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from medformer.evaluation.bootstrap import grouped_interval


def test_agrees_with_scipy_when_every_case_is_its_own_group() -> None:
    values = np.random.default_rng(0).beta(5, 2, 80)
    ours = grouped_interval(values, range(80), resamples=20_000, seed=1)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=2e-3)
    assert ours.high == pytest.approx(theirs.high, abs=2e-3)
    assert ours.groups == 80


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


def test_the_seed_decides_the_interval() -> None:
    values = np.random.default_rng(0).random(30)
    assert grouped_interval(values, range(30), seed=5) == grouped_interval(values, range(30), seed=5)
    assert grouped_interval(values, range(30), seed=5) != grouped_interval(values, range(30), seed=6)


def test_missing_values_and_their_groups_are_left_out() -> None:
    values = np.array([0.2, np.nan, 0.4, np.nan])
    interval = grouped_interval(values, ["a", "b", "c", "c"])
    assert interval.groups == 2
    assert (interval.low, interval.high) == pytest.approx((0.2, 0.4))


@pytest.mark.parametrize("values", [np.array([]), np.array([0.5]), np.array([0.5, 0.7])])
def test_fewer_than_two_groups_have_no_interval(values: np.ndarray) -> None:
    interval = grouped_interval(values, ["only"] * len(values))
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_drawing_in_chunks_does_not_lose_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = grouped_interval(values, range(50), resamples=999)
    monkeypatch.setattr("medformer.evaluation.bootstrap._CHUNK", 3_000)
    assert grouped_interval(values, range(50), resamples=999) == whole


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}])
def test_impossible_settings_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="level must be"):
        grouped_interval(np.ones(3), range(3), **options)
    with pytest.raises(ValueError, match="3 values but 2 groups"):
        grouped_interval(np.ones(3), range(2))
