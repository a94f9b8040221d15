from __future__ import annotations

import math

import numpy as np
import pytest

from medformer.errors import DataError
from medformer.evaluation.masks.saliency import score_map
from medformer.evaluation.masks.segmentation import binarize, case_row, e_curve, size_stratum
from medformer.evaluation.metrics import MASKS

COLUMNS: tuple[str, ...] = (
    "id",
    "threshold",
    "empty_policy",
    "pixels",
    "truth_px",
    "pred_px",
    "overlap_px",
    "truth_fraction",
    "size",
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "hd95_px",
    "nsd_px",
    "nsd_tolerance_px",
    "lesions_true",
    "lesions_pred",
    "lesions_hit",
    "fp_px",
    "mean_dice_256",
    "mean_iou_256",
    "weighted_f",
    "s_measure",
    "mae",
    "e_curve",
)
"""Columns of an image without a known pixel spacing, as every table of scores has them."""


def block(height: int = 20, width: int = 20, rows: int = 4) -> np.ndarray:
    truth = np.zeros((height, width), bool)
    truth[:rows] = True
    return truth


def test_a_row_has_every_column_and_hand_checked_numbers() -> None:
    truth = block(rows=4)
    probability = np.zeros((20, 20), np.float32)
    probability[2:6] = 0.6
    row = case_row("frame-1", probability, truth, threshold=0.55)
    assert tuple(name for name in row if name in COLUMNS) == COLUMNS and row.keys() - set(COLUMNS) <= MASKS.keys()
    assert (row["id"], row["threshold"], row["pixels"]) == ("frame-1", 0.55, 400)
    assert (row["truth_px"], row["pred_px"], row["overlap_px"]) == (80, 80, 40)
    assert row["dice"] == pytest.approx(0.5) and row["iou"] == pytest.approx(1 / 3)
    assert row["sensitivity"] == row["precision"] == 0.5
    assert row["truth_fraction"] == 0.2 and row["size"] == "large"
    assert row["hd95_px"] == 2.0 and row["nsd_px"] == 1.0 and row["nsd_tolerance_px"] == 3.0
    assert (row["lesions_true"], row["lesions_pred"], row["lesions_hit"]) == (1, 1, 1)
    assert math.isnan(row["fp_px"])  # there was a lesion, so this is no false alarm
    assert row["mae"] == pytest.approx(0.2)  # of the stretched map: 40 px missed and 40 px added, of 400


def test_the_threshold_applies_to_the_map_as_it_is_not_stretched() -> None:
    truth = block()
    row = case_row("a", truth * np.float32(0.3), truth)
    assert row["pred_px"] == 0 and row["dice"] == 0.0
    assert row["mean_dice_256"] > 0.99


def test_masks_and_8_bit_maps_are_taken_too() -> None:
    truth = block()
    for prediction in (truth, truth.astype(np.uint8) * 255, truth.astype(np.float64)):
        assert case_row("a", prediction, truth)["dice"] == 1.0


@pytest.mark.parametrize(("policy", "expected"), [("one", 1.0), ("zero", 0.0), ("nan", math.nan)])
def test_empty_masks_follow_the_policy_and_the_row_names_it(policy, expected: float) -> None:
    empty = np.zeros((5, 5), bool)
    row = case_row("normal", np.full((5, 5), 0.1, np.float32), empty, empty=policy)
    assert row["dice"] == pytest.approx(expected, nan_ok=True)
    assert row["empty_policy"] == policy and row["size"] == "none"
    outlines = {"one": (0.0, 1.0), "zero": (math.hypot(5, 5), 0.0), "nan": (math.nan, math.nan)}[policy]
    assert (row["hd95_px"], row["nsd_px"]) == pytest.approx(outlines, nan_ok=True)
    assert row["fp_px"] == 0
    assert math.isnan(row["sensitivity"]) and math.isnan(row["precision"])


def test_the_e_curve_survives_its_column() -> None:
    truth = block()
    probability = np.random.default_rng(0).random(truth.shape)
    row = case_row("a", probability, truth)
    np.testing.assert_allclose(e_curve(row), score_map(probability, truth).e_curve, atol=5.1e-6)


@pytest.mark.parametrize("text", ["", "0.5", "x;" * 255 + "x", None])
def test_a_damaged_e_curve_is_named(text: str | None) -> None:
    with pytest.raises(DataError, match="frame-9: the e_curve column holds"):
        e_curve({"id": "frame-9", "e_curve": text})


