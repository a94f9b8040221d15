"""Measures of one map in [0, 1] against one mask, beyond overlap: structure, weighted F and alignment.

Written from the papers, each with the MATLAB code's rules for the last pixel; tests compare them with PySODMetrics,
which its authors validated against that code.
"""

from __future__ import annotations

import math
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]
Mask = NDArray[np.bool_]

_EPS = float(np.spacing(1.0))
_REACH = 3
"""Pixels on either side that the smoothing of errors takes in: a window of 7 by 7."""
_WINDOW = np.exp(-(np.arange(-_REACH, _REACH + 1) ** 2) / (2.0 * 5.0**2))
_WINDOW /= _WINDOW.sum()
_NEAR = 2 * _REACH**2
"""Largest squared distance of a pixel whose error can enter that of a pixel of the mask."""
_OFFSETS = sorted(
    (
        (down, right)
        for down, right in product(range(-math.isqrt(_NEAR), math.isqrt(_NEAR) + 1), repeat=2)
        if 0 < down**2 + right**2 <= _NEAR
    ),
    # Of pixels at the same distance, the one farthest left and then farthest up, as scipy's distance transform has it.
    key=lambda step: (step[0] ** 2 + step[1] ** 2, step[1], step[0]),
)


def structure_measure(scores: Map, truth: Mask) -> float:
    """S-measure with alpha = 0.5 (Fan et al., ICCV 2017).

    The mean of an object part and of a part that compares the four regions around the centroid of the mask. Without
    foreground it is 1 minus the mean of the map, without background its mean.
    """
    share = np.count_nonzero(truth) / truth.size
    if share in (0.0, 1.0):
        mean = float(scores.mean())
        return mean if share else 1.0 - mean
    inside, outside = scores[truth], scores[~truth]
    objects = share * _object(inside, float(inside.mean()))
    objects += (1 - share) * _object(outside, 1.0 - float(outside.mean()))
    return float(max(0.0, 0.5 * objects + 0.5 * _regions(scores, truth)))


def _object(values: Map, mean: float) -> float:
    """How large and even the values of one side are (eq. 5); `mean` is that of what they should be near 1."""
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _EPS)


def _regions(scores: Map, truth: Mask) -> float:
    """Structural similarity of the four regions, weighted by their pixels (eq. 1-3)."""
    height, width = truth.shape
    rows, columns = truth.sum(1), truth.sum(0)
    count = rows.sum()
    # As the MATLAB code cuts them: the row and column of the centroid belong to the first part.
    row = round(float(rows @ np.arange(height) / count)) + 1
    column = round(float(columns @ np.arange(width) / count)) + 1
    total = 0.0
    for down, right in product((slice(row), slice(row, None)), (slice(column), slice(column, None))):
        part = scores[down, right]
        if part.size:
            total += part.size / truth.size * _similarity(part, truth[down, right])
    return total


def _similarity(scores: Map, truth: Mask) -> float:
    """4 m n c / ((m^2 + n^2) (v + w)): means m and n, variances v and w, covariance c; 1 where both are even."""
    count = scores.size
    # From the first value on, so that equal values differ by exactly 0.
    first = float(scores.flat[0])
    rest = scores - first
    offset = float(rest.mean())
    mean, share = first + offset, np.count_nonzero(truth) / count
    rest -= offset
    degrees = count - 1 + _EPS
    variances = (float((rest * rest).sum()) + count * share * (1 - share)) / degrees
    covariance = float(rest[truth].sum()) / degrees
    above, below = 4 * mean * share * covariance, (mean**2 + share**2) * variances
    if above == 0:
        return 1.0 if below == 0 else 0.0
    return above / (below + _EPS)


def weighted_f_measure(scores: Map, truth: Mask) -> float:
    """Weighted F-measure with beta = 1 (Margolin et al., CVPR 2014); 0 without foreground.

    An error inside the mask counts less where the errors around it are smaller (7 x 7 Gaussian, sigma 5); one outside
    counts the more, up to twice, the farther away from the mask it is.
    """
    if not truth.any():
        return 0.0
    errors = np.abs(scores - truth)
    # In single precision the last digit depends on the process; between pixels, the square is a whole number.
    rounded = cv2.distanceTransform((~truth).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    squared = np.rint(np.square(rounded, dtype=np.float64))
    box = _box(truth)
    inside = truth[box]
    count = int(np.count_nonzero(inside))
    mine = errors[box]
    own = mine[inside]
    missed = float(np.minimum(own, _smoothed(mine, inside, squared[box])[inside]).sum())
    # Inside, the distance is 0 and the weight 1.
    weights = 2.0 - np.exp(math.log(0.5) / 5.0 * np.sqrt(squared))
    false = float((weights * errors).sum()) - float(own.sum())
    recall = 1.0 - missed / count
    precision = (count - missed) / (count - missed + false + _EPS)
    return 2 * recall * precision / (recall + precision + _EPS)


def _box(truth: Mask) -> tuple[slice, slice]:
    """The part of the image whose errors enter those inside the mask."""
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    return tuple(slice(max(0, int(at[0]) - _REACH), int(at[-1]) + _REACH + 1) for at in (rows, columns))  # type: ignore[return-value]


def _smoothed(errors: Map, truth: Mask, squared: Map) -> Map:
    """Smooth errors, after each pixel outside the mask has taken that of the nearest pixel inside."""
    height, width = truth.shape
    filled, inside = errors.flatten(), truth.ravel()
    left = np.flatnonzero((squared > 0) & (squared <= _NEAR))
    for down, right in _OFFSETS:
        row, column = left // width + down, left % width + right
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        source = left + (down * width + right)
        there[there] = inside[source[there]]
        filled[left[there]] = filled[source[there]]
        left = left[~there]
    window = cv2.BORDER_CONSTANT
    return np.asarray(cv2.sepFilter2D(filled.reshape(truth.shape), cv2.CV_64F, _WINDOW, _WINDOW, borderType=window))


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
