from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from medformer.errors import DataError
from medformer.evaluation.masks.overlap import dice
from medformer.evaluation.masks.segmentation import binarize
from medformer.inference.threshold import DiceThreshold


def cases(n: int = 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(2)
    truths = [rng.random((15, 18)) < 0.3 for _ in range(n)]
    probabilities = [np.clip(t * 0.2 + rng.random(t.shape) * 0.4, 0, 1).astype(np.float32) for t in truths]
    return probabilities, truths


def test_finds_what_an_exhaustive_search_with_the_exported_rule_finds() -> None:
    probabilities, truths = cases()
    selector = DiceThreshold().fit(probabilities, truths)
    for threshold, mean in zip(selector.grid_, selector.curve_, strict=True):
        pairs = zip(probabilities, truths, strict=True)
        assert mean == pytest.approx(np.mean([dice(binarize(p, float(threshold)), t) for p, t in pairs]), abs=1e-12)
    assert selector.threshold_ == selector.grid_[np.argmax(selector.curve_)] != 0.5
    assert selector.score_ == selector.curve_.max()


def test_the_grid_runs_from_5_to_95_percent_in_round_numbers() -> None:
    grid = DiceThreshold().fit(*cases(1)).grid_
    assert grid.tolist() == [round(0.05 * k, 2) for k in range(1, 20)]


def test_ties_go_to_the_threshold_nearest_one_half() -> None:
    truth = np.array([[True, False]])
    assert DiceThreshold().fit([np.array([[0.99, 0.01]])], [truth]).threshold_ == 0.5
    assert DiceThreshold().fit([np.array([[0.32, 0.01]])], [truth]).threshold_ == 0.3
    assert DiceThreshold().fit([np.array([[0.99, 0.72]])], [truth]).threshold_ == 0.75


def test_a_pixel_on_a_grid_point_counts_as_it_does_when_exported() -> None:
    probability = np.full((1, 2), 0.35, np.float32)
    probability[0, 1] = 0.3
    selector = DiceThreshold().fit([probability], [np.array([[True, False]])])
    assert selector.curve_[selector.grid_ == 0.35] == 1.0


def test_normal_images_push_the_threshold_up() -> None:
    probabilities = [np.full((2, 2), 0.93), np.array([[0.99, 0.01]])]
    truths = [np.zeros((2, 2), bool), np.array([[True, False]])]
    assert DiceThreshold().fit(probabilities, truths).threshold_ == 0.95


def test_generators_are_consumed_one_case_at_a_time() -> None:
    probabilities, truths = cases()

    def one_by_one() -> Iterator[np.ndarray]:
        yield from probabilities

    assert DiceThreshold().fit(one_by_one(), iter(truths)).threshold_ == (
        DiceThreshold().fit(probabilities, truths).threshold_
    )


def test_no_cases_are_an_error() -> None:
    with pytest.raises(DataError, match=r"from 0 validation case\(s\)"):
        DiceThreshold().fit([], [])


def test_pairs_that_do_not_fit_are_named() -> None:
    probabilities, truths = cases(2)
    with pytest.raises(DataError, match="Validation case 1 has no mask"):
        DiceThreshold().fit(probabilities, truths[:1])
    with pytest.raises(DataError, match="Validation case 1 has no probability map"):
        DiceThreshold().fit(probabilities[:1], truths)
    with pytest.raises(DataError, match="validation case 0: the prediction has size 15 x 18, the mask 3 x 3"):
        DiceThreshold().fit(probabilities, [np.ones((3, 3), bool)] * 2)
    probabilities[1][0, 0] = np.nan
    with pytest.raises(DataError, match="validation case 1: expected float probabilities without NaN"):
        DiceThreshold().fit(probabilities, truths)
