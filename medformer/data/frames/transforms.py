"""2-D augmentation, resizing and normalization of color images; the only file that knows albumentations.

Images are resized to the network's input first and augmented afterwards: the cost of a warp then depends on the
network's size and not on the camera's, the resized pixels can be cached, and a strength given in per cent means the
same for every camera. The price is that a zoomed-in view is up to 1.25 times softer than one cut from the original,
which is less than the spread of sharpness between endoscopes.
"""

from __future__ import annotations

import os
import random
import threading
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.config import AugmentConfig
from medformer.config.shared import IMAGE_MEAN, IMAGE_STD

MEAN, STD = IMAGE_MEAN, IMAGE_STD

_SCALE = (1.0 / (255.0 * np.array(STD))).astype(np.float32).reshape(3, 1, 1)
_OFFSET = (np.array(MEAN) / np.array(STD)).astype(np.float32).reshape(3, 1, 1)


class Augmentation:
    """Random flips, quarter turns, affine warps, color jitter and blur, drawn from one seed per call.

    The same seed, image and mask give the same result in any thread or process, in any order of calls, whatever the
    global random states hold. Pixels that a warp brings in from outside are black and background: endoscope frames have
    a black surround of their own, whereas reflection would invent a second polyp.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        # Here, and not in each process of a loader.
        _albumentations()

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.generic], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
        """Augment one pair.

        Args:
            image: RGB, uint8, shape (H, W, 3).
            mask: bool or uint8, shape (H, W). It is moved with the image by nearest neighbor, so no new value appears.
            seed: Any non-negative integer, e.g. `derive_seed(run, "augment", epoch, case)`.

        Returns:
            New arrays of the same shapes and types. A non-square image is stretched back to its shape after a quarter
            turn.
        """
        pipeline = _pipeline(self.config, threading.get_ident())
        # `Compose.set_random_seed` gives every step its own copy of one stream: both flips would then always happen
        # together. Sharing a single stream keeps the steps independent of each other.
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        moved = pipeline(image=image, mask=mask.astype(np.uint8))
        height, width = image.shape[:2]
        new_image, new_mask = moved["image"], moved["mask"]
        if new_image.shape[:2] != (height, width):
            new_image = resize_image(new_image, (height, width))
            new_mask = cv2.resize(new_mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return np.ascontiguousarray(new_image), np.ascontiguousarray(new_mask.astype(mask.dtype, copy=False))


def _albumentations() -> Any:
    """The package, which a prediction does without: it takes half as long to import as torch."""
    # It asks a package registry for newer releases when it is imported, unless this variable is set.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return albumentations


@lru_cache(maxsize=64)
def _pipeline(config: AugmentConfig, thread: int) -> Any:
    A = _albumentations()
    # A pipeline holds its random state, so threads must not share one; building it takes longer than using it.
    steps = [
        A.HorizontalFlip(p=config.flip),
        A.VerticalFlip(p=config.flip),
        A.Affine(
            scale=(0.75, 1.25),
            keep_ratio=True,
            translate_percent=(-0.1, 0.1),
            rotate=(-30.0, 30.0),
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            border_mode=cv2.BORDER_CONSTANT,
            fill=0,
            fill_mask=0,
            p=config.affine,
        ),
        A.ColorJitter(
            brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(-0.03, 0.03), p=config.color
        ),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.2), p=config.blur),
    ]
    if config.rotate90:
        steps.append(A.RandomRotate90(p=1.0))
    return A.Compose(steps)


def normalize(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn RGB uint8 (H, W, 3) into float32 (3, H, W) with ImageNet's mean and standard deviation."""
    channels_first = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    channels_first *= _SCALE
    channels_first -= _OFFSET
    return channels_first


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 (H, W) or (H, W, C) to `size` (rows, columns).

    An axis that shrinks is averaged by area, which cannot alias; an axis that grows is interpolated linearly.
    """
    height, width = image.shape[:2]
    rows, columns = size
    small = (min(height, rows), min(width, columns))
    if small != (height, width):
        image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    if small != size:
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return image


def resize_mask(mask: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask (H, W) to bool of `size` (rows, columns): a pixel is set when at least half of its area is.

    The outline then stays where it is on average, which nearest neighbor only does for outlines wider than its steps.
    An object smaller than half an output pixel vanishes.
    """
    coverage = resize_image((mask != 0).view(np.uint8) * np.uint8(255), size)
    return np.asarray(coverage >= 128)
