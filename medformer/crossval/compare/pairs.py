"""The cases that two tables of scores both have, and the checks that refuse tables that cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medformer.crossval.compare.scores import Key, Scores, same_parts
from medformer.crossval.plan import Fold, Plan, some
from medformer.errors import ConfigError
from medformer.evaluation.metrics import Kind
from medformer.evaluation.table import Row, group_names, has_groups
from medformer.missing import known

_RULES = ("empty_policy", "nsd_tolerance_px", "nsd_tolerance_mm")
"""Columns that say how a row was scored."""

_FACTS = ("in another group", "with another label", "with changed content")
"""Differences of cases between two plans that no comparison allows."""

FOLDS_DIFFER = "the folds differ"

Ungrouped = Literal["error", "each"]
"""What to do with cases whose patient or sequence is not known: refuse them, or make each its own group."""


@dataclass(frozen=True)
class Lost:
    """What a comparison leaves out.

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
    """The predictions that both tables have, in the order of A's.

    Attributes:
        left: A.
        right: B.
        a: Rows of A.
        b: Rows of B, of the same cases.
        groups: Patient or sequence of each row.
        repeats: Repeat of each row.
        folds: The folds that both used; empty when these differ or are not known.
        fold_of: The index of the fold that tested each row; -1 for none of these folds.
        lost: What is left out.
    """

    left: Scores
    right: Scores
    a: Sequence[Row]
    b: Sequence[Row]
    groups: Sequence[str]
    repeats: Sequence[int]
    folds: Sequence[Fold]
    fold_of: Sequence[int]
    lost: Lost

    @property
    def ids(self) -> list[str]:
        """Id of each row."""
        return [str(row["id"]) for row in self.a]

    @property
    def kind(self) -> Kind:
        """Whether cases are segmented or classified."""
        return self.left.kind


def pair(left: Scores, right: Scores, *, shared_only: bool = False, ungrouped: Ungrouped = "error") -> Pairs:
    """Pair two tables by repeat and id.

    Args:
        left: The first.
        right: The second.
        shared_only: Compare what they share when plans, folds or cases differ, instead of refusing.
        ungrouped: What to do where neither says whose a case is.

    Raises:
        ConfigError: The tables are of different tasks, truths, groups or scoring rules; or, unless `shared_only`, of
            different plans, folds or cases; or have nothing in common; or nobody says which cases are of one patient.
        DataError: A cell that has to be compared cannot be read.
    """
    names = f"{left.path} and {right.path}"
    tasks = [(side.task or "unknown", side.kind) for side in (left, right)]
    if left.kind != right.kind or (left.task and right.task and left.task != right.task):
        raise ConfigError(
            f"{names} are of different tasks ({'; '.join(map(', '.join, tasks))}); expected two runs or tables of one "
            "task. Compare what answers the same question."
        )
    if left.plan and right.plan and left.plan.digest() != right.plan.digest() and not shared_only:
        raise ConfigError(
            f"{names} have different fold plans ({left.plan.digest()[:12]}, {right.plan.digest()[:12]}): "
            f"{_how_plans_differ(left.plan, right.plan)}. Expected the same splits: run both with the same data, seed "
            "and folds, or compare what they share with --shared-cases."
        )
    shared = [key for key in left.rows if key in right.rows]
    lost = Lost(
        only_a=_spell(key for key in left.rows if key not in right.rows),
        only_b=_spell(key for key in right.rows if key not in left.rows),
    )
    if not shared:
        examples = " and ".join(f"'{next(iter(side.rows))[1]}'" for side in (left, right))
        raise ConfigError(
            f"{names} have no case in common (the first are {examples}); expected scores of the same cases, under the "
            "same ids. Rename the ids of one of them."
        )
    if (lost.only_a or lost.only_b) and not shared_only:
        finish = "Finish both runs with --resume" if left.plan and right.plan else "Score the same cases in both"
        raise ConfigError(
            f"{names} predicted different cases ({_only(lost)}). {finish}, or compare the cases that both have with "
            "--shared-cases."
        )
    why = _how_folds_differ(left, right, shared)
    if why == FOLDS_DIFFER and not shared_only:
        raise ConfigError(
            f"{names} tested the same cases in different folds. Expected the same folds: a difference would mix models "
            "and training data. To compare them nevertheless, without a test over folds, add --shared-cases."
        )
    source = right if left.assumed and right.folds and not right.assumed else left
    fold_of = source.fold_of()
    grouped = left if has_groups(list(left.rows.values())) or not has_groups(list(right.rows.values())) else right
    pairs = Pairs(
        left=left,
        right=right,
        a=[left.rows[key] for key in shared],
        b=[right.rows[key] for key in shared],
        groups=group_names([grouped.rows[key] for key in shared]),
        repeats=[repeat for repeat, _ in shared],
        folds=() if why else source.folds,
        fold_of=[-1 if why else fold_of.get(key, -1) for key in shared],
        lost=replace(lost, folds=why),
    )
    _check_same_data(pairs)
    if ungrouped == "error":
        _require_groups(names, [grouped.rows[key] for key in shared])
    return pairs


