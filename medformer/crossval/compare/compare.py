"""Comparing runs of the same plan, case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medformer.crossval.compare.pairs import Pairs, pair
from medformer.crossval.compare.result import Comparison, Outcome, Statistics
from medformer.crossval.compare.statistics import compute
from medformer.crossval.plan import some
from medformer.crossval.run.directory import RunDirectory
from medformer.errors import ConfigError, UnknownNameError, counted
from medformer.evaluation.metrics import CLASSES, MASKS, PRIMARY, Metric
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap
from medformer.evaluation.statistics.ttest import holm

FEW_GROUPS = 10
FEW_FOLDS = 5

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
    """Pair the out-of-fold tables of two runs by case and repeat, and test B against A.

    Args:
        a: A run, or a baseline inside a run, which has that run's plan.
        b: Another.
        metric: What to compare by; mean Dice of segmentations and AUC of classifications unless given.
        allow_different_plans: Compare the cases that both have when plans or cases differ. Without common folds there
            is no test over folds, and the difference then mixes model and training data.
        name_a: What to call A; its folder unless given.
        name_b: What to call B.
        bootstrap: Level and draws of every interval.

    Raises:
        ConfigError: The runs cannot be compared: different tasks, plans, cases or truths, or an unknown metric.
        DataError: A table or plan is missing, damaged or was edited.
    """
    short = short_names([a.path, b.path])
    names = name_a or short[0], name_b or short[1]
    pairs = pair(a, b, shared_only=allow_different_plans)
    chosen = _choose(pairs, metric)
    found = compute(pairs, chosen, (str(a.oof_csv), str(b.oof_csv)), bootstrap)
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
    )


def compare_all(
    runs: Sequence[RunDirectory], *, metric: str | None = None, allow_different_plans: bool = False
) -> list[Comparison]:
    """Compare each later run with the first, p-values adjusted for their number.

    Raises:
        ConfigError: Fewer than two runs, or as `compare_runs`.
        DataError: As `compare_runs`.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare got {len(runs)} run(s), expected two or more: medformer compare RUN RUN")
    names = short_names([run.path for run in runs])
    return adjust(
        [
            compare_runs(
                runs[0],
                run,
                metric=metric,
                allow_different_plans=allow_different_plans,
                name_a=names[0],
                name_b=name,
            )
            for run, name in zip(runs[1:], names[1:], strict=True)
        ]
    )


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


def _choose(pairs: Pairs, name: str | None) -> Metric:
    """Return the metric of this name, or the one that stands for runs of this kind.

    Raises:
        ConfigError: No such metric, one without a better direction, or one that the tables do not have.
    """
    table = CLASSES if pairs.kind == "classification" else MASKS
    known = [metric.name for metric in table.values() if metric.comparable]
    name = name or PRIMARY[pairs.kind]
    if name in table and table[name].direction == "target":
        raise ConfigError(
            f"Runs are not compared by {name}: it is best at {table[name].target:g}, so neither more nor less of it is "
            f"better. Compare by brier or ece, which include calibration. Known: {', '.join(known)}."
        )
    if name not in known:
        raise UnknownNameError(f"{pairs.kind} metric", name, known)
    there = [column for column in known if column in pairs.a[0] and column in pairs.b[0]]
    if table[name].per_case and name not in there:
        raise ConfigError(
            f"The tables of the two runs do not both have a column '{name}'. "
            f"Both have {', '.join(there) or 'no metric'}; choose one of these, or score both runs again."
        )
    return table[name]


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
        cautions.append(
            f"No test over folds: {lost.folds}. The models were trained on different cases, so the difference is not "
            "due to the models alone."
        )
    elif found.fold_test is None:
        cautions.append("No test over folds: it needs two folds that have a value in both runs.")
    elif (folds := found.fold_test.units) < FEW_FOLDS:
        cautions.append(f"Only {counted(folds, 'fold')}: the test over folds is rough below {FEW_FOLDS}.")
    if found.groups < FEW_GROUPS:
        cautions.append(
            f"Only {counted(found.groups, 'group')}: intervals and p-values over groups are rough below {FEW_GROUPS}."
        )
    if found.one_sided:
        cautions.append(
            f"{counted(found.one_sided, 'prediction')} of {len(pairs.a)} left out, because only one of the runs has "
            f"{metric.label} there; this can favor the run that has none."
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
