"""The ridge regression beside a network, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from medformer.connectome.ridge import fit_ridge

ROWS = 40


def sample() -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Two atlases of other sizes and scales, of which only the first one carries the label."""
    generator = np.random.default_rng(0)
    blocks = {"told": generator.normal(size=(ROWS, 100)) + 2, "noise": 5 * generator.normal(size=(ROWS, 60))}
    blocks["told"][:, :20] += generator.normal(size=(ROWS, 1))
    targets = np.sign(blocks["told"][:, :20].mean(axis=1) - 2 + 0.2 * generator.normal(size=ROWS))
    return blocks, targets


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_it_is_ridge_regression_and_leaves_out_each_row(penalty: float) -> None:
    blocks, targets = sample()
    for atlas, block in blocks.items():
        found, model = fit_ridge({atlas: block}, targets, penalty=penalty), Ridge(alpha=penalty)
        centered = block - block.mean(axis=0)
        rows = centered / np.sqrt((centered**2).sum() / ROWS)
        share = found.shares[atlas]
        expected = share * model.fit(rows, targets).predict(rows)
        assert np.allclose(block @ found.weights[atlas] + found.intercept, expected, atol=1e-10)
        for row in range(ROWS):
            others = np.delete(np.arange(ROWS), row)
            left_out = model.fit(rows[others], targets[others]).predict(rows[row : row + 1])
            assert np.allclose(found.left_out[row], share * left_out, atol=1e-10)


def test_shares_are_those_that_suit_left_out_rows_best() -> None:
    blocks, targets = sample()
    found = fit_ridge(blocks, targets)
    assert found.shares["told"] > 0.5 > 0.2 > found.shares["noise"] >= 0
    error = np.mean((found.left_out - targets) ** 2)
    alone = {atlas: fit_ridge({atlas: block}, targets) for atlas, block in blocks.items()}
    assert all(error <= np.mean((one.left_out - targets) ** 2) + 1e-12 for one in alone.values())
    scores = sum(blocks[atlas] @ weights for atlas, weights in found.weights.items()) + found.intercept
    assert np.corrcoef(scores, targets)[0, 1] > 0.8


def test_where_nothing_can_be_learned_atlases_weigh_the_same() -> None:
    generator = np.random.default_rng(1)
    targets = np.repeat([1.0, -1.0], ROWS // 2)
    found = fit_ridge({"flat": np.ones((ROWS, 3)), "two": np.ones((ROWS, 2))}, targets)
    assert found.shares == {"flat": 0.5, "two": 0.5}
    assert not found.weights["flat"].any() and np.isfinite(found.left_out).all()
    noise = fit_ridge({"noise": generator.normal(size=(ROWS, 9))}, targets)
    assert noise.shares["noise"] >= 0 and np.isfinite(noise.left_out).all()
