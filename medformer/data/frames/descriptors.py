"""Numbers that describe a picture: what identifies it, and what a simple classifier tells an endoscope by.

The descriptor is what `similar_frames` compares. It keeps the local structure of brightness and of two color
differences and drops what a copy may change (size, exposure) and what different pictures of one endoscope share
(the black border, the overall illumination).

`similar_frames` finds pairs of pictures that show the same thing: re-encoded, rescaled, mirrored, cropped, or
neighboring video frames. Two steps. Candidates are pairs whose smoothed descriptors correlate, computed for all pairs
as matrix products. Each candidate is then aligned (shifts up to 9 % of the side, zooms up to 14 %) and scored by the
normalized correlation of the descriptors over the overlap, averaged over brightness and the two color channels.

`THRESHOLD` comes from measurements on 1672 public polyp images (Kvasir-SEG, CVC-ClinicDB, CVC-300). Among the 0.7
million pairs from different datasets and the 180,000 pairs of different ClinicDB sequences, in four orientations,
the highest scores were 0.58 and 0.59 (0.79 without color). Copies scored at least 0.78 when rescaled or
re-encoded at JPEG quality 30, and at least 0.65 when cropped by 10 %. All 24 pairs above the threshold inside
Kvasir-SEG were seen to show the same polyp. Frames that follow one another in a ClinicDB sequence exceed it in two
of five cases: a moving camera makes different pictures, which is why sequences need groups and not this search.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medformer.data.near_duplicates import CaseComparison, Match, best_matches, matches_above

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
    steps = [np.abs(np.diff(seen, axis=axis)) for axis in (0, 1)]
    # An axis of one pixel has no neighbors.
    sharpness = sum(step.mean() if step.size else 0.0 for step in steps) / 2
    parts = [small.ravel(), seen.mean(axis=(0, 1)), seen.std(axis=(0, 1)), [dark, sharpness]]
    return np.concatenate(parts).astype(np.float32)


def frame_traits(thumbnail: NDArray[np.float32], height: int, width: int) -> dict[str, float]:
    """What new frames are compared with training frames by; see `medformer.data.training_range`.

    Args:
        thumbnail: Of `thumbnail`.
        height: Of the picture, px.
        width: Of the picture, px.
    """
    means, spreads, rest = np.split(thumbnail[-8:].astype(np.float64), (3, 6))
    colors = ("red", "green", "blue")
    # The tint, whatever the exposure: a gray picture has 1, and its means may be those of any other.
    tints = means[1:] / means[0] if means[0] else (math.nan, math.nan)
    return {
        "height in px": float(height),
        "width in px": float(width),
        **{f"mean {color} (0 to 1)": float(value) for color, value in zip(colors, means, strict=True)},
        **{f"{color} as a share of red": float(value) for color, value in zip(colors[1:], tints, strict=True)},
        **{f"standard deviation of {color}": float(value) for color, value in zip(colors, spreads, strict=True)},
        "share of nearly black pixels": float(rest[0]),
        "sharpness (difference of neighboring pixels)": float(rest[1]),
    }


def _blur(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(plane, sigma, mode="nearest")


THRESHOLD = 0.60
"""Score from which two pictures count as near-duplicates."""

GRAY_THRESHOLD = 0.85
"""The same where one picture has no color, so that brightness alone must decide."""

_CANDIDATE = 0.40
_CANDIDATE_BLUR = 1.5
_ALIGNED_BLUR = 0.7
_ZOOMS = (0.88, 0.94, 1.0, 1 / 0.94, 1 / 0.88)
_SHIFT = 3
_PRESENT = 0.1
_BLOCK = 1024

_FLIPS: dict[str, tuple[int, ...]] = {"": (), "left-right": (3,), "top-bottom": (2,), "half turn": (2, 3)}


def similar_frames(descriptors: Sequence[NDArray[np.float32]], parts: NDArray[np.integer] | None = None) -> list[Match]:
    """Find every pair of near-duplicates; see `CaseComparison.similar`.

    Args:
        descriptors: float32 (3, S, S) each, as `descriptors.descriptor` makes them.
        parts: The part of each picture under each division.
    """
    return best_matches(_matches(np.stack(descriptors), parts)) if len(descriptors) > 1 else []


FRAMES = CaseComparison(("file", "pixels"), similar_frames, THRESHOLD, between_runs=True)
"""How pictures are compared."""


def _matches(descriptors: NDArray[np.float32], parts: NDArray[np.integer] | None) -> Iterator[Match]:
    present = np.sqrt((descriptors**2).mean(axis=(2, 3))) > _PRESENT
    coarse = _unit(_smooth(descriptors, _CANDIDATE_BLUR)[:, :, ::2, ::2])
    fine = _smooth(descriptors, _ALIGNED_BLUR)
    for name, axes in _FLIPS.items():
        first, second = _candidates(coarse, np.flip(coarse, axes), present, parts)
        flipped = np.flip(fine, axes)
        for start in range(0, len(first), _BLOCK):
            some, other = first[start : start + _BLOCK], second[start : start + _BLOCK]
            both = present[some] & present[other]
            scores = _aligned_scores(fine[some], flipped[other], both)
            limits = np.where(both[:, 1:].any(axis=1), THRESHOLD, GRAY_THRESHOLD)
            for index in np.flatnonzero(scores >= limits):
                yield Match(int(some[index]), int(other[index]), float(scores[index]), name)


def _candidates(
    coarse: NDArray[np.float32],
    flipped: NDArray[np.float32],
    present: NDArray[np.bool_],
    parts: NDArray[np.integer] | None,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows = coarse.reshape(len(coarse), -1)
    columns = np.ascontiguousarray(flipped).reshape(len(coarse), -1).T
    channels = present.astype(np.float32)

    def scores(some: slice) -> NDArray[np.floating]:
        return np.asarray(rows[some] @ columns / np.maximum(channels[some] @ channels.T, 1.0))

    found = list(matches_above(_CANDIDATE, len(rows), scores, parts))
    return np.array([match.first for match in found], np.intp), np.array([match.second for match in found], np.intp)


def _aligned_scores(
    some: NDArray[np.float32], other: NDArray[np.float32], both: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Best mean correlation of the shared channels over shifts and zooms; pairs along the first axis."""
    side = some.shape[-1]
    count = np.maximum(both.sum(axis=1), 1)
    best = np.full(len(some), -1.0)
    for zoom in _ZOOMS:
        zoomed = _zoomed(other, zoom)
        for down in range(-_SHIFT, _SHIFT + 1):
            for right in range(-_SHIFT, _SHIFT + 1):
                a = some[:, :, max(0, down) : side + min(0, down), max(0, right) : side + min(0, right)]
                b = zoomed[:, :, max(0, -down) : side + min(0, -down), max(0, -right) : side + min(0, -right)]
                energy = np.einsum("ncyx,ncyx->nc", a, a) * np.einsum("ncyx,ncyx->nc", b, b)
                correlation = np.einsum("ncyx,ncyx->nc", a, b) / np.sqrt(energy + 1e-12)
                best = np.maximum(best, (correlation * both).sum(axis=1) / count)
    return best


def _zoomed(planes: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """Magnify about the center by linear interpolation, zero outside."""
    side = planes.shape[-1]
    center = (side - 1) / 2
    source = (np.arange(side) - center) / zoom + center
    weights = np.maximum(0.0, 1.0 - np.abs(source[:, None] - np.arange(side))).astype(np.float32)
    return np.asarray(weights @ planes @ weights.T)


def _smooth(descriptors: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(descriptors, (0, 0, sigma, sigma), mode="constant")


def _unit(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.sqrt((planes**2).sum(axis=(2, 3), keepdims=True))
    return planes / np.maximum(norm, 1e-6)
