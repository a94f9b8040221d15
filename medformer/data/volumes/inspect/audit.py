"""The leakage audit of volumes: the same patient, file, voxels or anatomy on both sides of a split.

The descriptors (see `descriptors`) of the first channels are correlated for every pair, in all eight combinations of
reversed axes.

`THRESHOLD` comes from 200 hippocampi of the Medical Segmentation Decathlon, crops of one structure and so as similar as
different scans get, and from 1584 masks of AdrenalMNIST3D. Among the 19,900 pairs of hippocampi, in eight orientations,
the highest score was 0.58, and that pair is the two sides of one patient; of other pairs, 0.51. Among the 1.3 million
pairs of adrenal masks it was 0.80. Copies of hippocampi scored at least 0.99 with another gamma, bias field or scale,
0.91 with noise of 10 %, smoothed by a voxel or resampled 1.5 times finer, and 0.87 resampled 1.3 times coarser.
Coarser copies (0.70 at half the resolution) and copies with a voxel of 35 cut off each side (0.79) are not found
reliably: groups have to say what belongs together, this search only finds what they forgot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medformer.data.audit import Audit, SplitFold, divided, fold_divisions, search
from medformer.data.inventory import Record
from medformer.data.manifest import Case
from medformer.data.near_duplicates import Match, correlated_rows

THRESHOLD = 0.85
"""Correlation of descriptors from which two volumes count as one."""

_AXES = ("left-right", "back-front", "foot-head")


def audit_volumes(
    cases: Sequence[Case],
    split: Mapping[str, Sequence[str]] | Sequence[SplitFold],
    records: Mapping[str, Record],
) -> Audit:
    """Look for leaks between the parts of a split, or between what each fold learns from and what it is tested on.

    Args:
        cases: The cases; those in no part are left out.
        split: Case ids by part, of which every pair is compared; or the folds of a plan.
        records: Of `cases` (see `describe_volume`).

    Raises:
        DataError: A part names an unknown case, or a volume could not be read.
    """
    divisions = [("", split)] if isinstance(split, Mapping) else fold_divisions(split)
    cases = divided(cases, divisions)
    found = [records[case.id] for case in cases]
    same = {kind: [record.hashes[kind] for record in found] for kind in ("file", "voxels")}
    descriptors = [record.array("descriptor") for record in found]
    return search(cases, divisions, same, lambda sides: similar_volumes(np.stack(descriptors), sides), THRESHOLD)


def similar_volumes(descriptors: NDArray[np.float32], sides: NDArray[np.int64] | None = None) -> list[Match]:
    """Every pair that seems to show the same scan, ordered by position, each once with its best orientation.

    Args:
        descriptors: Of N volumes, (N, SIDE, SIDE, SIDE).
        sides: int (L, N), the part of each volume under each of L divisions, negative for none; when given, only pairs
            that some division separates are compared.
    """
    rows = descriptors.reshape(len(descriptors), -1)
    best: dict[tuple[int, int], Match] = {}
    for reversed_axes in product((False, True), repeat=3):
        axes = [axis for axis, is_reversed in enumerate(reversed_axes) if is_reversed]
        others = np.flip(descriptors, [axis + 1 for axis in axes]).reshape(len(descriptors), -1)
        for pair, score in correlated_rows(rows, others, sides, THRESHOLD).items():
            if pair not in best or score > best[pair].score:
                best[pair] = Match(*pair, score, " and ".join(_AXES[axis] for axis in axes))
    return [best[pair] for pair in sorted(best)]
