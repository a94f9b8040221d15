"""The numbers of a comparison: values, differences and tests over groups, folds and cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.compare.pairs import Pairs, Row, numbers
from medformer.crossval.compare.result import Outcome
from medformer.crossval.plan import Fold
from medformer.errors import DataError
from medformer.evaluation.classes.classification import Scored, check_scored, classification_metrics
from medformer.evaluation.classes.classification_intervals import paired_classification_tests, weighted_metrics
from medformer.evaluation.classes.delong import delong_test
from medformer.evaluation.metrics import Metric
from medformer.evaluation.statistics.bootstrap import PairedTest, paired_grouped_test
from medformer.evaluation.statistics.ttest import corrected_resampled_ttest

Values = NDArray[np.float64]

# Differences of a fold below this are rounding.
_TIE = 1e-12


@dataclass(frozen=True)
class Statistics:
    """What is computed of a set of pairs.

    Attributes:
        cases: Distinct cases that have the measure in both runs.
        groups: Distinct groups of these.
        left_out: Pairs that lack it in a run.
        one_sided: Those of them that lack it in one run only.
        identical: The runs are the same in every pair.
        fold_differences: B minus A, one per fold of the pairs; NaN where a fold has no value.
        bootstrap: Over groups.
        fold_test: Over folds; None when there are fewer than two, or none in common.
        delong: Of the AUC; None for other measures, and when a class is missing.
    """

    cases: int
    groups: int
    left_out: int
    one_sided: int
    identical: bool
    fold_differences: Values
    bootstrap: Outcome
    fold_test: Outcome | None
    delong: Outcome | None


def compute(
    pairs: Pairs, metric: Metric, sources: tuple[str, str], *, level: float = 0.95, seed: int = 0
) -> Statistics:
    """Compute every statistic of a metric.

    Args:
        pairs: The rows.
        metric: What to compare by.
        sources: What to call the two tables in errors.
        level: Coverage of intervals.
        seed: Of the bootstrap.

    Raises:
        DataError: A cell is not what its column promises, or AUC is asked of decisions; names the case.
    """
    if metric.per_case:
        return _of_means(pairs, metric, sources, level, seed)
    return _of_scores(pairs, metric, sources, level, seed)


def count_signs(differences: Values, *, lower_is_better: bool) -> tuple[int, int, int]:
    """How many folds B wins, loses and ties."""
    known = differences[~np.isnan(differences)] * (-1 if lower_is_better else 1)
    won, lost = int(np.sum(known > _TIE)), int(np.sum(known < -_TIE))
    return won, lost, len(known) - won - lost


def _of_means(pairs: Pairs, metric: Metric, sources: tuple[str, str], level: float, seed: int) -> Statistics:
    """Statistics of a metric that is a mean over cases."""
    a, b = (
        np.array(numbers(rows, metric.name, source=source))
        for rows, source in zip((pairs.a, pairs.b), sources, strict=True)
    )
    known = ~np.isnan(a) & ~np.isnan(b)
    if not known.any():
        raise DataError(f"No case has {metric.label} in both {sources[0]} and {sources[1]}. Choose another metric.")
    test = paired_grouped_test(np.where(known, b - a, np.nan), pairs.groups, level=level, seed=seed)
    members = _members(pairs)
    per_fold = np.array([_mean((b - a)[member & known]) for member in members])
    return Statistics(
        cases=len({name for name, keep in zip(pairs.ids, known, strict=True) if keep}),
        groups=test.groups,
        left_out=int((~known).sum()),
        one_sided=int((np.isnan(a) != np.isnan(b)).sum()),
        identical=np.array_equal(a, b, equal_nan=True),
        fold_differences=per_fold,
        bootstrap=_bootstrap(test, float(a[known].mean()), float(b[known].mean())),
        fold_test=_fold_test([_mean(a[member & known]) for member in members], per_fold, pairs.folds, level),
        delong=None,
    )


def _of_scores(pairs: Pairs, metric: Metric, sources: tuple[str, str], level: float, seed: int) -> Statistics:
    """Statistics of a metric that is computed from all labels, scores and decisions together."""
    a, b = (_scored(rows, source) for rows, source in zip((pairs.a, pairs.b), sources, strict=True))
    name = metric.name
    test = paired_classification_tests(a.label, a[1:], b[1:], pairs.groups, names=(name,), level=level, seed=seed)[name]
    of_a, of_b = (classification_metrics(*side)[name] for side in (a, b))
    if np.isnan(of_a) or np.isnan(of_b):
        raise DataError(
            f"{metric.label} is not defined for the {len(pairs.a)} predictions that {sources[0]} and {sources[1]} "
            f"share ({int(a.label.sum())} of them positive). Choose another metric."
        )
    members = np.array(_members(pairs), np.float64).reshape(-1, len(pairs.a))
    per_fold = [weighted_metrics(side, members, (name,))[name] for side in (a, b)]
    return Statistics(
        cases=len(set(pairs.ids)),
        groups=len(set(pairs.groups)),
        left_out=0,
        one_sided=0,
        identical=all(np.array_equal(one, other) for one, other in zip(a, b, strict=True)),
        fold_differences=per_fold[1] - per_fold[0],
        bootstrap=_bootstrap(test, of_a, of_b),
        fold_test=_fold_test(per_fold[0], per_fold[1] - per_fold[0], pairs.folds, level),
        delong=_delong(pairs, a, b, level) if name == "auc" else None,
    )


def _scored(rows: Sequence[Row], source: str) -> Scored:
    columns = (numbers(rows, column, source=source) for column in ("label", "score", "prediction"))
    try:
        return check_scored(*columns, ids=[str(row["id"]) for row in rows])
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


def _members(pairs: Pairs) -> list[NDArray[np.bool_]]:
    """Which pairs each fold tests."""
    fold_of = np.array([row["fold"] for row in pairs.a])
    return [fold_of == fold.index for fold in pairs.folds]


def _mean(values: Values) -> float:
    return float(values.mean()) if values.size else float("nan")


def _bootstrap(test: PairedTest, value_a: float, value_b: float) -> Outcome:
    return Outcome("bootstrap", value_a, value_b, test.difference, test.low, test.high, test.p, test.p, test.groups)


def _fold_test(
    of_a: Sequence[float] | Values, differences: Values, folds: Sequence[Fold], level: float
) -> Outcome | None:
    usable = np.array([bool(fold.train) and not np.isnan(d) for fold, d in zip(folds, differences, strict=True)], bool)
    if usable.sum() < 2:
        return None
    chosen = [fold for fold, keep in zip(folds, usable, strict=True) if keep]
    test = corrected_resampled_ttest(
        differences[usable], [len(fold.train) for fold in chosen], [len(fold.test) for fold in chosen], level=level
    )
    value_a = float(np.asarray(of_a)[usable].mean())
    return Outcome("folds", value_a, value_a + test.mean, test.mean, test.low, test.high, test.p, test.p, len(chosen))


def _delong(pairs: Pairs, a: Scored, b: Scored, level: float) -> Outcome:
    """Of one score per case: with repeats, the mean over them."""
    order = np.argsort(np.array(pairs.ids), kind="stable")
    names = np.array(pairs.ids)[order]
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    counts = np.diff(np.r_[starts, len(names)])
    mean_a, mean_b = (np.add.reduceat(side.score[order], starts) / counts for side in (a, b))
    test = delong_test(a.label[order][starts], mean_a, mean_b, level=level)
    return Outcome("delong", test.auc_a, test.auc_b, test.difference, test.low, test.high, test.p, test.p, len(starts))
