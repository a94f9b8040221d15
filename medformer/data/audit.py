"""The leakage audit: no case may be on both sides of a split, whether by its id, its group, its files or its content.

The audit opens no file. It compares the records of an inventory in the way that a task asks for (`CaseComparison`).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medformer.data.cases import Case, is_test
from medformer.data.inventory import Record
from medformer.data.near_duplicates import CaseComparison
from medformer.data.people import plain
from medformer.data.problems import Problem, first_ten
from medformer.errors import ConfigError, DataError, LeakageError, counted
from medformer.files import write_json

KINDS = {
    "id": "the same case",
    "group": "the same patient or sequence",
    "file": "the same file",
    "pixels": "the same pixels",
    "voxels": "the same voxels",
    "connections": "the same connections",
    "near-duplicate": "pictures, volumes or connectomes that show the same thing",
    "seen-data": "the same data as a case that the networks saw before this run",
    "seen-group": "the same patient or sequence as a case that the networks saw before this run",
    "seen-id": "the same id as a case that the networks saw before this run",
    "seen-near-duplicate": "pictures or volumes that show the same thing as what the networks saw before this run",
}
"""What is looked for, in the order in which findings are reported."""

_ADVICE = (
    "Give both cases the same group in the manifest, which `prepare` writes (for frames, `medformer polyp prepare "
    "--link-duplicates` does so), or remove one of them."
)
_SEEN_ADVICE = "Start from a network that did not see them (pretraining included), or take them out of the test part."
SEEN = "seen-"
"""How the kinds begin that are about what networks saw before."""
SEEN_ALIKE = "seen-near-duplicate"

Division = tuple[str, Mapping[str, Sequence[str]]]
"""A label, such as `"fold 3 "`, and the ids of each part."""


class SplitFold(Protocol):
    """What the audit needs to know of one fold of a cross-validation."""

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """The ids of `train`, `validation` and `test`."""


@dataclass(frozen=True)
class Finding:
    """One leak.

    Attributes:
        kind: A key of `KINDS`.
        a: Case id on one side.
        b: Case id on the other side; for a group, one example.
        part_a: The part `a` is in.
        part_b: The part `b` is in.
        files: The two image files.
        site: The site both cases come from; empty when the sites differ or are unknown.
        group: The shared group, for the kind `group`.
        score: Similarity, 1 unless the kind is `near-duplicate`.
        detail: More about the finding, such as the similarity.
    """

    kind: str
    a: str
    b: str
    part_a: str
    part_b: str
    files: tuple[str, str]
    site: str = ""
    group: str = ""
    score: float = 1.0
    detail: str = ""

    @property
    def name(self) -> str:
        """The name by which a user accepts this finding: `kind:a|b`, or `group:<group>`."""
        return f"group:{self.group}" if self.kind == "group" else f"{self.kind}:{self.a}|{self.b}"

    @property
    def acceptable_as(self) -> tuple[str, ...]:
        """Every name that covers this finding, the narrowest first."""
        return (self.name, *([f"{self.kind}:{self.site}"] if self.site else []), f"{self.kind}:*")

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.name}{detail}\n      {self.part_a}: {self.files[0]}\n      {self.part_b}: {self.files[1]}"


@dataclass(frozen=True)
class Audit:
    """What the audit looked at, what it found, and what the user accepts.

    Attributes:
        cases: Number of cases looked at.
        parts: Number of cases in each part; for folds, of the first fold.
        findings: Every leak, ordered by kind.
        accepted: Names the user accepts: a finding's own name, `kind:<site>` or `kind:*`.
        kinds: What was looked for, of `KINDS`.
        threshold: Similarity from which two cases count as near-duplicates.
        unknown: What is not known of the cases that the networks saw before, in sentences.
    """

    cases: int
    parts: Mapping[str, int]
    findings: tuple[Finding, ...]
    accepted: tuple[str, ...] = ()
    kinds: tuple[str, ...] = tuple(KINDS)
    threshold: float = 1.0
    unknown: tuple[str, ...] = ()

    def with_seen(self, findings: Iterable[Finding], unknown: Iterable[str] = (), *, described: bool = False) -> Audit:
        """Return the audit with what was found among the cases that networks saw before (`medformer.data.seen`).

        Args:
            findings: What was found.
            unknown: What is not known of these cases, in sentences.
            described: Whether all of them have descriptors, so that near-duplicates were looked for too.
        """
        seen = (kind for kind in KINDS if kind.startswith(SEEN) and (described or kind != SEEN_ALIKE))
        looked_for = tuple(dict.fromkeys((*self.kinds, *seen)))
        return replace(self, findings=(*self.findings, *findings), kinds=looked_for, unknown=tuple(unknown))

    def accepting(self, names: Iterable[str]) -> Audit:
        """Return the audit with more accepted names.

        Raises:
            ConfigError: A name does not start with a known kind.
        """
        names = tuple(names)
        for name in names:
            kind, colon, rest = name.partition(":")
            if kind not in KINDS or not colon or not rest:
                raise ConfigError(
                    f"'{name}' is not the name of a leakage finding; expected one as the audit prints it, "
                    f"'<kind>:<site>' or '<kind>:*', with a kind out of {', '.join(KINDS)}."
                )
        return replace(self, accepted=tuple(dict.fromkeys((*self.accepted, *names))))

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """The findings that nobody accepted."""
        accepted = set(self.accepted)
        return tuple(finding for finding in self.findings if not accepted.intersection(finding.acceptable_as))

    def raise_if_leaking(self, advice: str = _ADVICE) -> None:
        """Fail unless every finding is accepted.

        Args:
            advice: What to do about a leak, besides accepting it.

        Raises:
            LeakageError: Leaks remain; the first ten are named with both files.
        """
        if not self.leaks:
            return
        found = Counter(leak.kind for leak in self.leaks)
        counts = ", ".join(f"{found[kind]} {kind}" for kind in KINDS if kind in found)
        seen = sum(found[kind] for kind in found if kind.startswith(SEEN))
        what, where = "The split leaks", " on both sides"
        if seen == len(self.leaks):
            what, where = "The networks saw tested cases before this run", ""
        steps = [advice] if seen < len(self.leaks) else []
        steps += [_SEEN_ADVICE] if seen else []
        raise LeakageError(
            f"{what}: {counted(len(self.leaks), 'finding')}{where} ({counts}); expected none."
            f"{first_ten(self.leaks)}\n{' '.join(steps)} If you looked at a finding and accept it, name it with "
            "--accept-leak '<finding>', '<kind>:<site>' or '<kind>:*'; the report then lists it."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data: what `audit.json` holds and the report prints."""
        leaks = set(self.leaks)
        used = {name for finding in self.findings for name in finding.acceptable_as}
        return {
            "cases": self.cases,
            "parts": dict(self.parts),
            "looked_for": {kind: KINDS[kind] for kind in self.kinds},
            "near_duplicate_threshold": self.threshold,
            "accepted": list(self.accepted),
            "unknown": list(self.unknown),
            "accepted_but_not_found": [name for name in self.accepted if name not in used],
            "leaks": len(leaks),
            "findings": [
                {"name": finding.name, **_plain(finding), "accepted": finding not in leaks} for finding in self.findings
            ],
        }


