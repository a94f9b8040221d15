"""What makes two cases the same: equal hashes, or descriptors that are alike. Every task says which.

Cases that show the same thing can be given the same group, so that no split separates them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medformer.data.cases import Case
from medformer.data.inventory import Record

_BLOCK = 1024


@dataclass(frozen=True)
class Match:
    """A pair of near-duplicates.

    Attributes:
        first: Index of one case.
        second: Index of the other, larger than `first`.
        score: Similarity, at most 1.
        mirrored: How the second had to be flipped; empty when not at all.
        evidence: How the score compares with those of other pairs, in words.
    """

    first: int
    second: int
    score: float
    mirrored: str = ""
    evidence: str = ""

    @property
    def detail(self) -> str:
        """How alike the two are, in words."""
        mirrored = f"mirrored {self.mirrored}" if self.mirrored else ""
        return ", ".join(filter(None, (f"similarity {self.score:.2f}", mirrored, self.evidence)))


@dataclass(frozen=True)
class CaseComparison:
    """How the cases of a task are compared.

    Attributes:
        hashes: Kinds of hashes that are compared, the strongest statement first.
        similar: Finds the pairs of near-duplicates, ordered by position, each pair once with its best orientation. It
            gets the descriptors of the cases, and either None or int (L, N): the part that each case is in under each
            of L divisions, negative for none. With parts, only pairs that some division separates are looked at.
        threshold: The score from which `similar` counts a pair.
        between_runs: Whether descriptors are small, so that a run keeps them and later runs compare their cases with
            them.
    """

    hashes: tuple[str, ...]
    similar: Callable[[Sequence[NDArray[np.float32]], NDArray[np.integer] | None], list[Match]]
    threshold: float
    between_runs: bool = False


def matches_above(
    threshold: float,
    count: int,
    scores: Callable[[slice], NDArray[np.floating]],
    parts: NDArray[np.integer] | None,
    mirrored: str = "",
) -> Iterator[Match]:
    """Give every pair whose score reaches a threshold, ordered by position.

    Args:
        threshold: Score from which a pair counts.
        count: Number of cases N.
        scores: Returns the scores (rows, N) of some rows with every case; the rows come in blocks.
        parts: As in `CaseComparison.similar`.
        mirrored: How the second case of each pair was flipped for these scores.
    """
    for start in range(0, count, _BLOCK):
        block = scores(slice(start, min(start + _BLOCK, count)))
        row, second = np.nonzero(block >= threshold)
        first = row + start
        keep = first < second
        if parts is not None:
            a, b = parts[:, first], parts[:, second]
            keep &= ((a != b) & (a >= 0) & (b >= 0)).any(axis=0)
        for one, other, score in zip(first[keep], second[keep], block[row, second][keep], strict=True):
            yield Match(int(one), int(other), min(1.0, float(score)), mirrored)


def best_matches(found: Iterable[Match]) -> list[Match]:
    """Each pair once, with its best score, ordered by position."""
    best: dict[tuple[int, int], Match] = {}
    for match in found:
        pair = match.first, match.second
        if pair not in best or match.score > best[pair].score:
            best[pair] = match
    return [best[pair] for pair in sorted(best)]


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
