from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medformer.inference.gate import GATES, learn_gate

CASES = 100


def sample(help_: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """A linear model that tells a little, and a network that adds to it what it does not know, or only noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(CASES) % 2
    sign = 2.0 * labels - 1.0
    return 0.4 * sign + generator.normal(size=CASES), help_ * sign + generator.normal(size=CASES), labels


def test_a_network_that_adds_something_is_used() -> None:
    gates = [learn_gate(*sample(1.5, seed)) for seed in range(20)]
    assert all(gate.value in GATES and gate.gain > gate.error for gate in gates)


def test_a_network_that_adds_noise_is_mostly_left_out() -> None:
    gates = [learn_gate(*sample(0.0, seed)) for seed in range(40)]
    assert sum(gate.value > 0 for gate in gates) <= 12
    assert all(gate.gain <= gate.error for gate in gates if gate.value == 0)


def test_too_few_cases_choose_nothing_and_it_is_said() -> None:
    linear, deep, labels = sample(3.0, 0)
    gate = learn_gate(linear[:20], deep[:20], labels[:20])
    assert gate.value == 0 and "too few inner validation cases" in gate.reason
    assert gate.to_json()["gain"] is None
