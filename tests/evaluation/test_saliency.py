from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medformer.errors import DataError
from medformer.evaluation.masks.saliency import max_and_mean_e, score_map

# The published maps of PraNet, scored by its protocol, to four digits.
PUBLISHED = {
    "CVC-300": (0.8709, 0.7966, 0.8433, 0.9253, 0.9716, 0.0099),
    "CVC-ClinicDB": (0.8990, 0.8491, 0.8963, 0.9362, 0.9790, 0.0093),
    "Kvasir": (0.8944, 0.8362, 0.8803, 0.9125, 0.9443, 0.0303),
}


def polyp(height: int = 40, width: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An 8-bit map of a soft disc, and the disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height * rng.uniform(0.3, 0.7), x - width * rng.uniform(0.3, 0.7)) / min(height, width)
    truth = distance < 0.22
    soft = 1 / (1 + np.exp(25 * (distance - 0.25))) + rng.normal(0, 0.05, truth.shape)
    return np.clip(soft * 200 + 10, 0, 255).astype(np.uint8), truth


@pytest.mark.real_data
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_maps_get_their_published_scores(dataset: str) -> None:
    root = os.environ.get("MEDFORMER_DATA")
    if not root:
        pytest.skip("MEDFORMER_DATA is not set")
    folder = Path(root) / "polyp" / "pranet_published_maps" / dataset
    scores = [
        score_map(np.array(Image.open(path)), np.array(Image.open(folder / "mask" / path.name)), case=path.name)
        for path in sorted((folder / "prediction").iterdir())
    ]
    means = [float(np.mean([score[index] for score in scores])) for index in range(5)]
    max_e, _ = max_and_mean_e(score.e_curve for score in scores)
    np.testing.assert_allclose([*means[:4], max_e, means[4]], PUBLISHED[dataset], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pysodmetrics(seed: int) -> None:
    peer = pytest.importorskip("py_sod_metrics")
    prediction, truth = polyp(seed=seed)
    as_picture = truth.astype(np.uint8) * 255
    overlap = peer.FmeasureV2(
        metric_handlers={
            "dice": peer.DICEHandler(with_dynamic=True, with_adaptive=False),
            "iou": peer.IOUHandler(with_dynamic=True, with_adaptive=False),
        }
    )
    alignment, structure, weighted, error = peer.Emeasure(), peer.Smeasure(), peer.WeightedFmeasure(), peer.MAE()
    for metric in (overlap, alignment, structure, weighted, error):
        metric.step(prediction, as_picture)
    curves = overlap.get_results()
    scores = score_map(prediction, truth)
    assert scores.mean_dice == pytest.approx(curves["dice"]["dynamic"].mean(), abs=1e-12)
    assert scores.mean_iou == pytest.approx(curves["iou"]["dynamic"].mean(), abs=1e-12)
    assert scores.weighted_f == pytest.approx(weighted.get_results()["wfm"], abs=1e-12)
    assert scores.s_measure == pytest.approx(structure.get_results()["sm"], abs=1e-12)
    assert scores.mae == pytest.approx(error.get_results()["mae"], abs=1e-12)
    np.testing.assert_allclose(scores.e_curve[::-1], alignment.get_results()["em"]["curve"], atol=1e-12)


def test_overlap_agrees_with_thresholding_one_level_at_a_time() -> None:
    prediction, truth = polyp()
    unit = prediction / 255
    stretched = (unit - unit.min()) / (unit.max() - unit.min())
    # Rounded as PySODMetrics does: where 255 times a value falls just below a whole number, one level lower.
    level = np.floor(255 * stretched)
    marked = level[None] >= np.arange(256)[:, None, None]
    both, either = (marked & truth).sum((1, 2)), (marked | truth).sum((1, 2))
    found = score_map(prediction, truth)
    assert found.mean_dice == pytest.approx((2 * both / (both + either)).mean())
    assert found.mean_iou == pytest.approx((both / either).mean())


def test_a_mask_read_from_a_1_bit_picture_scores_the_same() -> None:
    """Pillow makes True of such a picture a byte of 255."""
    prediction, truth = polyp()
    read = np.array(Image.fromarray(truth))
    assert read.dtype == np.bool_ and read.view(np.uint8).max() == 255
    for map_, other in ((prediction, prediction), (truth, read)):
        for one, same in zip(score_map(map_, truth), score_map(other, read), strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_a_perfect_binary_map_stays_just_below_one(fraction: float) -> None:
    truth = np.zeros(1000, bool)
    truth[: int(1000 * fraction)] = True
    truth = np.random.default_rng(1).permutation(truth).reshape(25, 40)
    for prediction in (truth, truth.astype(np.uint8) * 255, truth * np.uint8(3), truth * np.float32(0.3)):
        scores = score_map(prediction, truth)
        assert scores.mean_dice == pytest.approx((255 + 2 * fraction / (1 + fraction)) / 256, abs=1e-12)
        assert scores.mean_iou == pytest.approx((255 + fraction) / 256, abs=1e-12)
        assert scores.mae == 0.0 and scores.weighted_f == pytest.approx(1.0)


def test_an_8_bit_map_scores_the_same_after_a_trip_through_float32() -> None:
    prediction, truth = polyp()
    direct = score_map(prediction, truth)
    travelled = score_map(prediction.astype(np.float32) / np.float32(255), truth)
    for one, other in zip(direct, travelled, strict=True):
        np.testing.assert_array_equal(one, other)


def test_max_e_is_the_highest_point_of_the_mean_curve_not_the_mean_of_highest_points() -> None:
    first, second = np.zeros(256), np.zeros(256)
    first[10], second[200] = 1.0, 0.6
    assert max_and_mean_e([first, second]) == pytest.approx((0.5, 1.6 / 512))


def test_an_image_without_foreground_follows_the_formulas() -> None:
    prediction = np.zeros((10, 10), np.uint8)
    prediction[:5] = 255
    scores = score_map(prediction, np.zeros((10, 10), bool))
    assert (scores.mean_dice, scores.mean_iou, scores.weighted_f) == (0.0, 0.0, 0.0)
    assert scores.s_measure == pytest.approx(0.5) and scores.mae == pytest.approx(0.5)
    assert scores.e_curve[0] == 0.0 and scores.e_curve[255] == pytest.approx(50 / 99)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 1), (3, 3)])
