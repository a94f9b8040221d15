"""Augmentation of patches, drawn from one seed per patch: where its voxels are read, then what their values become.

The place is changed in at most one interpolation (see `deformation`). The values are changed by MONAI's transforms;
they see z-scored or CT-scaled intensities, and a strength given for them means standard deviations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medformer.config import VolumeAugmentConfig
from medformer.data.volumes.prepare.deformation import Deformation, centered_start, cut, draw_deformation
from medformer.imaging.geometry import Axes
from medformer.seeds import derive_seed

Classes = NDArray[np.unsignedinteger[Any]]


class VolumeAugmentation:
    """Random flips, rotation, scaling, bending, and changes of intensity.

    The same seed and arrays give the same result in any thread or process, in any order of calls, whatever the global
    random states and the number of threads are.

    Args:
        config: The probability of each change.
        spacing: Of the voxels, mm.
    """

    def __init__(self, config: VolumeAugmentConfig, spacing: Sequence[float]) -> None:
        self.config = config
        self.spacing = tuple(spacing)

    def margin(self, patch: Axes, seed: int) -> Axes:
        """How many voxels per side a crop should reach beyond the patch, with this seed."""
        deformation = self._deformation(patch, seed)
        return (0, 0, 0) if deformation is None else deformation.margin(patch, self.spacing)

    def __call__(
        self, image: NDArray[np.float32], classes: Classes | None, seed: int, patch: Axes | None = None
    ) -> tuple[NDArray[np.float32], Classes | None]:
        """Augment one patch.

        Args:
            image: (C, X, Y, Z), the patch or a crop with its place in the middle.
            classes: (X, Y, Z), moved with the image by nearest neighbor, so no new value appears; None for none.
            seed: Any non-negative integer.
            patch: Size of the result; that of the image without one. A crop larger than it by `margin(patch, seed)`
                has all that a rotated patch shows; otherwise the crop's border is continued.

        Returns:
            New arrays (C, *patch) and (*patch).
        """
        size = (image.shape[1], image.shape[2], image.shape[3])
        patch = patch or size
        deformation = self._deformation(patch, seed)
        if deformation is not None:
            places = deformation.places(patch, self.spacing, size)
            image = deformation.apply(image, patch, self.spacing, places=places)
            if classes is not None:
                found = deformation.apply(classes[np.newaxis], patch, self.spacing, nearest=True, places=places)
                classes = found[0]
        elif size != patch:
            start = centered_start(size, patch)
            image = cut(image, start, patch, 0.0)
            classes = None if classes is None else cut(classes, start, patch, 0)
        flips = [axis - 3 for axis in range(3) if _generator(seed, "flip", axis).random() < self.config.flip]
        image = np.ascontiguousarray(np.flip(image, flips))
        classes = None if classes is None else np.ascontiguousarray(np.flip(classes, flips))
        return self._intensities(image, seed), classes

    def _deformation(self, patch: Axes, seed: int) -> Deformation | None:
        affine = _generator(seed, "affine").random() < self.config.affine
        elastic = _generator(seed, "elastic").random() < self.config.elastic
        if not (affine or elastic):
            return None
        return draw_deformation(_generator(seed, "place"), patch, self.spacing, affine=affine, elastic=elastic)

    def _intensities(self, image: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        changed = torch.from_numpy(image)
        with _one_thread():
            for name, change in _changes(threading.get_ident()).items():
                if _generator(seed, name).random() < getattr(self.config, name):
                    changed = change(changed, derive_seed(seed, name, "strength"))
        return np.ascontiguousarray(changed.numpy(), np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Add numbers in the order of a loader process, which has one thread: the last digits of a mean depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_Change = Callable[[torch.Tensor, int], torch.Tensor]


@lru_cache(maxsize=64)
def _changes(thread: int) -> dict[str, _Change]:
    """What is done to intensities, by the name of its probability, in this order.

    A transform holds its random state, so threads must not share one; building it takes longer than using it.
    """
    from monai import transforms

    bias_field = _seeded(transforms.RandBiasField(degree=3, coeff_range=(-0.15, 0.15), prob=1.0))
    scale = _seeded(transforms.RandScaleIntensity(factors=0.25, channel_wise=True, prob=1.0))
    shift = _seeded(transforms.RandShiftIntensity(offsets=0.25, channel_wise=True, prob=1.0))

    def bias(image: torch.Tensor, seed: int) -> torch.Tensor:
        # The field multiplies what the scanner received, which is never negative.
        lowest = image.amin(dim=(1, 2, 3), keepdim=True)
        return bias_field(image - lowest, seed) + lowest

    return {
        "bias_field": bias,
        "noise": _seeded(transforms.RandGaussianNoise(mean=0.0, std=0.2, sample_std=True, prob=1.0)),
        "blur": _seeded(transforms.RandGaussianSmooth((0.4, 1.0), (0.4, 1.0), (0.4, 1.0), prob=1.0)),
        "brightness": lambda image, seed: shift(scale(image, seed), seed),
        "low_resolution": _seeded(transforms.RandSimulateLowResolution(zoom_range=(0.5, 1.0), prob=1.0)),
        "gamma": _seeded(transforms.RandAdjustContrast(gamma=(0.7, 1.5), retain_stats=True, prob=1.0)),
    }


def _seeded(transform: Any) -> _Change:
    """Make a transform of MONAI's a function of the image and a seed."""

    def change(image: torch.Tensor, seed: int) -> torch.Tensor:
        transform.set_random_state(seed=seed % 2**32)
        return torch.from_numpy(np.asarray(transform(image)))

    return change


def _generator(seed: int, *purpose: str | int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, *purpose))
