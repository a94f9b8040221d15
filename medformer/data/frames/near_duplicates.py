"""Pairs of pictures that show the same thing: re-encoded, rescaled, mirrored, cropped, or neighboring video frames.

Two steps. Candidates are pairs whose smoothed descriptors correlate, computed for all pairs as matrix products.
Each candidate is then aligned (shifts up to 9 % of the side, zooms up to 14 %) and scored by the normalized
correlation of the descriptors over the overlap, averaged over brightness and the two color channels.

`THRESHOLD` comes from measurements on 1672 public polyp images (Kvasir-SEG, CVC-ClinicDB, CVC-300). Among the 0.7
million pairs from different datasets and the 180,000 pairs of different ClinicDB sequences, in four orientations,
the highest scores were 0.58 and 0.59 (0.79 without color). Copies scored at least 0.78 when rescaled or
re-encoded at JPEG quality 30, and at least 0.65 when cropped by 10 %. All 24 pairs above the threshold inside
Kvasir-SEG were seen to show the same polyp. Frames that follow one another in a ClinicDB sequence exceed it in two
of five cases: a moving camera makes different pictures, which is why sequences need groups and not this search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medformer.data.near_duplicates import CaseComparison, Match, best_matches, matches_above

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


FRAMES = CaseComparison(("file", "pixels"), similar_frames, THRESHOLD)
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
