from __future__ import annotations

import math

import numpy as np
import pytest

from medformer.evaluation.statistics.agreement import agreement, relative_error
from medformer.evaluation.statistics.resampling import Bootstrap


def test_bias_and_limits_are_those_of_bland_and_altman() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(5, 50, 80)
    prediction = truth + rng.normal(1.5, 2, 80)
    found = agreement(prediction, truth, list(range(80)))
    difference = prediction - truth
    assert found["n"] == 80
    assert found["bias"]["value"] == pytest.approx(difference.mean())
    assert found["sd"] == pytest.approx(difference.std(ddof=1))
    assert found["lower"]["value"] == pytest.approx(difference.mean() - 1.959964 * difference.std(ddof=1), abs=1e-5)
    assert found["upper"]["value"] == pytest.approx(difference.mean() + 1.959964 * difference.std(ddof=1), abs=1e-5)
    for name in ("bias", "lower", "upper"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_intervals_have_the_width_of_theory() -> None:
    difference = np.random.default_rng(1).normal(0, 1, 400)
    truth = np.full(400, 100.0)
    found = agreement(truth + difference, truth, list(range(400)))
    bias = found["bias"]["high"] - found["bias"]["low"]
    limit = found["upper"]["high"] - found["upper"]["low"]
    assert bias == pytest.approx(2 * 1.96 / 20, rel=0.1)
    # Bland and Altman 1999: the variance of a limit is about (1 + 1.96**2 / 2) that of the bias.
    assert limit / bias == pytest.approx(math.sqrt(1 + 1.96**2 / 2), rel=0.15)


def test_a_large_bias_does_not_hide_a_small_spread() -> None:
    difference = np.random.default_rng(2).normal(0, 1e-3, 50)
    near, far = (agreement(10 + difference + shift, np.full(50, 10.0), list(range(50))) for shift in (0.0, 1e6))
    for name in ("bias", "upper"):
        widths = [found[name]["high"] - found[name]["low"] for found in (near, far)]
        assert widths[1] == pytest.approx(widths[0], rel=1e-3)


def test_scans_of_one_patient_are_drawn_together() -> None:
    base = np.random.default_rng(3).normal(0, 1, 30)
    difference = np.repeat(base, 6)
    truth = np.full(180, 50.0)
    apart = agreement(truth + difference, truth, list(range(180)))["bias"]
    together = agreement(truth + difference, truth, list(np.repeat(np.arange(30), 6)))["bias"]
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])


def test_the_same_seed_gives_the_same_numbers() -> None:
    truth = np.random.default_rng(4).uniform(1, 9, 20)
    groups = [f"p{index // 2}" for index in range(20)]
    assert agreement(truth**1.1, truth, groups, Bootstrap(seed=5)) == agreement(
        truth**1.1, truth, groups, Bootstrap(seed=5)
    )
    assert agreement(truth**1.1, truth, groups, Bootstrap(seed=5)) != agreement(
        truth**1.1, truth, groups, Bootstrap(seed=6)
    )


def test_what_both_find_absent_is_no_agreement_on_a_volume() -> None:
    truth, prediction = np.array([0.0, 0.0, 4.0, 2.0, math.nan]), np.array([0.0, 1.0, 4.5, 0.0, 3.0])
    found = agreement(prediction, truth, list("abcde"))
    assert found["n"] == 3 and found["bias"]["value"] == pytest.approx((1 + 0.5 - 2) / 3)
    relative = relative_error(prediction, truth)
    assert np.isnan(relative[[0, 1, 4]]).all() and relative[2:4] == pytest.approx([0.125, -1])


@pytest.mark.parametrize(("count", "bias", "sd"), [(0, False, False), (1, True, False), (2, True, True)])
def test_few_cases_have_what_they_can_have(count: int, bias: bool, sd: bool) -> None:
    truth = np.arange(1, count + 1).astype(np.float64)
    found = agreement(truth**2 + 1, truth, ["one patient"] * count)
    assert math.isfinite(found["bias"]["value"]) == bias
    assert math.isfinite(found["sd"]) == math.isfinite(found["upper"]["value"]) == sd
    assert math.isnan(found["bias"]["low"]) and math.isnan(found["upper"]["high"])


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="3 predictions, 3 references and 2 groups"):
        agreement(np.ones(3), np.ones(3), ["a", "b"])
