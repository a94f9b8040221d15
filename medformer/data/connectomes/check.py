"""The check of a cohort: every problem of every subject, before hours are spent on training."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.atlases import require_regions
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.near_duplicates import LINKED
from medformer.data.connectomes.prepare.quality import oddities
from medformer.data.connectomes.read.phenotype import contradictions
from medformer.data.inventory import Inventory, Record, take_inventory
from medformer.data.manifest import Case
from medformer.data.problems import Problem, quarantine
from medformer.errors import DataError
from medformer.files import digest
from medformer.progress import Reporter, SilentReporter

VERSION = 1
"""Of what `inspect_cohort` finds; another number makes every cache be built again."""


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
    problems = [*_region_counts(cohort), *_conflicts(cohort)]
    seen: dict[tuple[str, str], str] = {}
    for subject in (reporter or SilentReporter()).track(cohort.cases, "checking"):
        problems.extend(_check_data(cohort, subject, seen))
    return problems


def inspect_cohort(cohort: Cohort, *, cache: Path | None = None, reporter: Reporter | None = None) -> Inventory:
    """Check and hash every subject, from the cohort's feature store.

    Args:
        cohort: Its data are read one subject at a time.
        cache: Folder that keeps the result; an unchanged cohort is not read again.
        reporter: Shows the progress.

    Returns:
        * problems: as `check_cohort`, those of one subject together.
        * hashes: `connections` over the correlations of every atlas.
        * arrays: `descriptor`, the correlations (edges,) of the atlas with the fewest regions, memory-mapped.

        While any subject cannot be used, there are problems only.

    Raises:
        ResourceError: Connections cannot be written to the store, or the cache cannot be written.
    """
    describe = lru_cache(maxsize=1)(partial(_describe, cohort, reporter))
    found = take_inventory(
        cohort.cases,
        lambda case: describe()[case.id],
        files=lambda case: {},
        cache=cache,
        settings=[VERSION, str(cohort.path), cohort.digest()],
    )
    if quarantine(found.problems):
        return found
    block = cohort.store.block(cohort.smallest_atlas, "correlation")
    return Inventory(
        replace(record, arrays={"descriptor": block[row]})
        for record, row in zip(found.values(), cohort.rows, strict=True)
    )


def _describe(cohort: Cohort, reporter: Reporter | None) -> dict[str, Record]:
    problems: dict[str, list[Problem]] = defaultdict(list)
    for problem in check_cohort(cohort, reporter=reporter):
        problems[problem.case_id].append(problem)
    records = {case.id: Record(case.id, tuple(problems[case.id])) for case in cohort.cases}
    if quarantine([problem for some in problems.values() for problem in some]):
        return records
    blocks = [cohort.store.block(atlas, "correlation", reporter=reporter) for atlas in sorted(cohort.store.atlases)]
    for (name, record), row in zip(records.items(), cohort.rows, strict=True):
        connections = digest([np.asarray(block[row]).tobytes().hex() for block in blocks])
        records[name] = replace(record, hashes={"connections": connections})
    return records


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
