"""The kernel machine beside networks that classify volumes: what it sees, and what its random cosines stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medformer.data.volumes.inspect.descriptors import GRID, SHAPE, volume_features
from medformer.imaging.geometry import Geometry
from medformer.models.networks.kernel import COARSE, COSINES, GAMMA, SHAPE_NUMBERS, KernelPath

SIZES = [((20, 13, 9), (1.0, 2.0, 3.0)), ((70, 30, 28), (1.0, 1.0, 1.5)), ((5, 1, 6), (1.0, 1.0, 1.0))]


def smooth(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(ndimage.gaussian_filter(noise, 1.5), np.float32)


def test_its_numbers_are_as_many_as_those_of_the_baselines() -> None:
    assert len(SHAPE) == SHAPE_NUMBERS and GRID == (COARSE,) * 3


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("shape", "spacing"), SIZES)
def test_it_sees_what_the_linear_baselines_see(
    shape: tuple[int, int, int], spacing: tuple[float, ...], binary: bool
) -> None:
    channels = [smooth(shape, seed) for seed in range(2)]
    channels = [(one > 0.05).astype(np.float32) if binary else one for one in channels]
    geometry = Geometry(shape, np.diag([*spacing, 1.0]))
    expected = np.stack([volume_features(one, geometry) for one in channels])
    found = KernelPath(2, spacing).describe(torch.from_numpy(np.stack(channels))[None])[0].numpy()
    numbers, voxels = found[: 2 * SHAPE_NUMBERS].reshape(2, -1), found[2 * SHAPE_NUMBERS :].reshape(2, -1)
    # Two equal radii are roots of an equation that single precision solves to three digits.
    assert np.abs(numbers - expected[:, :SHAPE_NUMBERS]).max() < 1e-2
    assert np.abs(voxels - expected[:, SHAPE_NUMBERS:]).max() < 1e-4


@pytest.mark.parametrize("image", [torch.full((1, 1, 4, 4, 4), 5.0), torch.zeros(1, 1, 1, 1, 1)])
def test_constant_images_have_finite_numbers(image: torch.Tensor) -> None:
    assert KernelPath(1, (1.0, 1.0, 2.0)).describe(image).isfinite().all()


def test_products_of_cosines_are_near_a_radial_kernel() -> None:
    torch.manual_seed(0)
    path = KernelPath(1, (1.0, 1.0, 1.0))
    rows = torch.randn(40, SHAPE_NUMBERS + COARSE**3) * 0.06
    cosines = path.cosines(rows)
    assert cosines.shape == (40, COSINES)
    kernel = torch.exp(-GAMMA * torch.cdist(rows, rows).square())
    assert (cosines @ cosines.T - kernel).abs().max() < 0.08


def test_samples_do_not_see_each_other_and_half_precision_changes_nothing() -> None:
    torch.manual_seed(0)
    path = KernelPath(1, (1.0, 1.0, 1.0)).eval()
    path.weights.normal_()
    images = torch.from_numpy(np.stack([smooth((12, 9, 10), seed) for seed in range(3)]))[:, None]
    together = path.score(images)
    alone = torch.cat([path.score(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5) and together.std() > 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(path.score(images), together)


def test_while_a_network_is_trained_it_adds_nothing() -> None:
    path, images, deep = KernelPath(1, (1.0, 1.0, 1.0)), torch.rand(2, 1, 6, 6, 6), torch.randn(2, 2)
    path.bias.fill_(3.0)
    path.gate.fill_(0.5)
    assert torch.equal(path.train()(images, deep), deep)
    joined = path.eval()(images, deep)
    assert torch.allclose(joined, deep / 2 + torch.tensor([-1.5, 1.5]))
