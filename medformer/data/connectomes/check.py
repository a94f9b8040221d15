"""The check of a cohort: every problem of every subject, before hours are spent on training.

Functional connectomes identify people (Finn et al., Nature Neuroscience 2015), so subjects whose connectomes show one
brain are found too. What two connectomes share beyond the average connectome is compared for every pair: each
connection is Fisher-transformed and centered over the cohort, and the remainders are correlated over connections.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medformer.connectome.atlases import require_regions
from medformer.data.cases import Case
from medformer.data.connectomes.cohort import Cohort
from medformer.data.connectomes.prepare.quality import constant_by_atlas, oddities
from medformer.data.connectomes.read.phenotype import contradictions
from medformer.data.inventory import Inventory, Record, take_inventory
from medformer.data.near_duplicates import CaseComparison, Match, matches_above
from medformer.data.problems import Problem, quarantine
from medformer.errors import DataError
from medformer.files import digest
from medformer.missing import known
from medformer.progress import Reporter, SilentReporter

THRESHOLD = 0.75
"""Correlation of centered connectomes from which two subjects count as one.

It comes from 697 subjects of ABIDE I (C-PAC, no global signal regression). Of 242,556 pairs, one scores 0.90, 0.90 and
0.86 with the AAL, CC200 and Harvard-Oxford atlases (a control and a patient of one site whose mean framewise
displacement agrees to sixteen digits); every other pair scores at most 0.58, 0.47 and 0.54.
"""

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


def cohort_traits(cohort: Cohort) -> dict[str, dict[str, float]]:
    """What new subjects are compared with training subjects by, by id; see `medformer.data.training_range`."""
    found: dict[str, dict[str, float]] = {}
    for subject in cohort.cases:
        traits = {}
        if motion := known(subject.covariates.get("mean_fd")):
            traits["mean framewise displacement in mm"] = float(motion)
        for atlas, block in cohort.store.atlases.items():
            values = np.asarray(cohort.store.stored(atlas, subject.id))
            (still,) = constant_by_atlas({atlas: values}, {atlas: block.regions}, block.content).values()
            traits[f"regions of {atlas} without a signal"] = float(still.sum())
            if block.content == "series":
                traits["time points"] = float(len(values))
            else:
                traits[f"mean correlation of {atlas}"] = float(values.mean(dtype=np.float64))
        found[subject.id] = traits
    return found


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
