"""How similar the parts of a plan are, in numbers and words, and which numbers its test parts are too small for."""

from __future__ import annotations

import math
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from medformer.crossval.plan import Fold, Plan, PlanCase, some
from medformer.crossval.plan.strata import Column, column_names, read_column
from medformer.errors import counted
from medformer.evaluation.number_format import shorten

ONLY = "-"
"""The name of a division that is the only one."""

_MOST_VALUES = 8
_MOST_ROWS = 30
_MOST_NAME = 16
_PARTS = {"train": "training", "validation": "inner validation", "test": "test"}
_SHORT = {"train": "train", "validation": "inner", "test": "test"}


@dataclass(frozen=True)
class Spread:
    """A continuous column over the cases of a part: mean, standard deviation, and cases without a value."""

    mean: float
    sd: float
    unknown: int = 0

    def __str__(self) -> str:
        unknown = f", {self.unknown} unknown" if self.unknown else ""
        return "unknown" if math.isnan(self.mean) else f"{self.mean:.3g} ({self.sd:.2g}){unknown}"


@dataclass(frozen=True)
class PartBalance:
    """One part of one fold, or all cases that the plan uses (`fold` is then -1 and `part` empty).

    Attributes:
        fold: Which fold.
        repeat: Which repeat it belongs to.
        part: `train`, `validation` or `test`.
        cases: How many.
        groups: How many patients or sequences they come from.
        counts: Cases per value of each column of categories; every value of the column is there, also with 0.
        spreads: Each continuous column.
        name: What the fold is called, if not by its number.
    """

    fold: int
    repeat: int
    part: str
    cases: int
    groups: int
    counts: Mapping[str, Mapping[str, int]]
    spreads: Mapping[str, Spread]
    name: str = ""

    @property
    def called(self) -> str:
        """The fold in a table."""
        return "all" if self.fold < 0 else self.name or str(self.fold)


