"""A table of scores as one side of a comparison, wherever it comes from (`medformer.crossval.compare.sources`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medformer.crossval.plan import Fold, Plan
from medformer.data.folders import natural_order
from medformer.errors import DataError, counted
from medformer.evaluation.metrics import Kind
from medformer.evaluation.table import Row, numbers

Key = tuple[int, str]
"""Repeat and id of a row."""


@dataclass(frozen=True)
class Scores:
    """One row of numbers for each case and repeat, and what is known of how they came about.

    Attributes:
        path: What the user named.
        table: The file that the rows are from, for messages.
        kind: Whether its cases are segmented or classified.
        rows: By repeat and id.
        advice: A sentence that says what to do about a cell that cannot be read.
        task: The task of a run; empty where it is not known.
        plan: The plan of a run, which also tells what its cases held; None for any other table.
        folds: The folds that tested the cases; empty where they are not known.
        assumed: The training parts of the folds are not known: each is taken to be all other cases of its repeat.
        settings: The config of a run by dotted key; empty where it is not known.
    """

    path: Path
    table: str
    kind: Kind
    rows: Mapping[Key, Row]
    advice: str
    task: str = ""
    plan: Plan | None = None
    folds: tuple[Fold, ...] = ()
    assumed: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def column(self, rows: Sequence[Row], name: str) -> NDArray[np.float64]:
        """Read a column of some of its rows, shape (rows,); an empty cell is NaN.

        Raises:
            DataError: A cell is no finite number; names the table and the case.
        """
        try:
            found = numbers(rows, name)
        except DataError as error:
            raise DataError(f"{self.table}: {error} {self.advice}") from None
        if endless := [str(row["id"]) for row, value in zip(rows, found, strict=True) if np.isinf(value)]:
            raise DataError(
                f"{self.table}: column '{name}' is infinite in {counted(len(endless), 'case')}, such as "
                f"'{endless[0]}', so that it has no mean. Give these cases a finite number, or leave their cells "
                "empty: they are then left out, and counted."
            )
        return found

    def fold_of(self) -> dict[Key, int]:
        """The index of the fold that tested each row; rows in none are absent."""
        return {(fold.repeat, name): fold.index for fold in self.folds for name in fold.test}

    def labelled(self, labels: Mapping[Key, Hashable]) -> Scores:
        """The same scores with folds by name, such as the cells of a column `fold`, as `assumed_folds` makes them."""
        return replace(self, folds=assumed_folds(labels), assumed=True)


def kind_of(columns: Iterable[str]) -> Kind:
    """What a table with these columns is about: it classifies cases where it has a score for each."""
    return "classification" if {"label", "score"} <= set(columns) else "segmentation"


def by_key(rows: Iterable[Row], table: str) -> dict[Key, Row]:
    """Rows by repeat and id.

    Raises:
        DataError: There is no row, no column `id`, or a case has several rows in one repeat.
    """
    rows = list(rows)
    if not rows:
        raise DataError(f"{table} has no rows; expected one for each case.")
    if "id" not in rows[0]:
        raise DataError(
            f"{table} has no column 'id'; found {', '.join(map(str, rows[0]))}. Expected one row of scores for each "
            "case, with its name in a column `id`."
        )
    keys = [(int(row.get("repeat", 0)), str(row["id"])) for row in rows]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        repeat, name = twice[0]
        raise DataError(
            f"{table} has case '{name}' twice in repeat {repeat} ({counted(len(twice), 'such case')}); expected one "
            "row for each case. Leave one of them out, or number repeats in a column `repeat`."
        )
    return dict(zip(keys, rows, strict=True))


def assumed_folds(labels: Mapping[Key, Hashable]) -> tuple[Fold, ...]:
    """Folds by name; what a fold trained on is taken to be every other case of its repeat.

    Args:
        labels: The fold of each case, by repeat and id; names may begin anew in each repeat.
    """
    members: dict[tuple[int, Hashable], list[str]] = {}
    for (repeat, name), label in labels.items():
        members.setdefault((repeat, label), []).append(name)
    order = sorted(members, key=lambda place: (place[0], natural_order(str(place[1]))))
    everyone: dict[int, list[str]] = {}
    for repeat, name in labels:
        everyone.setdefault(repeat, []).append(name)
    folds = []
    for index, (repeat, label) in enumerate(order):
        test = set(members[repeat, label])
        train = tuple(name for name in everyone[repeat] if name not in test)
        folds.append(Fold(index, train, (), tuple(members[repeat, label]), repeat))
    return tuple(folds)


def same_parts(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two ways to name the parts of the same cases part them alike."""
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))
