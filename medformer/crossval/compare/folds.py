"""Folds of a table of scores that a split in another file tells, such as nnU-Net's `splits_final.json`."""

from __future__ import annotations

from dataclasses import replace

from medformer.crossval.compare.scores import Scores, same_parts
from medformer.crossval.plan import Fold, some
from medformer.crossval.splits.given import GivenSplit
from medformer.data.case_names import CaseNames
from medformer.data.cases import Case
from medformer.errors import DataError


def with_folds(scores: Scores, split: GivenSplit) -> Scores:
    """The same scores with the folds of a split; a run keeps those of its plan.

    Raises:
        DataError: A case is tested by no fold or by several, the table names other folds, or the split does not say
            what was tested.
    """
    if scores.plan is not None:
        return scores
    known = CaseNames(Case(name) for name in dict.fromkeys(name for _, name in scores.rows))
    repeats = {repeat for repeat, _ in scores.rows}
    drawn = {division.repeat for division in split.folds}
    if len(drawn) > 1 and not any("repeat" in row for row in scores.rows.values()):
        raise DataError(
            f"{split.source} has the folds of {len(drawn)} repeats, and {scores.table} does not say which repeat its "
            "scores are from. Add a column `repeat`, or give the folds of one repeat alone."
        )
    folds: list[Fold] = []
    for division in split.folds:
        if division.repeat not in repeats:
            continue
        tested_part = division.required_tested(split.source)
        named = {part: [known.find(name) or name for name in names] for part, names in division.parts.items()}
        test = dict.fromkeys(named.pop(tested_part))
        train = dict.fromkeys(name for names in named.values() for name in names if name not in test)
        folds.append(Fold(len(folds), tuple(train), (), tuple(test), division.repeat))
    tested: dict[tuple[int, str], list[int]] = {}
    for fold in folds:
        for name in fold.test:
            tested.setdefault((fold.repeat, name), []).append(fold.index)
    for count, what in ((0, "no fold tests"), (2, "several folds test")):
        wrong = [name for repeat, name in scores.rows if min(2, len(tested.get((repeat, name), ()))) == count]
        if wrong:
            raise DataError(
                f"{split.source}: {what} {len(wrong)} of the {len(scores.rows)} cases of {scores.table} "
                f"({some(wrong)}); expected each in the tested part of one fold. Give the split that these scores come "
                "from."
            )
    found = replace(scores, folds=tuple(folds), assumed=split.assumed)
    if scores.folds:
        one, other = scores.fold_of(), found.fold_of()
        if not same_parts([one[key] for key in scores.rows], [other[key] for key in scores.rows]):
            raise DataError(
                f"{scores.table} names other folds than {split.source} tests its cases in. Give the split that these "
                "scores come from, or leave --folds out."
            )
    return found
