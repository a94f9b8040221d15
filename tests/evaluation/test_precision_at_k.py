from __future__ import annotations

import numpy as np
import pytest

from medformer.errors import DataError
from medformer.evaluation.precision_at_k import precision_at_k

WANTED = np.array([True, False, True, False, False])


def test_share_of_the_leading_scores() -> None:
    assert precision_at_k(np.array([0.9, 0.1, 0.8, 0.3, 0.2]), WANTED) == 1
    assert precision_at_k(np.array([0.9, 0.8, 0.1, 0.3, 0.2]), WANTED) == 0.5
    assert precision_at_k(np.array([0.9, 0.8, 0.1, 0.3, 0.2]), WANTED, k=1) == 1
    assert precision_at_k(np.array([0.9, 0.8, 0.1, 0.3, 0.2]), WANTED, k=5) == 0.4


def test_random_order_reaches_the_share_of_wanted() -> None:
    draw = np.random.default_rng(0)
    wanted = np.arange(1000) < 100
    assert np.mean([precision_at_k(draw.normal(size=1000), wanted) for _ in range(200)]) == pytest.approx(0.1, abs=0.01)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(DataError, match="expected both"):
        precision_at_k(np.ones(4), WANTED)
    with pytest.raises(DataError, match="at least one wanted"):
        precision_at_k(np.ones(5), np.zeros(5, bool))
    with pytest.raises(DataError, match="k = 6"):
        precision_at_k(np.ones(5), WANTED, k=6)
