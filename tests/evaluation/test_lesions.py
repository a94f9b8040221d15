from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from medformer.errors import DataError
from medformer.evaluation.masks.lesions import Lesions, detection
from medformer.evaluation.masks.lesions import count_lesions as count_real_lesions
from medformer.evaluation.statistics.resampling import Bootstrap

# Drawings are small, so here every component counts.
count_lesions = partial(count_real_lesions, min_size=1)


def draw(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_hits_misses_and_false_alarms_are_counted_by_hand() -> None:
    truth = draw(
        "##......",
        "##......",
        "......##",
        "........",
    )
    prediction = draw(
        "#.......",
        "##......",
        "........",
        "...#....",
    )
    assert count_lesions(prediction, truth) == Lesions(true=2, predicted=2, hit=1)
    assert count_lesions(truth, prediction) == Lesions(true=2, predicted=2, hit=1)


def test_corners_touch_in_two_and_three_dimensions() -> None:
    assert count_lesions(np.eye(4, dtype=bool), np.eye(4, dtype=bool)) == (1, 1, 1)
    diagonal = np.zeros((3, 3, 3), bool)
    diagonal[range(3), range(3), range(3)] = True
    assert count_lesions(diagonal, diagonal) == (1, 1, 1)
    apart = draw("#.#")
    assert count_lesions(apart, apart) == (2, 2, 2)


def test_specks_are_no_lesions_in_either_mask() -> None:
    truth, prediction = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    truth[2:7, 2:7] = prediction[2:7, 2:7] = True
    truth[20, :9] = prediction[20, :9] = prediction[30, :9] = True
    assert count_real_lesions(prediction, truth) == Lesions(true=1, predicted=1, hit=1)
    truth[20, 9] = True
    assert count_real_lesions(prediction, truth) == Lesions(true=2, predicted=1, hit=1)
    assert count_real_lesions(prediction, truth, min_size=9) == Lesions(true=2, predicted=3, hit=2)
    volume = np.zeros((4, 9, 9), bool)
    volume[0, 0, :3] = volume[3, 8, :2] = True
    assert count_real_lesions(volume, volume) == Lesions(true=1, predicted=1, hit=1)


def test_a_pair_needs_a_tenth_of_its_union() -> None:
    truth, prediction = np.zeros((1, 20), bool), np.zeros((1, 20), bool)
    truth[0, :10], prediction[0, 9:10] = True, True
    assert count_lesions(prediction, truth).hit == 1  # 1 of 10
    prediction[0, 10] = True
    assert count_lesions(prediction, truth).hit == 0  # 1 of 11
    assert count_lesions(prediction, truth, min_iou=0.0).hit == 1
    assert count_lesions(prediction, truth, min_iou=0.5).hit == 0


def test_two_pieces_of_one_lesion_are_a_hit_and_a_false_alarm_and_a_merger_a_hit_and_a_miss() -> None:
    whole, pieces = draw("#######"), draw("###.###")
    assert count_lesions(pieces, whole) == Lesions(true=1, predicted=2, hit=1)
    assert count_lesions(whole, pieces) == Lesions(true=2, predicted=1, hit=1)


def test_as_many_pairs_as_possible_are_found_even_where_the_best_overlap_stands_in_the_way() -> None:
    # The middle mark fits the right lesion best (2 of 5), but only by giving it up do both lesions get a mark.
    truth = draw("####.####")
    prediction = draw("...###.##")
    assert count_lesions(prediction, truth) == Lesions(true=2, predicted=2, hit=2)
    for turned in (np.fliplr, np.transpose):
        assert count_lesions(turned(prediction), turned(truth)) == Lesions(2, 2, 2)


@pytest.mark.parametrize("seed", range(5))
def test_hits_are_bounded_symmetric_and_indifferent_to_orientation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, 30, 30)) > 0.75
    found = count_lesions(prediction, truth)
    assert 0 <= found.hit <= min(found.true, found.predicted)
    swapped = count_lesions(truth, prediction)
    assert (swapped.true, swapped.predicted, swapped.hit) == (found.predicted, found.true, found.hit)
    assert count_lesions(prediction[::-1, ::-1].T, truth[::-1, ::-1].T) == found
    assert count_lesions(truth, truth).hit == found.true
    assert count_lesions(np.pad(prediction, 9), np.pad(truth, 9)) == found


def test_empty_masks_have_no_lesions() -> None:
    empty, one = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    assert count_lesions(empty, empty) == (0, 0, 0)
    assert count_lesions(one, empty) == Lesions(true=0, predicted=1, hit=0)
    assert count_lesions(empty, one) == Lesions(true=1, predicted=0, hit=0)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"frame-1: prediction has shape \(2, 3\)"):
        count_lesions(np.ones((2, 3), bool), np.ones((3, 2), bool), case="frame-1")
    with pytest.raises(ValueError, match=r"min_iou must be in \[0, 1\], got 2"):
        count_lesions(np.ones((2, 2), bool), np.ones((2, 2), bool), min_iou=2)


def test_rates_come_from_sums_not_from_means_of_cases() -> None:
    counts = np.array([[5.0, 1.0, 0.0], [4.0, 1.0, 3.0], [4.0, 0.0, 0.0]])
    found = detection(counts, ["a", "b", "c"])
    assert (found["true"], found["predicted"], found["hit"]) == (6, 8, 4)
    assert found["precision"] == 4 / 8 and found["recall"] == 4 / 6 and found["f1"] == 8 / 14
    assert 0.0 <= found["low"] < found["f1"] < found["high"] <= 1.0


def test_the_interval_is_that_of_resampling_whole_groups() -> None:
    rng = np.random.default_rng(2)
    true = rng.integers(0, 4, 300).astype(float)
    predicted = rng.integers(0, 4, 300).astype(float)
    hit = np.minimum(true, predicted) * (rng.random(300) < 0.7)
    groups = (np.arange(300) // 3).tolist()
    found = detection(np.stack([true, predicted, hit]), groups, Bootstrap(resamples=4000))
    sums = np.stack([true + predicted, 2 * hit]).reshape(2, 100, 3).sum(axis=-1)
    drawn = sums[:, rng.integers(0, 100, (4000, 100))].sum(axis=-1)
    expected = np.percentile(drawn[1] / drawn[0], [2.5, 97.5])
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.006)


def test_cases_without_lesions_neither_narrow_the_interval_nor_break_it() -> None:
    counts = np.array([[1.0, 2.0, 1.0, 3.0], [1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.0, 3.0]])
    few = detection(counts, list("abcd"))
    many = detection(np.hstack([counts, np.zeros((3, 500))]), [*"abcd", *range(500)])
    assert many == few


def test_without_lesions_or_with_one_group_there_is_nothing_to_tell() -> None:
    none = detection(np.zeros((3, 4)), list("abcd"))
    assert none["true"] == 0 and all(math.isnan(none[name]) for name in ("precision", "recall", "f1", "low", "high"))
    one = detection(np.ones((3, 4)), ["a"] * 4)
    assert one["f1"] == 1.0 and math.isnan(one["low"]) and math.isnan(one["high"])
    part = detection(np.array([[1.0, np.nan], [1.0, 1.0], [1.0, 1.0]]), ["a", "b"])
    assert (part["true"], part["predicted"], part["hit"]) == (1, 1, 1)
