"""The check of a cohort: every problem of every subject, before hours are spent on training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.atlases import require_regions
from medformer.data.connectomes.audit import LINKED
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.prepare.quality import oddities
from medformer.data.connectomes.read.phenotype import contradictions
from medformer.data.manifest import Case
from medformer.data.problems import Problem
from medformer.errors import DataError
from medformer.progress import Reporter, SilentReporter


def check_cohort(cohort: Cohort, *, reporter: Reporter | None = None) -> list[Problem]:
    """List every problem of every subject.

    Numbers of regions that are not the atlas's, persons with two labels or two sites, values that are not finite,
    identical data under two ids, regions that do not vary, series not longer than the number of regions. A subject
    without one of the atlases is in no store: preparing lists them.

    Args:
        cohort: Its data are read one subject at a time.
        reporter: Shows the progress.

    Returns:
        Problems, those of the table first. See `medformer.data.problems.REASONS` for the codes.
    """
    reporter = reporter or SilentReporter()
    problems = [*_region_counts(cohort), *_conflicts(cohort)]
    seen: dict[tuple[str, str], str] = {}
    reporter.start("checking", len(cohort.cases))
    try:
        for subject in cohort.cases:
            problems.extend(_check_data(cohort, subject, seen))
            reporter.advance()
    finally:
        reporter.finish()
    return problems


def _region_counts(cohort: Cohort) -> Iterator[Problem]:
    for atlas, block in cohort.store.atlases.items():
        try:
            require_regions(atlas, block.regions)
        except DataError as error:
            for subject in cohort.cases:
                yield Problem(subject.id, "", "region-count", str(error))


def _conflicts(cohort: Cohort) -> Iterator[Problem]:
    """Rows of the manifest that contradict each other about one person."""
    # A subject that was linked only because the connectomes are alike need not be the same person.
    cases = [case for case in cohort.cases if not case.covariates.get(LINKED)]
    advice = "correct one of the rows, or give them different groups"
    yield from (problem for _, problem in contradictions(cases, str(cohort.path), advice))


def _check_data(cohort: Cohort, subject: Case, seen: dict[tuple[str, str], str]) -> Iterator[Problem]:
    for atlas, block in cohort.store.atlases.items():
        values = cohort.store.stored(atlas, subject.id)
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            yield Problem(subject.id, "", "not-finite", f"{bad} of {values.size} values of {atlas}")
            continue
        key = atlas, hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        earlier = seen.setdefault(key, subject.id)
        if earlier != subject.id:
            yield Problem(subject.id, "", "same-connectome", f"{atlas} is exactly that of {earlier}")
        given: Mapping[str, NDArray[np.float32]] = {atlas: values}
        yield from oddities(given, {atlas: block.regions}, block.content, subject.id)
