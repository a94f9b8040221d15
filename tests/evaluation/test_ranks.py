"""Ranks of numbers are those of scipy.stats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medformer.evaluation.statistics.ranks import midranks


@pytest.mark.parametrize("size", [0, 1, 2, 50])
def test_ranks_are_those_of_scipy(size: int) -> None:
    generator = np.random.default_rng(size)
    for values in (generator.random(size), generator.integers(0, 5, size).astype(float)):
        assert np.array_equal(midranks(values), stats.rankdata(values))


def test_each_row_is_ranked_by_itself() -> None:
    rows = np.random.default_rng(0).integers(0, 9, (4, 30)).astype(np.float32)
    assert np.array_equal(midranks(rows), stats.rankdata(rows, axis=1))
