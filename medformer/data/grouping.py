"""Giving cases that show the same thing the same group, so that no split can separate them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medformer.data.inventory import Record
from medformer.data.manifest import Case
from medformer.data.near_duplicates import CaseComparison


def link_near_duplicates(
    cases: Sequence[Case], records: Mapping[str, Record], comparison: CaseComparison
) -> list[Case]:
    """Merge the groups of cases that have the same content or are near-duplicates.

    A case without a group that is linked to nothing keeps its empty group: near-duplicates are evidence that two
    cases belong together, their absence is no evidence that they do not.

    Args:
        cases: Cases, with or without groups.
        records: Of the cases, with the hashes that `comparison` names and the array `descriptor`.
        comparison: How the task's cases are compared.

    Returns:
        The cases in the same order. A merged group is named after its first member: its group, or its id.

    Raises:
        DataError: A case has no descriptor because it could not be read.
    """
    links: list[tuple[int, int]] = []
    first_with: dict[tuple[str, str], int] = {}
    for index, case in enumerate(cases):
        shared = {kind: value for kind, value in records[case.id].hashes.items() if kind in comparison.hashes}
        for key in (shared | ({"group": case.group} if case.group else {})).items():
            links.append((first_with.setdefault(key, index), index))
    matches = comparison.similar([records[case.id].array("descriptor") for case in cases], None)
    links.extend((match.first, match.second) for match in matches)

    first, second = np.array(links, np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (first, second)), shape=(len(cases), len(cases)))
    _, component = connected_components(graph, directed=False)
    members = Counter(component)
    top: dict[int, Case] = {}
    for case, number in zip(cases, component, strict=True):
        top.setdefault(number, case)
    return [
        replace(case, group=top[number].group or top[number].id) if members[number] > 1 else case
        for case, number in zip(cases, component, strict=True)
    ]
