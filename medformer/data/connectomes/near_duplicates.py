"""Subjects whose connectomes show one brain.

Functional connectomes identify people (Finn et al., Nature Neuroscience 2015). What two connectomes share beyond the
average connectome is therefore compared for every pair: each connection is Fisher-transformed and centered over the
cohort, and the remainders are correlated over connections.

`THRESHOLD` comes from 697 subjects of ABIDE I (C-PAC, no global signal regression). Of 242,556 pairs, one scores 0.90,
0.90 and 0.86 with the AAL, CC200 and Harvard-Oxford atlases (a control and a patient of one site whose mean framewise
displacement agrees to sixteen digits); every other pair scores at most 0.58, 0.47 and 0.54.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medformer.data.connectomes.cohort import Cohort
from medformer.data.manifest import Case
from medformer.data.near_duplicates import CaseComparison, Match, matches_above
from medformer.data.problems import Problem

THRESHOLD = 0.75
"""Correlation of centered connectomes from which two subjects count as one."""

LINKED = "linked"
"""Column of the manifest: the subject whose group this one joined because their connectomes are alike, or nothing."""

_BATCH = 256


def similar_connectomes(
    descriptors: Sequence[NDArray[np.float32]], parts: NDArray[np.integer] | None = None
) -> list[Match]:
    """Find every pair that seems to show one brain; see `CaseComparison.similar`.

    Args:
        descriptors: Correlations (edges,) of one atlas for each subject; memory maps are read in batches.
        parts: The part of each subject under each division.
    """
    count = len(descriptors)
    batches = [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]
    mean = sum(_transformed(descriptors[some]).sum(0, dtype=np.float64) for some in batches) / max(count, 1)

    def scores(rows: slice) -> NDArray[np.float32]:
        chosen = _centered(descriptors[rows], mean)
        return np.concatenate([chosen @ _centered(descriptors[some], mean).T for some in batches], axis=1)

    return list(matches_above(THRESHOLD, count, scores, parts))


CONNECTOMES = CaseComparison(("connections",), similar_connectomes, THRESHOLD)
"""How subjects are compared."""


def link_same_subject(cohort: Cohort) -> tuple[list[Case], list[Problem]]:
    """Give subjects whose connectomes show one brain one group, so that no split separates them.

    The atlas with the fewest regions decides. The data do not show whether a pair is one person scanned twice or one
    scan under two names; if the two have different diagnoses, one of them is wrong.

    Returns:
        The subjects with joined groups, and a warning for each pair.
    """
    connections = cohort.store.block(cohort.smallest_atlas, "correlation")
    subjects, problems = list(cohort.cases), []
    for match in similar_connectomes([connections[row] for row in cohort.rows]):
        first, second = subjects[match.first], subjects[match.second]
        detail = f"like '{first.id}' (correlation {match.score:.2f}), whose group it joins"
        if first.label != second.label:
            detail += "; the two have different diagnoses, so that one of them is wrong"
        problems.append(Problem(second.id, "", "same-brain", detail))
        subjects = _joined(subjects, first, drop=second.group)
    return subjects, problems


def _joined(subjects: Sequence[Case], to: Case, *, drop: str) -> list[Case]:
    return [
        replace(subject, group=to.group, covariates={**subject.covariates, LINKED: to.id})
        if subject.group == drop and subject.group != to.group
        else subject
        for subject in subjects
    ]


def _transformed(descriptors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.arctanh(np.clip(np.stack(descriptors), -0.999, 0.999))


def _centered(descriptors: Sequence[NDArray[np.float32]], mean: NDArray[np.float64]) -> NDArray[np.float32]:
    """Remainders of mean 0 and norm 1; a connectome without any stays zero."""
    rest = _transformed(descriptors) - mean.astype(np.float32)
    # Motion and the global signal raise all connections of a subject at once, which does not identify anybody.
    rest -= rest.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.divide(rest, norms, out=np.zeros_like(rest), where=norms > 0)
