from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medformer.errors import DataError, UnknownNameError
from medformer.evaluation.masks.segmentation import case_row
from medformer.evaluation.masks.volumes import label_names, volume_row
from medformer.evaluation.metrics import LABEL_MAPS

LABELS = {2: "left, lower", 7: "right:upper", 300: "lesion"}
SPACING = (0.8, 2.5, 1.1)


def maps(seed: int, shape: tuple[int, int, int] = (17, 14, 21)) -> tuple[np.ndarray, np.ndarray]:
    """Two label maps that overlap in part; the third label is small and sometimes absent."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    moved = field + 0.5 * ndimage.gaussian_filter(rng.normal(size=shape), 2)
    cuts = np.quantile(field, [0.6, 0.8, 0.99])
    values = np.array([0, *LABELS], np.int16)
    return values[np.digitize(moved, cuts)], values[np.digitize(field, cuts)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("empty", ["one", "nan", "zero"])
def test_each_label_scores_as_its_own_mask(seed: int, empty: Any) -> None:
    prediction, truth = maps(seed)
    if seed == 4:
        prediction[prediction == 7] = 0
        prediction[prediction == 300] = truth[truth == 300] = 0
    row = volume_row("v", prediction, truth, labels=LABELS, spacing=SPACING, empty=empty, tolerance=1.5)
    ml = math.prod(SPACING) / 1000
    singles = {}
    for value, name in LABELS.items():
        single = case_row(
            "v", prediction == value, truth == value, empty=empty, spacing=SPACING, tolerance=1.5, threshold=0.5
        )
        singles[name] = single
        for metric in LABEL_MAPS:
            assert row[f"{metric}:{name}"] == pytest.approx(single[metric], nan_ok=True), (metric, name)
        assert row[f"truth_ml:{name}"] == pytest.approx(single["truth_px"] * ml)
        assert row[f"pred_ml:{name}"] == pytest.approx(single["pred_px"] * ml)
    for metric in LABEL_MAPS:
        values = np.array([single[metric] for single in singles.values()])
        known = values[~np.isnan(values)]
        assert row[metric] == pytest.approx(known.mean() if known.size else math.nan, nan_ok=True)
    assert row["voxels"] == truth.size
    assert row["truth_px"] == np.count_nonzero(truth) and row["pred_px"] == np.count_nonzero(prediction)


def test_a_perfect_map_is_perfect_whatever_the_type_and_the_order_of_the_axes() -> None:
    _, truth = maps(0)
    for array in (truth, truth.astype(np.uint16), np.asfortranarray(truth), truth[::-1], truth.transpose(2, 0, 1)):
        row = volume_row("v", array, array.astype(np.int64), labels=LABELS, spacing=SPACING)
        assert all(row[name] == 1 for name in ("dice", "iou", "sensitivity", "precision", "nsd_mm"))
        assert row["hd95_mm"] == 0


def test_labels_come_back_from_the_columns_in_ascending_order_of_their_values() -> None:
    prediction, truth = maps(1)
    row = volume_row("v", prediction, truth, labels=dict(reversed(LABELS.items())), spacing=SPACING)
    assert label_names([row]) == list(LABELS.values())
    assert label_names([{"id": "v", "dice": 1.0}]) == []


def test_the_worst_distance_is_the_diagonal_of_the_whole_volume() -> None:
    truth = np.zeros((30, 40, 5), np.uint8)
    truth[3, 4, 2] = 1
    row = volume_row("v", np.zeros_like(truth), truth, labels={1: "a", 2: "b"}, spacing=(1, 1, 4))
    assert row["hd95_mm:a"] == pytest.approx(math.hypot(30, 40, 20)) and row["nsd_mm:a"] == row["dice:a"] == 0
    assert row["dice:b"] == row["nsd_mm:b"] == 1 and row["hd95_mm:b"] == 0
    assert row["dice"] == 0.5 and row["sensitivity"] == 0 and math.isnan(row["precision"])


def test_distances_are_in_millimeters_along_the_axes_of_the_array() -> None:
    truth, prediction = np.zeros((2, 9, 9, 9), np.uint8)
    truth[4, 4, 4] = prediction[4, 4, 6] = 1
    row = volume_row("v", prediction, truth, labels={1: "a"}, spacing=(1, 2, 5), tolerance=9.9)
    assert row["hd95_mm"] == 10 and row["nsd_mm"] == 0 and row["nsd_tolerance_mm"] == 9.9
    assert volume_row("v", prediction, truth, labels={1: "a"}, spacing=(1, 2, 5), tolerance=10)["nsd_mm"] == 1


def test_the_volume_of_a_voxel_can_be_given_for_axes_that_are_not_at_right_angles() -> None:
    _, truth = maps(0)
    row = volume_row("v", truth, truth, labels=LABELS, spacing=SPACING, voxel_ml=0.5)
    assert sum(row[f"truth_ml:{name}"] for name in LABELS.values()) == 0.5 * row["truth_px"]


def test_what_is_no_pair_of_label_maps_is_named() -> None:
    _, truth = maps(0)
    score: dict[str, Any] = {"labels": LABELS, "spacing": SPACING}
    with pytest.raises(DataError, match=r"v: the prediction holds the value 5, expected 0 or a declared label \(2, 7"):
        volume_row("v", np.where(truth == 7, 5, truth), truth, **score)
    with pytest.raises(DataError, match="the reference holds the value -1"):
        volume_row("v", truth, np.where(truth == 7, -1, truth), **score)
    with pytest.raises(DataError, match="the reference holds the value 301"):
        volume_row("v", truth, truth + (truth == 300), **score)
    with pytest.raises(DataError, match="the prediction is float32 of shape"):
        volume_row("v", truth.astype(np.float32), truth, **score)
    with pytest.raises(DataError, match=r"shape \(16, 14, 21\), the reference \(17, 14, 21\)"):
        volume_row("v", truth[1:], truth, **score)
    with pytest.raises(DataError, match="expected integer label values"):
        volume_row("v", truth[0], truth[0], **score)
    with pytest.raises(ValueError, match="above 0 with different names"):
        volume_row("v", truth, truth, labels={0: "background", 2: "a"}, spacing=SPACING)
    with pytest.raises(ValueError, match="above 0 with different names"):
        volume_row("v", truth, truth, labels={1: "a", 2: "a"}, spacing=SPACING)
    with pytest.raises(ValueError, match="3 finite positive"):
        volume_row("v", truth, truth, labels=LABELS, spacing=(1, 1))
    with pytest.raises(UnknownNameError):
        volume_row("v", truth, truth, labels=LABELS, spacing=SPACING, empty="both")  # type: ignore[arg-type]