@pytest.mark.parametrize(
    ("fraction", "name"),
    [
        (0.0, "none"),
        (1e-6, "small"),
        (0.0499, "small"),
        (0.05, "medium"),
        (0.149, "medium"),
        (0.15, "large"),
        (1, "large"),
    ],
)
def test_size_strata_have_the_stated_cuts(fraction: float, name: str) -> None:
    assert size_stratum(fraction) == name


def test_a_pixel_at_the_threshold_is_foreground() -> None:
    np.testing.assert_array_equal(binarize(np.array([[0.25, 0.5, 0.75]], np.float32), 0.5), [[False, True, True]])
    np.testing.assert_array_equal(binarize(np.array([[50, 51, 52]], np.uint8), 0.2), [[False, True, True]])
    np.testing.assert_array_equal(binarize(np.array([[0.35]], np.float32), 0.35), [[True]])


def test_binarize_refuses_nan_other_types_and_impossible_thresholds() -> None:
    with pytest.raises(DataError, match="frame-4: the map holds NaN"):
        binarize(np.array([[np.nan]]), 0.5, case="frame-4")
    with pytest.raises(DataError, match="int64"):
        binarize(np.array([[1]]), 0.5)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        binarize(np.array([[0.1]]), 1.5)


def test_marks_on_an_image_without_a_lesion_are_false_alarms() -> None:
    probability = np.zeros((6, 8), np.float32)
    probability[1:4, 1:5] = probability[5, 7] = 0.9
    row = case_row("normal", probability, np.zeros((6, 8), bool))
    assert row["fp_px"] == row["pred_px"] == 13
    assert (row["lesions_true"], row["lesions_pred"], row["lesions_hit"]) == (0, 1, 0)
    assert (row["hd95_px"], row["nsd_px"]) == (10.0, 0.0)


def test_an_image_with_a_spacing_is_measured_in_millimeters() -> None:
    truth = block(rows=4)
    row = case_row("slide", np.roll(truth, 3, axis=0), truth, spacing=(0.5, 0.25), tolerance=1.0)
    assert row["hd95_mm"] == 1.5 and row["nsd_tolerance_mm"] == 1.0
    assert 0 < row["nsd_mm"] < 1 and "hd95_px" not in row and "fp_px" in row


def test_a_volume_is_scored_in_millimeters_and_milliliters_without_what_is_for_images() -> None:
    truth = np.zeros((6, 20, 20), bool)
    truth[2:4, 5:15, 5:15] = True
    probability = np.roll(truth, 1, axis=0).astype(np.float32)
    row = case_row("scan", probability, truth, spacing=(5.0, 1.0, 1.0))
    assert row["dice"] == 0.5 and row["truth_px"] == 200
    assert row["hd95_mm"] == 5.0 and row["nsd_tolerance_mm"] == 2.0 and row["lesions_hit"] == 1
    assert {"hd95_px", "fp_px", "size", "truth_fraction", "mae", "e_curve"}.isdisjoint(row)
    alarm = case_row("healthy", probability, np.zeros_like(truth), spacing=(5.0, 1.0, 1.0))
    assert alarm["fp_ml"] == pytest.approx(1.0)  # 200 voxels of 5 cubic millimeters


def test_a_volume_without_spacing_and_what_is_neither_image_nor_volume_are_refused() -> None:
    cube = np.ones((3, 4, 5), bool)
    with pytest.raises(ValueError, match="scan is a volume: give the spacing"):
        case_row("scan", cube, cube)
    with pytest.raises(DataError, match=r"signal: the arrays have shape \(4,\), expected one image"):
        case_row("signal", np.ones(4, bool), np.ones(4, bool))
    with pytest.raises(DataError, match=r"scan: the map ranges from 0 to 7, expected probabilities"):
        case_row("scan", np.arange(8.0).reshape(2, 2, 2), np.ones((2, 2, 2), bool), spacing=(1, 1, 1))


def test_a_size_mismatch_names_case_and_both_sizes() -> None:
    with pytest.raises(DataError, match=r"frame-5: the prediction has size 3 x 4, the mask 5 x 6"):
        case_row("frame-5", np.zeros((3, 4)), np.zeros((5, 6), bool))
