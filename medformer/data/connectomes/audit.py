"""The leakage audit of connectomes: the same subject, data, or brain on both sides of a split.

Functional connectomes identify people (Finn et al., Nature Neuroscience 2015). What two connectomes share beyond the
average connectome is therefore compared for every pair: each connection is Fisher-transformed and centered over the
cohort, and the remainders are correlated over connections.

`THRESHOLD` comes from 697 subjects of ABIDE I (C-PAC, no global signal regression). Of 242,556 pairs, one scores 0.90,
0.90 and 0.86 with the AAL, CC200 and Harvard-Oxford atlases (a control and a patient of one site whose mean framewise
displacement agrees to sixteen digits); every other pair scores at most 0.58, 0.47 and 0.54.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medformer.data.audit import Audit, SplitFold, divided, fold_divisions, search
from medformer.data.connectomes.cohort import Cohort
from medformer.data.manifest import Case
from medformer.data.near_duplicates import Match
from medformer.data.problems import Problem

THRESHOLD = 0.75
"""Correlation of centered connectomes from which two subjects count as one."""

LINKED = "linked"
"""Column of the manifest: the subject whose group this one joined because their connectomes are alike, or nothing."""

_BATCH = 256


def audit_connectomes(cases: Sequence[Case], connections: NDArray[np.float32], folds: Sequence[SplitFold]) -> Audit:
    """Look for leaks between what each fold learns from and what it is tested on.

    Args:
        cases: The subjects of a cohort.
        connections: Their correlations (n, edges) with one atlas; a memory map is read in batches.
        folds: The plan's folds.

    Raises:
        DataError: A fold names an unknown subject.
    """
    rows = {case.id: row for row, case in enumerate(cases)}
    divisions = fold_divisions(folds)
    subjects = divided(cases, divisions)
    chosen = np.array([rows[subject.id] for subject in subjects])
    keys = [hashlib.sha256(np.ascontiguousarray(connections[row]).tobytes()).hexdigest() for row in chosen]
    return search(
        subjects, divisions, {"connections": keys}, lambda sides: _matches(connections, chosen, sides), THRESHOLD
    )


def same_subject_pairs(connections: NDArray[np.float32]) -> list[Match]:
    """Every pair of rows that seems to show one brain, in order."""
    rows = np.arange(len(connections))
    return _matches(connections, rows, rows[np.newaxis])


def link_same_subject(cohort: Cohort) -> tuple[list[Case], list[Problem]]:
    """Give subjects whose connectomes show one brain one group, so that no split separates them.

    The atlas with the fewest regions decides. The data do not show whether a pair is one person scanned twice or one
    scan under two names; if the two have different diagnoses, one of them is wrong.

    Returns:
        The subjects with joined groups, and a warning for each pair.
    """
    connections = cohort.store.block(cohort.smallest_atlas, "correlation")
    chosen = np.asarray(connections[cohort.rows]) if len(cohort.rows) < len(connections) else connections
    subjects, problems = list(cohort.cases), []
    for match in same_subject_pairs(chosen):
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


def _matches(connections: NDArray[np.float32], chosen: NDArray[np.intp], sides: NDArray[np.int64]) -> list[Match]:
    """Pairs in different parts whose centered connectomes correlate, ordered by position."""
    mean = sum(_transformed(connections, part).sum(0, dtype=np.float64) for part in _batches(chosen)) / len(chosen)
    found = []
    for first in range(0, len(chosen), _BATCH):
        some = _centered(connections, chosen[first : first + _BATCH], mean)
        for second in range(first, len(chosen), _BATCH):
            others = _centered(connections, chosen[second : second + _BATCH], mean)
            scores = some @ others.T
            for a, b in np.argwhere(scores >= THRESHOLD):
                one, other = first + int(a), second + int(b)
                parts = sides[:, [one, other]]
                if one < other and ((parts[:, 0] != parts[:, 1]) & (parts >= 0).all(1)).any():
                    found.append(Match(one, other, min(1.0, float(scores[a, b])), ""))
    return sorted(found, key=lambda match: (match.first, match.second))


def _batches(chosen: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return [chosen[start : start + _BATCH] for start in range(0, len(chosen), _BATCH)]


def _transformed(connections: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    return np.arctanh(np.clip(connections[rows], -0.999, 0.999))


def _centered(
    connections: NDArray[np.float32], rows: NDArray[np.intp], mean: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Remainders of mean 0 and norm 1; a connectome without any stays zero."""
    rest = _transformed(connections, rows) - mean.astype(np.float32)
    # Motion and the global signal raise all connections of a subject at once, which does not identify anybody.
    rest -= rest.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.divide(rest, norms, out=np.zeros_like(rest), where=norms > 0)
