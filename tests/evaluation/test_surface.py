from __future__ import annotations

import math
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from medformer.errors import DataError, UnknownNameError
from medformer.evaluation.masks.overlap import EMPTY_POLICIES
from medformer.evaluation.masks.surface import SURFACE_POLICIES, surface_distances, surface_scores


def blobs(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth masks that overlap in part and reach the rim here and there."""
    rng = np.random.default_rng(seed)
    first, second = (ndimage.gaussian_filter(rng.normal(size=shape), min(shape) / 8) for _ in range(2))
    mixed = first + 0.7 * second
    return first > 0.3 * first.std(), mixed > 0.3 * mixed.std()


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((61, 83), None),
        ((61, 83), (0.7, 0.7)),
        ((40, 55), (0.5, 2.3)),
        ((14, 30, 26), (1.0, 1.0, 1.0)),
        ((12, 31, 24), (5.0, 0.8, 0.9)),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_monai_in_two_and_in_anisotropic_three_dimensions(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None, seed: int
) -> None:
    prediction, truth = blobs(shape, seed)
    tensors = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    options = {"include_background": True, "spacing": None if spacing is None else list(spacing)}
    for tolerance in (1.05, 2.55):
        scores = surface_scores(prediction, truth, spacing=spacing, tolerance=tolerance)
        hd95 = compute_hausdorff_distance(*tensors, percentile=95, **options)
        nsd = compute_surface_dice(*tensors, class_thresholds=[tolerance], **options)
        assert scores.hd95 == pytest.approx(float(hd95), rel=1e-6)
        assert scores.nsd == pytest.approx(float(nsd), rel=1e-6)


@pytest.mark.parametrize("shape", [(400,), (30, 22), (9, 14, 11)])
def test_distances_are_those_of_an_exhaustive_search(shape: tuple[int, ...]) -> None:
    prediction, truth = blobs(shape, 5)
    steps = np.array([1.5, 0.4, 1.0][: len(shape)])
    points = []
    for mask in (prediction, truth):
        padded = np.pad(mask, 1)
        around = [np.roll(padded, shift, axis) for axis in range(mask.ndim) for shift in (-1, 1)]
        rim = padded & ~np.logical_and.reduce(around)
        points.append((np.argwhere(rim) - 1) * steps)
    every = np.sqrt(((points[0][:, None] - points[1][None]) ** 2).sum(axis=-1))
    forth, back = surface_distances(prediction, truth, spacing=steps.tolist())
    np.testing.assert_allclose(forth, every.min(axis=1), atol=1e-12)
    np.testing.assert_allclose(back, every.min(axis=0), atol=1e-12)


def test_a_line_beside_a_line_is_worked_by_hand() -> None:
    truth, prediction = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    truth[5, :], prediction[9, :] = True, True
    assert surface_scores(prediction, truth) == (4.0, 0.0)
    assert surface_scores(prediction, truth, tolerance=4.0) == (4.0, 1.0)
    assert surface_scores(prediction, truth, spacing=(0.5, 3.0)) == (2.0, 1.0)
    prediction[5, :15] = True
    # Half of the reference is met, the other half has its nearest point on row 9 or to its left.
    back = sorted(surface_distances(prediction, truth)[1])
    assert back == [0.0] * 15 + [1.0, 2.0, 3.0] + [4.0] * 12


def test_one_stray_pixel_hardly_moves_the_percentile() -> None:
    truth = np.zeros((100, 100), bool)
    truth[10:50, 10:50] = True
    stray = truth.copy()
    stray[99, 99] = True
    assert surface_scores(stray, truth).hd95 == 0.0
    assert surface_scores(stray, truth).nsd == pytest.approx(2 * 156 / (2 * 156 + 1))


@pytest.mark.parametrize(
    ("policy", "expected"), [("one", (0.0, 1.0)), ("nan", (math.nan, math.nan)), ("zero", (5.0, 0.0))]
)
def test_two_empty_masks_follow_the_named_policy(policy, expected: tuple[float, float]) -> None:
    empty = np.zeros((3, 4), bool)
    assert surface_scores(empty, empty, empty=policy) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("policy", SURFACE_POLICIES)
def test_one_empty_mask_is_as_far_as_the_image_is_wide_whatever_the_policy(policy) -> None:
    empty, marked = np.zeros((3, 4), bool), np.eye(3, 4, dtype=bool)
    for pair in ((empty, marked), (marked, empty)):
        assert surface_scores(*pair, empty=policy) == (5.0, 0.0)
        assert surface_scores(*pair, empty=policy, spacing=(4.0, 4.0)) == (20.0, 0.0)


def test_no_two_points_are_farther_apart_than_the_penalty() -> None:
    corners = [np.zeros((7, 9), bool) for _ in range(2)]
    corners[0][0, 0] = corners[1][-1, -1] = True
    assert surface_scores(*corners).hd95 < math.hypot(7, 9)


def test_every_rule_for_overlap_has_one_for_outlines() -> None:
    assert SURFACE_POLICIES.keys() == EMPTY_POLICIES.keys()


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_symmetric_scale_with_the_spacing_and_ignore_background(seed: int) -> None:
    prediction, truth = blobs((25, 33), seed)
    scores = surface_scores(prediction, truth, spacing=(1.0, 1.0), tolerance=1.5)
    assert surface_scores(truth, prediction, spacing=(1.0, 1.0), tolerance=1.5) == scores
    larger = surface_scores(prediction, truth, spacing=(3.0, 3.0), tolerance=4.5)
    assert larger == pytest.approx((3 * scores.hd95, scores.nsd))
    padded = [np.pad(mask, ((0, 40), (17, 3))) for mask in (prediction, truth)]
    assert surface_scores(*padded, tolerance=1.5) == scores
    assert surface_scores(prediction, prediction) == (0.0, 1.0)


def test_distances_on_a_sheared_grid_are_those_between_its_voxels() -> None:
    steps = np.array([[1.0, 0.3, 0.0], [0.0, 0.9, 0.2], [0.0, 0.0, 2.0]])
    prediction, truth = blobs((9, 10, 7), 3)
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) @ steps.T for mask in (prediction, truth)]
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    forth, back = surface_distances(prediction, truth, spacing=steps)
    np.testing.assert_allclose(np.sort(forth), np.sort(apart.min(1)))
    np.testing.assert_allclose(np.sort(back), np.sort(apart.min(0)))
    empty = np.zeros_like(truth)
    corners = np.array(list(product((0, 1), repeat=3))) * truth.shape @ steps.T
    longest = max(np.linalg.norm(a - b) for a in corners for b in corners)
    assert surface_scores(empty, truth, spacing=steps).hd95 == pytest.approx(longest)
    with pytest.raises(ValueError, match="3 finite positive numbers"):
        surface_scores(truth, truth, spacing=np.ones((3, 3)))


def test_axes_at_right_angles_give_the_same_as_vectors_and_as_numbers() -> None:
    prediction, truth = blobs((9, 10, 7), 4)
    numbers = surface_scores(prediction, truth, spacing=(0.5, 1.0, 2.0))
    assert surface_scores(prediction, truth, spacing=np.diag((0.5, 1.0, 2.0))) == pytest.approx(numbers)


def test_rounding_does_not_push_a_distance_beyond_its_tolerance() -> None:
    truth, prediction = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    truth[1], prediction[4] = True, True
    assert 3 * 0.1 > 0.3
    assert surface_scores(prediction, truth, spacing=(0.1, 0.1), tolerance=0.3).nsd == 1.0
    assert surface_scores(prediction, truth, spacing=(0.1, 0.1), tolerance=0.2999).nsd == 0.0


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, math.nan), (-1.0, 1.0)])
def test_a_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="2 finite positive numbers"):
        surface_scores(np.ones((4, 4), bool), np.ones((4, 4), bool), spacing=spacing)


def test_what_cannot_be_scored_is_refused() -> None:
    mask = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match="tolerance must be finite and not negative"):
        surface_scores(mask, mask, tolerance=-1)
    with pytest.raises(DataError, match=r"frame-3: prediction has shape \(4, 3\), truth has \(4, 4\)"):
        surface_scores(np.ones((4, 3), bool), mask, case="frame-3")
    with pytest.raises(DataError, match="prediction is float64"):
        surface_scores(np.ones((4, 4)), mask)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'zero'"):
        surface_scores(mask, mask, empty="zeros")  # type: ignore[arg-type]


def test_scoring_an_image_loads_neither_torch_nor_monai() -> None:
    code = "import sys, medformer.evaluation.summary; sys.exit(any(name in sys.modules for name in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
