"""Measures of one map in [0, 1] against one mask, beyond overlap: structure, weighted F and alignment.

Written from the papers, each with the MATLAB code's rules for the last pixel; tests compare them with PySODMetrics,
which its authors validated against that code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.evaluation.masks.map_parts import Map, Mask, Part, Quadrant, box_of

_EPS = float(np.spacing(1.0))
REACH = 3
"""Pixels on either side that the smoothing of errors takes in: a window of 7 by 7."""
_WINDOW = np.exp(-(np.arange(-REACH, REACH + 1) ** 2) / (2.0 * 5.0**2))
_WINDOW /= _WINDOW.sum()
_NEAR = 2 * REACH**2
"""Largest squared distance to the mask of a pixel whose error can enter that of a pixel of the mask."""
_BLOCK = 2**15
"""Pixels whose weights are computed at a time, few enough for the processor's cache."""
_WEIGHTS = 2.0 - np.exp(math.log(0.5) / 5.0 * np.sqrt(np.arange(265**2 + 1)))
"""Of an error outside the mask by squared distance, from 1 to 2, which it is in float64 from 265 pixels on."""
_WEIGHTS[0] = 0.0
_FAR = math.isqrt(_NEAR)
"""Rows or columns between such a pixel and the nearest one of the mask, at most."""


def structure_measure(quadrants: Sequence[Quadrant]) -> float:
    """S-measure with alpha = 0.5 (Fan et al., ICCV 2017).

    The mean of an object part and of a part that compares the four regions around the centroid of the mask. Without
    foreground it is 1 minus the mean of the map, without background its mean.
    """
    outside, inside = (_joined(side) for side in zip(*quadrants, strict=True))
    pixels = outside.pixels + inside.pixels
    if not inside.pixels:
        return 1.0 - outside.mean
    if not outside.pixels:
        return inside.mean
    share = inside.pixels / pixels
    objects = share * _object(inside.mean, inside) + (1 - share) * _object(1.0 - outside.mean, outside)
    regions = sum((part.outside.pixels + part.inside.pixels) / pixels * _similarity(part) for part in quadrants)
    return max(0.0, 0.5 * objects + 0.5 * regions)


def mean_absolute_error(quadrants: Sequence[Quadrant]) -> float:
    """Mean difference of the map from the mask."""
    outside, inside = (_joined(side) for side in zip(*quadrants, strict=True))
    wrong = outside.pixels * outside.mean + inside.pixels * (1.0 - inside.mean)
    return wrong / (outside.pixels + inside.pixels)


def _joined(parts: Iterable[Part]) -> Part:
    return reduce(Part.joined, parts)


def _object(mean: float, part: Part) -> float:
    """How large and even the values of one side are (eq. 5); `mean` is that of what they should be near 1."""
    spread = math.sqrt(part.squares / (part.pixels - 1)) if part.pixels > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _EPS)


def _similarity(part: Quadrant) -> float:
    """Structural similarity of one region (eq. 1-3).

    4 m n c / ((m^2 + n^2) (v + w)): means m and n, variances v and w, covariance c; 1 where map and mask are even.
    """
    outside, inside = part
    whole = outside.joined(inside)
    if not whole.pixels:
        return 0.0
    mean, share = whole.mean, inside.pixels / whole.pixels
    degrees = whole.pixels - 1 + _EPS
    apart = outside.pixels * share
    variances = (whole.squares + apart) / degrees
    covariance = apart * (inside.mean - outside.mean) / degrees
    above, below = 4 * mean * share * covariance, (mean**2 + share**2) * variances
    if above == 0:
        return 1.0 if below == 0 else 0.0
    return above / (below + _EPS)


