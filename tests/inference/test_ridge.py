"""The ridge regression beside a network, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from medformer.inference.ridge import fit_ridge

ROWS = 40


@pytest.mark.parametrize("columns", [10, 100])
@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_it_is_ridge_regression_and_leaves_out_each_row(penalty: float, columns: int) -> None:
    generator = np.random.default_rng(0)
    rows = 5 * generator.normal(size=(ROWS, columns)) + 2
    targets = np.sign(rows[:, :5].mean(axis=1) - 2 + generator.normal(size=ROWS))
    found, model = fit_ridge(rows, targets, penalty=penalty), Ridge(alpha=penalty)
    centered = rows - rows.mean(axis=0)
    scaled = centered / np.sqrt((centered**2).sum() / ROWS)
    assert np.allclose(rows @ found.weights + found.intercept, model.fit(scaled, targets).predict(scaled), atol=1e-10)
    for row in range(ROWS):
        others = np.delete(np.arange(ROWS), row)
        left_out = model.fit(scaled[others], targets[others]).predict(scaled[row : row + 1])
        assert np.allclose(found.left_out[row], left_out, atol=1e-10)


def test_rows_that_are_all_the_same_get_the_mean() -> None:
    targets = np.repeat([1.0, -1.0, -1.0, -1.0], ROWS // 4)
    found = fit_ridge(np.ones((ROWS, 3)), targets)
    assert not found.weights.any() and found.intercept == pytest.approx(-0.5)
    assert np.allclose(found.left_out, (targets.sum() - targets) / (ROWS - 1))
