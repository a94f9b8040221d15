"""What the networks of a run have seen, as the run's folder says it, and as a bundle may say it without a name.

A run writes `seen.json`: what tells the cases of its plan apart, and what was seen before it. A bundle holds sorted
hashes alone, which tell whoever has an image whether a network was trained on it, and nobody anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medformer.crossval.plan import Fold, Plan, read_plan
from medformer.crossval.run.directory import RunDirectory
from medformer.crossval.run.record import read_config
from medformer.data.seen import UNREADABLE, SeenCase, seen_case
from medformer.errors import CheckpointError
from medformer.files import write_json
from medformer.records import Content, Names, Rows, Tables, read_record

FORMAT = "medformer-seen/1"
SEEN_BY_BUNDLE = "seen.json"
"""Of a bundle, which may lack it."""
_ADVICE = "Restore the file from a copy: without it nobody knows what the networks were trained on."


@dataclass(frozen=True)
class Seen:
    """What some networks have seen.

    Attributes:
        cases: As far as it is known.
        unknown: What is not known, in sentences for the report.
    """

    cases: Sequence[SeenCase] = ()
    unknown: Sequence[str] = ()

    def plus(self, other: Seen) -> Seen:
        """What both have seen."""
        return Seen([*self.cases, *other.cases], list(dict.fromkeys([*self.unknown, *other.unknown])))

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        rows = [{"id": case.id, "where": case.where, **case.to_json()} for case in self.cases]
        return {"before": rows, "unknown": list(self.unknown)}


class _SeenByRun(Content):
    format: str
    cases: Tables
    before: Rows
    unknown: Names


class _SeenByBundle(Content):
    format: str
    hashes: dict[str, list[str]]
    unknown: Names


def write_seen_by_run(directory: RunDirectory, cases: Iterable[SeenCase], before: Seen) -> None:
    """Write what tells the cases of a run apart, and what its networks saw before it."""
    rows = {case.id: case.to_json() for case in cases}
    write_json(directory.seen_json, {"format": FORMAT, "cases": rows, **before.to_json()})


def seen_by_fold(run: RunDirectory, fold: Fold, where: str) -> Seen:
    """What the network of a fold has seen: its training and validation part, and what was seen before.

    Args:
        run: Also of an earlier version, which kept ids, groups, and one hash over image and mask.
        fold: Which.
        where: The network in words, such as `fold 0 of run`.

    Raises:
        CheckpointError: `seen.json` is damaged or names other cases than the plan.
    """
    names = [*fold.train, *fold.validation]
    if not run.seen_json.is_file():
        return _of_earlier_version(run, read_plan(run.splits_json), names, where)
    content = read_record(run.seen_json, _SeenByRun, _ADVICE, error=CheckpointError)
    try:
        own = Seen([seen_case(name, content.cases[name], where) for name in names])
        return own.plus(read_before(content.plain))
    except UNREADABLE:
        raise CheckpointError(f"{run.seen_json} does not describe every case of the plan. {_ADVICE}") from None


def read_before(content: Mapping[str, Any]) -> Seen:
    """Read what `Seen.to_json` gives.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, StopIteration: It is something else.
    """
    rows = content.get("before", ())
    return Seen([seen_case(row["id"], row, row["where"]) for row in rows], list(content.get("unknown", ())))


def _of_earlier_version(run: RunDirectory, plan: Plan, names: Sequence[str], where: str) -> Seen:
    by_id = {case.id: case for case in plan.cases}
    cases = [
        SeenCase(name, by_id[name].group, {"plan": by_id[name].fingerprint} if by_id[name].fingerprint else {}, where)
        for name in names
    ]
    unknown = [
        f"{where} was written by an earlier version of medformer: what it was trained on is known by ids, groups, and "
        "images together with their masks, so that the same image with another mask, or one like it, is not recognized."
    ]
    pretraining = read_config(run).get("pretraining") or {}
    if pretraining.get("weights") or pretraining.get("extra"):
        unknown.append(f"{where} was also pretrained, and does not say on which cases.")
    return Seen(cases, unknown)


def write_seen_hashes(run: RunDirectory, folds: Sequence[int], path: Path) -> None:
    """Write for a bundle what the networks of some folds have seen: hashes of contents, without ids and groups.

    Raises:
        CheckpointError: `seen.json` of the run is damaged.
    """
    plan = read_plan(run.splits_json)
    found = Seen()
    for index in folds:
        found = found.plus(seen_by_fold(run, plan.folds[index], "the network"))
    kinds: dict[str, set[str]] = {}
    for case in found.cases:
        for kind, value in case.hashes.items():
            kinds.setdefault(kind, set()).add(value)
    hashes = {kind: sorted(values) for kind, values in sorted(kinds.items())}
    # The sentences may name folders of this machine.
    unknown = ["Not all cases that the networks were trained on are fully recorded."] if found.unknown else []
    write_json(path, {"format": FORMAT, "hashes": hashes, "unknown": unknown})


def seen_by_bundle(path: Path, where: str) -> Seen:
    """What a bundle says of the cases that its networks have seen.

    Args:
        path: `seen.json` of the bundle, which may be missing.
        where: The bundle in words.

    Raises:
        CheckpointError: The file is damaged.
    """
    if not path.is_file():
        return Seen(
            unknown=[
                f"{where} does not say which cases its networks were trained on, so that nobody can tell whether a "
                "case that is tested here was among them."
            ]
        )
    content = read_record(path, _SeenByBundle, _ADVICE, error=CheckpointError)
    cases = [SeenCase("", "", {kind: value}, where) for kind, values in content.hashes.items() for value in values]
    note = (
        f"{where} names no patients: what it was trained on is recognized where an image is the same, and not where "
        "it was changed or is another image of the same patient."
    )
    return Seen(cases, [note, *content.unknown])
