"""A map stretched and cut down to what is not background, with the counts and moments that its measures are made of.

Most of the map of a polyp is 0 and outside the mask. Those pixels are only counted, and the work is done in the box
of all others. Of an 8-bit map, a histogram of each quadrant and side of the mask says everything but distances.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

LEVELS = 256

Map = NDArray[np.float64]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice]

# A value this close to k / 255, in levels, is an 8-bit value that went through float32.
_GRID_TOLERANCE = 1e-3
# Each so many rows and columns are tried first, because a map off the 8-bit grid is off it nearly everywhere.
_SAMPLE = 10


class Part(NamedTuple):
    """Some pixels of a map.

    Attributes:
        pixels: How many.
        mean: Of their values; 0 without pixels.
        squares: Sum of the squared differences from the mean, exactly 0 where all values are equal.
    """

    pixels: int
    mean: float
    squares: float

    def joined(self, other: Part) -> Part:
        """The pixels of both (Chan, Golub and LeVeque, 1979)."""
        if not self.pixels or not other.pixels:
            return self if self.pixels else other
        pixels, step = self.pixels + other.pixels, other.mean - self.mean
        share = other.pixels / pixels
        return Part(pixels, self.mean + share * step, self.squares + other.squares + self.pixels * share * step**2)


class Quadrant(NamedTuple):
    """One of the four parts of an image around the centroid of the mask, by side of the mask."""

    outside: Part
    inside: Part


class CutMap(NamedTuple):
    """A stretched map and its mask, cut down.

    Attributes:
        scores: The map in the box of all pixels that are in the mask or above 0, and `margin` pixels around it.
        truth: The mask there.
        outside: Pixels of the whole image outside the mask at floor(255 x) = 0, 1, ..., 255.
        inside: The same inside the mask.
        quadrants: Of the whole image: top left, top right, bottom left, bottom right.
    """

    scores: Map
    truth: Mask
    outside: NDArray[np.int64]
    inside: NDArray[np.int64]
    quadrants: tuple[Quadrant, ...]


def cut(prediction: NDArray[np.generic], truth: Mask, *, margin: int) -> CutMap:
    """Stretch a map to [0, 1] by its own minimum and maximum and cut it; a constant map stays as it is.

    A float map whose every value is k / 255 up to rounding is the 8-bit map it was read from, and is scored as that.

    Args:
        prediction: Shape (H, W): uint8 in 0..255, float in [0, 1], or a boolean mask.
        truth: Boolean mask of the same shape.
        margin: Pixels around the box.
    """
    plain = _levels_or_floats(prediction)
    full = LEVELS - 1.0 if plain.dtype == np.uint8 else 1.0
    low, high = plain.min(), plain.max()
    even = bool(low == high)
    start, span = (0.0, 1.0) if even else (float(low) / full, float(high) / full - float(low) / full)
    box = box_of((plain > (0 if even else low)) | truth, margin)
    # Pillow makes True of a 1-bit picture a byte of 255; OpenCV sees the byte.
    plain, inside = plain[box], truth[box].view(np.uint8) > 0
    row, column = _centroid(inside, box)
    here = _quadrants(inside.shape, row - box[0].start, column - box[1].start)
    if plain.dtype == np.uint8:
        values = np.clip((np.arange(LEVELS) / full - start) / span, 0.0, 1.0)
        histograms = _histograms(plain, inside, here)
        quadrants = [Quadrant(*(_of_levels(side, start, span) for side in pair)) for pair in histograms]
        counts = np.zeros((LEVELS, 2), np.int64)
        # Where 255 (k / 255) falls just below k in float64, a pixel counts one level lower.
        np.add.at(counts, _floors(values), histograms.sum(0).T)
        scores = np.asarray(cv2.LUT(plain, values), np.float64)
    else:
        scores = np.subtract(plain, start, dtype=np.float64)
        scores /= span
        quadrants = [Quadrant(*(_of_values(scores[at][inside[at] == side]) for side in (False, True))) for at in here]
        counts = _histograms(_floors(scores), inside, here).sum(0).T
    counts[0, 0] += truth.size - inside.size
    for index, at in enumerate(_quadrants(truth.shape, row, column)):
        outside, within = quadrants[index]
        background = Part(truth[at].size - inside[here[index]].size, 0.0, 0.0)
        quadrants[index] = Quadrant(outside.joined(background), within)
    return CutMap(scores, inside, counts[:, 0], counts[:, 1], tuple(quadrants))


def _levels_or_floats(prediction: NDArray[Any]) -> NDArray[Any]:
    """A map on the 8-bit grid as its levels, another as it is."""
    if prediction.dtype == np.bool_:
        return prediction.astype(np.uint8) * np.uint8(LEVELS - 1)
    if prediction.dtype == np.uint8:
        return prediction
    for some in (prediction[::_SAMPLE, ::_SAMPLE], prediction):
        scaled = some.astype(np.float64) * (LEVELS - 1)
        levels = np.rint(scaled)
        if np.abs(scaled - levels).max() >= _GRID_TOLERANCE:
            return prediction
    return levels.astype(np.uint8)


def box_of(kept: Mask, margin: int) -> Box:
    """The box of the pixels that are kept, and `margin` pixels around it; without any, that of the first pixel."""
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    return tuple(  # type: ignore[return-value]
        slice(max(0, int(at[0]) - margin), min(length, int(at[-1]) + margin + 1)) if len(at) else slice(0, 1)
        for at, length in zip((rows, columns), kept.shape, strict=True)
    )


def _centroid(truth: Mask, box: Box) -> tuple[int, int]:
    """Row and column of the image where its second quadrants begin: as the MATLAB code has it, after the centroid."""
    pixels = int(np.count_nonzero(truth))
    if not pixels:
        return 0, 0
    row, column = (
        round(float(int(lines @ np.arange(len(lines))) + at.start * pixels) / pixels) + 1
        for lines, at in zip(_foreground(truth), box, strict=True)
    )
    return row, column


def _foreground(truth: Mask) -> list[NDArray[np.int32]]:
    """Pixels of the mask in each row, and in each column."""
    return [cv2.reduce(truth.view(np.uint8), axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for axis in (1, 0)]


def _quadrants(shape: tuple[int, ...], row: int, column: int) -> list[Box]:
    """Those of an image, or of a box in which the cuts may lie outside."""
    row, column = max(0, row), max(0, column)
    return list(product((slice(0, row), slice(row, None)), (slice(0, column), slice(column, None))))


def _histograms(levels: NDArray[np.uint8], truth: Mask, quadrants: list[Box]) -> NDArray[np.int64]:
    """Pixels by quadrant, side of the mask and level; shape (4, 2, 256).

    OpenCV returns float32, which is exact up to 2^24 pixels of a kind, and to seven digits above.
    """
    found = np.zeros((len(quadrants), 2, LEVELS), np.int64)
    for into, at in zip(found, quadrants, strict=True):
        sides = [levels[at], truth[at].view(np.uint8)]
        if sides[0].size:
            into += cv2.calcHist(sides, [0, 1], None, [LEVELS, 2], [0, LEVELS, 0, 2]).T.astype(np.int64)
    return found


def _floors(scores: Map) -> NDArray[np.uint8]:
    floors = np.empty(scores.shape, np.uint8)
    return np.multiply(scores, LEVELS - 1.0, out=floors, dtype=np.float64, casting="unsafe")


def _of_levels(histogram: NDArray[np.int64], start: float, span: float) -> Part:
    """The pixels of a histogram, from sums of whole numbers."""
    levels = np.arange(LEVELS)
    pixels, first, second = (int(histogram @ power) for power in (levels**0, levels, levels**2))
    if not pixels:
        return Part(0, 0.0, 0.0)
    full = LEVELS - 1.0
    squares = (pixels * second - first**2) / pixels
    return Part(pixels, (first / pixels / full - start) / span, squares / (full * span) ** 2)


def _of_values(values: Map) -> Part:
    if not values.size:
        return Part(0, 0.0, 0.0)
    # From the first value on, so that equal values differ by exactly 0.
    first = float(values[0])
    values -= first
    step = float(values.mean())
    squares = float(np.square(values, out=values).sum())
    return Part(values.size, first + step, squares - values.size * step**2)