@pytest.mark.parametrize("value", [0, 255])
def test_tiny_and_constant_maps_give_finite_numbers(shape: tuple[int, int], value: int) -> None:
    for truth in (np.zeros(shape, bool), np.ones(shape, bool), np.arange(np.prod(shape)).reshape(shape) > 0):
        scores = score_map(np.full(shape, value, np.uint8), truth)
        assert all(np.isfinite(part).all() for part in scores)


def test_foreground_in_the_last_corner_keeps_the_structure_measure_defined() -> None:
    truth = np.zeros((9, 9), bool)
    truth[-1, -1] = True
    assert score_map(truth, truth).s_measure == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.zeros((4, 6)), r"frame-2: the prediction has size 4 x 6, the mask 4 x 5"),
        (np.full((4, 5), np.nan), r"frame-2: the map ranges from nan"),
        (np.full((4, 5), 3.5), r"ranges from 3.5 to 3.5, expected probabilities.*sigmoid"),
        (np.zeros((4, 5), np.int64), r"the map is int64, expected uint8"),
    ],
)
def test_what_is_no_map_is_refused_by_name(prediction: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_map(prediction, np.ones((4, 5), bool), case="frame-2")


def test_one_nan_pixel_is_enough_to_refuse_a_map() -> None:
    prediction = np.full((4, 5), 0.5)
    prediction[2, 3] = np.nan
    with pytest.raises(DataError, match="expected probabilities"):
        score_map(prediction, np.ones((4, 5), bool))


def test_a_truth_that_is_not_boolean_is_refused() -> None:
    with pytest.raises(DataError, match="the mask is uint8, expected boolean"):
        score_map(np.zeros((4, 5)), np.ones((4, 5), np.uint8))  # type: ignore[arg-type]
