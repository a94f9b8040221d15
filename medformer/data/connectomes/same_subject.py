"""Subjects whose connectomes show one brain get one group, so that no split parts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medformer.data.connectomes.cohort import Cohort, Subject
from medformer.data.connectomes.near_duplicates import similar_connectomes
from medformer.data.problems import Problem

LINKED = "linked"
"""Column of the manifest: whose group a subject joined because the connectomes are alike; empty for all others."""


def link_twins(cohort: Cohort) -> tuple[list[Subject], list[Problem]]:
    """Return the subjects with joined groups, and a warning for each pair.

    The atlas with the fewest regions decides. Whether the pair is one person scanned twice or one scan under two names
    cannot be told from the data; a pair with two diagnoses holds a wrong one.
    """
    atlas = min(cohort.store.atlases, key=lambda name: cohort.store.atlases[name].regions)
    connections = cohort.store.block(atlas, "correlation")
    chosen = np.asarray(connections[cohort.rows]) if len(cohort.rows) < len(connections) else connections
    subjects, problems = list(cohort.subjects), []
    for match in similar_connectomes(list(chosen)):
        first, second = subjects[match.first], subjects[match.second]
        detail = f"like '{first.id}' (correlation {match.score:.2f}), whose group it joins"
        if first.label != second.label:
            detail += "; the two have different diagnoses, so that one of them is wrong"
        problems.append(Problem(second.id, "", "same-brain", detail))
        subjects = _joined(subjects, first, drop=second.group)
    return subjects, problems


def _joined(subjects: Sequence[Subject], to: Subject, *, drop: str) -> list[Subject]:
    return [
        replace(subject, group=to.group, covariates={**subject.covariates, LINKED: to.id})
        if subject.group == drop and subject.group != to.group
        else subject
        for subject in subjects
    ]
