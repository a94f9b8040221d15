"""Giving cases that show the same thing the same group, so that no split can separate them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
    parent = list(range(len(cases)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def link(first: int, second: int) -> None:
        low, high = sorted((root(first), root(second)))
        parent[high] = low

    first_with: dict[tuple[str, str], int] = {}
    for index, case in enumerate(cases):
        shared = {kind: value for kind, value in records[case.id].hashes.items() if kind in comparison.hashes}
        for key in (shared | ({"group": case.group} if case.group else {})).items():
            link(index, first_with.setdefault(key, index))
    for match in comparison.similar([records[case.id].array("descriptor") for case in cases], None):
        link(match.first, match.second)

    roots = [root(index) for index in range(len(cases))]
    merged = {top for top, count in Counter(roots).items() if count > 1}
    return [
        replace(case, group=cases[top].group or cases[top].id) if top in merged else case
        for case, top in zip(cases, roots, strict=True)
    ]
