"""The AUC within folds, and its distribution when labels have nothing to do with scores.

Scores of different folds come from different models. With permuted labels this biases an AUC that is pooled over folds:
a model whose training part happens to have more positives scores all its test cases higher, and the test part then has
fewer positives, so that the pooled AUC lies below 0.5 without any leak. Pairs of the same fold are free of this bias.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from medformer.evaluation.table import Row, group_names, numbers

# Labels that are permuted at once; bounds memory.
_CHUNK = 2_000_000


def within_fold_auc(rows: Sequence[Row]) -> float:
    """Share of the pairs (positive, negative) of the same fold and repeat that are in the right order; ties count half.

    NaN when no fold holds both classes.
    """
    won = pairs = 0.0
    for part in _by_fold(rows).values():
        labels, scores = numbers(part, "label"), numbers(part, "score")
        positives, negatives = float((labels == 1).sum()), float((labels != 1).sum())
        won += float(rankdata(scores)[labels == 1].sum()) - positives * (positives + 1) / 2
        pairs += positives * negatives
    return won / pairs if pairs else float("nan")


def null_auc(rows: Sequence[Row], draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw from the distribution of `within_fold_auc` when labels have nothing to do with scores, shape (draws,).

    The labels of each fold are assigned anew to its groups. With several folds, the spread around 0.5 is then widened
    by the square root of 2: two cases of different folds meet twice, each once in training while the other is tested,
    and for a classifier that weighs training cases by their likeness to the tested one both meetings say the same,
    which doubles the variance that independent folds would have. Repeats show the same cases again, so the first one
    gives the spread for all: rather too wide than too narrow.

    Args:
        rows: Of an out-of-fold table with `label` and `score`; `fold`, `repeat` and `group` where it has them.
        draws: Size of the sample.
        generator: Where the random numbers come from.

    Returns:
        NaN for a draw in which no fold holds both classes.
    """
    first = min(str(row.get("repeat", "")) for row in rows)
    parts = _by_fold([row for row in rows if str(row.get("repeat", "")) == first])
    won, pairs = np.zeros(draws), np.zeros(draws)
    for part in parts.values():
        members: dict[str, list[int]] = defaultdict(list)
        for position, group in enumerate(group_names(part)):
            members[group].append(position)
        labels, ranks = numbers(part, "label"), rankdata(numbers(part, "score"))
        width = max(map(len, members.values()))
        # A group takes over the labels of another; the larger of two repeats those of the smaller.
        assigned = np.stack([np.resize(labels[positions], width) == 1 for positions in members.values()])
        place = np.zeros((len(members), width))
        there = np.zeros((len(members), width), np.bool_)
        for line, positions in enumerate(members.values()):
            place[line, : len(positions)] = ranks[positions]
            there[line, : len(positions)] = True
        step = max(1, _CHUNK // place.size)
        for start in range(0, draws, step):
            some_draws = slice(start, min(start + step, draws))
            lines = np.tile(np.arange(len(members)), (some_draws.stop - start, 1))
            positive = assigned[generator.permuted(lines, axis=1)] & there
            positives = positive.sum(axis=(1, 2)).astype(np.float64)
            won[some_draws] += (positive * place).sum(axis=(1, 2)) - positives * (positives + 1) / 2
            pairs[some_draws] += positives * (len(part) - positives)
    widening = 2**0.5 if len(parts) > 1 else 1.0
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, 0.5 + widening * (won / pairs - 0.5), np.nan)


def _by_fold(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    parts: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        parts[str(row.get("repeat", "")), str(row.get("fold", ""))].append(row)
    return parts
