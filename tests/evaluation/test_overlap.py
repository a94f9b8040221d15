from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from medformer.errors import DataError, UnknownNameError
from medformer.evaluation.masks.overlap import EMPTY_POLICIES, count, dice, iou


@pytest.mark.parametrize("shape", [(97,), (13, 17), (5, 6, 7)])
@pytest.mark.parametrize("density", [0.05, 0.5, 0.95])
def test_agrees_with_scikit_learn_in_every_dimension(shape: tuple[int, ...], density: float) -> None:
    rng = np.random.default_rng(7)
    prediction, truth = rng.random(shape) < density, rng.random(shape) < density
    flat = (truth.ravel(), prediction.ravel())
    counts = count(prediction, truth)
    assert dice(prediction, truth) == pytest.approx(f1_score(*flat), abs=1e-12)
    assert iou(prediction, truth) == pytest.approx(jaccard_score(*flat), abs=1e-12)
    assert counts.sensitivity() == pytest.approx(recall_score(*flat), abs=1e-12)
    assert counts.precision() == pytest.approx(precision_score(*flat), abs=1e-12)
    assert counts.size == truth.size


@pytest.mark.parametrize(("policy", "expected"), [("one", 1.0), ("zero", 0.0), ("nan", math.nan)])
@pytest.mark.parametrize("metric", [dice, iou])
def test_two_empty_masks_follow_the_named_policy(metric, policy: str, expected: float) -> None:
    empty = np.zeros((4, 5), bool)
    assert metric(empty, empty, empty=policy) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("policy", EMPTY_POLICIES)
@pytest.mark.parametrize("metric", [dice, iou])
def test_one_empty_mask_scores_zero_whatever_the_policy(metric, policy: str) -> None:
    empty, marked = np.zeros((4, 5), bool), np.eye(4, 5, dtype=bool)
    assert metric(marked, empty, empty=policy) == 0.0
    assert metric(empty, marked, empty=policy) == 0.0


def test_the_default_rewards_a_normal_image_left_unmarked() -> None:
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1.0


def test_rates_without_a_denominator_are_not_a_number() -> None:
    counts = count(np.zeros((2, 2), bool), np.zeros((2, 2), bool))
    assert math.isnan(counts.sensitivity()) and math.isnan(counts.precision())


def test_probabilities_are_refused_with_advice() -> None:
    truth = np.ones((2, 2), bool)
    with pytest.raises(DataError, match=r"prediction is float32, expected a boolean mask.*Threshold"):
        dice(np.full((2, 2), 0.7, np.float32), truth)
    with pytest.raises(DataError, match="with NaN in it"):
        dice(np.full((2, 2), np.nan), truth)
    with pytest.raises(DataError, match="truth is uint8"):
        iou(truth, truth.astype(np.uint8))


def test_shapes_must_agree_and_both_are_named() -> None:
    with pytest.raises(DataError, match=r"frame-7: prediction has shape \(2, 3\), truth has \(3, 2\)"):
        count(np.ones((2, 3), bool), np.ones((3, 2), bool), case="frame-7")


def test_an_array_without_pixels_is_refused() -> None:
    with pytest.raises(DataError, match="holds no pixel"):
        dice(np.ones((0, 3), bool), np.ones((0, 3), bool))


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'zero'"):
        dice(np.ones(2, bool), np.ones(2, bool), empty="zeros")  # type: ignore[arg-type]
