"""The cases that two runs both predicted, and the checks that refuse runs that cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import Fold, Plan, read_plan, some
from medformer.crossval.run.collect import read_oof, verify_oof
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, DataError
from medformer.evaluation.metrics import Kind
from medformer.evaluation.table import Row, group_names, numbers

# Baselines lie two folders below their run.
_DEEPEST = 2

_RULES = ("empty_policy", "nsd_tolerance_px", "nsd_tolerance_mm")
"""Columns that say how a row was scored."""

_FACTS = ("in another group", "with another label", "with changed content")
"""Differences of cases between two plans that no comparison allows."""


@dataclass(frozen=True)
class Side:
    """One run, read.

    Attributes:
        run: The folder.
        task: From run.json.
        kind: Whether its cases are segmented or classified.
        plan: The plan its folds come from.
        rows: oof.csv by repeat and id.
    """

    run: RunDirectory
    task: str
    kind: Kind
    plan: Plan
    rows: Mapping[tuple[int, str], Row]


@dataclass(frozen=True)
class Lost:
    """What a comparison of runs with different plans leaves out.

    Attributes:
        only_a: Ids (with several repeats: predictions) that only A has.
        only_b: Those that only B has.
        folds: Why folds cannot be compared; empty when they can.
    """

    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    folds: str = ""

    def __bool__(self) -> bool:
        return bool(self.only_a or self.only_b or self.folds)


@dataclass(frozen=True)
class Pairs:
    """The predictions that both runs have, in the order of A's table.

    Attributes:
        a: Rows of A.
        b: Rows of B, of the same cases.
        kind: Whether cases are segmented or classified.
        groups: Patient or sequence of each row.
        repeats: Repeat of each row.
        folds: The folds that both runs used; empty when these differ.
        lost: What is left out.
    """

    a: Sequence[Row]
    b: Sequence[Row]
    kind: Kind
    groups: Sequence[str]
    repeats: Sequence[int]
    folds: Sequence[Fold]
    lost: Lost

    @property
    def ids(self) -> list[str]:
        """Id of each row."""
        return [str(row["id"]) for row in self.a]


def open_compared(path: Path) -> RunDirectory:
    """Open a run, or a baseline inside a run, for comparison.

    Raises:
        ConfigError: It is neither.
    """
    run = RunDirectory(Path(path), resumed=True)
    return run if run.oof_csv.is_file() and _owner(run) is not None else RunDirectory.open(path)


def pair(a: RunDirectory, b: RunDirectory, *, shared_only: bool = False) -> Pairs:
    """Pair the tables of two runs by repeat and id.

    Args:
        a: The first run, or a baseline inside a run.
        b: The second.
        shared_only: Compare what they share when plans or cases differ, instead of refusing.

    Raises:
        ConfigError: The runs have different tasks, truths, groups or scoring rules; or, unless `shared_only`, different
            plans or cases; or nothing in common.
        DataError: A table or plan is missing, damaged or was edited.
    """
    left, right = _read(a), _read(b)
    names = f"{a.path} and {b.path}"
    if (left.task, left.kind) != (right.task, right.kind):
        raise ConfigError(
            f"{names} are runs of different tasks ({left.task}, {left.kind}; {right.task}, {right.kind}); expected two "
            "runs of one task. Compare runs that answer the same question."
        )
    same_plan = left.plan.digest() == right.plan.digest()
    if not (same_plan or shared_only):
        raise ConfigError(
            f"{names} have different fold plans ({left.plan.digest()[:12]}, {right.plan.digest()[:12]}): "
            f"{_how_plans_differ(left.plan, right.plan)}. Expected the same splits: run both with the same data, seed "
            "and folds, or compare what they share with --shared-cases."
        )
    shared = [key for key in left.rows if key in right.rows]
    lost = Lost(
        only_a=_spell(key for key in left.rows if key not in right.rows),
        only_b=_spell(key for key in right.rows if key not in left.rows),
        folds="" if _same_folds(left.plan, right.plan) else "the folds differ",
    )
    if (lost.only_a or lost.only_b) and not shared_only:
        raise ConfigError(
            f"{names} predicted different cases ({_only(lost)}). Finish both runs with --resume, or compare the "
            "cases that both have with --shared-cases."
        )
    if not shared:
        raise ConfigError(f"{names} have no case in common; expected runs over the same cases.")
    pairs = Pairs(
        a=[left.rows[key] for key in shared],
        b=[right.rows[key] for key in shared],
        kind=left.kind,
        groups=group_names([left.rows[key] for key in shared]),
        repeats=[repeat for repeat, _ in shared],
        folds=() if lost.folds else left.plan.folds,
        lost=lost,
    )
    _check_same_data(pairs, left, right)
    return pairs


def column(rows: Sequence[Row], name: str, source: str) -> NDArray[np.float64]:
    """Read a column, shape (rows,); an empty cell is NaN.

    Raises:
        DataError: A cell is no number; names the table and the case.
    """
    try:
        return numbers(rows, name)
    except DataError as error:
        raise DataError(
            f"{source}: {error} Run the cross-validation again with --resume, which writes the table anew."
        ) from None


def _read(run: RunDirectory) -> Side:
    owner = _owner(run)
    if owner is None:
        raise ConfigError(f"{run.path} is neither a run folder nor a baseline inside one. Check the path.")
    verify_oof(run)
    if not run.oof_csv.is_file():
        raise DataError(f"{run.path} has no out-of-fold table (oof.csv) yet. Finish the run with --resume.")
    table = read_oof(run.oof_csv)
    plan = read_plan(run.splits_json if run.splits_json.is_file() else owner.splits_json)
    tested = {(fold.repeat, name): fold.index for fold in plan.folds for name in fold.test}
    rows: dict[tuple[int, str], Row] = {}
    for row in table:
        if "id" not in row:
            raise DataError(f"{run.oof_csv} has no column 'id'; expected an out-of-fold table. Check the path.")
        key = int(row.get("repeat", 0)), str(row["id"])
        if key in rows:
            raise DataError(f"{run.oof_csv} has case '{key[1]}' twice in repeat {key[0]}; expected one row.")
        if key not in tested or row.get("fold", tested[key]) != tested[key]:
            planned = f"fold {tested[key]}" if key in tested else "no fold of that repeat"
            raise DataError(
                f"{run.oof_csv} has case '{key[1]}' in fold {row.get('fold')} of repeat {key[0]}; the plan tests it in "
                f"{planned}. Run the cross-validation again with --resume, which writes the table anew."
            )
        rows[key] = {**row, "fold": tested[key]}
    kind: Kind = "classification" if "score" in table[0] else "segmentation"
    return Side(run, owner.record()["task"], kind, plan, rows)


def _owner(run: RunDirectory) -> RunDirectory | None:
    """The run itself, or the one that holds it as a baseline."""
    path = run.path.absolute()
    for folder in (path, *path.parents[:_DEEPEST]):
        found = RunDirectory(folder, resumed=True)
        if found.is_run():
            return found
    return None


def _check_same_data(pairs: Pairs, left: Side, right: Side) -> None:
    """Refuse pairs whose truth, groups or scoring rules differ between the two runs."""
    shared = set(pairs.ids)
    names = f"{left.run.path} and {right.run.path}"
    between = left.plan.differences(right.plan.cases)
    different = {what: [name for name in between.get(what, ()) if name in shared] for what in _FACTS}
    for name in sorted(name for name in {*pairs.a[0]} & {*pairs.b[0]} if _is_truth(name)):
        sides = ((pairs.a, left), (pairs.b, right))
        values = (column(rows, name, str(side.run.oof_csv)) for rows, side in sides)
        different[f"with another truth ({name})"] = [
            case for case, one, other in zip(pairs.ids, *values, strict=True) if not _equal(one, other)
        ]
    found = [f"{len(cases)} {what} ({some(cases)})" for what, cases in different.items() if cases]
    if found:
        raise ConfigError(
            f"{names} do not have the same truth: cases {'; '.join(found)}. Differences between such runs mix model "
            "and data; expected the same cases, labels and masks. Run both on the same data."
        )
    for name in _RULES:
        rules = [sorted({str(row.get(name, "")) for row in rows}) for rows in (pairs.a, pairs.b)]
        if rules[0] != rules[1]:
            raise ConfigError(
                f"{names} were scored by different rules ({name}: {', '.join(rules[0])}; {', '.join(rules[1])}); "
                "expected one rule. Score both in the same way."
            )


def _is_truth(name: str) -> bool:
    return name in ("label", "pixels", "voxels", "lesions_true") or name.startswith("truth_")


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))


def _spell(keys: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(f"{name} (repeat {repeat})" if repeat else name for repeat, name in keys)


def _same_folds(left: Plan, right: Plan) -> bool:
    """Whether every fold trains and tests the same cases, whatever else the plans say."""

    def content(plan: Plan) -> list[tuple[int, frozenset[str], frozenset[str]]]:
        return [(fold.repeat, frozenset(fold.train), frozenset(fold.test)) for fold in plan.folds]

    return content(left) == content(right)


def _how_plans_differ(left: Plan, right: Plan) -> str:
    between = left.differences(right.cases)
    lost = Lost(tuple(between["no longer there"]), tuple(between["new"]))
    if lost:
        return f"they have different cases ({_only(lost)})"
    if left.data_digest() != right.data_digest():
        return "the data differ (groups, labels or contents of cases)"
    return "the folds are the same, seed or settings are not" if _same_folds(left, right) else "the folds differ"


def _only(lost: Lost) -> str:
    sides = (("first", lost.only_a), ("second", lost.only_b))
    return "; ".join(f"{len(names)} only in the {run}: {some(names)}" for run, names in sides if names)
