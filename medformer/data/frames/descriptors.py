"""Numbers that describe a picture: what identifies it, and what a simple classifier tells an endoscope by.

The descriptor is what `similar_frames` compares. It keeps the local structure of brightness and of two color
differences and drops what a copy may change (size, exposure) and what different pictures of one endoscope share
(the black border, the overall illumination).
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIDE = 32
"""Rows and columns of a descriptor."""

_BORDER_LEVEL = 32
"""Pixels whose brightest channel is at most this belong to the black border of an endoscope's picture."""

_FINE, _CONTRAST = 2.5, 5.0
"""Gaussian scales, in descriptor pixels, of the structure that is kept and of the contrast it is divided by."""

_NOISE = 1.5
"""Contrast below which a region counts as flat, in gray levels, so that noise is not blown up to structure."""

_CLIP = 2.5
"""Limit of the normalized contrast, so that highlights do not dominate."""


_COLORS = 8

THUMBNAIL_LENGTH = _COLORS * _COLORS * 3 + 8
"""Numbers of a thumbnail."""


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """Hash decoded pixels together with their shape."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def descriptor(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reduce a picture to the locally normalized structure of brightness and color differences.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        float32 (3, SIDE, SIDE) in [-2.5, 2.5]; zero in the black border and where the picture is flat.
    """
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float32)
    # One pixel of margin keeps the border's edge out: it is the same in every picture of an endoscope.
    inside = ndimage.binary_erosion(small.max(axis=2) > _BORDER_LEVEL, np.ones((3, 3)), border_value=1)
    weight = inside.astype(np.float32)
    near = _blur(weight, _FINE) + 1e-3
    wide = _blur(weight, _CONTRAST) + 1e-3
    red, green, blue = np.moveaxis(small, 2, 0)
    channels = []
    for channel in (0.299 * red + 0.587 * green + 0.114 * blue, red - green, blue - green):
        structure = (channel - _blur(channel * weight, _FINE) / near) * weight
        contrast = np.sqrt(_blur(structure * structure, _CONTRAST) / wide) + _NOISE
        channels.append(np.clip(structure / contrast, -_CLIP, _CLIP) * weight)
    return np.stack(channels).astype(np.float32)


def thumbnail(image: NDArray[np.uint8], image_size: tuple[int, int]) -> NDArray[np.float32]:
    """Describe an RGB image (H, W, 3) as the network sees it: float32 (THUMBNAIL_LENGTH,), all in [0, 1].

    The image is stretched to `image_size` (rows, columns) as for the network. The vector holds 8 x 8 mean colors, mean
    and standard deviation of each channel, the share of nearly black pixels (the border of an endoscope's picture), and
    the mean absolute difference of neighboring pixels (how sharp the picture is).
    """
    seen = cv2.resize(image, image_size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255.0)
    small = cv2.resize(seen, (_COLORS, _COLORS), interpolation=cv2.INTER_AREA)
    dark = (seen.max(axis=2) < 0.1).mean()
    sharpness = (np.abs(np.diff(seen, axis=0)).mean() + np.abs(np.diff(seen, axis=1)).mean()) / 2
    parts = [small.ravel(), seen.mean(axis=(0, 1)), seen.std(axis=(0, 1)), [dark, sharpness]]
    return np.concatenate(parts).astype(np.float32)


def _blur(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(plane, sigma, mode="nearest")