def _plain(finding: Finding) -> dict[str, Any]:
    shown = asdict(finding) | {"files": list(finding.files), "score": round(finding.score, 4)}
    return {name: value for name, value in shown.items() if name not in ("site", "group")}


def write_findings(path: Path, audit: Audit, problems: Sequence[Problem]) -> None:
    """Write `audit.json`: the audit, and the problems of the data.

    Raises:
        ResourceError: The folder is not writable or the disk is full.
    """
    write_json(path, {**audit.to_json(), "problems": [problem.to_json() for problem in problems]})


def fold_divisions(folds: Sequence[SplitFold]) -> list[Division]:
    """What each fold learns from, train and validation together, against what it is tested on."""
    divisions: list[Division] = []
    for number, fold in enumerate(folds):
        learnt = [*fold.parts["train"], *fold.parts["validation"]]
        divisions.append((f"fold {number} ", {"train": learnt, "test": list(fold.parts["test"])}))
    return divisions


def split_parts(cases: Sequence[Case]) -> dict[str, list[str]]:
    """The parts that must not share anything: the manifest's splits, or without any, every group.

    Where only test rows are marked, all others are what they are held out from.
    """
    parts: dict[str, list[str]] = {}
    split = {case.split for case in cases} - {""}
    others = "not test" if all(is_test(name) for name in split) else ""
    for case in cases:
        name = (case.split or others) if split else case.group
        if name:
            parts.setdefault(name, []).append(case.id)
    return parts


def audit(
    cases: Sequence[Case],
    divisions: Sequence[Division],
    records: Mapping[str, Record],
    comparison: CaseComparison,
) -> Audit:
    """Look for cases that share something and are in different parts of a division.

    A leak is reported once, for the first division it shows in, and a pair of cases under the strongest kind.

    Args:
        cases: The cases; those in no part are left out.
        divisions: Each way in which the cases are divided: `fold_divisions` of the folds of a plan, or one division
            `("", parts)`. Every pair of parts is compared.
        records: Of the cases, with the hashes that `comparison` names and the array `descriptor`.
        comparison: How the task's cases are compared.

    Raises:
        DataError: A part names an unknown case, or a case has no descriptor because it could not be read.
    """
    search = _Search(_divided(cases, divisions), divisions)
    findings = [*search.same_ids(), *search.same_groups(), *search.same_contents(records, comparison)]
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), -finding.score, finding.a, finding.b))
    sizes = {part: len(ids) for part, ids in divisions[0][1].items()} if divisions else {}
    looked_for = tuple(kind for kind in KINDS if kind in {"id", "group", *comparison.hashes, "near-duplicate"})
    return Audit(len(search.cases), sizes, tuple(findings), kinds=looked_for, threshold=comparison.threshold)


