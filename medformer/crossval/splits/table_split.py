"""A split as a CSV table: `id` with `split` (or `part`), with `fold`, or with `repeat`, `fold` and `part`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medformer.crossval.splits.given import GivenDivision, GivenSplit
from medformer.data.folders import natural_order
from medformer.data.tables import TableForm, read_table, require_good_rows, separator_hint
from medformer.errors import DataError
from medformer.missing import known

_FORM = TableForm(
    what="a CSV table of a split",
    origin="It has a row for each case.",
    columns=("id", "fold"),
    required=(),
    per_row="case",
)
_PART = ("part", "split", "set", "subset")
_NAMES = ("id", "case", "name", "image", "file", "filename")

Row = Mapping[str, str]


def table_split(path: Path) -> GivenSplit:
    """Read a split that a table gives.

    Where each case has one row, the columns `split` and `fold` are two ways to divide the cases. Where a case has
    several, they tell its part in each fold.

    Raises:
        DataError: The file is no such table.
    """
    header, lines = read_table(path, _FORM)
    lower = [name.lower() for name in header]
    bad = [f"line {line} has {len(cells)} cells" for line, cells in lines if len(cells) != len(header)]
    require_good_rows(path, bad, len(lines))
    rows = [dict(zip(lower, cells, strict=True)) for _, cells in lines]
    name = next((column for column in _NAMES if column in lower), None)
    part = next((column for column in _PART if column in lower), None)
    published = {"dataset", "stem"} <= set(lower)
    if (name is None and not published) or (part is None and "fold" not in lower):
        raise DataError(
            f"{path} has the columns {', '.join(header)}; expected `id` beside `split`, `fold`, or `repeat`, `fold` "
            "and `part`." + separator_hint(header)
        )
    named = [{**row, "id": f"{row['dataset']}/{row['stem']}" if name is None else row[name]} for row in rows]
    divisions = divisions_of(named, part)
    if not divisions:
        raise DataError(f"{path} puts all cases into one part; expected two or more in the column `{part or 'fold'}`.")
    assumed = any(division.label for division in divisions) and (part is None or not _has_several(named))
    return GivenSplit(str(path), f"a table with {' and '.join(_used(part, lower))}", divisions, assumed=assumed)


def _used(part: str | None, header: Sequence[str]) -> list[str]:
    return [name for name in ("repeat", "fold", part) if name and name in header]


def divisions_of(rows: Sequence[Row], part: str | None) -> tuple[GivenDivision, ...]:
    """The ways in which rows divide cases.

    Args:
        rows: With `id`, and as they apply `fold`, `repeat` and a column of parts.
        part: The name of this column.
    """
    folded, repeated = ("fold" in rows[0], "repeat" in rows[0]) if rows else (False, False)
    if part and folded and _has_several(rows):
        return _parts_in_folds(rows, part, repeated)
    found: list[GivenDivision] = []
    if part:
        parts = _members(rows, part)
        found += [GivenDivision("", parts)] if len(parts) > 1 else []
    if folded:
        found += _folds(rows, repeated)
    return tuple(found)


def _has_several(rows: Sequence[Row]) -> bool:
    """Whether a case has several rows, which tell its part in each fold."""
    return len({row["id"] for row in rows}) < len(rows)


def repeat_numbers(names: Iterable[str]) -> dict[str, int]:
    """The number of each repeat in tables: the one that it is called by, or else its place in their order."""
    order = sorted(dict.fromkeys(names), key=natural_order)
    numbered = all(name.isdecimal() and len(name) < 10 for name in order)
    return {name: int(name) if numbered else place for place, name in enumerate(order)}


def _members(rows: Sequence[Row], column: str) -> dict[str, tuple[str, ...]]:
    """Names by the value of a column; rows without a value are in no part."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if value := known(row[column]):
            found.setdefault(value, []).append(row["id"])
    return {value: tuple(names) for value, names in sorted(found.items(), key=lambda entry: natural_order(entry[0]))}


def _parts_in_folds(rows: Sequence[Row], part: str, repeated: bool) -> tuple[GivenDivision, ...]:
    found = []
    of_repeats = _by(rows, "repeat", repeated)
    numbers = repeat_numbers(of_repeats)
    for repeat, of_repeat in of_repeats.items():
        for fold, of_fold in _by(of_repeat, "fold", True).items():
            members = _members(of_fold, part)
            order = {name: place for place, name in enumerate(("train", "val", "validation", "test"))}
            parts = {name: members[name] for name in sorted(members, key=lambda name: order.get(name.lower(), 9))}
            found.append(GivenDivision(_label(repeat, fold, repeated), parts, numbers[repeat]))
    return tuple(found)


def _folds(rows: Sequence[Row], repeated: bool) -> list[GivenDivision]:
    """Folds by the cases that each tests; all others of the repeat are what it trains on."""
    found = []
    of_repeats = _by(rows, "repeat", repeated)
    numbers = repeat_numbers(of_repeats)
    for repeat, of_repeat in of_repeats.items():
        members = _members(of_repeat, "fold")
        if len(members) < 2:
            continue
        for fold, tested in members.items():
            others = [name for other, names in members.items() if other != fold for name in names]
            parts = {"train": tuple(others), "test": tested}
            found.append(GivenDivision(_label(repeat, fold, repeated), parts, numbers[repeat]))
    return found


def _by(rows: Sequence[Row], column: str, there: bool) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if not there or known(row[column]):
            found.setdefault(known(row[column]) if there else "", []).append(row)
    return dict(sorted(found.items(), key=lambda entry: natural_order(entry[0])))


def _label(repeat: str, fold: str, repeated: bool) -> str:
    return f"repeat {repeat} fold {fold} " if repeated else f"fold {fold} "