def _how_folds_differ(left: Scores, right: Scores, shared: Sequence[Key]) -> str:
    """Why there is no test over folds; empty where both tables tested the shared cases in the same folds."""
    unknown = [str(side.path) for side in (left, right) if not side.folds]
    if unknown:
        return f"the folds of {' and '.join(unknown)} are not known"
    if left.assumed or right.assumed:
        one, other = left.fold_of(), right.fold_of()
        return "" if same_parts([one.get(key) for key in shared], [other.get(key) for key in shared]) else FOLDS_DIFFER
    # Splits of others do not say what selected, and count it to the training part.
    inner = left.plan is not None and right.plan is not None
    return "" if _same_folds(left.folds, right.folds, inner=inner) else FOLDS_DIFFER


def _require_groups(names: str, rows: Sequence[Row]) -> None:
    """Refuse to take cases for independent that nobody has said to be so."""
    unknown = [str(row["id"]) for row in rows if not known(row.get("group"))]
    if unknown:
        raise ConfigError(
            f"{names} do not say whose {len(unknown)} of {len(rows)} cases are ({some(unknown)}), so that intervals "
            "over patients cannot be drawn. Give --groups TABLE (id, group), such as a manifest, or a column `group`; "
            "or --ungrouped each when every case really is of another patient."
        )


def _check_same_data(pairs: Pairs) -> None:
    """Refuse pairs whose truth, groups or scoring rules differ between the two tables."""
    left, right = pairs.left, pairs.right
    shared = set(pairs.ids)
    names = f"{left.path} and {right.path}"
    between = left.plan.differences(right.plan.cases) if left.plan and right.plan else _other_groups(pairs)
    different = {what: [name for name in between.get(what, ()) if name in shared] for what in _FACTS}
    for name in sorted(name for name in {*pairs.a[0]} & {*pairs.b[0]} if _is_truth(name)):
        values = (side.column(rows, name) for rows, side in ((pairs.a, left), (pairs.b, right)))
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
        rules = [rules_of(rows, name) for rows in (pairs.a, pairs.b)]
        # A table from elsewhere may not say how it was scored.
        if rules[0] != rules[1] and all(rules):
            raise ConfigError(
                f"{names} were scored by different rules ({name}: {', '.join(rules[0])}; {', '.join(rules[1])}); "
                "expected one rule. Score both in the same way."
            )


def rules_of(rows: Sequence[Row], name: str) -> list[str]:
    """What rows say of the rule that they were scored by, such as `empty_policy`; empty where they say nothing."""
    # `nan` is a rule too.
    return sorted({"" if row.get(name) is None else str(row[name]).strip() for row in rows} - {""})


def _other_groups(pairs: Pairs) -> dict[str, list[str]]:
    """The cases that the two tables put together with different others, whatever each calls the groups."""
    if not (has_groups(pairs.a) and has_groups(pairs.b)):
        return {}
    sides = [group_names(rows) for rows in (pairs.a, pairs.b)]
    members: list[dict[str, set[str]]] = [{}, {}]
    for names, of in zip(sides, members, strict=True):
        for name, case in zip(names, pairs.ids, strict=True):
            of.setdefault(name, set()).add(case)
    moved = [case for case, one, other in zip(pairs.ids, *sides, strict=True) if members[0][one] != members[1][other]]
    return {"in another group": list(dict.fromkeys(moved))}


def _is_truth(name: str) -> bool:
    return name in ("label", "pixels", "voxels", "lesions_true") or name.startswith("truth_")


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))


def _spell(keys: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(f"{name} (repeat {repeat})" if repeat else name for repeat, name in keys)


def _same_folds(left: Sequence[Fold], right: Sequence[Fold], *, inner: bool = True) -> bool:
    """Whether every fold trains and tests the same cases, whatever else the plans say.

    Args:
        left: Of one table.
        right: Of the other.
        inner: Whether cases that select count apart from those that train.
    """

    def content(folds: Sequence[Fold]) -> list[tuple[int, frozenset[str], frozenset[str]]]:
        return [
            (fold.repeat, frozenset(fold.train if inner else (*fold.train, *fold.validation)), frozenset(fold.test))
            for fold in folds
        ]

    # The order of a plan's folds is its own; files of others list theirs in any order.
    return content(left) == content(right) if inner else set(content(left)) == set(content(right))


def _how_plans_differ(left: Plan, right: Plan) -> str:
    between = left.differences(right.cases)
    lost = Lost(tuple(between["no longer there"]), tuple(between["new"]))
    if lost:
        return f"they have different cases ({_only(lost)})"
    if left.data_digest() != right.data_digest():
        return "the data differ (groups, labels or contents of cases)"
    same = _same_folds(left.folds, right.folds)
    return "the folds are the same, seed or settings are not" if same else FOLDS_DIFFER


def _only(lost: Lost) -> str:
    sides = (("first", lost.only_a), ("second", lost.only_b))
    return "; ".join(f"{len(names)} only in the {run}: {some(names)}" for run, names in sides if names)
