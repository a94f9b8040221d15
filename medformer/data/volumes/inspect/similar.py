"""Finding volumes that show the same scan, by their descriptors and by how alike the cohort is.

The descriptors (`descriptor`) of the first channel are correlated for every pair, in all eight combinations of reversed
axes. `THRESHOLD` comes from 200 hippocampi of the Medical Segmentation Decathlon, crops of one structure, and from 1584
masks of AdrenalMNIST3D. Among the 19,900 pairs of hippocampi, in eight orientations, the highest score was 0.58, and
that pair is the two sides of one patient; of other pairs, 0.51. Among the 1.3 million pairs of adrenal masks it was
0.80. Copies of hippocampi scored at least 0.99 with another gamma, bias field or scale, 0.91 with noise of 10 %,
smoothed by a voxel or resampled 1.5 times finer, and 0.87 resampled 1.3 times coarser.

Brains without skulls in a common space are alike beyond that: 24 brains made by deforming nilearn's template of the
MNI152 space by 2 mm score up to 0.90. Where at least `CROWD` volumes are linked by scores of `LINK`, what they share is
taken off: the mean of the descriptors of the others. Of these brains, what is left correlates by at most 0.28, among 4
as among 24; of copies of them by at least 0.75 with noise, smoothing, another gamma or bias field, half the resolution
or moved by a voxel, and by 0.42 to 0.69 with a border of 4 to 8 mm cut off. `BEYOND` lies between. Copies above `SURE`
count in any cohort, also where most of its volumes are copies of one.

Coarser copies (0.70 at half the resolution of a hippocampus) and copies with a voxel of 35 cut off each side (0.79) are
not found reliably: groups must state what belongs together; this search only finds what they missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medformer.data.near_duplicates import CaseComparison, Match, best_matches

THRESHOLD = 0.85
"""Correlation of descriptors from which two volumes may count as one."""

SURE = 0.985
"""Correlation from which they do, however alike the others are."""

LINK, CROWD = 0.6, 4
"""From so many volumes that are linked, directly or through others, by such a correlation, two of them are judged by
what all of them do not share."""

BEYOND = 0.35
"""Correlation of what is left in such a crowd without what all share, from which two volumes count as one."""

_AXES = ("left-right", "back-front", "foot-head")
_ORIENTATIONS = tuple(product((False, True), repeat=3))
_BLOCK = 1024


def similar_volumes(
    descriptors: Sequence[NDArray[np.float32]], parts: NDArray[np.integer] | None = None
) -> list[Match]:
    """Find every pair that seems to show the same scan; see `CaseComparison.similar`.

    Args:
        descriptors: As `descriptor` makes them.
        parts: The part of each volume under each division.
    """
    if len(descriptors) < 2:
        return []
    stacked = np.stack(descriptors)
    rows = stacked.reshape(len(stacked), -1)
    turned = [
        np.flip(stacked, [axis + 1 for axis, is_reversed in enumerate(reversed_axes) if is_reversed])
        for reversed_axes in _ORIENTATIONS
    ]
    alike = [_pairs_above(rows, other.reshape(rows.shape)) for other in turned]
    crowd = _crowds(rows)
    usual = _usual(rows)
    found = []
    for reversed_axes, other, (first, second, score) in zip(_ORIENTATIONS, turned, alike, strict=True):
        left, size = _beyond_crowd(rows, other.reshape(rows.shape), first, second, score, crowd)
        keep = (size < CROWD) | (score >= SURE) | (left >= BEYOND)
        if parts is not None:
            a, b = parts[:, first], parts[:, second]
            keep &= ((a != b) & (a >= 0) & (b >= 0)).any(axis=0)
        mirrored = " and ".join(axis for axis, is_reversed in zip(_AXES, reversed_axes, strict=True) if is_reversed)
        for place in np.flatnonzero(keep):
            evidence = f"half of all pairs are below {usual:.2f}"
            if size[place] >= CROWD:
                evidence = f"{left[place]:.2f} without what the {size[place]} scans like it share; {evidence}"
            one, two, value = int(first[place]), int(second[place]), min(1.0, float(score[place]))
            found.append(Match(one, two, value, mirrored, evidence))
    return best_matches(found)


VOLUMES = CaseComparison(("file", "voxels"), similar_volumes, THRESHOLD, between_runs=True)
"""How volumes are compared."""

_Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def _pairs_above(rows: NDArray[np.float32], others: NDArray[np.float32]) -> _Pairs:
    """First and second index and score of every pair whose score reaches the threshold."""
    blocks = []
    for start in range(0, len(rows), _BLOCK):
        scores = rows[start : start + _BLOCK] @ others.T
        first, second = np.nonzero(scores >= THRESHOLD)
        keep = first + start < second
        first, second = first[keep], second[keep]
        blocks.append((first + start, second, scores[first, second]))
    first, second, score = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return first, second, score


def _crowds(rows: NDArray[np.float32]) -> NDArray[np.intp]:
    """For each volume, the first of those that it is linked with, directly or through others."""
    count = len(rows)
    first = np.arange(count)
    for start in range(0, count, _BLOCK):
        one, other = np.nonzero(rows[start : start + _BLOCK] @ rows.T >= LINK)
        links = np.concatenate([one + start, np.arange(count)]), np.concatenate([other, first])
        graph = coo_array((np.ones(len(links[0]), bool), links), shape=(count, count))
        number = connected_components(graph, directed=False)[1]
        first = np.unique(number, return_index=True)[1][number]
    return np.asarray(first)


def _usual(rows: NDArray[np.float32]) -> float:
    """Median score of the pairs, of at most `_BLOCK` volumes."""
    some = rows[:_BLOCK]
    return float(np.median((some @ some.T)[np.triu_indices(len(some), 1)]))


def _beyond_crowd(
    rows: NDArray[np.float32],
    others: NDArray[np.float32],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    score: NDArray[np.float32],
    crowd: NDArray[np.integer],
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """For each pair what is left of the correlation without what its crowd shares, and the size of this crowd.

    The mean of the other volumes of the crowd is subtracted from both. As they are few, it differs from what all
    volumes of this kind share, and the difference correlates by 1 over their number plus one; this is taken off too.
    """
    sizes = np.bincount(crowd)
    left, size = score.astype(np.float64), sizes[crowd[first]]
    turned_onto_itself = np.einsum("nd,nd->n", rows, others)
    for number in np.flatnonzero(sizes >= CROWD):
        pairs = np.flatnonzero(crowd[first] == number)
        if not len(pairs):
            continue
        members = np.flatnonzero(crowd == number)
        place = np.zeros(len(rows), np.intp)
        place[members] = np.arange(len(members))
        one, two, count = first[pairs], second[pairs], len(members) - 2
        total = rows[members].sum(axis=0, dtype=np.float64)
        sums, turned_sums = rows @ total, others @ total
        unturned = (rows[members] @ rows[members].T)[place[one], place[two]].astype(np.float64)
        # Products of the mean of the other members with the first volume, with the second as turned, and with itself.
        a = (sums[one] - 1 - unturned) / count
        b = (turned_sums[two] - score[pairs] - turned_onto_itself[two]) / count
        square = (total @ total + 2 - 2 * sums[one] - 2 * sums[two] + 2 * unturned) / count**2
        length = np.sqrt(np.maximum((1 - 2 * a + square) * (1 - 2 * b + square), 1e-12))
        by_chance = 1 / (count + 1)
        left[pairs] = ((score[pairs] - a - b + square) / length - by_chance) / (1 - by_chance)
    return left, size
