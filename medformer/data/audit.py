"""The leakage audit: nothing may be on both sides of a split, neither by name, nor by file, nor by what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medformer.data.frames.fingerprints import Fingerprint, fingerprints
from medformer.data.manifest import Case
from medformer.data.near_duplicates import THRESHOLD, Match, near_duplicates
from medformer.errors import ConfigError, DataError, LeakageError
from medformer.progress import Reporter

KINDS = {
    "id": "the same case",
    "group": "the same patient or sequence",
    "file": "the same file",
    "pixels": "the same pixels",
    "voxels": "the same voxels",
    "connections": "the same connections",
    "near-duplicate": "pictures, volumes or connectomes that show the same thing",
}
"""What is looked for, in the order in which findings are reported."""

_SHOWN = 10

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
        detail: What a reader should know besides.
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
        parts: Number of cases per part; for folds, of the first fold.
        findings: Every leak, ordered by kind.
        accepted: Names the user accepts: a finding's own name, `kind:<site>` or `kind:*`.
        kinds: What was looked for, of `KINDS`.
        threshold: Similarity from which two cases count as near-duplicates.
    """

    cases: int
    parts: Mapping[str, int]
    findings: tuple[Finding, ...]
    accepted: tuple[str, ...] = ()
    kinds: tuple[str, ...] = tuple(KINDS)
    threshold: float = THRESHOLD

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

    def raise_if_leaking(self, accepted: Iterable[str] = ()) -> None:
        """Fail unless every finding is accepted.

        Raises:
            LeakageError: Leaks remain; the first ten are named with both files.
            ConfigError: As `accepting`.
        """
        audit = self.accepting(accepted)
        leaks = audit.leaks
        if not leaks:
            return
        counts = ", ".join(
            f"{count} {kind}" for kind in KINDS if (count := sum(leak.kind == kind for leak in leaks)) > 0
        )
        shown = "\n".join(f"  {leak}" for leak in leaks[:_SHOWN])
        more = f"\n  and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
        raise LeakageError(
            f"The split leaks: {len(leaks)} findings on both sides ({counts}); expected none.\n{shown}{more}\n"
            "Give both cases the same group in the manifest (`medformer polyp prepare --link-duplicates` does so for "
            "pictures) or remove one of them. "
            "What you have looked at and accept, name with --accept-leak '<finding>', '<kind>:<site>' or '<kind>:*'; "
            "the report will say so."
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
            "accepted_but_not_found": [name for name in self.accepted if name not in used],
            "leaks": len(leaks),
            "findings": [
                {
                    "name": finding.name,
                    "kind": finding.kind,
                    "a": finding.a,
                    "b": finding.b,
                    "part_a": finding.part_a,
                    "part_b": finding.part_b,
                    "files": list(finding.files),
                    "score": round(finding.score, 4),
                    "detail": finding.detail,
                    "accepted": finding not in leaks,
                }
                for finding in self.findings
            ],
        }


def audit_split(
    cases: Sequence[Case],
    parts: Mapping[str, Sequence[str]],
    *,
    prints: Sequence[Fingerprint] | None = None,
    reporter: Reporter | None = None,
) -> Audit:
    """Look for leaks between the parts of one split.

    Args:
        cases: The cases; those in no part are left out.
        parts: Case ids by part, such as `train` and `test`; every pair of parts is compared.
        prints: Fingerprints of `cases`, when they are already there.
        reporter: Told about the decoding.

    Raises:
        DataError: A part names an unknown case, or a picture cannot be decoded.
    """
    return _audit_pictures(cases, [("", parts)], prints, reporter)


def audit_folds(
    cases: Sequence[Case],
    folds: Sequence[SplitFold],
    *,
    prints: Sequence[Fingerprint] | None = None,
    reporter: Reporter | None = None,
) -> Audit:
    """Look for leaks between what each fold learns from (train and validation) and what it is tested on.

    A leak is reported once, for the first fold it shows in.

    Raises:
        DataError: As `audit_split`.
    """
    return _audit_pictures(cases, fold_divisions(folds), prints, reporter)


def fold_divisions(folds: Sequence[SplitFold]) -> list[Division]:
    """What each fold learns from, train and validation together, against what it is tested on."""
    divisions: list[Division] = []
    for number, fold in enumerate(folds):
        learnt = [*fold.parts["train"], *fold.parts["validation"]]
        divisions.append((f"fold {number} ", {"train": learnt, "test": list(fold.parts["test"])}))
    return divisions


def _audit_pictures(
    cases: Sequence[Case],
    divisions: Sequence[Division],
    prints: Sequence[Fingerprint] | None,
    reporter: Reporter | None,
) -> Audit:
    cases = divided(cases, divisions)
    by_id = {print_.id: print_ for print_ in (fingerprints(cases, reporter) if prints is None else prints)}
    prints = [by_id[case.id] for case in cases]
    same = {"file": [print_.sha256 for print_ in prints], "pixels": [print_.pixels for print_ in prints]}
    descriptors = [print_.descriptor for print_ in prints]
    return search(cases, divisions, same, lambda sides: near_duplicates(np.stack(descriptors), sides))