@dataclass(frozen=True)
class Balance:
    """A plan's balance table.

    Attributes:
        header: Names of the table's columns; a column of up to 8 categories has one for each of them.
        rows: Cells as text: first all cases, then each part of each fold.
        parts: The numbers behind the rows, in the same order.
        hint: The largest deviation, in a plain sentence.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    parts: tuple[PartBalance, ...]
    hint: str


class Division(Protocol):
    """What a balance table needs to know of one way in which cases are divided, such as a fold."""

    @property
    def repeat(self) -> int:
        """Which drawing it belongs to."""

    @property
    def parts(self) -> Mapping[str, Sequence[str]]:
        """Ids by part."""


def balance_table(plan: Plan) -> Balance:
    """Count what each part of each fold of a plan consists of (see `balance_of`)."""
    return balance_of(plan.cases, plan.folds, plan.settings)


def balance_of(
    cases: Sequence[PlanCase],
    divisions: Sequence[Division],
    settings: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
) -> Balance:
    """Count what each part of each division consists of: cases, groups, classes, sites and covariates.

    Covariates with more than 8 categories, such as file names, are left out unless the plan is balanced by them.

    Args:
        cases: Those that the parts name, and perhaps others.
        divisions: Such as the folds of a plan.
        settings: How a plan was drawn (`Plan.settings`).
        names: What the divisions are called; their numbers unless given.
    """
    settings = settings or {}
    used = {name for division in divisions for ids in division.parts.values() for name in ids}
    places = {case.id: place for place, case in enumerate(cases)}
    columns = _columns(cases, settings)
    parts = [_part(cases, columns, -1, 0, "", [places[case.id] for case in cases if case.id in used])]
    for index, division in enumerate(divisions):
        for part, ids in division.parts.items():
            if ids:
                made = _part(cases, columns, index, division.repeat, part, [places[name] for name in ids])
                parts.append(replace(made, name=names[index]) if names else made)
    whole = parts[0]
    repeated = any(division.repeat for division in divisions)
    header = ["Fold", *(["Repeat"] if repeated else []), "Part", "Cases", "Groups"]
    for name, counts in whole.counts.items():
        header += [f"{name}={value}" for value in counts] if len(counts) <= _MOST_VALUES else [name]
    header += whole.spreads
    rows = [_row(part, repeated=repeated) for part in parts]
    return Balance(tuple(header), tuple(rows), tuple(parts), _largest_deviation(settings, parts))


def format_balance(balance: Balance, width: int = 100) -> str:
    """Lay the table out for a terminal, one column per covariate, and say the largest deviation below it.

    Columns of categories are shortened to how many of them are present, and columns left out, until the lines fit; of
    plans with more than 30 parts, only the test parts are shown, and 30 of them.
    """
    parts, notes = list(balance.parts), []
    if len(parts) > _MOST_ROWS:
        tested = {"test"} & {part.part for part in parts} or {part.part for part in parts} - {"train"}
        shown = [part for part in parts if part.part in {"", *tested}]
        parts = shown[:_MOST_ROWS]
        more = f" of the first {len(parts) - 1} folds" if len(shown) > len(parts) else ""
        notes.append(f"Only the test parts{more} are shown; the report has all.")
    names = [*parts[0].counts, *parts[0].spreads]
    cells = {name: [_in_one(part, name) for part in parts] for name in names}
    fixed = [
        ("fold", [part.called for part in parts]),
        ("part", [_SHORT.get(part.part, part.part) for part in parts]),
        ("cases", [str(part.cases) for part in parts]),
        ("groups", [str(part.groups) for part in parts]),
    ]
    long = [name for name in parts[0].counts if len(parts[0].counts[name]) > 1]
    while _width([*fixed, *cells.items()]) > width and long:
        widest = max(long, key=lambda name: max(map(len, cells[name])))
        cells[widest] = [_present(part.counts[widest]) for part in parts]
        long.remove(widest)
    left_out = []
    while _width([*fixed, *cells.items()]) > width and cells:
        left_out.append(shorten(cells.popitem()[0], _MOST_NAME))
    if left_out:
        notes.append(f"Not shown for lack of space: {some(left_out[::-1], 3)}.")
    columns = [[shorten(name, _MOST_NAME), *column] for name, column in [*fixed, *cells.items()]]
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True)]
    return "\n".join([*lines, *(line for text in (*notes, balance.hint) for line in textwrap.wrap(text, width))])


def plan_warnings(plan: Plan) -> list[str]:
    """List what a reader must know about a valid plan, one sentence each: which numbers its test parts cannot give."""
    tested = [fold for fold in plan.folds if fold.test]
    found = [
        *_untested_classes(plan, tested),
        *_single_groups(plan, tested),
        *_repeats(plan, tested),
        *_confounded(plan),
    ]
    used = {name for fold in plan.folds for ids in fold.parts.values() for name in ids}
    unused = [case.id for case in plan.cases if case.id not in used]
    if unused:
        found.append(f"{len(unused)} case(s) are in no part of the plan ({some(unused)}).")
    for name in plan.settings.get("stratify", ()):
        known = read_column(plan.cases, name, _bins(plan.settings)).known
        missing = [case.id for case, has in zip(plan.cases, known, strict=True) if not has]
        if missing:
            found.append(
                f"'{name}' is not known for {len(missing)} case(s) ({some(missing)}); they were balanced as a "
                "category of their own."
            )
    return found


def _confounded(plan: Plan) -> list[str]:
    """Whether the site tells the class."""
    found = {(case.site, case.label) for case in plan.cases if case.site and case.label != ""}
    sites, labels = ({pair[place] for pair in found} for place in (0, 1))
    if len(labels) < 2 or len(found) > len(sites) or 2 * len(sites) > len(plan.cases):
        return []
    return [
        "Each site has cases of one class only: what tells sites apart tells the classes apart, and no number of this "
        "run shows which of the two was learned."
    ]


def _untested_classes(plan: Plan, tested: Sequence[Fold]) -> list[str]:
    label = {case.id: case.label for case in plan.cases}
    found = []
    for value in sorted(set(label.values()) - {""}):
        without = [str(fold.index) for fold in tested if value not in {label[name] for name in fold.test}]
        if without:
            found.append(
                f"Class '{value}' has no test case in fold {some(without)}: AUC, and sensitivity or specificity, are "
                "not defined there; numbers over all folds are."
            )
    return found


def _single_groups(plan: Plan, tested: Sequence[Fold]) -> list[str]:
    by_id = {case.id: case for case in plan.cases}
    column = plan.settings.get("left_out")
    found = []
    for fold in tested:
        first = by_id[fold.test[0]]
        if len({by_id[name].group for name in fold.test}) == 1:
            value = first.site if column == "site" else first.covariates.get(column or "", "")
            found.append(f"{fold.index} ({f'{column} {value}, ' if column else ''}group {first.group})")
    if not found:
        return []
    return [
        f"A single group is tested in fold {some(found)}: numbers of {f'such a {column}' if column else 'such a fold'} "
        "have no interval, because one group does not show how others would differ."
    ]


def _repeats(plan: Plan, tested: Sequence[Fold]) -> list[str]:
    """Warn where repeated draws leave cases untested, or test the same parts again."""
    found = []
    counts = Counter(name for fold in tested for name in fold.test)
    if plan.scheme == "hold-out" and len(tested) > 1:
        often = sum(count > 1 for count in counts.values())
        found.append(
            f"Over {len(tested)} held-out test parts, {often} of {len(plan.cases)} cases are tested more than once and "
            f"{len(plan.cases) - len(counts)} never."
        )
    same: dict[frozenset[tuple[str, ...]], list[str]] = defaultdict(list)
    for repeat in sorted({fold.repeat for fold in tested}):
        same[frozenset(fold.test for fold in tested if fold.repeat == repeat)].append(str(repeat))
    found += [
        f"Repeats {some(repeats)} have the same test parts, because there are few groups; they differ in the inner "
        "validation parts only."
        for repeats in same.values()
        if len(repeats) > 1
    ]
    return found


def _columns(cases: Sequence[PlanCase], settings: Mapping[str, Any]) -> list[Column]:
    """Columns that any case has a value in, categories first."""
    bins = _bins(settings)
    chosen = {"site", "label", *settings.get("stratify", ())}
    columns = [read_column(cases, name, bins) for name in column_names(cases)]
    worth = [
        column
        for column in columns
        if any(column.known)
        and (column.name in chosen or column.numbers is not None or len(set(column.texts)) <= _MOST_VALUES)
    ]
    order = {"label": 0, "site": 1}
    return sorted(worth, key=lambda column: (column.numbers is not None, order.get(column.name, 2)))


def _bins(settings: Mapping[str, Any]) -> int:
    return int(settings.get("bins", 3))


def _part(
    cases: Sequence[PlanCase], columns: Sequence[Column], fold: int, repeat: int, part: str, places: Sequence[int]
) -> PartBalance:
    counts, spreads = {}, {}
    for column in columns:
        if column.numbers is None:
            found = Counter(column.texts[place] or "unknown" for place in places)
            counts[column.name] = {
                value: found[value] for value in sorted({text or "unknown" for text in column.texts})
            }
        else:
            numbers = np.array([column.numbers[place] for place in places])
            known = numbers[np.isfinite(numbers)]
            mean, sd = (known.mean(), known.std()) if len(known) else (np.nan, np.nan)
            spreads[column.name] = Spread(float(mean), float(sd), len(numbers) - len(known))
    groups = {cases[place].group for place in places}
    return PartBalance(fold, repeat, part, len(places), len(groups), counts, spreads)


def _row(part: PartBalance, *, repeated: bool) -> tuple[str, ...]:
    repeat = "" if part.fold < 0 else str(part.repeat)
    named = _PARTS.get(part.part, part.part or "all")
    row = [part.called, *([repeat] if repeated else []), named, f"{part.cases:,}", f"{part.groups:,}"]
    for counts in part.counts.values():
        row += [f"{n:,}" for n in counts.values()] if len(counts) <= _MOST_VALUES else [_present(counts)]
    return (*row, *map(str, part.spreads.values()))


def _largest_deviation(settings: Mapping[str, Any], parts: Sequence[PartBalance]) -> str:
    """Find the share or mean that differs most from that of all cases, in standard deviations over all cases.

    The column whose values are left out one at a time differs by design and is skipped.
    """
    whole = parts[0]
    found: list[tuple[float, str, PartBalance]] = []
    for part in parts[1:]:
        for name, counts in part.counts.items():
            for value, count in counts.items() if name != settings.get("left_out") else ():
                share, usual = count / part.cases, whole.counts[name][value] / whole.cases
                if 0 < usual < 1:
                    text = f"{name}={value} is {share:.0%} of the cases, against {usual:.0%} of all"
                    found.append((abs(share - usual) / math.sqrt(usual * (1 - usual)), text, part))
        for name, spread in part.spreads.items():
            over = whole.spreads[name]
            if over.sd > 0 and not math.isnan(spread.mean):
                text = f"the mean {name} is {spread.mean:.3g}, against {over.mean:.3g} over all"
                found.append((abs(spread.mean - over.mean) / over.sd, text, part))
    if not found:
        return "Nothing is known about the cases that the parts could differ in."
    deviation, text, part = max(found, key=lambda entry: entry[0])
    where = "" if part.name == ONLY else f"fold {part.called}, "
    return (
        f"Largest deviation: in {where}{_PARTS.get(part.part, part.part)}, {text} ({deviation:.2f} "
        f"standard deviations; by chance alone, {counted(part.groups, 'group')} would deviate by about "
        f"{1 / math.sqrt(part.groups):.2f})."
    )


def _in_one(part: PartBalance, name: str) -> str:
    """A whole column in one cell."""
    if name in part.spreads:
        return str(part.spreads[name])
    return " ".join(f"{value}:{count}" for value, count in part.counts[name].items())


def _present(counts: Mapping[str, int]) -> str:
    return f"{sum(count > 0 for count in counts.values())} of {len(counts)}"


def _width(columns: Sequence[tuple[str, Sequence[str]]]) -> int:
    widths = [max(len(shorten(name, _MOST_NAME)), *map(len, cells)) for name, cells in columns]
    return sum(widths) + 2 * (len(columns) - 1)
