from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine

from medformer.errors import DataError
from medformer.imaging.resample import resample, resample_labels, resampled_affine, resampled_shape, slab

SHAPES = [(17, 9, 20), (22, 14, 26), (11, 7, 13), (11, 14, 1), (40, 7, 13), (12, 8, 14)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if min(shape) > 6])
def test_linear_is_what_torch_gives(shape: tuple[int, int, int]) -> None:
    array = noise(2, 11, 7, 13)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None], shape, mode="trilinear", align_corners=False
    )
    np.testing.assert_allclose(resample(array, shape, order=1), wanted[0].numpy(), atol=2e-6)


def test_shrinking_averages_as_torch_with_antialiasing_does() -> None:
    array = noise(1, 30, 40, 30)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(array), (13, 11), mode="bilinear", align_corners=False, antialias=True
    ).numpy()
    found = resample(array, (30, 13, 11), order=1)
    # Torch leaves out what is beyond the edge, where here the edge is repeated.
    np.testing.assert_allclose(found[:, :, 2:-2, 2:-2], wanted[:, :, 2:-2, 2:-2], atol=2e-6)
    fine = np.zeros((64, 1, 1), np.float32)
    fine[::2] = 1.0
    np.testing.assert_allclose(resample(fine, (16, 1, 1), order=1)[1:-1], 0.5, atol=1e-6)
    np.testing.assert_allclose(resample(fine, (16, 1, 1), order=3)[2:-2], 0.5, atol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_ramps_and_for_cubic_parabolas_are_exact_inside(order: int) -> None:
    x, y, z = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in (12, 10, 9)), indexing="ij")
    polynomial = 0.5 * x - 0.25 * y + z if order == 1 else 0.1 * x * x - 0.05 * y * y + 0.2 * z * x + y
    new = (20, 13, 30)
    found = resample(polynomial.astype(np.float32), new, order=order)
    places = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(x.shape, new, strict=True)]
    x, y, z = np.meshgrid(*places, indexing="ij")
    wanted = 0.5 * x - 0.25 * y + z if order == 1 else 0.1 * x * x - 0.05 * y * y + 0.2 * z * x + y
    inside = (slice(4, -4), slice(4, -4), slice(8, -8))  # kernels that reach beyond the edge are left out
    np.testing.assert_allclose(found[inside], wanted[inside], atol=2e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_slab_is_those_planes_of_the_whole(shape: tuple[int, int, int], order: int) -> None:
    array = noise(2, 11, 7, 13)
    whole = resample(array, shape, order=order)
    assert whole.shape == (2, *shape)
    for axis in range(3):
        for start in range(0, shape[axis], 3):
            stop = min(start + 3, shape[axis])
            planes = slab(array, shape, start, stop, axis, order=order)
            np.testing.assert_allclose(planes, whole.take(range(start, stop), axis + 1), atol=1e-6)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_memory_order_type_and_flips_do_not_matter(order: int) -> None:
    array = np.random.default_rng(0).integers(-50, 50, (11, 70, 13)).astype(np.int16)
    for shape in ((17, 90, 20), (5, 40, 13)):
        wanted = resample(array, shape, order=order)
        assert wanted.dtype == (np.int16 if order == 0 else np.float32)
        fortran = resample(np.asfortranarray(array), shape, order=order)
        assert fortran.flags.f_contiguous
        np.testing.assert_allclose(fortran, wanted, atol=1e-4)
        turned = resample(array.transpose(2, 0, 1), (shape[2], shape[0], shape[1]), order=order)
        np.testing.assert_allclose(turned.transpose(1, 2, 0), wanted, atol=1e-4)
        if order != 0:
            flipped = resample(array[::-1, :, ::-1], shape, order=order)[::-1, :, ::-1]
            np.testing.assert_allclose(flipped, wanted, atol=1e-4)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_what_stays_is_given_back_itself(order: int) -> None:
    array = noise(4, 5, 6)
    assert resample(array, (4, 5, 6), order=order) is array
    np.testing.assert_allclose(resample(np.full((3, 4, 5), 7.0), (9, 2, 5), order=order), 7.0, rtol=1e-6)
    labels = np.ones((4, 5, 6), np.uint8)
    assert resample_labels(labels, (4, 5, 6), [1]) is labels
    affine = np.eye(4)
    assert resampled_affine(affine, (4, 5, 6), (4, 5, 6)) is affine


def test_the_box_stays_where_it_is() -> None:
    affine = np.eye(4)
    affine[:3, :3] = nibabel.eulerangles.euler2mat(0.2, 0.3, -0.4) @ np.diag((1.0, -2.0, 3.0))
    affine[:3, 3] = (5.0, -6.0, 7.0)
    old, new = np.array((10, 12, 7)), np.array((15, 6, 8))
    made = resampled_affine(affine, tuple(old), tuple(new))
    for corner in np.ndindex(2, 2, 2):
        before = apply_affine(affine, np.array(corner) * old - 0.5)
        after = apply_affine(made, np.array(corner) * new - 0.5)
        np.testing.assert_allclose(after, before, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(made[:3, :3], axis=0), np.array((1.0, 2.0, 3.0)) * old / new)
    assert resampled_shape((10, 12, 7), (1.0, 2.0, 3.0), (0.7, 4.0, 100.0)) == (14, 6, 1)


def test_a_feature_keeps_its_place_in_space() -> None:
    affine = np.diag((1.0, 2.0, 3.0, 1.0))
    x, y, z = (np.arange(size) for size in (40, 30, 20))
    blob = np.exp(-((x[:, None, None] - 21.3) ** 2 + (y[:, None] - 12.1) ** 2 + (z - 9.6) ** 2) / 18.0)
    for shape in ((60, 45, 33), (25, 20, 14)):
        for order in (1, 3):
            made = resample(blob.astype(np.float32), shape, order=order)
            weights = np.where(made > 0.05, made, 0.0)
            center = [
                np.average(np.arange(size), weights=weights.sum(tuple({0, 1, 2} - {axis})))
                for axis, size in enumerate(shape)
            ]
            place = apply_affine(resampled_affine(affine, blob.shape, shape), center)
            np.testing.assert_allclose(place, (21.3, 24.2, 28.8), atol=0.1)


def test_labels_are_those_of_the_largest_share() -> None:
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[2:5, 2:8, 2:8], labels[5:8, 2:8, 2:8] = 4, 9
    for shape in ((20, 20, 20), (15, 25, 10), (7, 8, 9), (37, 33, 41)):
        found = resample_labels(labels, shape, [4, 9])
        assert found.dtype == np.uint8
        shares = np.stack([resample((labels == value), shape, order=1) for value in (0, 4, 9)])
        clear = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 1e-4
        assert np.array_equal(found[clear], np.array([0, 4, 9], np.uint8)[shares.argmax(axis=0)][clear])
        fortran = resample_labels(np.asfortranarray(labels), shape, [0, 4, 9])
        assert np.array_equal(fortran, found)
        for value in (4, 9):
            volume = (found == value).sum() / np.prod(shape)
            assert volume == pytest.approx((labels == value).mean(), rel=0.35)


def test_a_share_equal_to_the_background_wins_and_unlisted_values_are_background() -> None:
    labels = np.zeros((4, 1, 1), np.int16)
    labels[2:] = 3
    assert resample_labels(labels, (1, 1, 1), [3]).item() == 3
    assert resample_labels(labels, (2, 1, 1), [3]).ravel().tolist() == [0, 3]
    labels[0] = 8
    assert resample_labels(labels, (8, 1, 1), [3]).ravel().tolist() == [0, 0, 0, 0, 3, 3, 3, 3]
    assert not resample_labels(labels, (8, 1, 1), []).any()


def test_labels_return_through_a_finer_grid_unchanged() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (9, 8, 7)).astype(np.uint8)
    finer = resample_labels(labels, (27, 24, 21), [1, 2])
    assert np.array_equal(resample(finer, labels.shape, order=0), labels)


def test_what_cannot_be_resampled_is_refused() -> None:
    for array, shape in ((noise(4, 5), (4, 5, 6)), (noise(4, 5, 6), (4, 5)), (noise(4, 5, 6), (0, 5, 6))):
        with pytest.raises(DataError, match="Cannot resample"):
            resample(array, shape, order=1)
    for start, stop, axis in ((0, 9, 0), (2, 2, 0), (0, 1, 3), (-1, 1, 0)):
        with pytest.raises(DataError, match="Planes"):
            slab(noise(4, 5, 6), (8, 5, 6), start, stop, axis)
