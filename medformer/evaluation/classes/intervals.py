"""Grouped bootstrap of all classification metrics at once: every resample is a row of case weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medformer.evaluation.classes.calibration import bin_of, recalibrate
from medformer.evaluation.classes.classification import VALUES, Scored, check_scored, classification_metrics
from medformer.evaluation.metrics import BINS, CLASSES
from medformer.evaluation.statistics.bootstrap import Interval, PairedTest, Support, interval_of, paired_test, support
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap, number_groups

_CALIBRATION: frozenset[str] = frozenset({"calibration_slope", "calibration_intercept"})


def classification_intervals(
    label: ArrayLike,
    score: ArrayLike,
    prediction: ArrayLike,
    groups: Sequence[Hashable],
    bootstrap: Bootstrap = DEFAULT,
    *,
    values: Mapping[str, float] | None = None,
) -> dict[str, Interval]:
    """Bootstrap intervals of every number of `classification_metrics`, drawing whole groups with replacement.

    All metrics see the same resamples. As in `grouped_interval` the ends are expanded percentiles; what counts for
    sensitivity is how many groups have a positive case, for specificity a negative one, and for metrics that compare
    the classes the smaller of the two. The calibration error of a resample is larger on average than that of the
    cases, since drawing adds noise within the bins: its resamples are moved back by this bias first.

    Args:
        label: 0 or 1, shape (n,).
        score: Probability of 1, shape (n,).
        prediction: The decision, 0 or 1, shape (n,).
        groups: One per case: the patient, site visit or examination it belongs to.
        bootstrap: Level and draws.
        values: What `classification_metrics` gives for these cases, where it is known already.

    Returns:
        By metric. NaN ends where the metric is undefined for all cases, and where `interval_of` gives no interval.

    Raises:
        DataError: As `check_scored` for a part of a table.
        ValueError: Lengths differ.
    """
    scored = check_scored(label, score, prediction, part=True)
    member = _members(groups, scored)
    if values is None:
        values = classification_metrics(*scored, part=True)
    drawn = _replicates(scored, member, CLASSES, bootstrap)
    shift = float(np.mean(drawn["ece"])) - values["ece"]
    drawn["ece"] = np.maximum(drawn["ece"] - shift, 0.0)
    intervals: dict[str, Interval] = {}
    for name, replicates in drawn.items():
        found = _support(name, member, scored.label)
        if np.isnan(values[name]):
            intervals[name] = Interval(float("nan"), float("nan"), found.groups)
        else:
            intervals[name] = interval_of(replicates, found, bootstrap)
    return intervals


def paired_classification_tests(
    label: ArrayLike,
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    groups: Sequence[Hashable],
    names: Iterable[str] = ("auc",),
    bootstrap: Bootstrap = DEFAULT,
) -> dict[str, PairedTest]:
    """Test whether two models differ in classification metrics on the same cases, drawing whole groups.

    Unlike DeLong's test this needs no independent cases, and it serves every metric.

    Args:
        label: 0 or 1, shape (n,).
        a: Score and prediction of the first model, shape (n,) each.
        b: Score and prediction of the second.
        groups: One per case.
        names: Metrics to test, from `CLASSES`.
        bootstrap: Level and draws.

    Returns:
        By metric, second minus first. The same scores and predictions give 0 and p = 1.

    Raises:
        DataError: As `classification_metrics`.
        ValueError: Lengths differ.
    """
    names = list(names)
    first, second = check_scored(label, *a), check_scored(label, *b)
    member = _members(groups, first)
    same = np.array_equal(first.score, second.score) and np.array_equal(first.prediction, second.prediction)
    values = classification_metrics(*first), classification_metrics(*second)
    drawn = [_replicates(model, member, names, bootstrap) for model in (first, second)]
    tests: dict[str, PairedTest] = {}
    for name in names:
        difference, replicates = values[1][name] - values[0][name], drawn[1][name] - drawn[0][name]
        tests[name] = paired_test(difference, replicates, _support(name, member, first.label), bootstrap, same=same)
    return tests


def weighted_metrics(
    scored: Scored, weights: NDArray[np.float64], names: Iterable[str] = tuple(CLASSES)
) -> dict[str, NDArray[np.float64]]:
    """Compute what `classification_metrics` does for r resamples given as case weights.

    Args:
        scored: From `check_scored`.
        weights: How often each case counts, shape (r, n).
        names: Metrics wanted; calibration slope and intercept cost most.

    Returns:
        By metric, shape (r,); NaN where undefined.
    """
    y, s, d = scored
    bins = bin_of(s) == np.arange(BINS)[:, None]
    columns = np.stack([y * d, (1 - y) * d, (1 - y) * (1 - d), y * (1 - d), (s - y) ** 2, *(bins * (s - y))])
    # einsum adds in a fixed order, which a threaded matrix product may not.
    tp, fp, tn, fn, squares, *gaps = np.einsum("rn,kn->kr", weights, columns)
    total, positives, negatives = tp + fp + tn + fn, tp + fn, tn + fp
    both = (positives > 0) & (negatives > 0)
    sensitivity, specificity = _ratio(tp, positives), _ratio(tn, negatives)
    spread = np.sqrt((tp + fp) * positives * negatives * (tn + fn))
    mcc = np.where(spread > 0, (tp * tn - fp * fn) / np.maximum(spread, 1.0), 0.0)
    found = {
        "accuracy": _ratio(tp + tn, total),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": np.where(both, mcc, np.nan),
        "brier": _ratio(squares, total),
        "ece": _ratio(np.abs(gaps).sum(axis=0), total),
    }
    wanted = set(names)
    if wanted & {"auc", "average_precision"}:
        found["auc"], found["average_precision"] = _areas(y, s, weights)
    if wanted & _CALIBRATION:
        found["calibration_slope"], found["calibration_intercept"] = recalibrate(y, s, weights)
    # A metric that is not computed for all resamples at once is computed for each, which is slow and right.
    for name in wanted - found.keys():
        found[name] = np.array([VALUES[name](_repeated(scored, counts)) for counts in weights])
    return {name: found[name] for name in CLASSES if name in wanted}


def _repeated(scored: Scored, counts: NDArray[np.float64]) -> Scored:
    """The cases of one resample: each as often as it was drawn."""
    return Scored(*(np.repeat(column, counts.astype(np.intp)) for column in scored))


def _areas(
    label: NDArray[np.float64], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas under the ROC and the precision-recall curve, shape (r,) each; tied scores form one step."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    weighted = weights[:, order]
    positive = np.add.reduceat(weighted * label[order], starts, axis=1)
    called = np.cumsum(np.add.reduceat(weighted, starts, axis=1), axis=1)
    found = np.cumsum(positive, axis=1)
    negative = np.diff(called - found, axis=1, prepend=0.0)
    positives, negatives = found[:, -1], (called - found)[:, -1]
    # A negative loses to every positive above it, and halves with those of the same score.
    won = (negative * (found - positive / 2)).sum(axis=1)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    auc, average = _ratio(won, positives * negatives), _ratio((positive * precision).sum(axis=1), positives)
    return auc, np.where(negatives > 0, average, np.nan)


def _replicates(
    scored: Scored, member: NDArray[np.intp], names: Iterable[str], bootstrap: Bootstrap
) -> dict[str, NDArray[np.float64]]:
    names = tuple(names)
    blocks = [weighted_metrics(scored, weights, names) for weights in bootstrap.weights(member)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in names}


def _support(name: str, member: NDArray[np.intp], label: NDArray[np.float64]) -> Support:
    """The groups that a metric rests on."""
    rests_on = CLASSES[name].rests_on
    if rests_on == "all":
        return support(member)
    if rests_on != "both":
        return support(member[label == (rests_on == "positives")])._replace(of_class=True)
    return support(member, label.tolist()) if 0 < label.sum() < len(label) else Support(0.0, 0)


def _members(groups: Sequence[Hashable], scored: Scored) -> NDArray[np.intp]:
    if len(groups) != len(scored.label):
        raise ValueError(f"{len(scored.label)} cases but {len(groups)} groups")
    return number_groups(groups)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
