"""Ways to draw a fold plan: stratified group k-fold, and parts that are given beforehand."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from medformer.crossval.plan import Fold, Plan, PlanCase, check_unique, some
from medformer.errors import ConfigError, DataError
from medformer.seeds import derive_seed


def make_plan(cases: Sequence[PlanCase], *, folds: int, validation: float, seed: int) -> Plan:
    """Draw a stratified group k-fold plan with an inner validation part per fold.

    The tests of all folds partition the cases; a group never straddles the parts of a fold. Strata are balanced as far
    as whole groups allow (scikit-learn's StratifiedGroupKFold).

    Args:
        cases: In manifest order.
        folds: Number of folds, at least 2.
        validation: Share of each training part held out for selection, in (0, 1).
        seed: The run's seed.

    Raises:
        DataError: Too few groups, or duplicate ids.
        ConfigError: `folds` or `validation` out of range.
    """
    if folds < 2:
        raise ConfigError(f"Got {folds} fold(s); expected at least 2.")
    check_unique(cases)
    counts = Counter(case.group for case in cases)
    # Each training part needs two groups, one to train and one to select, also where folds get unequal shares.
    if len(counts) < folds or -(-len(counts) // folds) > len(counts) - 2:
        raise DataError(
            f"{folds} folds with an inner validation part need at least {max(folds, 4 if folds == 2 else 3)} groups; "
            f"the {len(cases)} cases come from {len(counts)} group(s). Use fewer folds or add patients or sequences."
        )
    drawn = []
    for index, chosen in enumerate(_outer(cases, folds, derive_seed(seed, "plan", "repeat", 0, "outer"))):
        test = [case for case in cases if case.group in chosen]
        rest = [case for case in cases if case.group not in chosen]
        held = _inner(rest, validation, derive_seed(seed, "plan", "repeat", 0, "fold", index, "inner"))
        drawn.append(_fold(index, rest, held, test))
    return Plan("stratified-group-k-fold", seed, tuple(cases), tuple(drawn))


def predefined_plan(
    cases: Sequence[PlanCase],
    *,
    train: Sequence[str],
    validation: float | Sequence[str],
    test: Sequence[str] = (),
    seed: int,
) -> Plan:
    """Plan a single fold whose parts are given.

    Groups are kept whole between train and a drawn validation part. Given parts are taken as they are: published splits
    do not always respect groups, and saying so is the leakage audit's work.

    Args:
        cases: In manifest order; those in no part stay in the plan unused, so that a later change of them is noticed.
        train: Ids for training, and for drawing validation from when `validation` is a share.
        validation: Share of `train` to hold out, or the ids themselves.
        test: Ids to predict; may be empty.
        seed: The run's seed.

    Raises:
        DataError: Unknown or repeated ids, an empty part, or too few groups to draw from.
    """
    by_id = {case.id: case for case in cases}
    given = [] if isinstance(validation, float) else list(validation)
    unknown = [name for name in [*train, *given, *test] if name not in by_id]
    if unknown:
        raise DataError(f"The split lists {some(unknown)}, which the manifest does not contain.")
    if not train:
        raise DataError("The split has no training cases; expected at least one.")
    pool = [by_id[name] for name in train]
    if isinstance(validation, float):
        held = _inner(pool, validation, derive_seed(seed, "plan", "predefined", "inner"))
        fold = _fold(0, pool, held, [by_id[name] for name in test])
    elif not given:
        raise DataError("The split has no validation cases; list some, or give the share of the training part to use.")
    else:
        fold = Fold(0, tuple(train), tuple(given), tuple(test))
    return Plan("predefined", seed, tuple(cases), (fold,))


def quantile_bins(values: Sequence[float], bins: int) -> list[int]:
    """Number the quantile bin of each value, 0 to `bins - 1`; ties share a bin and NaN gets -1.

    Args:
        values: One number per case.
        bins: How many bins; fewer result when many values tie.
    """
    array = np.asarray(values, dtype=float)
    finite = np.isfinite(array)
    if not finite.any():
        return [-1] * len(array)
    edges = np.unique(np.quantile(array[finite], np.linspace(0, 1, bins + 1)[1:-1]))
    return [
        int(np.searchsorted(edges, value, side="left")) if ok else -1 for value, ok in zip(array, finite, strict=True)
    ]


def _fold(index: int, rest: Sequence[PlanCase], held: set[str], test: Sequence[PlanCase]) -> Fold:
    return Fold(
        index,
        train=tuple(case.id for case in rest if case.group not in held),
        validation=tuple(case.id for case in rest if case.group in held),
        test=tuple(case.id for case in test),
    )


def _outer(cases: Sequence[PlanCase], folds: int, seed: int) -> list[set[str]]:
    """Deal the groups to folds so that none is empty and every training part keeps at least two groups."""
    dealt = _deal(cases, folds, seed)
    size = Counter(case.group for case in cases)
    while min(map(len, dealt)) == 0 or max(map(len, dealt)) > len(size) - 2:
        # The greedy stratification may leave a fold without a group when one group dwarfs the others.
        giver, taker = max(dealt, key=len), min(dealt, key=len)
        moved = min(giver, key=lambda group: (size[group], group))
        giver.remove(moved)
        taker.add(moved)
    return dealt


def _inner(cases: Sequence[PlanCase], share: float, seed: int) -> set[str]:
    """Choose the groups of a validation part of about `share` of the cases, with strata like the whole."""
    if not 0 < share < 1:
        raise ConfigError(f"The validation share is {share}; expected a number between 0 and 1, both excluded.")
    groups = {case.group for case in cases}
    if len(groups) < 2:
        raise DataError(
            f"A training part of {len(cases)} case(s) has {len(groups)} group(s); expected at least 2, one to train "
            "and one to select epochs and thresholds. Use fewer folds or add patients or sequences."
        )
    pieces = min(len(groups), max(2, round(1 / min(share, 1 - share))))
    total = Counter(case.stratum for case in cases)

    def misfit(held: set[str]) -> float:
        part = Counter(case.stratum for case in cases if case.group in held)
        return sum(abs(part[stratum] - share * count) for stratum, count in total.items())

    dealt = [piece for piece in _deal(cases, pieces, seed) if piece]
    options = [groups - piece for piece in dealt] if share > 0.5 else dealt
    usable = [option for option in options if 0 < len(option) < len(groups)]
    # Groups differ in size, so the first piece may be far from the share that was asked for.
    return min(usable, key=misfit) if usable else {min(groups)}


def _deal(cases: Sequence[PlanCase], pieces: int, seed: int) -> list[set[str]]:
    from sklearn.model_selection import StratifiedGroupKFold  # heavy, and only needed where a plan is drawn

    counts = Counter(case.stratum for case in cases)
    # Strata rarer than the number of folds cannot be balanced one by one; together they can.
    strata = [case.stratum if counts[case.stratum] >= pieces else "\x1frare" for case in cases]
    groups = [case.group for case in cases]
    splitter = StratifiedGroupKFold(pieces, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        splits = list(splitter.split(np.zeros(len(cases)), strata, groups))
    return [{groups[position] for position in test} for _, test in splits]
