"""Measures of maps against PySODMetrics, where its formulas are defined, and what they mean where a case is odd."""

from __future__ import annotations

import numpy as np
import pytest

from medformer.evaluation.masks.saliency import score_map


@pytest.mark.parametrize("seed", range(8))
def test_measures_of_ragged_masks_agree_with_pysodmetrics(seed: int) -> None:
    """Scattered pixels, many with neighbors at equal distances, at the borders too; floats off the 8-bit grid."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(5, 40, 2)
    truth = rng.random(shape) < rng.choice([0.03, 0.3, 0.9])
    truth[0, 0], truth[-2, -2] = True, False
    scores = rng.random(shape)
    scores[1, 1], scores[2, 2] = 0.0, 1.0
    _check_against_pysodmetrics(scores, truth)


@pytest.mark.parametrize("seed", range(6))
def test_measures_of_a_small_polyp_in_a_dark_frame_agree_with_pysodmetrics(seed: int) -> None:
    """Most pixels are background; the polyp lies anywhere, at the borders too, and some false pixels far from it."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((70, 90), bool)
    top, left = rng.integers(0, 64), rng.integers(0, 84)
    truth[top : top + 14, left : left + 14] = rng.random(truth[top : top + 14, left : left + 14].shape) < 0.8
    scores = np.where(truth, rng.choice([200, 255], truth.shape), 0)
    scores[rng.integers(0, 70, 12), rng.integers(0, 90, 12)] = 90
    _check_against_pysodmetrics(scores.astype(np.uint8), truth)
    # The same off the 8-bit grid, where the dark is not quite 0 before the map is stretched.
    _check_against_pysodmetrics((0.01 + scores / 300).astype(np.float32), truth)


def _check_against_pysodmetrics(prediction: np.ndarray, truth: np.ndarray) -> None:
    peer = pytest.importorskip("py_sod_metrics")
    found = score_map(prediction, truth)
    scores = prediction / 255 if prediction.dtype == np.uint8 else prediction.astype(np.float64)
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    structure, weighted, alignment, error = peer.Smeasure(), peer.WeightedFmeasure(), peer.Emeasure(), peer.MAE()
    for metric in (structure, weighted, alignment, error):
        metric.step(scores, truth, normalize=False)
    assert found.s_measure == pytest.approx(structure.sms[0], abs=1e-12)
    assert found.weighted_f == pytest.approx(weighted.weighted_fms[0], abs=1e-12)
    assert found.mae == pytest.approx(error.maes[0], abs=1e-12)
    np.testing.assert_allclose(found.e_curve[::-1], alignment.changeable_ems[0], atol=1e-12)


def test_regions_of_equal_values_are_alike_whatever_the_values() -> None:
    """Rounding must not make a variance of what does not vary: 0.3 has no exact mean."""
    truth = np.zeros((8, 8), bool)
    truth[3, 3] = True
    scores = np.full((8, 8), 0.3)
    scores[0, 0], scores[3, 3] = 0.0, 1.0
    # The mask lies in the corner region of 4 x 4; the three others are even in the mask and in the map.
    ours, mask = scores[:4, :4].ravel(), truth[:4, :4].ravel()
    (variance, covariance), (_, share_variance) = np.cov(ours, mask)
    means = ours.mean(), mask.mean()
    corner = 4 * means[0] * means[1] * covariance / ((means[0] ** 2 + means[1] ** 2) * (variance + share_variance))
    outside = 1 - scores[~truth]
    background = 2 * outside.mean() / (outside.mean() ** 2 + 1 + outside.std(ddof=1))
    expected = 0.5 * (1 / 64 + 63 / 64 * background) + 0.5 * (48 / 64 + 16 / 64 * corner)
    assert score_map(scores, truth).s_measure == pytest.approx(expected, abs=1e-9)
