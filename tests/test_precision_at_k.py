from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

WANTED = np.array([True, False, True, False, False])


def test_share_of_the_leading_scores(precision_at_k: Callable[..., float]) -> None:
    assert precision_at_k(np.array([0.9, 0.1, 0.8, 0.3, 0.2]), WANTED) == 1
    assert precision_at_k(np.array([0.9, 0.8, 0.1, 0.3, 0.2]), WANTED) == 0.5
    assert precision_at_k(np.array([0.9, 0.8, 0.1, 0.3, 0.2]), WANTED, k=1) == 1
    assert precision_at_k(np.array([0.9, 0.8, 0.1, 0.3, 0.2]), WANTED, k=5) == 0.4


def test_random_order_reaches_the_share_of_wanted(precision_at_k: Callable[..., float]) -> None:
    draw = np.random.default_rng(0)
    wanted = np.arange(1000) < 100
    assert np.mean([precision_at_k(draw.normal(size=1000), wanted) for _ in range(200)]) == pytest.approx(0.1, abs=0.01)


def test_what_makes_no_sense_is_refused(precision_at_k: Callable[..., float]) -> None:
    with pytest.raises(AssertionError):
        precision_at_k(np.ones(4), WANTED)
    with pytest.raises(AssertionError):
        precision_at_k(np.ones(5), np.zeros(5, bool))
    with pytest.raises(AssertionError):
        precision_at_k(np.ones(5), WANTED, k=6)
