"""One pass over a cohort: what is wrong with each subject, and what identifies it."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from medformer.data.connectomes.check import check_cohort
from medformer.data.connectomes.cohort import Cohort
from medformer.data.inventory import Inventory, Record
from medformer.data.problems import Problem, quarantine
from medformer.files import digest
from medformer.progress import Reporter


def inspect_cohort(cohort: Cohort, *, reporter: Reporter | None = None) -> Inventory:
    """Describe every subject from the cohort's feature store, whose files are mapped and not read again.

    Returns:
        * problems: as `check_cohort`, those of one subject together.
        * hashes: `connections` over the correlations of every atlas.
        * arrays: `descriptor`, the correlations (edges,) of the atlas with the fewest regions, memory-mapped.

        While a subject cannot be used, records hold problems only: no connections can be computed.

    Raises:
        ResourceError: Connections cannot be written to the store.
    """
    problems: dict[str, list[Problem]] = defaultdict(list)
    for problem in check_cohort(cohort, reporter=reporter):
        problems[problem.case_id].append(problem)
    if quarantine([problem for some in problems.values() for problem in some]):
        return Inventory(Record(subject.id, tuple(problems[subject.id])) for subject in cohort.cases)
    store = cohort.store
    blocks = {atlas: store.block(atlas, "correlation", reporter=reporter) for atlas in sorted(store.atlases)}
    records = []
    for subject, row in zip(cohort.cases, cohort.rows, strict=True):
        connections = digest([np.asarray(block[row]).tobytes().hex() for block in blocks.values()])
        descriptor = blocks[cohort.smallest_atlas][row]
        records.append(
            Record(
                subject.id,
                tuple(problems[subject.id]),
                hashes={"connections": connections},
                arrays={"descriptor": descriptor},
            )
        )
    return Inventory(records)
