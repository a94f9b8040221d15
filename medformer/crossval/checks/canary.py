"""The verdict of a run on permuted labels: its scores are at chance, or higher than they can be without a leak.

With labels assigned at random, what a pipeline learns from training cases says nothing about test cases, and it must
score like a guess. If it scores better, the labels of test cases took part in a step, most often a selection of
features, a threshold or a stopping epoch.

This check has limits. A step that saw test cases but not their labels (a scaler, PCA or ComBat fitted on all cases)
raises scores only a little, with real labels and with permuted ones. Such a step is prevented by construction
(estimators are fitted per fold, and fitted ones are refused) and by tests, not detected by this number. The check also
cannot detect the same patient on both sides of a split: the leakage audit looks for that. And one permutation is one
draw: the interval says how large a leak must be to stand out.

Scores of different folds come from different models. With permuted labels this biases an AUC that is pooled over folds:
a model whose training part happens to have more positives scores all its test cases higher, and the test part then has
fewer positives, so that the pooled AUC lies below 0.5 without any leak. Pairs of the same fold are free of this bias.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import some
from medformer.errors import DataError
from medformer.evaluation.number_format import PLAIN
from medformer.evaluation.statistics.bootstrap import ALL_EQUAL, grouped_interval
from medformer.evaluation.statistics.ranks import midranks
from medformer.evaluation.statistics.resampling import DEFAULT, Bootstrap
from medformer.evaluation.table import Row, group_names, numbers

Answer = Literal["at chance", "leak suspected", "cannot tell"]

# A network may do a little better than the average mask without any leak: groups of equal size exchange their masks,
# and the sizes of groups may go with the site; and the average is the best guess for a pixel, not quite for Dice.
_DICE_MARGIN = 0.05

# Labels that are permuted at once; bounds memory.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class CanaryVerdict:
    """What a run on permuted labels shows.

    Attributes:
        answer: The verdict.
        measure: What was compared.
        value: The measure on permuted labels, averaged over permutations.
        expected: What a guess gets: 0.5, or the Dice of the average training mask; NaN when not known.
        low: Lower end of where the value lies without a leak; NaN when not known.
        high: Upper end; a value above it is suspect.
        level: Share of runs without a leak that lie between the ends.
        real: The same measure on the real labels; None when not given.
        permutations: Number of permuted runs.
        cases: Number of cases in each.
    """

    answer: Answer
    measure: Literal["AUC within folds", "Dice"]
    value: float
    expected: float
    low: float
    high: float
    level: float
    real: float | None
    permutations: int
    cases: int

    @property
    def text(self) -> str:
        """The verdict in words, with its numbers and how much it can tell."""
        runs = "one permutation" if self.permutations == 1 else f"{self.permutations} permutations"
        words = [f"On permuted labels: {self.measure} {PLAIN.number(self.value)} ({runs} of {self.cases} cases)."]
        if self.real is not None:
            words.append(f"On the real labels: {PLAIN.number(self.real)}.")
        if self.answer == "cannot tell":
            nothing = self.measure == "Dice" and not np.isfinite(self.expected)
            words.append(
                "Cannot tell: without the baseline that predicts the average mask, there is nothing to compare with."
                if nothing
                else "Cannot tell: there are too few cases or groups for any value to stand out."
            )
            return " ".join(words)
        words.append(
            f"A guess gets {PLAIN.number(self.expected)}; without a leak {self.level:.0%} of such runs stay within "
            f"{PLAIN.interval(self.low, self.high)}."
        )
        if self.answer == "leak suspected":
            words.append(
                "Leak suspected: the labels of test cases took part in some step. Look for what was selected, fitted "
                "or tuned before the folds were drawn."
            )
            return " ".join(words)
        words.append(f"At chance. A leak that lifts the value to less than {PLAIN.number(self.high)} would not show.")
        if self.real is not None and self.real <= self.high:
            words.append("The result on the real labels is not above that either, so this tells little about it.")
        if self.value < self.low:
            words.append("It is lower than chance explains well; look at how labels and groups are distributed.")
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        """The fields and the text as plain data."""
        return {**asdict(self), "text": self.text}


def canary_verdict(
    permuted: Sequence[Sequence[Row]],
    *,
    real: Sequence[Row] | None = None,
    floor: Sequence[Row] | None = None,
    bootstrap: Bootstrap = DEFAULT,
) -> CanaryVerdict:
    """Judge one or more runs on permuted labels by their out-of-fold tables.

    Classification: the AUC over pairs of the same fold, against its null distribution: the same scores with the labels
    of each fold assigned anew at random (`null_auc`).

    Segmentation: the mean Dice, against that of the average training mask (the baseline `prior_mask`), which is the
    best guess for masks that have nothing to do with their images. The interval is a bootstrap over groups of the
    difference, and a margin of 0.05 is added, because an honest network may still be a little better than the average.

    Args:
        permuted: The out-of-fold table of each permuted run (`medformer.crossval.run.collect.read_oof`).
        real: The table of the run on real labels, for comparison.
        floor: For segmentation, the table of the baseline `prior_mask`, best on the same permuted masks.
        bootstrap: Level of the interval, and draws of the null distribution or over groups.

    Raises:
        DataError: No table, an empty one, or tables of different kinds or cases.
    """
    tables = [*permuted, *([real] if real is not None else []), *([floor] if floor is not None else [])]
    if not permuted or not all(tables):
        raise DataError("There is no permuted run to judge, or a table is empty; expected at least one row each.")
    kinds = {"score" if "score" in row else "dice" if "dice" in row else "" for table in tables for row in table}
    if len(kinds) > 1 or kinds == {""}:
        raise DataError(
            "The tables are not of one kind; expected a column 'score' in all of them (classification) or 'dice' "
            "(segmentation)."
        )
    measure: Literal["AUC within folds", "Dice"]
    if kinds == {"score"}:
        measure, expected = "AUC within folds", 0.5
        value = float(np.mean([within_fold_auc(rows) for rows in permuted]))
        on_real = None if real is None else within_fold_auc(real)
        generator = np.random.default_rng(bootstrap.seed)
        null = np.mean([null_auc(rows, bootstrap.resamples, generator) for rows in permuted], axis=0)
        low, high = map(float, np.quantile(null, [(1 - bootstrap.level) / 2, (1 + bootstrap.level) / 2]))
        # Where every assignment of labels gives the same AUC, or none, no value could stand out.
        blind = not np.isfinite([value, low, high]).all() or low == high or high >= 1.0
        cases = {str(row.get("id", position)) for position, row in enumerate(permuted[0])}
    else:
        dice = _mean_dice(permuted)
        measure, value, cases = "Dice", _mean(dice.values()), set(dice)
        on_real = None if real is None else _mean(_mean_dice([real]).values())
        low, (expected, high) = 0.0, _range_of_guess(dice, floor, permuted[0], bootstrap)
        blind = not np.isfinite(high)
    return CanaryVerdict(
        answer="cannot tell" if blind else "leak suspected" if value > high else "at chance",
        measure=measure,
        value=value,
        expected=expected,
        low=low,
        high=high,
        level=bootstrap.level,
        real=on_real,
        permutations=len(permuted),
        cases=len(cases),
    )


def within_fold_auc(rows: Sequence[Row]) -> float:
    """Share of the pairs (positive, negative) of the same fold and repeat that are in the right order; ties count half.

    NaN when no fold holds both classes.
    """
    won = pairs = 0.0
    for part in _by_fold(rows).values():
        labels, scores = numbers(part, "label"), numbers(part, "score")
        positives, negatives = float((labels == 1).sum()), float((labels != 1).sum())
        won += float(midranks(scores)[labels == 1].sum()) - positives * (positives + 1) / 2
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
        labels, ranks = numbers(part, "label"), midranks(numbers(part, "score"))
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


def _range_of_guess(
    dice: Mapping[str, float], floor: Sequence[Row] | None, rows: Sequence[Row], bootstrap: Bootstrap
) -> tuple[float, float]:
    """The Dice of the average mask, and the highest Dice that a run without a leak reaches; NaN without a baseline."""
    if floor is None:
        return float("nan"), float("nan")
    guessed = _mean_dice([floor])
    different = sorted(set(guessed) ^ set(dice))
    if different:
        raise DataError(
            f"The permuted run and the baseline hold different cases ({some(different)} in one only); expected "
            "two runs on the same plan."
        )
    groups = dict(zip((str(row["id"]) for row in rows), group_names(rows), strict=True))
    differences = np.array([dice[name] - guessed[name] for name in dice])
    interval = grouped_interval(differences, [groups[name] for name in dice], bootstrap)
    expected = _mean(guessed.values())
    # Where no drawing of groups changes the difference, the margin alone is left.
    spread = 0.0 if interval.reason == ALL_EQUAL else _mean(differences) - interval.low
    return expected, expected + _DICE_MARGIN + spread


def _mean_dice(tables: Sequence[Sequence[Row]]) -> dict[str, float]:
    """Dice of each case, averaged over tables and repeats."""
    found: dict[str, list[float]] = defaultdict(list)
    for rows in tables:
        for row, value in zip(rows, numbers(rows, "dice"), strict=True):
            found[str(row["id"])].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are known; NaN when none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
