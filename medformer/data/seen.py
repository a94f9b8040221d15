"""What networks have seen before a run trains them, in pretraining or in another run, so that no fold tests it.

Cases are the same by what they hold (hashes), by their group (patient or sequence), by their id, or by what they show
(descriptors, of tasks that keep them).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.data.audit import SEEN_ALIKE, Finding, spelled_plainly
from medformer.data.cases import Case
from medformer.data.near_duplicates import CaseComparison, Match
from medformer.errors import CheckpointError, DataError, MedformerError
from medformer.files import read_json, write_json

SEEN_FILE = "subjects.json"
"""In the folder of a pretrained encoder."""

_ONE_HASH = {"sha256": ("file", "connections"), "image": ("file",), "connections": ("connections",)}
"""Under which earlier versions kept the hash of a case, and the kinds that it may be of."""


@dataclass(frozen=True)
class SeenCase:
    """What tells a case apart from others.

    Attributes:
        id: Empty where only its hashes are known.
        group: Patient, person or sequence; empty where it is not known.
        hashes: SHA-256 of what the case holds, by kind, such as `file` and `pixels` (see `CaseComparison.hashes`).
        where: What saw it, in words.
        descriptor: What near-duplicates are found by (see `CaseComparison.between_runs`); None where it is not kept.
    """

    id: str
    group: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    where: str = ""
    descriptor: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def known_as(self, kind: str, value: str) -> SeenCase:
        """The same case with one more hash, if there is one."""
        return replace(self, hashes={**self.hashes, kind: value}) if value else self

    def to_json(self) -> dict[str, Any]:
        """What is kept of it beside its id."""
        kept = {} if self.descriptor is None else {"descriptor": _packed(self.descriptor)}
        return {"group": self.group, "hashes": dict(self.hashes), **kept}


def seen_case(name: str, row: Mapping[str, Any], where: str = "") -> SeenCase:
    """Read what `to_json` gives, or what earlier versions wrote.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, StopIteration: It is no such row.
    """
    if "hashes" in row:
        hashes = {kind: str(value) for kind, value in row["hashes"].items()}
        descriptor = _unpacked(row["descriptor"]) if "descriptor" in row else None
        return SeenCase(name, str(row["group"]), hashes, where, descriptor)
    key = next(key for key in _ONE_HASH if key in row)
    return SeenCase(name, str(row["group"]), {kind: str(row[key]) for kind in _ONE_HASH[key] if row[key]}, where)


def _packed(descriptor: NDArray[np.float32]) -> dict[str, Any]:
    """A descriptor in one byte a number, as text."""
    scale = float(np.abs(descriptor).max(initial=0.0)) / 127 or 1.0
    small = np.round(descriptor / scale).astype(np.int8)
    return {"shape": list(small.shape), "scale": scale, "int8": b64encode(small.tobytes()).decode("ascii")}


def _unpacked(packed: Mapping[str, Any]) -> NDArray[np.float32]:
    """Read what `_packed` gives.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    small = np.frombuffer(b64decode(packed["int8"], validate=True), np.int8).reshape(packed["shape"])
    return small.astype(np.float32) * np.float32(packed["scale"])


UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, StopIteration)
"""What `seen_case` raises."""


def write_seen(folder: Path, cases: Iterable[SeenCase]) -> None:
    """Write which cases a pretraining sees."""
    write_json(folder / SEEN_FILE, {case.id: case.to_json() for case in cases})


def read_seen(folder: str | Path, task: str) -> list[SeenCase]:
    """Read which cases an encoder has seen.

    Args:
        folder: Of the pretraining, also by an earlier version.
        task: For the message.

    Raises:
        CheckpointError: The folder does not say.
    """
    path = Path(folder) / SEEN_FILE
    try:
        return [seen_case(name, row, f"pretraining in {Path(folder).name}") for name, row in read_json(path).items()]
    except _UNREADABLE:
        raise CheckpointError(
            f"pretraining.weights: {path} is missing or damaged, so it is unknown whether pretraining has seen a "
            f"tested case. Expected a folder that `medformer {task} pretrain` wrote."
        ) from None


_UNREADABLE = (OSError, *UNREADABLE, MedformerError)


