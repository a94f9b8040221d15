from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import center_of_mass, gaussian_filter, map_coordinates

from medformer.data.volumes.prepare.deformation import Deformation, centered_start, cut, draw_deformation
from medformer.imaging.geometry import Axes

PATCH = (20, 24, 16)
NOTHING = Deformation(np.eye(3), np.zeros(3), None, 1.0)


def _volume(size: Axes = (60, 64, 48)) -> np.ndarray:
    generator = np.random.default_rng(0)
    return gaussian_filter(generator.normal(size=size), 2.0).astype(np.float32)[np.newaxis]


def _crop(volume: np.ndarray, deformation: Deformation, spacing: tuple[float, float, float]) -> np.ndarray:
    margin = deformation.margin(PATCH, spacing)
    shape = (PATCH[0] + 2 * margin[0], PATCH[1] + 2 * margin[1], PATCH[2] + 2 * margin[2])
    size = (volume.shape[1], volume.shape[2], volume.shape[3])
    return cut(volume, centered_start(size, shape), shape, np.nan)


def test_nothing_drawn_changes_nothing() -> None:
    volume = cut(_volume(), (5, 5, 5), PATCH, 0.0)
    assert NOTHING.margin(PATCH, (1.0, 2.0, 3.0)) == (0, 0, 0)
    assert np.allclose(NOTHING.apply(volume, PATCH, (1.0, 2.0, 3.0)), volume, atol=1e-5)


def test_it_equals_an_interpolation_written_out_in_millimeters() -> None:
    spacing = (1.0, 0.8, 2.0)
    drawn = draw_deformation(np.random.default_rng(3), PATCH, spacing, affine=True, elastic=False)
    volume = _volume()
    found = drawn.apply(_crop(volume, drawn, spacing), PATCH, spacing)[0]
    places = np.stack(np.meshgrid(*(np.arange(length) - (length - 1) / 2 for length in PATCH), indexing="ij"), -1)
    moved = (places * spacing) @ drawn.matrix.T + drawn.shift
    middle = (np.array(volume.shape[1:]) - 1) / 2
    expected = map_coordinates(volume[0], np.moveaxis(moved / spacing + middle, -1, 0), order=1)
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_a_crop_with_the_margin_is_never_read_beyond(seed: int) -> None:
    spacing = (1.0, 1.5, 0.7)
    drawn = draw_deformation(np.random.default_rng(seed), PATCH, spacing, affine=True, elastic=True)
    crop = _crop(np.zeros((1, 120, 120, 120), np.float32), drawn, spacing)
    grid = drawn.places(PATCH, spacing, crop.shape[1:]).numpy()
    assert np.abs(grid).max() <= 1.0 + 1e-5


def test_turning_keeps_lengths_in_millimeters() -> None:
    """A rod along the long side of voxels, turned into the sharp plane, is equally long there."""
    turn = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    deformation = Deformation(turn, np.zeros(3), None, 1.0)
    rod = np.zeros((1, 41, 41, 41), np.float32)
    rod[0, 20, 20, 10:31] = 1.0  # 21 voxels of 2 mm
    turned = deformation.apply(rod, (41, 41, 41), (1.0, 1.0, 2.0), nearest=True)[0]
    assert turned[:, 20, 20].sum() == pytest.approx(42, abs=2) and turned[20, 20].sum() <= 1


def test_flat_voxels_are_only_turned_in_their_sharp_plane() -> None:
    for seed in range(5):
        drawn = draw_deformation(np.random.default_rng(seed), PATCH, (0.5, 0.5, 5.0), affine=True, elastic=False)
        assert np.allclose(drawn.matrix[2, :2], 0.0) and np.allclose(drawn.matrix[:2, 2], 0.0)
        assert abs(drawn.matrix[0, 1]) > 1e-3


def test_bending_is_smooth_and_does_not_fold() -> None:
    spacing = (1.0, 1.0, 1.0)
    largest = 0.0
    for seed in range(10):
        drawn = draw_deformation(np.random.default_rng(seed), PATCH, spacing, affine=False, elastic=True)
        size = (40, 44, 36)
        grid = drawn.places(PATCH, spacing, size)[0].numpy()[..., ::-1] * (np.array(size) - 1) / 2
        rates = np.stack(np.gradient(grid, axis=(0, 1, 2)), -1)
        assert np.linalg.det(rates).min() > 0.0
        still = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in PATCH), indexing="ij"), -1)
        largest = max(largest, float(np.abs(grid - still).max()))
    assert 0.5 < largest < 0.3 * 6


def test_image_and_classes_move_together() -> None:
    spacing = (1.0, 1.0, 1.5)
    image = np.zeros((1, 60, 60, 60), np.float32)
    image[0, 24:34, 26:36, 27:33] = 1.0
    for seed in range(8):
        drawn = draw_deformation(np.random.default_rng(seed), PATCH, spacing, affine=True, elastic=True)
        crop = _crop(image, drawn, spacing)
        moved = drawn.apply(crop, PATCH, spacing)[0]
        classes = drawn.apply(crop.astype(np.uint8), PATCH, spacing, nearest=True)[0]
        assert classes.dtype == np.uint8 and set(np.unique(classes)) == {0, 1}
        sides = (moved > 0.5) != (classes == 1)
        assert sides.sum() < 0.1 * classes.sum()
        assert np.allclose(center_of_mass(moved), center_of_mass(classes), atol=0.25)
