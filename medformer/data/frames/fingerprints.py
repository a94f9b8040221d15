"""What identifies a picture: its file, its pixels, and a small descriptor that survives re-encoding.

The descriptor is what `near_duplicates` compares. It keeps the local structure of brightness and of two color
differences and drops what a copy may change (size, exposure) and what different pictures of one endoscope share
(the black border, the overall illumination).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medformer.data.manifest import Case
from medformer.files import sha256
from medformer.imaging.images import read_image
from medformer.progress import Reporter, SilentReporter

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


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What identifies one picture.

    Attributes:
        id: The case.
        sha256: Hash of the image file.
        pixels: Hash of the decoded picture and its size.
        descriptor: float32 (3, SIDE, SIDE); brightness, red minus green, blue minus green.
    """

    id: str
    sha256: str
    pixels: str
    descriptor: NDArray[np.float32]


def fingerprints(cases: Sequence[Case], reporter: Reporter | None = None) -> list[Fingerprint]:
    """Decode every picture once and fingerprint it, in the order of `cases`.

    Raises:
        DataError: A picture cannot be decoded.
    """
    reporter = reporter or SilentReporter()
    reporter.start("fingerprints", len(cases))
    found: list[Fingerprint] = []
    try:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for fingerprint in pool.map(_fingerprint, cases):
                found.append(fingerprint)
                reporter.advance()
    finally:
        reporter.finish()
    return found


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


def _fingerprint(case: Case) -> Fingerprint:
    image = read_image(case.required_image())
    return Fingerprint(case.id, sha256(case.required_image()), pixel_hash(image), descriptor(image))


def _blur(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(plane, sigma, mode="nearest")