def require_same_seen(folder: Path, cases: Iterable[SeenCase]) -> None:
    """Refuse to continue a pretraining on other cases than it was begun with.

    Raises:
        DataError: A case came, went or changed; names the first. Or the folder's list is damaged.
    """
    path = folder / SEEN_FILE
    if not path.exists():
        return
    try:
        before = {name: seen_case(name, row) for name, row in read_json(path).items()}
    except _UNREADABLE:
        raise DataError(f"{path} is damaged. Restore it, or start anew in another folder.") from None
    now = {case.id: case for case in cases}
    changed = [
        name for name in {**before, **now} if name not in before or name not in now or _differ(before[name], now[name])
    ]
    if changed:
        raise DataError(
            f"--resume: {len(changed)} cases are not those that {folder} was begun with: they are new, gone, or have "
            f"another group or other data; the first is '{changed[0]}'. Restore them, or start anew in another folder."
        )


def _differ(before: SeenCase, now: SeenCase) -> bool:
    shared = before.hashes.keys() & now.hashes.keys()
    return before.group != now.group or any(before.hashes[kind] != now.hashes[kind] for kind in shared)


Tested = tuple[Case, SeenCase, str]
"""A case, what tells it apart, and the part that it is tested in."""


def find_seen(tested: Iterable[Tested], seen: Sequence[SeenCase], comparison: CaseComparison) -> list[Finding]:
    """Find the tested cases that were seen before, each once, under the strongest evidence.

    Args:
        tested: Of a run.
        seen: What was seen.
        comparison: How the task's cases are compared; hashes of kinds that it does not name count after those.

    Returns:
        Findings of the kinds `seen-data`, `seen-group`, `seen-id` and, of cases with descriptors,
        `seen-near-duplicate`.
    """
    data: dict[tuple[str, str], SeenCase] = {}
    groups: dict[str, SeenCase] = {}
    ids: dict[str, SeenCase] = {}
    for one in seen:
        for key in one.hashes.items():
            data.setdefault(key, one)
        if one.group:
            groups.setdefault(spelled_plainly(one.group), one)
        if one.id:
            ids.setdefault(one.id, one)
    found: list[Finding] = []
    others: list[Tested] = []
    for case, known, part in tested:
        order = sorted(known.hashes, key=lambda kind: (kind not in comparison.hashes, kind))
        same = next((kind for kind in order if (kind, known.hashes[kind]) in data), None)
        if same is not None:
            match, kind, detail = data[same, known.hashes[same]], "seen-data", f"the same {_WORDS.get(same, same)}"
        elif known.group and (by_group := groups.get(spelled_plainly(known.group))) is not None:
            match, kind, detail = by_group, "seen-group", f"the same group '{known.group}'"
        elif known.id in ids:
            match, kind, detail = ids[known.id], "seen-id", "the same id"
        else:
            others.append((case, known, part))
            continue
        if kind != "seen-data" and known.id == match.id and known.hashes.keys() & match.hashes.keys():
            detail += ", with other data"
        shown = match if match.id else replace(match, id=f"image {known.hashes[str(same)][:12]}")
        found.append(_finding(kind, case, part, shown, detail))
    return [*found, *_find_alike(others, seen, comparison)]


def _find_alike(tested: Sequence[Tested], seen: Sequence[SeenCase], comparison: CaseComparison) -> list[Finding]:
    """Find the tested cases that show the same thing as one that was seen, each once, beside the one most like it."""
    sizes = {known.descriptor.shape for _, known, _ in tested if known.descriptor is not None}
    # Of another size are those of a version that described cases otherwise.
    before = [one for one in seen if one.descriptor is not None and one.descriptor.shape in sizes]
    now = [row for row in tested if row[1].descriptor is not None]
    if not before or not now:
        return []
    descriptors = [one.descriptor for one in (*(known for _, known, _ in now), *before)]
    parts = np.repeat([0, 1], [len(now), len(before)])[None]
    best: dict[int, Match] = {}
    for match in comparison.similar([array for array in descriptors if array is not None], parts):
        if match.first not in best or match.score > best[match.first].score:
            best[match.first] = match
    return [
        replace(
            _finding(SEEN_ALIKE, now[at][0], now[at][2], before[match.second - len(now)], match.detail),
            score=match.score,
        )
        for at, match in sorted(best.items())
    ]


def _finding(kind: str, case: Case, part: str, seen: SeenCase, detail: str) -> Finding:
    files = (str(case.image or case.id), seen.id)
    return Finding(kind, case.id, seen.id, part, f"seen by {seen.where}", files, case.site, detail=detail)


_WORDS = {"plan": "image and mask"}