def _divided(cases: Sequence[Case], divisions: Sequence[Division]) -> list[Case]:
    """The cases that some part holds.

    Raises:
        DataError: A part names an unknown case.
    """
    known = {case.id for case in cases}
    unknown = sorted({id_ for _, parts in divisions for ids in parts.values() for id_ in ids} - known)
    if unknown:
        raise DataError(
            f"The split names {counted(len(unknown), 'case')} that the manifest lacks, such as '{unknown[0]}'; "
            "expected only ids of the manifest. Make the split again."
        )
    used = {id_ for _, parts in divisions for ids in parts.values() for id_ in ids}
    return [case for case in cases if case.id in used]


class _Search:
    """The cases, and the part each of them is in under every division.

    Attributes:
        parts: int (L, N), the position of each case's part among those of each division, negative for none.
    """

    def __init__(self, cases: Sequence[Case], divisions: Sequence[Division]) -> None:
        self.cases = cases
        self.divisions = divisions
        part_of = [{id_: number for number, ids in enumerate(parts.values()) for id_ in ids} for _, parts in divisions]
        parts = np.array([[row.get(case.id, -1) for case in cases] for row in part_of], np.int64)
        self.parts = parts.reshape(len(divisions), len(cases))

    def same_ids(self) -> list[Finding]:
        by_id = {case.id: case for case in self.cases}
        found: dict[str, Finding] = {}
        for label, parts in self.divisions:
            first_part: dict[str, str] = {}
            for part, ids in parts.items():
                for id_ in ids:
                    earlier = first_part.setdefault(id_, part)
                    if earlier != part and id_ not in found:
                        found[id_] = _finding("id", by_id[id_], by_id[id_], label + earlier, label + part)
        return list(found.values())

    def same_groups(self) -> list[Finding]:
        groups: dict[str, list[int]] = {}
        for index, case in enumerate(self.cases):
            if case.group:
                groups.setdefault(spelled_plainly(case.group), []).append(index)
        found = []
        for members in groups.values():
            spellings = list(dict.fromkeys(self.cases[index].group for index in members))
            if len(spellings) > 1 and all(self.cases[index].group == self.cases[index].id for index in members):
                continue  # every case is its own group: these are names of files and not of people
            group = spellings[0]
            also = f"also spelled {', '.join(spellings[1:])}; " if len(spellings) > 1 else ""
            for (label, parts), row in zip(self.divisions, self.parts, strict=True):
                by_part: dict[str, list[Case]] = {}
                for index in members:
                    if row[index] >= 0:
                        by_part.setdefault(label + list(parts)[row[index]], []).append(self.cases[index])
                if len(by_part) > 1:
                    (part_a, in_a), (part_b, in_b) = list(by_part.items())[:2]
                    detail = also + ", ".join(
                        f"{counted(len(some), 'case')} in {part}" for part, some in by_part.items()
                    )
                    finding = _finding("group", in_a[0], in_b[0], part_a, part_b)
                    found.append(replace(finding, group=group, detail=detail))
                    break
        return found

    def same_contents(self, records: Mapping[str, Record], comparison: CaseComparison) -> list[Finding]:
        found: dict[tuple[int, int], Finding] = {}
        for kind in comparison.hashes:
            buckets: dict[str, list[int]] = {}
            for index, case in enumerate(self.cases):
                if kind in records[case.id].hashes:
                    buckets.setdefault(records[case.id].hashes[kind], []).append(index)
            for bucket in buckets.values():
                for first, second in combinations(bucket, 2):
                    self._add(found, kind, first, second, 1.0, "")
        descriptors = [records[case.id].array("descriptor") for case in self.cases]
        for match in comparison.similar(descriptors, self.parts):
            self._add(found, "near-duplicate", match.first, match.second, match.score, match.detail)
        return list(found.values())

    def _add(
        self, found: dict[tuple[int, int], Finding], kind: str, first: int, second: int, score: float, detail: str
    ) -> None:
        """Note a pair under the first division that separates it, unless it is known under a stronger kind."""
        if (first, second) in found:
            return
        for (label, parts), row in zip(self.divisions, self.parts, strict=True):
            if row[first] != row[second] and min(row[first], row[second]) >= 0:
                part_a, part_b = (label + list(parts)[row[index]] for index in (first, second))
                finding = _finding(kind, self.cases[first], self.cases[second], part_a, part_b)
                found[first, second] = replace(finding, score=score, detail=detail)
                return


def spelled_plainly(group: str) -> str:
    """A group as all tables spell it: spreadsheets drop zeros (see `medformer.data.people`), people write capitals."""
    return "/".join(plain(part) for part in unicodedata.normalize("NFC", group).casefold().split("/"))


def _finding(kind: str, a: Case, b: Case, part_a: str, part_b: str) -> Finding:
    site = a.site if a.site == b.site else ""
    # A connectome has no file of its own.
    return Finding(kind, a.id, b.id, part_a, part_b, (str(a.image or a.id), str(b.image or b.id)), site)
