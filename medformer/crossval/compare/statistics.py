"""The numbers of a comparison: values, differences and tests over groups, folds and cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.compare.pairs import Pairs
from medformer.crossval.compare.result import Outcome, Statistics
from medformer.crossval.compare.scores import Scores
from medformer.crossval.plan import Fold
from medformer.errors import DataError, counted
from medformer.evaluation.classes.classification import Scored, check_scored, classification_metrics
from medformer.evaluation.classes.delong import delong_test
from medformer.evaluation.classes.intervals import paired_classification_tests, weighted_metrics
from medformer.evaluation.metrics import MASKS, Metric
from medformer.evaluation.statistics.bootstrap import paired_grouped_test
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap
from medformer.evaluation.statistics.ttest import corrected_resampled_ttest
from medformer.evaluation.table import Row

Values = NDArray[np.float64]


_PERCENT = 2.0
"""No share between 0 and 1 is as large as this."""

NEEDS_NO_DECISION = frozenset({"auc", "average_precision", "brier", "ece"})
"""Metrics of classes that rest on the scores alone."""


def compute(pairs: Pairs, metric: Metric, bootstrap: Bootstrap = DEFAULT) -> Statistics:
    """Compute every statistic of a metric.

    Args:
        pairs: The rows.
        metric: What to compare by.
        bootstrap: Level and draws of every interval.

    Raises:
        DataError: A cell is not what its column promises, or AUC is asked of decisions; names the case.
    """
    fold_of, sides = np.array(pairs.fold_of), (pairs.left, pairs.right)
    members = [fold_of == fold.index for fold in pairs.folds]
    delong = None
    if metric.per_case:
        a, b = (side.column(rows, metric.name) for rows, side in zip((pairs.a, pairs.b), sides, strict=True))
        for values, rows, side in ((a, pairs.a, pairs.left), (b, pairs.b, pairs.right)):
            _refuse_impossible(metric, values, rows, side)
        _refuse_percent(pairs, metric, a, b)
        known, one_sided = ~np.isnan(a) & ~np.isnan(b), int((np.isnan(a) != np.isnan(b)).sum())
        if not known.any():
            raise DataError(
                f"No case has {metric.label} in both {pairs.left.table} and {pairs.right.table}. Choose another metric."
            )
        test = paired_grouped_test(np.where(known, b - a, np.nan), pairs.groups, bootstrap)
        value_a, value_b = float(a[known].mean()), float(b[known].mean())
        fold_a, differences = (np.array([_mean(x[member & known]) for member in members]) for x in (a, b - a))
        identical = np.array_equal(a, b, equal_nan=True)
    else:
        one, other = (_scored(rows, side, metric) for rows, side in zip((pairs.a, pairs.b), sides, strict=True))
        name, known, one_sided = metric.name, np.ones(len(pairs.a), np.bool_), 0
        value_a, value_b = (classification_metrics(*side)[name] for side in (one, other))
        if np.isnan(value_a) or np.isnan(value_b):
            raise DataError(
                f"{metric.title} is not defined for the {len(pairs.a)} predictions that {pairs.left.table} and "
                f"{pairs.right.table} share ({int(one.label.sum())} of them positive). Choose another metric."
            )
        test = paired_classification_tests(one.label, one[1:], other[1:], pairs.groups, (name,), bootstrap)[name]
        weights = np.array(members, np.float64).reshape(-1, len(pairs.a))
        fold_a, fold_b = (weighted_metrics(side, weights, (name,))[name] for side in (one, other))
        differences = fold_b - fold_a
        identical = all(np.array_equal(mine, its) for mine, its in zip(one, other, strict=True))
        delong = _delong(pairs, one, other, bootstrap.level) if name == "auc" else None
    return Statistics(
        cases=len({name for name, keep in zip(pairs.ids, known, strict=True) if keep}),
        groups=len({group for group, keep in zip(pairs.groups, known, strict=True) if keep}),
        left_out=int((~known).sum()),
        one_sided=one_sided,
        identical=identical,
        fold_differences=tuple(differences.tolist()),
        bootstrap=Outcome(
            "bootstrap",
            value_a,
            value_b,
            test.difference,
            test.low,
            test.high,
            test.p,
            test.p,
            test.groups,
            test.reason,
        ),
        fold_test=_fold_test(fold_a, differences, pairs.folds, bootstrap.level),
        delong=delong,
    )


def _refuse_impossible(metric: Metric, values: Values, rows: Sequence[Row], side: Scores) -> None:
    """Refuse numbers that a metric of masks cannot have, such as the -1 that programs write where there is none."""
    if metric.name.partition(":")[0] not in MASKS:
        return
    highest = np.inf if metric.unit else 100.0 if (values > _PERCENT).any() else 1.0
    wrong = np.flatnonzero((values < 0) | (values > highest * (1 + 1e-6)))
    if wrong.size:
        expected = "0 or more" if metric.unit else f"0 to {highest:g}"
        raise DataError(
            f"{side.table}: {metric.label} is {values[wrong[0]]:g} in case '{rows[wrong[0]]['id']}' "
            f"({counted(wrong.size, 'such case')}); expected {expected}. If it stands for a case without a number, "
            "leave the cell empty: the case is then left out, and counted."
        )


def _refuse_percent(pairs: Pairs, metric: Metric, a: Values, b: Values) -> None:
    """Refuse a share that one table states in percent and the other between 0 and 1."""
    name = metric.name.partition(":")[0]
    if metric.unit or name not in MASKS:
        return
    percent = [bool((side > _PERCENT).any()) for side in (a, b)]
    if percent[0] != percent[1]:
        which, other = (pairs.left, pairs.right) if percent[0] else (pairs.right, pairs.left)
        raise DataError(
            f"{which.table} seems to state {metric.label} in percent (up to {np.nanmax(a if percent[0] else b):g}), "
            f"{other.table} between 0 and 1. Divide the column `{metric.name}` of the first by 100."
        )


def _scored(rows: Sequence[Row], side: Scores, metric: Metric) -> Scored:
    label, score = (side.column(rows, name) for name in ("label", "score"))
    if metric.name in NEEDS_NO_DECISION and "prediction" not in rows[0]:
        decided = (score >= 0.5).astype(np.float64)
    else:
        decided = side.column(rows, "prediction")
    try:
        return check_scored(label, score, decided, ids=[str(row["id"]) for row in rows])
    except DataError as error:
        raise DataError(f"{side.table}: {error}") from None


def _mean(values: Values) -> float:
    return float(values.mean()) if values.size else float("nan")


def _fold_test(fold_a: Values, differences: Values, folds: Sequence[Fold], level: float) -> Outcome | None:
    usable = np.array([bool(fold.train) and not np.isnan(d) for fold, d in zip(folds, differences, strict=True)], bool)
    if usable.sum() < 2:
        return None
    chosen = [fold for fold, keep in zip(folds, usable, strict=True) if keep]
    test = corrected_resampled_ttest(
        differences[usable], [len(fold.train) for fold in chosen], [len(fold.test) for fold in chosen], level=level
    )
    value_a = float(fold_a[usable].mean())
    ends = test.low, test.high, test.p, test.p
    return Outcome("folds", value_a, value_a + test.mean, test.mean, *ends, len(chosen), test.reason)


def _delong(pairs: Pairs, a: Scored, b: Scored, level: float) -> Outcome:
    """Of one score per case: with repeats, the mean over them."""
    order = np.argsort(np.array(pairs.ids), kind="stable")
    names = np.array(pairs.ids)[order]
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    counts = np.diff(np.r_[starts, len(names)])
    mean_a, mean_b = (np.add.reduceat(side.score[order], starts) / counts for side in (a, b))
    test = delong_test(a.label[order][starts], mean_a, mean_b, level=level)
    ends = test.low, test.high, test.p, test.p
    return Outcome("delong", test.auc_a, test.auc_b, test.difference, *ends, len(starts), test.reason)
