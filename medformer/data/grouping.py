"""Giving pictures of the same thing the same group, so that no split can separate them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medformer.data.frames.fingerprints import Fingerprint, fingerprints
from medformer.data.manifest import Case
from medformer.data.near_duplicates import near_duplicates
from medformer.progress import Reporter


def link_near_duplicates(
    cases: Sequence[Case], *, prints: Sequence[Fingerprint] | None = None, reporter: Reporter | None = None
) -> list[Case]:
    """Merge the groups of cases that share pixels or are near-duplicates.

    A case without a group that is linked to nothing keeps its empty group: near-duplicates are evidence that two
    pictures belong together, their absence is no evidence that they do not.

    Args:
        cases: Cases, with or without groups.
        prints: Fingerprints of `cases` in the same order, when they are already there.
        reporter: Told about the decoding.

    Returns:
        The cases in the same order. A merged group is named after its first member: its group, or its id.

    Raises:
        DataError: A picture cannot be decoded.
    """
    prints = fingerprints(cases, reporter) if prints is None else prints
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
    for index, (case, print_) in enumerate(zip(cases, prints, strict=True)):
        link(index, first_with.setdefault(("pixels", print_.pixels), index))
        if case.group:
            link(index, first_with.setdefault(("group", case.group), index))
    if len(cases) > 1:
        for match in near_duplicates(np.stack([print_.descriptor for print_ in prints])):
            link(match.first, match.second)

    roots = [root(index) for index in range(len(cases))]
    shared = {top for top, count in Counter(roots).items() if count > 1}
    return [
        replace(case, group=cases[top].group or cases[top].id) if top in shared else case
        for case, top in zip(cases, roots, strict=True)
    ]


def split_parts(cases: Sequence[Case]) -> dict[str, list[str]]:
    """The parts that must not share anything: the manifest's splits, or without any, every group."""
    parts: dict[str, list[str]] = {}
    split = any(case.split for case in cases)
    for case in cases:
        name = case.split if split else case.group
        if name:
            parts.setdefault(name, []).append(case.id)
    return parts
