"""Assigning whole groups to folds and parts, balanced by stratum, with every class in each part that needs it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from medformer.crossval.plan import PlanCase, some
from medformer.errors import ConfigError, DataError
from medformer.seeds import derive_seed

_ATTEMPTS = 20
_MOST_OFF = 0.05
_MOST_PIECES = 100


def draw_folds(cases: Sequence[PlanCase], folds: int, seed: int) -> list[set[str]]:
    """Assign every group to the test part of one fold.

    No fold is empty, and outside each fold at least two groups remain, one to train and one to select. Where cases have
    labels, two groups of each class should remain there too, and each class should be tested in as many folds as it has
    groups for. A draw that fails in this is repeated, first with the label as part of the stratum, then with groups
    balanced by class alone, whatever their size. If none of 20 draws succeeds, the best one is taken.

    Args:
        cases: In manifest order.
        folds: At most the number of groups, and such that two groups can remain.
        seed: Equal seeds give equal folds.
    """
    classes = groups_by_class(cases)
    unavoidable = sum(max(0, folds - len(owners)) for owners in classes.values())

    def lacks(parts: Sequence[set[str]]) -> tuple[int, int]:
        outside = sum(len(owners - part) < 2 for part in parts for owners in classes.values())
        return outside, sum(not owners & part for part in parts for owners in classes.values())

    best = _split_all(cases, folds, seed)
    by_label = [replace(case, stratum=f"{case.stratum}, {case.label}") for case in cases]
    rarest = {group: label for label, owners in sorted(classes.items(), key=_owners, reverse=True) for group in owners}
    by_class = [PlanCase(group, group, label) for group, label in sorted(rarest.items())]
    for attempt in range(1, _ATTEMPTS):
        if lacks(best) <= (0, unavoidable):
            break
        alike = by_label if attempt < _ATTEMPTS // 2 else by_class
        best = min(best, _split_all(alike, folds, derive_seed(seed, "attempt", attempt)), key=lacks)
    return best


def draw_validation(
    cases: Sequence[PlanCase], share: float, seed: int, *, classes: Iterable[str] = (), where: str
) -> set[str]:
    """Choose the groups that select epochs and thresholds; the others train.

    Args:
        cases: Those of a training part.
        share: About which share of the cases to choose, in (0, 1).
        seed: Equal seeds give equal choices.
        classes: Labels that both parts must have.
        where: Which training part it is, for messages, e.g. `"Fold 2"`.

    Raises:
        DataError: Fewer than two groups, or a class that cannot be in both parts.
        ConfigError: The share is out of range.
    """
    held = _draw(cases, share, seed, keep=1, where=where)
    found = groups_by_class(cases)
    for label in classes:
        owners = found.get(label, set())
        if not owners & held or not owners - held:
            named = f" ({some(sorted(owners))})" if owners else ""
            expected = (
                "expected at least 2, for" if len(owners) < 2 else "they cannot be divided so that all classes are in"
            )
            raise DataError(
                f"{where}: class '{label}' comes from {len(owners)} group(s){named} outside the test part; {expected} "
                "the training and the inner validation part. Use fewer folds or another scheme, add patients of that "
                "class, or take the class out."
            )
    return held


def draw_test(cases: Sequence[PlanCase], share: float, seed: int) -> set[str]:
    """Choose the groups of a held-out test part; two groups, and two of each class if there are so many, remain.

    A class with no more than two groups is not tested.

    Args:
        cases: All of them.
        share: About which share of the cases to choose, in (0, 1).
        seed: Equal seeds give equal choices.

    Raises:
        DataError: Fewer than three groups.
        ConfigError: The share is out of range.
    """
    return _draw(cases, share, seed, keep=2, where="Hold-out")


def groups_by_class(cases: Sequence[PlanCase]) -> dict[str, set[str]]:
    """The groups in which each class occurs, classes in sorted order; empty where cases have no labels."""
    classes: dict[str, set[str]] = {label: set() for label in sorted({case.label for case in cases} - {""})}
    for case in cases:
        if case.label:
            classes[case.label].add(case.group)
    return classes


def _owners(entry: tuple[str, set[str]]) -> int:
    return len(entry[1])


def _split_all(cases: Sequence[PlanCase], folds: int, seed: int) -> list[set[str]]:
    """Split the groups into folds so that none is empty and every training part keeps at least two groups."""
    parts = _split(cases, folds, seed)
    size = Counter(case.group for case in cases)
    while min(map(len, parts)) == 0 or max(map(len, parts)) > len(size) - 2:
        # The greedy stratification may leave a fold without a group when one group is much larger than the others.
        largest, smallest = max(parts, key=len), min(parts, key=len)
        moved = min(largest, key=lambda group: (size[group], group))
        largest.remove(moved)
        smallest.add(moved)
    return parts


def _draw(cases: Sequence[PlanCase], share: float, seed: int, *, keep: int, where: str) -> set[str]:
    """Choose groups with about `share` of the cases and strata, leaving `keep` groups in all and of each class."""
    if not 0 < share < 1:
        raise ConfigError(f"{where}: the share to hold out is {share}; expected a number between 0 and 1, exclusive.")
    groups = {case.group for case in cases}
    if len(groups) < keep + 1:
        needed = " and ".join(("training", "inner validation", "test")[: keep + 1])
        raise DataError(
            f"{where}: {len(cases)} case(s) from {len(groups)} group(s) are to be divided into {needed}; expected at "
            f"least {keep + 1} groups. Add patients or sequences."
        )
    total = Counter(case.stratum for case in cases)

    def misfit(held: set[str]) -> float:
        part = Counter(case.stratum for case in cases if case.group in held)
        return sum(abs(part[stratum] - share * count) for stratum, count in total.items())

    pieces, taken = _fraction(min(share, 1 - share), min(len(groups), _MOST_PIECES))
    parts = [part for part in _split(cases, pieces, seed) if part]
    around = [*parts, *parts]
    options = [set().union(*around[start : start + taken]) for start in range(len(parts))]
    if share > 0.5:
        options = [groups - option for option in options]
    usable = [option for option in options if 0 < len(option) <= len(groups) - keep]
    # Groups differ in size, so the first piece may be far from the share that was asked for.
    held = min(usable, key=misfit) if usable else {min(groups)}
    return _with_classes(cases, held, keep)


def _fraction(share: float, most: int) -> tuple[int, int]:
    """Return into how many pieces to split, at most `most`, and how many of them to take to get about the share."""
    candidates = [(pieces, max(1, round(share * pieces))) for pieces in range(2, most + 1)]
    errors = [abs(taken / pieces / share - 1) for pieces, taken in candidates]
    close = (pair for pair, error in zip(candidates, errors, strict=True) if error <= _MOST_OFF)
    return next(close, candidates[int(np.argmin(errors))])


def _with_classes(cases: Sequence[PlanCase], held: set[str], keep: int) -> set[str]:
    """Move as few and small groups as needed so that `keep` groups of each class remain, and each class is held out.

    The remaining groups come first: a class that is not tested costs a number, a class that is not trained on costs the
    run. A move to the held-out side leaves at least `keep` groups of each class on the other, so that the moves end.
    """
    size = Counter(case.group for case in cases)
    classes = groups_by_class(cases)
    chosen, rest = set(held), set(size) - held

    def short(side: set[str], need: int) -> list[set[str]]:
        return [owners for owners in classes.values() if len(owners & side) < need]

    while True:
        into_rest = [
            (len(short(chosen - {group}, 1)), size[group], group)
            for owners in short(rest, keep)
            for group in owners & chosen
        ]
        into_chosen = [
            (size[group], group)
            for owners in short(chosen, 1)
            for group in owners & rest
            if len(rest) > keep and all(len(others & rest) > keep for others in classes.values() if group in others)
        ]
        if into_rest:
            moved = min(into_rest)[-1]
            chosen.remove(moved)
            rest.add(moved)
        elif into_chosen:
            moved = min(into_chosen)[-1]
            rest.remove(moved)
            chosen.add(moved)
        else:
            return chosen or held


def _split(cases: Sequence[PlanCase], pieces: int, seed: int) -> list[set[str]]:
    """Split groups into pieces with scikit-learn's StratifiedGroupKFold; a piece may stay empty."""
    from sklearn.model_selection import StratifiedGroupKFold  # heavy, and only needed where a plan is drawn

    # Strata rarer than the number of pieces cannot be balanced one by one; together, within their class, they can.
    strata = _pooled([case.stratum for case in cases], [f"\x1frare {case.label}" for case in cases], pieces)
    strata = _pooled(strata, ["\x1frare"] * len(cases), pieces)
    groups = [case.group for case in cases]
    splitter = StratifiedGroupKFold(pieces, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        splits = list(splitter.split(np.zeros(len(cases)), strata, groups))
    return [{groups[position] for position in test} for _, test in splits]


def _pooled(strata: Sequence[str], pools: Sequence[str], pieces: int) -> list[str]:
    counts = Counter(strata)
    return [name if counts[name] >= pieces else pool for name, pool in zip(strata, pools, strict=True)]