def weighted_f_measure(scores: Map, truth: Mask) -> float:
    """Weighted F-measure with beta = 1 (Margolin et al., CVPR 2014); 0 without foreground.

    An error inside the mask counts less where the errors around it are smaller (7 x 7 Gaussian, sigma 5); one outside
    counts the more, up to twice, the farther away from the mask it is.

    Args:
        scores: The map, at least within `REACH` pixels of the mask and where it is above 0.
        truth: The mask of the same shape.
    """
    if not truth.any():
        return 0.0
    distances = cv2.distanceTransform((~truth).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rows = max(1, _BLOCK // truth.shape[1])
    blocks = [slice(top, top + rows) for top in range(0, len(truth), rows)]
    false = math.fsum(_false(scores[at], distances[at]) for at in blocks)
    count = int(np.count_nonzero(truth))
    missed = _missed(scores, truth, distances)
    recall = 1.0 - missed / count
    precision = (count - missed) / (count - missed + false + _EPS)
    return 2 * recall * precision / (recall + precision + _EPS)


def _false(scores: Map, distances: NDArray[np.float32]) -> float:
    """Sum of the errors outside the mask, each with its weight."""
    squared = np.square(distances)
    # In single precision the last digit depends on the process; between pixels, the square is a whole number.
    weights = _WEIGHTS.take(np.rint(squared, out=squared).astype(np.intp), mode="clip")
    weights *= scores
    return float(weights.sum())


def _missed(scores: Map, truth: Mask, distances: NDArray[np.float32]) -> float:
    """Sum of the errors inside the mask, each the smaller of itself and of the smoothed errors there."""
    box = box_of(truth, REACH)
    inside, errors, apart = np.pad(truth[box], _FAR), np.pad(1.0 - scores[box], _FAR), np.pad(distances[box], _FAR)
    wrong = np.flatnonzero(inside & (errors > 0))
    own = errors.take(wrong)
    # Each pixel outside takes the error of the nearest pixel inside.
    at = np.flatnonzero((apart > 0) & (apart < math.sqrt(_NEAR + 0.5)))
    squared = np.rint(np.square(apart.take(at))).astype(np.intp)
    sources = at[:, None] + (_STEPS @ (inside.shape[1], 1))[squared]
    nearest = inside.take(sources).argmax(1)[:, None]
    errors.put(at, errors.take(np.take_along_axis(sources, nearest, 1)))
    smoothed = cv2.sepFilter2D(errors, cv2.CV_64F, _WINDOW, _WINDOW, borderType=cv2.BORDER_CONSTANT)
    return float(np.minimum(own, smoothed.take(wrong)).sum())


def _steps() -> NDArray[np.intp]:
    """Rows and columns from a pixel to others by squared distance, filled up with (0, 0); shape (19, 8, 2)."""
    steps = np.zeros((_NEAR + 1, 8, 2), np.intp)
    for squared in range(1, _NEAR + 1):
        # Of pixels at the same distance, the one farthest left and then farthest up, as scipy's distance transform has.
        there = [(y, x) for x, y in product(range(-_FAR, _FAR + 1), repeat=2) if x**2 + y**2 == squared]
        steps[squared, : len(there)] = np.reshape(there, (-1, 2))
    return steps


_STEPS = _steps()


def alignment_curve(marked: NDArray[np.int64], overlap: NDArray[np.int64], foreground: int, pixels: int) -> Map:
    """E-measure (Fan et al., IJCAI 2018) of binary maps, from their counts.

    Args:
        marked: Pixels that each map marks.
        overlap: Those of them that lie in the mask.
        foreground: Pixels of the mask.
        pixels: Of the image; for a single one the measure, which divides by the pixels less one, is its agreement.
    """
    if foreground in (0, pixels):
        agreeing = marked if foreground else pixels - marked
        return agreeing / max(pixels - 1, 1)
    chosen, wanted = marked / pixels, foreground / pixels
    cells = (
        (overlap, 1 - chosen, 1 - wanted),
        (marked - overlap, 1 - chosen, -wanted),
        (foreground - overlap, -chosen, 1 - wanted),
        (pixels - marked - foreground + overlap, -chosen, -wanted),
    )
    total = np.zeros(len(marked))
    for count, ours, theirs in cells:
        total += count * (2 * ours * theirs / (ours**2 + theirs**2 + _EPS) + 1) ** 2 / 4
    return total / (pixels - 1)