def divided(cases: Sequence[Case], divisions: Sequence[Division]) -> list[Case]:
    """The cases that some part holds.

    Raises:
        DataError: A part names an unknown case.
    """
    known = {case.id for case in cases}
    unknown = sorted({id_ for _, parts in divisions for ids in parts.values() for id_ in ids} - known)
    if unknown:
        raise DataError(
            f"The split names {len(unknown)} cases that the manifest lacks, such as '{unknown[0]}'; "
            "expected only ids of the manifest. Make the split again."
        )
    used = {id_ for _, parts in divisions for ids in parts.values() for id_ in ids}
    return [case for case in cases if case.id in used]


def search(
    cases: Sequence[Case],
    divisions: Sequence[Division],
    same: Mapping[str, Sequence[str]],
    similar: Callable[[NDArray[np.int64]], Iterable[Match]],
    threshold: float = THRESHOLD,
) -> Audit:
    """Look for cases that share something and stand in different parts of a division.

    Args:
        cases: Every one in some part.
        divisions: A label and the ids of each part, for each way the cases are divided.
        same: By kind, the strongest first, a key per case; equal keys are findings.
        similar: Pairs that show the same thing. It gets the part of every case (-1 for none) under each division, shape
            (divisions, cases), so that it need not compare cases of one part.
        threshold: The similarity that `similar` asks for.
    """
    search = _Search(cases, divisions)
    findings = [*search.same_ids(), *search.same_groups(), *search.same_contents(same, similar)]
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), -finding.score, finding.a, finding.b))
    sizes = {part: len(ids) for part, ids in divisions[0][1].items()} if divisions else {}
    looked_for = tuple(kind for kind in KINDS if kind in {"id", "group", *same, "near-duplicate"})
    return Audit(len(cases), sizes, tuple(findings), kinds=looked_for, threshold=threshold)


class _Search:
    """The cases, and the part each of them is in under every division."""

    def __init__(
        self,
        cases: Sequence[Case],
        divisions: Sequence[Division],
    ) -> None:
        self.cases = cases
        self.divisions = divisions
        self.part_of = [{id_: part for part, ids in parts.items() for id_ in ids} for _, parts in divisions]

    def same_ids(self) -> list[Finding]:
        by_id = {case.id: case for case in self.cases}
        found: dict[str, Finding] = {}
        for label, parts in self.divisions:
            first_part: dict[str, str] = {}
            for part, ids in parts.items():
                for id_ in ids:
                    earlier = first_part.setdefault(id_, part)
                    if earlier != part and id_ not in found:
                        found[id_] = self._finding("id", by_id[id_], by_id[id_], label + earlier, label + part)
        return list(found.values())

    def same_groups(self) -> list[Finding]:
        groups: dict[str, list[Case]] = {}
        for case in self.cases:
            if case.group:
                groups.setdefault(case.group, []).append(case)
        found = []
        for group, members in groups.items():
            for (label, _), part_of in zip(self.divisions, self.part_of, strict=True):
                by_part: dict[str, list[Case]] = {}
                for case in members:
                    if case.id in part_of:
                        by_part.setdefault(part_of[case.id], []).append(case)
                if len(by_part) > 1:
                    (part_a, in_a), (part_b, in_b) = list(by_part.items())[:2]
                    detail = ", ".join(f"{len(some)} cases in {label}{part}" for part, some in by_part.items())
                    finding = self._finding("group", in_a[0], in_b[0], label + part_a, label + part_b)
                    found.append(replace(finding, group=group, detail=detail))
                    break
        return found

    def same_contents(
        self, same: Mapping[str, Sequence[str]], similar: Callable[[NDArray[np.int64]], Iterable[Match]]
    ) -> list[Finding]:
        """Pairs with the same key or alike; each pair once, under the strongest kind."""
        found: dict[tuple[int, int], Finding] = {}
        for kind, keys in same.items():
            buckets: dict[str, list[int]] = {}
            for index, key in enumerate(keys):
                buckets.setdefault(key, []).append(index)
            for bucket in buckets.values():
                for first, second in combinations(bucket, 2):
                    self._add(found, kind, first, second, 1.0, "")
        if len(self.cases) > 1:
            for match in similar(self._sides()):
                detail = f"similarity {match.score:.2f}" + (f", mirrored {match.mirrored}" if match.mirrored else "")
                self._add(found, "near-duplicate", match.first, match.second, match.score, detail)
        return list(found.values())

    def _add(
        self, found: dict[tuple[int, int], Finding], kind: str, first: int, second: int, score: float, detail: str
    ) -> None:
        if (first, second) in found:
            return
        a, b = self.cases[first], self.cases[second]
        for (label, _), part_of in zip(self.divisions, self.part_of, strict=True):
            part_a, part_b = part_of.get(a.id), part_of.get(b.id)
            if part_a is not None and part_b is not None and part_a != part_b:
                finding = self._finding(kind, a, b, label + part_a, label + part_b)
                found[first, second] = replace(finding, score=score, detail=detail)
                return

    def _sides(self) -> NDArray[np.int64]:
        rows = []
        for (_, parts), part_of in zip(self.divisions, self.part_of, strict=True):
            number = {part: index for index, part in enumerate(parts)}
            rows.append([number[part_of[case.id]] if case.id in part_of else -1 for case in self.cases])
        return np.array(rows, dtype=np.int64)

    def _finding(self, kind: str, a: Case, b: Case, part_a: str, part_b: str) -> Finding:
        site = a.site if a.site == b.site else ""
        return Finding(kind, a.id, b.id, part_a, part_b, (str(a.image), str(b.image)), site)
