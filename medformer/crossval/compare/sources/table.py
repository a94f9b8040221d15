"""A CSV table of scores per case, whoever wrote it, or the same in memory.

It has an `id` and columns of numbers, and as they apply `fold`, `repeat`, `group` and `site`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medformer.crossval.compare.columns import canonical_column
from medformer.crossval.compare.scores import Scores, by_key, kind_of
from medformer.crossval.splits.table_split import repeat_numbers
from medformer.data.tables import TableForm, read_table, require_good_rows
from medformer.errors import DataError
from medformer.missing import is_missing, known

_TEXT = frozenset({"id", "group", "site", "fold", "repeat"})

_FORM = TableForm(
    what="a CSV table of scores",
    origin="It has a row for each case, with its `id` and columns of numbers.",
    columns=("id", "dice"),
    required=("id",),
    per_row="case",
)


def table_scores(path: Path) -> Scores:
    """Read a CSV table of scores.

    Raises:
        DataError: The file is no such table, a row is ragged, or a case has two rows.
    """
    header, lines = read_table(path, _FORM)
    bad = [
        f"line {line} has {len(cells)} cells, the header has {len(header)}"
        for line, cells in lines
        if len(cells) != len(header)
    ]
    require_good_rows(path, bad, len(lines))
    return scores_of([dict(zip(header, cells, strict=True)) for _, cells in lines], path)


def scores_of(table: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]], name: Path | str = "table") -> Scores:
    """Make scores of a table in memory.

    Args:
        table: Columns by name, such as `{"id": ids, "dice": dice}`, or one mapping for each row.
        name: What to call it.

    Raises:
        DataError: No `id`, no rows, columns of different lengths, or a case has two rows.
    """
    rows = _rows(table, str(name))
    renamed = {column: canonical_column(str(column)) for column in (rows[0] if rows else {})}
    twice = [column for column, count in Counter(renamed.values()).items() if count > 1]
    if twice:
        both = " and ".join(f"'{old}'" for old, new in renamed.items() if new == twice[0])
        raise DataError(f"{name}: the columns {both} mean the same ({twice[0]}). Remove or rename one of them.")
    named = [{renamed[column]: cell for column, cell in row.items()} for row in rows]
    for column in named[0] if named else ():
        numbers = _numbers([row[column] for row in named]) if column not in _TEXT else None
        cells: Sequence[Any] = numbers or [_text(row[column]) for row in named]
        for row, cell in zip(named, cells, strict=True):
            row[column] = cell
    if named and "repeat" in named[0]:
        repeats = repeat_numbers(row["repeat"] for row in named)
        for row in named:
            row["repeat"] = repeats[row["repeat"]]
    keyed = by_key(named, str(name))
    found = Scores(Path(name), str(name), kind_of(named[0]), keyed, "Correct the table.")
    folds = {key: known(row.get("fold")) for key, row in keyed.items()}
    without = [key[1] for key, fold in folds.items() if not fold]
    if without and len(without) < len(folds):
        raise DataError(
            f"{name}: {len(without)} of {len(folds)} rows have no fold, such as '{without[0]}'. Fill the column "
            "`fold`, or leave it out."
        )
    return found if without else found.labelled(folds)


def _rows(table: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    if not isinstance(table, Mapping):
        return [dict(row) for row in table]
    lengths = {len(cells) for cells in table.values()}
    if len(lengths) > 1:
        raise DataError(
            f"{name}: its columns have {', '.join(map(str, sorted(lengths)))} cells; expected equally many."
        )
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _numbers(cells: Sequence[Any]) -> list[float] | None:
    """A column as numbers, NaN where a cell is empty; None where it holds anything else, or nothing."""
    try:
        values = [math.nan if is_missing(cell) else float(cell) for cell in cells]
    except (TypeError, ValueError):
        return None
    return values if any(not is_missing(cell) for cell in cells) else None
