from __future__ import annotations

import math

import pytest

from medformer.training.optimizer import Clock, learning_rate_factor, run_progress


def test_the_rate_warms_up_linearly_and_falls_like_a_cosine_to_zero() -> None:
    assert learning_rate_factor(0.05, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(0.1, 0.1) == 1.0
    assert learning_rate_factor(0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(0.1 + 0.9 / 3, 0.1) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    assert learning_rate_factor(1.0, 0.1) == pytest.approx(0.0)


@pytest.mark.parametrize(("warmup", "start", "end"), [(0.0, 1.0, 0.0), (1.0, 0.0, 1.0)])
def test_the_rate_without_one_of_its_parts(warmup: float, start: float, end: float) -> None:
    assert learning_rate_factor(0.0, warmup) == start
    assert learning_rate_factor(1.0, warmup) == pytest.approx(end)


@pytest.mark.parametrize("total", [1, 2, 20])
def test_no_step_is_wasted_on_a_rate_of_zero(total: int) -> None:
    rates = [learning_rate_factor(run_progress(step, total, 0.0, None), 0.05) for step in range(total)]
    assert min(rates) > 0 and max(rates) > 0.4


def test_a_budget_is_counted_in_seconds_and_never_overrun() -> None:
    assert run_progress(10**6, 1, 30.0, 120.0) == 0.25
    assert run_progress(0, 1, 500.0, 120.0) == 1.0


def test_a_clock_goes_on_from_saved_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 103.0])
    monkeypatch.setattr("medformer.training.optimizer.monotonic", lambda: next(now))
    assert Clock(40.0).elapsed() == 43.0


def test_the_exponential_schedule_loses_a_share_per_epoch_after_it_has_warmed_up() -> None:
    def rate(progress: float, epoch: int) -> float:
        return learning_rate_factor(progress, 0.1, schedule="exponential", epoch=epoch, decay=0.9)

    assert rate(0.05, 0) == pytest.approx(0.5)
    assert [rate(0.5, epoch) for epoch in (0, 1, 5)] == pytest.approx([1.0, 0.9, 0.9**5])
    assert rate(1.0, 45) == pytest.approx(0.9**45)


def test_the_constant_schedule_only_warms_up() -> None:
    rates = [learning_rate_factor(progress, 0.2, schedule="constant") for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == [0.0, pytest.approx(0.5), 1.0, 1.0, 1.0]
