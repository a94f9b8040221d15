"""Comparing tables of scores, of runs or of any other origin, case by case."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medformer.crossval.compare.choose import Better, choose_metric
from medformer.crossval.compare.pairs import FOLDS_DIFFER, Pairs, Ungrouped, pair, rules_of
from medformer.crossval.compare.result import Comparison, Outcome, Statistics
from medformer.crossval.compare.scores import Scores
from medformer.crossval.compare.sources.run import run_scores
from medformer.crossval.compare.statistics import compute
from medformer.crossval.plan import some
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, counted
from medformer.evaluation.metrics import Metric
from medformer.evaluation.number_format import shorten
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap
from medformer.evaluation.statistics.ttest import holm

FEW_GROUPS = 10
FEW_FOLDS = 5
MOST_KEYS = 4
"""Keys of two configs that are told, of those that differ."""

EMPTY_WORDS = {"one": "score 1", "zero": "score 0", "nan": "are left out"}
"""What two empty masks do under each rule."""

# Differences of a fold below this are rounding.
_TIE = 1e-12


def compare_runs(
    a: RunDirectory,
    b: RunDirectory,
    *,
    metric: str | None = None,
    allow_different_plans: bool = False,
    name_a: str | None = None,
    name_b: str | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> Comparison:
    """Test a run, or a baseline inside a run, against another (see `compare_two`).

    Raises:
        ConfigError: The runs cannot be compared: different tasks, plans, cases or truths, or an unknown metric.
        DataError: A table or plan is missing, damaged or was edited.
    """
    short = short_names([a.path, b.path])
    return compare_two(
        run_scores(a),
        run_scores(b),
        metric=metric,
        shared_only=allow_different_plans,
        names=(name_a or short[0], name_b or short[1]),
        bootstrap=bootstrap,
    )


def compare_scores(
    tables: Sequence[Scores],
    *,
    metric: str | None = None,
    direction: Better | None = None,
    shared_only: bool = False,
    ungrouped: Ungrouped = "error",
    names: Sequence[str] = (),
    bootstrap: Bootstrap = DEFAULT,
) -> list[Comparison]:
    """Compare each later table of scores with the first, p-values adjusted for their number.

    Args:
        tables: Two or more, of `medformer.crossval.compare.open.open_scores` or `scores_of`.
        metric: What to compare by: a metric's name, one of a label (`dice:liver`), or any column of numbers; mean Dice
            of segmentations, AUC of classifications, or the only column of numbers unless given.
        direction: Which number of a column is better that no metric is named after.
        shared_only: Compare the cases that both have when plans, folds or cases differ. Without common folds there is
            no test over folds, and the difference then mixes model and training data.
        ungrouped: What to do where neither table says whose a case is: refuse, or make each its own group.
        names: What to call the tables; the last parts of their paths unless given.
        bootstrap: Level and draws of every interval.

    Raises:
        ConfigError: Fewer than two tables, or they cannot be compared: different tasks, plans, folds, cases or truths,
            unknown groups, or an unknown metric.
        DataError: A cell of a table cannot be read.
    """
    if len(tables) < 2:
        raise ConfigError(f"compare got {len(tables)} table(s) of scores, expected two or more: medformer compare A B")
    called = list(names) or short_names([table.path for table in tables])
    return adjust(
        [
            compare_two(
                tables[0],
                table,
                metric=metric,
                direction=direction,
                shared_only=shared_only,
                ungrouped=ungrouped,
                names=(called[0], name),
                bootstrap=bootstrap,
            )
            for table, name in zip(tables[1:], called[1:], strict=True)
        ]
    )


def compare_two(
    a: Scores,
    b: Scores,
    *,
    metric: str | None = None,
    direction: Better | None = None,
    shared_only: bool = False,
    ungrouped: Ungrouped = "error",
    names: tuple[str, str],
    bootstrap: Bootstrap = DEFAULT,
) -> Comparison:
    """Pair two tables by case and repeat, and test B against A; see `compare_scores`."""
    pairs = pair(a, b, shared_only=shared_only, ungrouped=ungrouped)
    chosen = choose_metric(pairs, metric, direction)
    found = compute(pairs, chosen, bootstrap)
    repeats = len(set(pairs.repeats))
    decisive = _decisive(found, repeats)
    won, lost, tied = _count_signs(found.fold_differences, chosen)
    return Comparison(
        **vars(found),
        run_a=str(a.path),
        run_b=str(b.path),
        name_a=names[0],
        name_b=names[1],
        kind=pairs.kind,
        metric=chosen.name,
        title=chosen.phrase,
        lower_is_better=chosen.lower_is_better,
        digits=chosen.digits,
        repeats=repeats,
        value_a=found.bootstrap.value_a,
        value_b=found.bootstrap.value_b,
        difference=decisive.difference,
        low=decisive.low,
        high=decisive.high,
        p=decisive.p,
        p_holm=decisive.p,
        level=bootstrap.level,
        together=1,
        test=decisive.method,
        folds=won + lost + tied,
        folds_won=won,
        folds_lost=lost,
        folds_tied=tied,
        lost=pairs.lost,
        cautions=tuple(_cautions(pairs, chosen, found, repeats, names)),
        configs=differing_settings(a.settings, b.settings),
    )


def differing_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """How two configs differ, in a sentence; empty where one of them is not known."""
    if not a or not b:
        return ""
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    if not keys:
        return "Their configs are the same."
    told = [f"{key} ({_shown(b.get(key))} against {_shown(a.get(key))})" for key in keys[:MOST_KEYS]]
    more = f" and {counted(len(keys) - MOST_KEYS, 'other key')}" if len(keys) > MOST_KEYS else " only"
    return f"Their configs differ in {', '.join(told)}{more}."


def _shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), 40)


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adjust the p-values of comparisons that are made together, each kind of test by itself (Holm)."""
    changes: list[dict[str, Any]] = [
        {"together": len(comparisons), "p_holm": p} for p in holm([comparison.p for comparison in comparisons]).tolist()
    ]
    for test in ("bootstrap", "fold_test", "delong"):
        outcomes: list[Outcome | None] = [getattr(comparison, test) for comparison in comparisons]
        p_values = holm([math.nan if outcome is None else outcome.p for outcome in outcomes]).tolist()
        for change, outcome, p in zip(changes, outcomes, p_values, strict=True):
            change[test] = outcome and replace(outcome, p_holm=p)
    return [replace(comparison, **change) for comparison, change in zip(comparisons, changes, strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name each folder by as many of its last parts as set it apart from the others; a repeated folder is numbered."""
    parts = [Path(path).absolute().parts for path in paths]
    names: list[str] = []
    for position, own in enumerate(parts):
        others = [other for other in parts if other != own]
        length = next((k for k in range(1, len(own) + 1) if all(other[-k:] != own[-k:] for other in others)), len(own))
        before = parts[:position].count(own)
        names.append("/".join(own[-length:]) + (f" ({before + 1})" if before else ""))
    return names


def _count_signs(differences: Sequence[float], metric: Metric) -> tuple[int, int, int]:
    """How many folds B wins, loses and ties."""
    known = [-value if metric.lower_is_better else value for value in differences if not math.isnan(value)]
    won, lost = sum(value > _TIE for value in known), sum(value < -_TIE for value in known)
    return won, lost, len(known) - won - lost


def _decisive(found: Statistics, repeats: int) -> Outcome:
    """DeLong's test where its assumption holds: one score per case, and no case related to another."""
    independent = found.delong is not None and repeats == 1 and found.cases == found.groups
    if independent and found.delong is not None and not math.isnan(found.delong.p):
        return found.delong
    return found.bootstrap


def _cautions(pairs: Pairs, metric: Metric, found: Statistics, repeats: int, names: tuple[str, str]) -> list[str]:
    cautions = []
    lost = pairs.lost
    for name, only in zip(names, (lost.only_a, lost.only_b), strict=True):
        if only:
            cautions.append(f"{counted(len(only), 'prediction')} only in {name} left out: {some(only)}.")
    if lost.folds:
        were, due = ("were", "is not") if lost.folds == FOLDS_DIFFER else ("may have been", "may not be")
        cautions.append(
            f"No test over folds: {lost.folds}. The models {were} trained on different cases, so the difference {due} "
            "due to the models alone."
        )
    elif found.fold_test is None:
        cautions.append("No test over folds: it needs two folds that have a value in both runs.")
    elif (folds := found.fold_test.units) < FEW_FOLDS:
        cautions.append(f"Only {counted(folds, 'fold')}: the test over folds is rough below {FEW_FOLDS}.")
    if not lost.folds and pairs.left.assumed and pairs.right.assumed:
        cautions.append(
            "What each fold trained on is not known; the test over folds takes it to be every case that the fold did "
            "not test."
        )
    if parted := _parted_groups(pairs):
        cautions.append(
            f"{counted(parted, 'group')} with cases in several folds: models were tested on patients that they may "
            "have been trained on, so both values are too good."
        )
    if found.groups < FEW_GROUPS:
        cautions.append(
            f"Only {counted(found.groups, 'group')}: intervals and p-values over groups are rough below {FEW_GROUPS}."
        )
    if found.one_sided:
        cautions.append(
            f"{counted(found.one_sided, 'prediction')} of {len(pairs.a)} left out, because only one of the runs has "
            f"{metric.label} there; this can favor the run that has none."
        )
    policies = [rules_of(rows, "empty_policy") for rows in (pairs.a, pairs.b)]
    if pairs.kind == "segmentation" and any(policies) and not all(policies):
        silent, says = (names[0], policies[1][0]) if policies[1] else (names[1], policies[0][0])
        other = names[1] if policies[1] else names[0]
        cautions.append(
            f"How {silent} scored two empty masks is not known; in {other} they {EMPTY_WORDS.get(says, says)}."
        )
    undefined = sum(math.isnan(value) for value in found.fold_differences)
    if undefined and not lost.folds:
        cautions.append(f"{metric.title} is not defined in {undefined} of {len(found.fold_differences)} folds.")
    if found.delong is not None and found.cases > found.groups:
        cautions.append(
            f"The {found.cases} cases come from {found.groups} groups; DeLong's test takes cases for independent, "
            "so its p-value is too small where cases of a group are alike."
        )
    if found.delong is not None and repeats > 1:
        cautions.append(f"DeLong's test is of each case's mean score over {repeats} repeats.")
    return cautions


def _parted_groups(pairs: Pairs) -> int:
    """How many groups have cases that different folds of one repeat tested."""
    folds: dict[tuple[int, str], set[int]] = {}
    for repeat, group, fold in zip(pairs.repeats, pairs.groups, pairs.fold_of, strict=True):
        folds.setdefault((repeat, group), set()).add(fold)
    return len({group for (_, group), tested in folds.items() if len(tested) > 1})
